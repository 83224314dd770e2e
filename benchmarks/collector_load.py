"""HTTP load for a collector, as cheap as Python makes it: bytes made beforehand, one process, no HTTP library."""

import asyncio
import base64
import itertools
import json
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import uvloop

_rng = random.Random(7)
_WORDS = ["".join(_rng.choices("abcdefghijklmnopqrstuvwxyz", k=_rng.randint(3, 9))) for _ in range(2000)]


def event(number: int, n_bytes: int = 1000) -> dict[str, object]:
    """Return a Segment track call of that size, shaped like those of segment-analytics-python, with words in it.

    Words and not one letter again and again: that would compress to nothing, and no product sends it.
    """
    properties: dict[str, object] = {"item_id": f"sku-{number % 50}", "price": 9.9, "position": number % 10, "text": ""}
    call: dict[str, object] = {
        "integrations": {}, "anonymousId": None, "timestamp": f"2026-11-22T14:09:{number % 60:02}.331+00:00",
        "context": {"library": {"name": "analytics-python", "version": "2.4.0"}}, "userId": f"user-{number % 997:06}",
        "type": "track", "event": "Item Clicked", "messageId": f"aaff8ba0-{number:012}", "properties": properties}
    missing = n_bytes - len(json.dumps(call))
    properties["text"] = " ".join(_rng.choices(_WORDS, k=missing // 3 + 1))[:max(0, missing)]
    return call


def request(path: str, key: str, body: bytes) -> bytes:
    """Return a whole HTTP request."""
    auth = base64.b64encode(f"{key}:".encode()).decode()
    return (f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {auth}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n").encode() + body


def segment_requests(key: str, batch: int, n_requests: int, *, path: str | None = None) -> list[bytes]:
    """Return requests to Ratchet's collector: /v1/batch, or /v1/track for a batch of one; or all to one path."""
    calls = (event(number) for number in itertools.count())
    found = []
    for _ in range(n_requests):
        if batch == 1:
            found.append(request(path or "/v1/track", key, json.dumps(next(calls)).encode()))
        else:
            body = {"batch": list(itertools.islice(calls, batch)), "sentAt": "2026-11-22T14:10:00.830+00:00"}
            found.append(request(path or "/v1/batch", key, json.dumps(body).encode()))
    return found


@dataclass
class Tally:
    """What came of a run.

    Attributes:
        took_s: From the first request sent to the last answer.
        cpu_s: CPU time of this process meanwhile.
        latencies_s: Of each answer; at a given rate from when the request was due, so that a queue counts.
    """

    took_s: float = 0.0
    cpu_s: float = 0.0
    latencies_s: list[float] = field(default_factory=list)
    statuses: dict[bytes, int] = field(default_factory=dict)

    def quantile_ms(self, share: float) -> float:
        """Return a quantile of the latencies in ms."""
        found = sorted(self.latencies_s)
        return found[min(len(found) - 1, int(len(found) * share))] * 1000


def run(port: int, requests: Sequence[bytes], *, connections: int, seconds: float, rate: float | None = None) -> Tally:
    """Load a server, and wait for every answer.

    Args:
        rate: Requests per second of all connections together; None: each sends its next when it has its answer.
    """
    return uvloop.run(_run(port, requests, connections, seconds, rate))


async def _run(port: int, requests: Sequence[bytes], connections: int, seconds: float, rate: float | None) -> Tally:
    loop = asyncio.get_running_loop()
    tally, cycle = Tally(), itertools.cycle(requests)
    until_s = loop.time() + seconds
    gap_s = connections / rate if rate else 0.0
    clients = []
    for number in range(connections):
        first_s = loop.time() + gap_s * number / connections
        made = _Client(cycle, tally, until_s, gap_s, first_s, loop.create_future(), loop.time)
        await loop.create_connection(lambda made=made: made, "127.0.0.1", port)  # type: ignore[misc]
        clients.append(made)
    began_s, cpu_s = time.perf_counter(), time.process_time()
    for client in clients:
        client.begin()
    await asyncio.gather(*(client.done for client in clients))
    tally.took_s, tally.cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    for client in clients:
        client.transport.abort()
    return tally


@dataclass(eq=False)
class _Client(asyncio.Protocol):
    """One connection."""

    requests: Iterator[bytes]
    tally: Tally
    until_s: float
    gap_s: float
    due_s: float
    done: "asyncio.Future[None]"
    now: Callable[[], float]
    buffer: bytes = b""
    missing: int = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.WriteTransport, transport)  # uvloop's are no subclass

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_exception(ConnectionError(f"the server closed the connection: {exc}"))

    def begin(self) -> None:
        """Send the next request, now or when it is due."""
        now_s = self.now()
        if max(now_s, self.due_s) >= self.until_s:
            self.done.set_result(None)
        elif self.gap_s and self.due_s > now_s:
            asyncio.get_running_loop().call_at(self.due_s, self._send)
        else:
            self._send()

    def _send(self) -> None:
        self.sent_s = self.due_s if self.gap_s else self.now()
        self.transport.write(next(self.requests))

    def data_received(self, data: bytes) -> None:
        if self.missing:
            self.missing -= len(data)
        else:
            self.buffer += data
            head, found, rest = self.buffer.partition(b"\r\n\r\n")
            if not found:
                return
            self.status = head[9:12]
            self.missing = _length(head) - len(rest)
            self.buffer = b""
        if self.missing == 0:
            self.tally.latencies_s.append(self.now() - self.sent_s)
            self.tally.statuses[self.status] = self.tally.statuses.get(self.status, 0) + 1
            self.due_s += self.gap_s
            self.begin()


def _length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
