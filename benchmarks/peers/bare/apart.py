"""The ceiling: kafka-python and COPY, nothing joined; arguments are the bootstrap address, the prefix, the database."""

import sys

from kafka import KafkaConsumer, TopicPartition

from benchmarks.peers.pairs import Pairs

# Frames in one transaction; a frame has 100 items.
BATCH = 40


def main() -> None:
    """Run until killed."""
    bootstrap, prefix, url = sys.argv[1:]
    pairs = Pairs(url)
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False,
                             fetch_max_bytes=16 << 20, max_partition_fetch_bytes=8 << 20, max_poll_records=BATCH)
    topics = [f"{prefix}.predictions", f"{prefix}.events"]
    consumer.assign([TopicPartition(topic, part) for topic in topics for part in consumer.partitions_for_topic(topic)])
    while True:
        polled = consumer.poll(timeout_ms=250)
        records = [record for part in polled.values() for record in part]
        if records:
            pairs.write_apart((record.topic, record.value) for record in records)


if __name__ == "__main__":
    main()
