"""What kafka-python alone reaches: the collector's bytes, already encoded, sent with acks=all and awaited.

    python -m benchmarks.collector_ceiling BOOTSTRAP TOPIC frames|records SECONDS FILE

``FILE`` holds encoded events, one a line. Prints ``{"sent": events, "took_s": s, "cpu_s": s}``.
"""

import itertools
import json
import sys
import time
import zlib
from collections import deque
from pathlib import Path
from typing import Any

import msgspec
from kafka import KafkaProducer

from schemas import frames

PER_FRAME = 100
MAX_OPEN = {"frames": 64, "records": 4000}


def main() -> None:
    """Send for a while, wait for the rest, and say how much that was."""
    bootstrap, topic, how, seconds, file = sys.argv[1:]
    lines = Path(file).read_bytes().splitlines()
    producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=False,
                             compression_type="snappy", linger_ms=5, batch_size=900_000, max_request_size=8 << 20,
                             max_in_flight_requests_per_connection=1)
    n_partitions = len(producer.partitions_for(topic))
    if how == "frames":
        records = [(None, frames.join(lines[start:start + PER_FRAME]), start // PER_FRAME % n_partitions, PER_FRAME)
                   for start in range(0, len(lines) - PER_FRAME + 1, PER_FRAME)]
    else:
        records = []
        for line in lines:
            key = msgspec.json.decode(line)["subject"].encode()
            records.append((key, line, zlib.crc32(key) % n_partitions, 1))
    kind = [(frames.HEADER, (frames.FRAME if how == "frames" else frames.SINGLE).encode())]
    waiting: deque[Any] = deque()
    n_sent, began_s, cpu_s = 0, time.perf_counter(), time.process_time()
    for key, value, partition, n_events in itertools.cycle(records):
        if time.perf_counter() - began_s > float(seconds):
            break
        waiting.append(producer.send(topic, value, key=key, partition=partition, headers=kind))
        n_sent += n_events
        if len(waiting) >= MAX_OPEN[how]:
            waiting.popleft().get(30)
    for future in waiting:
        future.get(30)
    print(json.dumps({"sent": n_sent, "took_s": time.perf_counter() - began_s, "cpu_s": time.process_time() - cpu_s}))
    producer.close()


if __name__ == "__main__":
    main()
