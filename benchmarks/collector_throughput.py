"""Measures how many events a running collector takes, with 1 KB Segment events over keep-alive connections.

    python benchmarks/collector_throughput.py --url http://127.0.0.1:8080 --key KEY --batch 100 --connections 32
"""

import argparse
import asyncio
import base64
import itertools
import json
import time
from typing import cast
from urllib.parse import urlsplit

import uvloop


def request(path: str, host: str, key: str, body: bytes) -> bytes:
    """Return a whole HTTP request."""
    auth = base64.b64encode(f"{key}:".encode()).decode()
    head = (f"POST {path} HTTP/1.1\r\nHost: {host}\r\nAuthorization: Basic {auth}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n")
    return head.encode() + body


def event(number: int, size: int) -> dict[str, object]:
    """Return a Segment track call of about ``size`` bytes, shaped like those of segment-analytics-python."""
    properties: dict[str, object] = {"item_id": f"sku-{number % 50}", "price": 9.9, "position": number % 10, "text": ""}
    call: dict[str, object] = {
        "integrations": {}, "anonymousId": None, "timestamp": "2026-11-22T14:09:48.331+00:00",
        "context": {"library": {"name": "analytics-python", "version": "2.4.0"}}, "userId": f"user-{number % 997:06}",
        "type": "track", "event": "Item Clicked", "messageId": f"aaff8ba0-{number:012}",
        "properties": properties}
    properties["text"] = "x" * max(0, size - len(json.dumps(call)))
    return call


class Client(asyncio.Protocol):
    """One connection that sends the next request as soon as the last one is answered."""

    def __init__(self, requests: "itertools.cycle[bytes]", latencies_s: list[float],
                 statuses: dict[bytes, int]) -> None:
        self._requests, self._latencies_s, self._statuses = requests, latencies_s, statuses
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's are no subclass
        self._send()

    def _send(self) -> None:
        self._sent_s = time.perf_counter()
        self._transport.write(next(self._requests))

    def data_received(self, data: bytes) -> None:
        """Wait for the whole answer, then go on."""
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0])
        if len(rest) < length:
            return
        self._latencies_s.append(time.perf_counter() - self._sent_s)
        status = head[9:12]
        self._statuses[status] = self._statuses.get(status, 0) + 1
        self._buffer = rest[length:]
        self._send()


async def measure(options: argparse.Namespace) -> None:
    """Load the collector for a while and print what it took."""
    where = urlsplit(options.url)
    host, port = where.hostname or "127.0.0.1", where.port or 80
    numbers = itertools.count()
    bodies = []
    for _ in range(64):
        calls = [event(next(numbers), options.size) for _ in range(options.batch)]
        bodies.append(request("/v1/batch", host, options.key, json.dumps(
            {"batch": calls, "sentAt": "2026-11-22T14:09:48.830+00:00"}).encode()) if options.batch > 1
            else request("/v1/track", host, options.key, json.dumps(calls[0]).encode()))
    latencies_s: list[float] = []
    statuses: dict[bytes, int] = {}
    loop = asyncio.get_running_loop()
    cycle = itertools.cycle(bodies)
    transports = [(await loop.create_connection(lambda: Client(cycle, latencies_s, statuses), host, port))[0]
                  for _ in range(options.connections)]
    await asyncio.sleep(options.warm_up)
    latencies_s.clear()
    statuses.clear()
    began_s = time.perf_counter()
    await asyncio.sleep(options.seconds)
    took_s = time.perf_counter() - began_s
    done = sorted(latencies_s)
    for transport in transports:
        transport.abort()
    good = statuses.get(b"200", 0)
    print(json.dumps({
        "batch": options.batch, "connections": options.connections, "requests_per_s": round(len(done) / took_s),
        "events_per_s": round(good * options.batch / took_s), "p50_ms": round(done[len(done) // 2] * 1000, 1),
        "p99_ms": round(done[len(done) * 99 // 100] * 1000, 1),
        "statuses": {status.decode(): count for status, count in statuses.items()}}))


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8080")
    parser.add_argument("--key", required=True)
    parser.add_argument("--batch", type=int, default=100, help="events per request; 1 uses /v1/track")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--size", type=int, default=1000, help="bytes per event")
    parser.add_argument("--warm-up", type=float, default=2.0, help="seconds")
    parser.add_argument("--seconds", type=float, default=8.0)
    uvloop.run(measure(parser.parse_args()))


if __name__ == "__main__":
    main()
