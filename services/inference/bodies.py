"""Bodies of requests and responses: bounded one by one and together, and compressed either way."""

import gzip
import zlib
from collections.abc import Callable, MutableMapping
from typing import Any, TypeVar

from starlette.requests import Request

from schemas.errors import Transient
from shared import bodies

T = TypeVar("T")
MAX_BODY_BYTES = 16 << 20
READ_TIMEOUT_S = 30.0
_MIN_COMPRESSED_BYTES = 1024


class Crowded(Transient):
    """Too many bytes of bodies are being received at once; this one was not read."""


class Bodies:
    """Reads the bodies of requests.

    Args:
        max_bytes: Bytes of all bodies that are being received at once.
        timeout_s: How long one may take to arrive.
    """

    def __init__(self, max_bytes: int, *, timeout_s: float = READ_TIMEOUT_S) -> None:
        self._max_bytes, self._timeout_s = max_bytes, timeout_s
        self._n_bytes = 0

    async def read(self, request: Request, parse: Callable[[bytes], T]) -> T:
        """Return what a body says, uncompressed and parsed; its bytes count until then.

        Raises:
            Crowded: It is one too many just now.
            Invalid: ``too_large`` (MAX_BODY_BYTES, as sent or once uncompressed), ``timeout``, ``disconnected``,
                ``unsupported_encoding``, ``bad_compression``, or what ``parse`` raises.
        """
        announced = request.headers.get("content-length", "")
        held = _Held(self, min(int(announced[:12]), MAX_BODY_BYTES) if announced.isdecimal() else 0)
        arrived = 0

        async def receive() -> MutableMapping[str, Any]:
            nonlocal arrived
            message = await request.receive()
            # What exceeds the cap is thrown away as it comes, so it is not held.
            arrived = min(arrived + len(message.get("body", b"")), MAX_BODY_BYTES)
            held.at_least(arrived)
            return message

        with held:
            body = await bodies.read(receive, request.headers, MAX_BODY_BYTES, timeout_s=self._timeout_s)
            return parse(bodies.unpack(body, request.headers.get("content-encoding", ""), MAX_BODY_BYTES))

    def take(self, n_bytes: int) -> None:
        """Count bytes as being received.

        Raises:
            Crowded: They would be too many.
        """
        if self._n_bytes + n_bytes > self._max_bytes:
            raise Crowded(f"{self._n_bytes} bytes of requests are being received, at most {self._max_bytes} are; send "
                          "this one again")
        self._n_bytes += n_bytes

    def give_back(self, n_bytes: int) -> None:
        """Count bytes as no longer held."""
        self._n_bytes -= n_bytes


class _Held:
    """One request's share of the bytes: what it announced, or what has arrived when it announced nothing."""

    def __init__(self, of: Bodies, announced: int) -> None:
        self._of, self._announced, self._n_bytes = of, announced, 0

    def __enter__(self) -> None:
        self.at_least(self._announced)

    def __exit__(self, *_: object) -> None:
        self._of.give_back(self._n_bytes)

    def at_least(self, n_bytes: int) -> None:
        if n_bytes > self._n_bytes:
            self._of.take(n_bytes - self._n_bytes)
            self._n_bytes = n_bytes


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
