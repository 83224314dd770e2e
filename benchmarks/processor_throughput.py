"""How fast one processor turns Kafka records into committed, joined rows.

Fills the topics first, then starts ``ratchet processor`` and times from its first commit to its last::

    python -m benchmarks.processor_throughput --pairs 100000 --frame 100
"""

import argparse
import contextlib
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psycopg
from kafka import KafkaProducer

from schemas import frames
from schemas.events import Event
from schemas.predictions import Prediction
from schemas.topics import Topics
from shared import postgres
from shared.kafka import create_topics
from tests.support import servers

ROOT = Path(__file__).resolve().parents[1]
N_PARTITIONS = 4
PROJECT = "app"


def fill(bootstrap: str, topics: Topics, n_pairs: int, frame: int) -> None:
    """Write predictions and one feedback for each, in frames."""
    now_ms = time.time_ns() // 1_000_000
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=5, compression_type="snappy")
    embedding = os.urandom(384 * 4)
    header = [(frames.HEADER, frames.FRAME.encode())]
    for start in range(0, n_pairs, frame):
        ids = [f"pr_{uuid.uuid4().hex}" for _ in range(min(frame, n_pairs - start))]
        part = start // frame % N_PARTITIONS
        predictions = [
            Prediction(id=key, loop="support-intents", version="v1", subject=f"s_{key[3:]}", time_ms=now_ms,
                       input={"text": "I have been waiting for my new card for a week, where is it?"}, label="card",
                       scores={"card": 0.6, "loan": 0.2}, embedding=embedding, encoder="0" * 64) for key in ids]
        events = [
            Event(id=str(uuid.uuid4()), project=PROJECT, kind="track", name="Ticket Resolved", subject=f"s_{key[3:]}",
                  time_ms=now_ms + 1, received_ms=now_ms + 1, source="segment",
                  properties={"prediction_id": key, "queue": f"label-{start % 77}"},
                  context={"library": {"name": "analytics-python", "version": "2.4.0"}}) for key in ids]
        producer.send(topics.predictions, frames.encode(predictions), partition=part, headers=header)
        producer.send(topics.events, frames.encode(events), partition=part, headers=header)
    producer.flush()
    producer.close()


def main() -> None:
    """Run it and print one line of figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=100_000, help="predictions, with one feedback each")
    parser.add_argument("--frame", type=int, default=100, help="items in one Kafka record")
    options = parser.parse_args()
    with servers.embedded(names=("kafka", "postgres")) as running:
        where = running.servers
        topics = Topics("bench")
        create_topics(where.kafka, topics.all, partitions=N_PARTITIONS)
        postgres.migrate(where.postgres_url)
        fill(where.kafka, topics, options.pairs, options.frame)
        env = os.environ | {
            "RATCHET_KAFKA_BOOTSTRAP": where.kafka, "RATCHET_POSTGRES_URL": where.postgres_url,
            "RATCHET_TOPIC_PREFIX": topics.prefix, "RATCHET_LOOPS_DIR": str(ROOT / "examples" / "loops"),
            "RATCHET_PROCESSOR_PORT": "0", "RATCHET_LOG_LEVEL": "WARNING"}
        worker = subprocess.Popen([sys.executable, "-m", "services.processor.main"], env=env, cwd=ROOT,
                                  stdout=sys.stderr)
        try:
            with psycopg.connect(where.postgres_url, autocommit=True) as connection:
                report(connection, options.pairs, worker.pid)
        finally:
            worker.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                worker.wait(timeout=20)


def report(connection: psycopg.Connection, n_pairs: int, pid: int) -> None:
    """Wait until all is joined and print how fast it went."""
    def done() -> tuple[int, int]:
        """Return how many examples there are, and how many records are done."""
        row = connection.execute("SELECT (SELECT coalesce(max(next_seq) - 1, 0) FROM loop_counters),"
                                 " (SELECT coalesce(sum(next_offset), 0)::bigint FROM offsets)").fetchone()
        assert row is not None
        return row

    while done()[1] == 0:
        time.sleep(0.01)
    started = time.perf_counter()
    while done()[0] < n_pairs:
        time.sleep(0.05)
    seconds = time.perf_counter() - started
    ticks = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    cpu_s = (int(ticks[11]) + int(ticks[12])) / os.sysconf("SC_CLK_TCK")
    print(f"{n_pairs} pairs in {seconds:.1f} s: {2 * n_pairs / seconds:,.0f} items/s, "
          f"{n_pairs / seconds:,.0f} joins/s; "
          f"processor {cpu_s / n_pairs * 1e6:.0f} µs of CPU per pair; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
