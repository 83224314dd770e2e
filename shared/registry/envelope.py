"""A manifest as it is stored: its JSON inside an envelope with its SHA-256, so that no flipped bit goes unseen."""

import msgspec

from schemas import manifest as manifests
from schemas.manifest import Manifest
from shared.registry.blobs import digest
from shared.registry.values import Corrupt


class _Envelope(msgspec.Struct, frozen=True):
    sha256: str
    manifest: msgspec.Raw


_decoder = msgspec.json.Decoder(_Envelope)


def seal(manifest: Manifest) -> bytes:
    """Return the stored form of a manifest; equal manifests give equal bytes."""
    body = manifests.encode(manifest)
    return msgspec.json.encode(_Envelope(sha256=digest(body), manifest=msgspec.Raw(body)))


def open_(data: bytes, where: str) -> Manifest:
    """Return the manifest that was stored.

    Raises:
        Corrupt: It is not what was stored.
    """
    try:
        envelope = _decoder.decode(data)
        if digest(bytes(envelope.manifest)) != envelope.sha256:
            raise Corrupt(f"the manifest in {where} is damaged: its SHA-256 is not {envelope.sha256[:12]}")
        return manifests.decode(bytes(envelope.manifest))
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise Corrupt(f"the manifest in {where} is damaged: {exc}") from exc
