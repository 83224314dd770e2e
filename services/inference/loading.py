"""Turns a version in the registry into one that can answer: read, verified, warmed up and checked."""

import threading
from collections.abc import Iterable, Mapping

import numpy as np

from schemas import manifest as manifests
from schemas.errors import Permanent
from schemas.loops import Loop
from schemas.manifest import Manifest
from services.inference.serving import COLD, Served, Vectors
from shared.models.encoder import Encoder
from shared.models.text_classification import Classifier, encoder_for
from shared.registry import Corrupt, Registry
from shared.registry.blobs import digest


class Loader:
    """Loads versions for all loops; encoders are shared between versions of one generation, and between loops.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
    """

    def __init__(self, registry: Registry, *, device: str) -> None:
        self._registry, self._device = registry, device
        self._bases: dict[str, Encoder] = {}
        self._encoders: dict[str, Encoder] = {}
        self._embedded: dict[tuple[str, int, tuple[str, ...]], Vectors] = {}
        self._lock = threading.RLock()

    def cold(self, loop: Loop) -> Served:
        """Return ``v0``: the loop's base encoder, which knows no label.

        Raises:
            Permanent: The base cannot be read.
            Transient: The base is on a hub that cannot be reached.
        """
        with self._lock:
            encoder = self._bases.get(loop.base)
            if encoder is None:
                encoder = self._bases[loop.base] = Encoder.load(loop.base, device=self._device)
                self._encoders[encoder.digest] = encoder
        encoder.encode(["warm up"], max_tokens=loop.max_tokens)
        return Served(loop=loop.name, version=COLD, encoder=encoder, max_tokens=loop.max_tokens)

    def load(self, loop: Loop, version: str, *, beside: Iterable[Served] = ()) -> Served:
        """Return a version that answered its golden texts as the trainer said.

        Args:
            beside: Versions that are loaded already; tensors they share with this one are not read again.

        Raises:
            Corrupt: Its stored bytes are damaged or missing.
            NotFound: There is no such version.
            Permanent: Its parts do not fit, or it answers differently than the trainer's did.
            Transient: Redis, or the hub of its base, is away.
        """
        manifest = self._registry.manifest(loop.name, version)
        if (manifest.loop, manifest.version) != (loop.name, version):
            raise Corrupt(f"the manifest of {loop.name} {version} calls itself {manifest.loop} {manifest.version}")
        if manifest.task != loop.task or len(set(manifest.labels)) != len(manifest.labels):
            raise Permanent(f"{loop.name} {version} is for the task {manifest.task}, or names a label twice")
        with self._lock:
            known = self._encoders.get(manifest.encoder)
        tensors = self._tensors(manifest, beside, with_encoder=known is None)
        try:
            with self._lock:
                encoder = known or encoder_for(manifest, tensors, self._encoders, device=self._device)
            classifier = Classifier.load(manifest, tensors, encoder)
            classifier.check_golden(manifest.golden, embeddings=self._golden(manifest, encoder))
        except (ValueError, TypeError, KeyError, RuntimeError) as exc:
            # A manifest from elsewhere may be wrong in ways nobody thought of; it must not end the follower.
            raise Permanent(f"{loop.name} {version} cannot be put together: {exc}") from exc
        head = {name: array for name, array in tensors.items() if not _is_encoder(name)}
        return Served(loop=loop.name, version=version, encoder=encoder, max_tokens=manifest.max_tokens,
                      classifier=classifier, manifest=manifest, tensors=head,
                      digest=digest(manifests.encode(manifest)))

    def _golden(self, manifest: Manifest, encoder: Encoder) -> Vectors:
        """The golden texts' embeddings, computed once per encoder; that is its warm-up as well.

        The trainer's golden texts cost as much as ten requests, and a version of the same generation comes every
        second.
        """
        texts = tuple(manifest.golden.texts) or ("warm up",)
        key = (encoder.digest, manifest.max_tokens, texts)
        with self._lock:
            found = self._embedded.get(key)
        if found is None:
            found = encoder.encode(texts, max_tokens=manifest.max_tokens)
            with self._lock:
                if len(self._embedded) > 32:
                    self._embedded.clear()
                self._embedded[key] = found
        return found

    def prune(self, in_use: Iterable[Served]) -> None:
        """Forget encoders that no version in use needs; bases stay, since the next generation grows from one."""
        with self._lock:
            kept = {served.encoder.digest for served in in_use}
            kept |= {encoder.digest for encoder in self._encoders.values() if encoder.is_base}
            for name in [name for name in self._encoders if name not in kept]:
                del self._encoders[name]
            for key in [key for key in self._embedded if key[0] not in kept]:
                del self._embedded[key]

    def _tensors(self, manifest: Manifest, beside: Iterable[Served], *, with_encoder: bool) -> dict[str, np.ndarray]:
        """The version's tensors: read and checked, except those that a loaded version has already."""
        wanted = [name for name in manifest.tensors if with_encoder or not _is_encoder(name)]
        at_hand = _by_digest(beside)
        found = {name: at_hand[manifest.tensors[name].sha256] for name in wanted
                 if manifest.tensors[name].sha256 in at_hand}
        return found | self._registry.tensors(manifest, [name for name in wanted if name not in found])


def _is_encoder(name: str) -> bool:
    return name.startswith(("adapter.", "encoder."))


def _by_digest(versions: Iterable[Served]) -> Mapping[str, np.ndarray]:
    return {served.manifest.tensors[name].sha256: array
            for served in versions if served.manifest is not None for name, array in served.tensors.items()}
