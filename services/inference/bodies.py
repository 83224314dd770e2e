"""Bodies of requests and responses: bounded, and compressed either way."""

import gzip
import zlib

from starlette.requests import ClientDisconnect, Request

from schemas.errors import Invalid
from services.inference.core import TooLarge

MAX_BODY_BYTES = 16 << 20
_MIN_COMPRESSED_BYTES = 1024


async def read(request: Request) -> bytes:
    """Return a request's body, uncompressed.

    Raises:
        TooLarge: More than MAX_BODY_BYTES, as sent or once uncompressed.
        Invalid: It is not compressed as its Content-Encoding says.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > MAX_BODY_BYTES:
        raise _too_large()
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise _too_large()
            chunks.append(chunk)
    except ClientDisconnect as exc:
        raise Invalid("the client went away", code="disconnected") from exc
    return uncompressed(b"".join(chunks), request.headers.get("content-encoding", ""))


def uncompressed(data: bytes, encoding: str) -> bytes:
    """Return what was compressed with gzip or deflate (zlib), or was not compressed.

    Raises:
        TooLarge: It grows beyond MAX_BODY_BYTES; no more than that is ever held.
        Invalid: It is damaged, or compressed in another way.
    """
    match encoding.strip().lower():
        case "" | "identity":
            return data
        case "gzip" | "x-gzip":
            unpacker = zlib.decompressobj(wbits=31)
        case "deflate":
            unpacker = zlib.decompressobj()
        case other:
            raise Invalid(f"Content-Encoding {other!r} is not known here: gzip and deflate are",
                          code="unknown_encoding")
    try:
        plain = unpacker.decompress(data, MAX_BODY_BYTES + 1)
    except zlib.error as exc:
        raise Invalid(f"the body is not {encoding}: {exc}", code="not_compressed") from exc
    if len(plain) > MAX_BODY_BYTES:
        raise _too_large()
    if not unpacker.eof:
        raise Invalid(f"the {encoding} body is cut off", code="not_compressed")
    return plain


def compressed(data: bytes, accept_encoding: str) -> tuple[bytes, str | None]:
    """Return a response's body as the client would have it, and its Content-Encoding.

    A client that accepts one encoding only (tritonclient, when told so) always gets it; one that lists several gets
    gzip where it is worth it.
    """
    accepted = [part.strip().lower() for part in accept_encoding.split(",")]
    if accepted == ["deflate"]:
        return zlib.compress(data, 1), "deflate"
    if accepted == ["gzip"] or ("gzip" in accepted and len(data) >= _MIN_COMPRESSED_BYTES):
        return gzip.compress(data, 1, mtime=0), "gzip"
    return data, None


def _too_large() -> TooLarge:
    return TooLarge(f"the body is larger than {MAX_BODY_BYTES} bytes", code="body_too_large")
