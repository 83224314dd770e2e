"""Closed-loop HTTP load for the inference benchmarks: each connection sends its next text when it has its answer."""

import asyncio
import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import httptools
import numpy as np
import uvloop


@dataclass(frozen=True)
class Endpoint:
    """Where and how one server is asked.

    Attributes:
        body: Writes the JSON body that asks for one text.
        headers: Besides Host, Content-Type and Content-Length.
    """

    port: int
    path: str
    body: Callable[[str], object] = lambda text: {"text": text}
    headers: tuple[tuple[str, str], ...] = ()

    def request(self, text: str) -> bytes:
        """The bytes of one request."""
        data = json.dumps(self.body(text), ensure_ascii=False).encode()
        head = [f"POST {self.path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", "Content-Type: application/json",
                f"Content-Length: {len(data)}", *(f"{name}: {value}" for name, value in self.headers)]
        return ("\r\n".join(head) + "\r\n\r\n").encode() + data


@dataclass
class Load:
    """What one load gave.

    Attributes:
        latency_s: Of every answer with status 200, in the order of their arrival.
        at_s: When each of those arrived, by ``time.perf_counter``.
        n_failed: Other answers, and connections that broke.
        last: The body of the last good answer.
    """

    seconds: float = 0.0
    latency_s: list[float] = field(default_factory=list)
    at_s: list[float] = field(default_factory=list)
    n_failed: int = 0
    last: bytes = b""

    def figures(self, n_connections: int) -> dict[str, float]:
        """Requests per second and percentiles in ms, named by the number of connections."""
        found = np.array(self.latency_s or [float("inf")]) * 1e3
        return {f"rps_{n_connections}": len(self.latency_s) / self.seconds,
                f"p50_{n_connections}": float(np.percentile(found, 50)),
                f"p99_{n_connections}": float(np.percentile(found, 99))}


def drive(endpoint: Endpoint, texts: Iterable[str], *, connections: int, seconds: float,
          warm_up_s: float = 0.5) -> Load:
    """Keep ``connections`` requests under way; what finishes in the first ``warm_up_s`` is not counted."""
    requests = [endpoint.request(text) for text in texts]
    return uvloop.run(_drive(endpoint, itertools.cycle(requests), connections, seconds, warm_up_s))


async def _drive(endpoint: Endpoint, requests: Iterator[bytes], connections: int, seconds: float,
                 warm_up_s: float) -> Load:
    loop = asyncio.get_running_loop()
    found = Load()
    begin_s = time.perf_counter() + warm_up_s
    clients = [_Client(found, requests, begin_s) for _ in range(connections)]
    await asyncio.gather(*(loop.create_connection(lambda c=client: c, "127.0.0.1", endpoint.port)
                           for client in clients))
    await asyncio.sleep(warm_up_s + seconds)
    found.seconds = time.perf_counter() - begin_s
    for client in clients:
        client.stop()
    return found


class _Client(asyncio.Protocol):
    """One connection. A broken one counts as a failure and ends: every peer keeps connections alive."""

    def __init__(self, found: Load, requests: Iterator[bytes], begin_s: float) -> None:
        self._found, self._requests, self._begin_s = found, requests, begin_s
        self._stopped = False
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._send()

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        now_s = time.perf_counter()
        if self._stopped:
            return
        if self._parser.get_status_code() != 200:
            self._found.n_failed += 1
        elif now_s >= self._begin_s:
            self._found.latency_s.append(now_s - self._sent_s)
            self._found.at_s.append(now_s)
            self._found.last = b"".join(self._body)
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._stopped:
            self._found.n_failed += 1

    def stop(self) -> None:
        self._stopped = True
        self._transport.abort()

    def _send(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._body.clear()
        self._sent_s = time.perf_counter()
        self._transport.write(next(self._requests))
