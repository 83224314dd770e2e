"""The physical limit of a loop: one disk flush or acknowledged write per hop, and one forward pass, measured here."""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import redis
from kafka import KafkaProducer

from benchmarks.loop_stack import Running
from schemas.topics import Topics
from shared import postgres

_TIMES = 40
LIMITS = {
    "kafka": "Kafka acks=all round trip, 1 KB",
    "commit": "Postgres commit, one row",
    "flush": "write and fsync a head of 900 KB",
    "alias": "Redis round trip",
    "forward": "forward pass of one text",
}


def measure(stack: Running, text: str) -> dict[str, float]:
    """The medians of each limit, in seconds, on the stack's own servers and disk while nothing else runs on them."""
    return {"kafka": _kafka(stack), "commit": _commit(stack), "flush": _flush(stack.data_dir / "artifacts"),
            "alias": _alias(stack), "forward": _forward(text)}


def _median(act: Callable[[], object]) -> float:
    act()
    took = []
    for _ in range(_TIMES):
        began = time.perf_counter()
        act()
        took.append(time.perf_counter() - began)
    return statistics.median(took)


def _kafka(stack: Running) -> float:
    # A record of no events: what reads the topic has nothing to do with it.
    producer = KafkaProducer(bootstrap_servers=stack.urls["kafka"], acks="all", linger_ms=0, enable_idempotence=False)
    headers = [("content-type", b"application/vnd.ratchet.frame.v1+json")]
    try:
        return _median(lambda: producer.send(Topics("ratchet").dead, b"[" + b" " * 1000 + b"]", headers=headers)
                       .get(timeout=10))
    finally:
        producer.close()


def _commit(stack: Running) -> float:
    with postgres.connect(stack.stores.postgres_url, name="ratchet-bench", autocommit=True) as connection:
        connection.execute("CREATE TABLE bench_commits (at timestamptz NOT NULL)")
        took_s = _median(lambda: connection.execute("INSERT INTO bench_commits VALUES (now())"))
        connection.execute("DROP TABLE bench_commits")
        return took_s


def _flush(folder: Path) -> float:
    path, data = folder / ".bench", os.urandom(900 << 10)

    def write() -> None:
        with open(path, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())

    try:
        return _median(write)
    finally:
        path.unlink(missing_ok=True)


def _alias(stack: Running) -> float:
    client = redis.Redis.from_url(stack.stores.redis_url)
    try:
        return _median(lambda: client.set("bench", "1"))
    finally:
        client.delete("bench")
        client.close()


def _forward(text: str) -> float:
    from shared.models.encoder import Encoder, limit_threads

    limit_threads(1)
    encoder = Encoder.load("minilm")
    return _median(lambda: encoder.encode([text], max_tokens=128))
