"""Request bodies: read with a cap, unpacked with a cap, whatever the sender claims."""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import brotli
import zstandard

from schemas.errors import Invalid

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 64 << 10
# Each one may take as long as the body is large: 1,500 of them over 3 MB held a core for 1.4 s.
_MAX_ENCODINGS = 4


async def read(receive: Receive, headers: Mapping[str, str], max_bytes: int, *, timeout_s: float = 30.0,
               reserve: Callable[[int], None] = lambda n_bytes: None) -> bytes:
    """Read a request's body.

    A body that is too large is read to its end and thrown away (up to 8 times the cap): a client that is still
    writing would see a broken connection instead of the answer.

    Args:
        headers: With lower-case names.
        timeout_s: For the whole body, its first byte included.
        reserve: Called with the size of each part before it is kept; what it raises ends the reading.

    Raises:
        Invalid: ``too_large``, ``timeout`` (it came too slowly) or ``disconnected``.
    """
    declared = headers.get("content-length", "")
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                message = await receive()
                part: bytes = message.get("body", b"")
                size += len(part)
                if size <= max_bytes:
                    reserve(len(part))
                    parts.append(part)
                if not message.get("more_body") or size > 8 * max_bytes:
                    break
    except TimeoutError as exc:
        raise Invalid(f"the body did not arrive within {timeout_s} s", code="timeout") from exc
    if message["type"] != "http.request":
        raise Invalid("the client went away before its body was complete", code="disconnected")
    if size > max_bytes:
        raise Invalid(f"the body has {declared or f'more than {max_bytes}'} bytes; at most {max_bytes} are taken",
                      code="too_large")
    return b"".join(parts)


def unpack(body: bytes, encoding: str, max_bytes: int) -> bytes:
    """Decompress a body by its Content-Encoding: gzip, deflate, zstd, br, or several in a row.

    A body that starts like gzip is unpacked even when the header does not say so: posthog-js and proxies that strip
    the header send it that way, and no JSON starts like this.

    Raises:
        Invalid: ``too_large`` (unpacked), ``unsupported_encoding`` or ``bad_compression``.
    """
    names = [part.strip().lower() for part in encoding.split(",")]
    if len(names) > _MAX_ENCODINGS:
        raise Invalid(f"{len(names)} Content-Encodings in a row; at most {_MAX_ENCODINGS} are undone",
                      code="unsupported_encoding")
    for name in reversed(names):
        if name in ("", "identity"):
            continue
        if name in ("gzip", "x-gzip") and not body.startswith(_GZIP_MAGIC) and body[:1] in (b"{", b"["):
            continue  # labelled gzip, sent plain
        if name not in _UNPACKERS:
            raise Invalid(f"the Content-Encoding {name[:40]!r} is not spoken here; gzip, deflate, zstd and br are",
                          code="unsupported_encoding")
        body = _unpack_one(body, name, max_bytes)
    if body.startswith(_GZIP_MAGIC):
        body = _unpack_one(body, "gzip", max_bytes)
    return body


def _unpack_one(body: bytes, name: str, max_bytes: int) -> bytes:
    try:
        unpacked = _UNPACKERS[name](body, max_bytes + 1)
    except (zlib.error, zstandard.ZstdError, brotli.error, EOFError) as exc:
        raise Invalid(f"the body is not {name}: {exc}", code="bad_compression") from exc
    if len(unpacked) > max_bytes:
        raise Invalid(f"the unpacked body has more than {max_bytes} bytes", code="too_large")
    return unpacked


def _gunzip(body: bytes, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while body and size < max_bytes:  # a gzip file may hold several members
        machine = zlib.decompressobj(wbits=31)
        parts.append(machine.decompress(body, max_bytes - size))
        size += len(parts[-1])
        if not machine.eof:
            if size < max_bytes:
                raise EOFError("it ends too early")
            break
        body = machine.unused_data.lstrip(b"\0")
    return b"".join(parts)


def _inflate(body: bytes, max_bytes: int) -> bytes:
    # "deflate" is zlib by the standard and raw deflate from some clients.
    raw = len(body) < 2 or body[0] & 0x0F != 8 or int.from_bytes(body[:2], "big") % 31
    machine = zlib.decompressobj(wbits=-15 if raw else 15)
    unpacked = machine.decompress(body, max_bytes)
    if not machine.eof and len(unpacked) < max_bytes:
        raise EOFError("it ends too early")
    return unpacked


def _unzstd(body: bytes, max_bytes: int) -> bytes:
    # The window is bounded too: a frame of a few bytes may ask for 2 GB of it.
    machine = zstandard.ZstdDecompressor(max_window_size=max(1 << 23, 1 << max_bytes.bit_length()))
    with machine.stream_reader(body, read_across_frames=True) as reader:
        return _read_up_to(reader.read, max_bytes)


def _unbrotli(body: bytes, max_bytes: int) -> bytes:
    machine = brotli.Decompressor()
    parts = [machine.process(body, output_buffer_limit=_CHUNK)]
    size = len(parts[0])
    while size < max_bytes and not machine.is_finished():
        part = machine.process(b"", output_buffer_limit=_CHUNK)
        if not part:
            raise EOFError("it ends too early")
        parts.append(part)
        size += len(part)
    return b"".join(parts)


def _read_up_to(read_some: Callable[[int], bytes], max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while size < max_bytes and (part := read_some(min(_CHUNK, max_bytes - size))):
        parts.append(part)
        size += len(part)
    return b"".join(parts)


_UNPACKERS: Mapping[str, Callable[[bytes, int], bytes]] = {
    "gzip": _gunzip, "x-gzip": _gunzip, "deflate": _inflate, "zstd": _unzstd, "br": _unbrotli,
}
