"""Reads whole topics, for tests that ask what is in Kafka."""

import time
from typing import TypeVar

from kafka import KafkaConsumer, TopicPartition

from schemas.frames import Decoder, content_type

T = TypeVar("T")


def read_records(bootstrap: str, topic: str, *, timeout_s: float = 30.0) -> list[tuple[bytes, str, bytes | None]]:
    """Return value, content type and key of every record that the topic holds now, by partition and offset."""
    consumer = KafkaConsumer(bootstrap_servers=bootstrap, group_id=None, enable_auto_commit=False,
                             fetch_max_wait_ms=50, metrics_enabled=False)
    try:
        parts = [TopicPartition(topic, number) for number in sorted(consumer.partitions_for_topic(topic) or ())]
        consumer.assign(parts)
        ends = consumer.end_offsets(parts)
        consumer.seek_to_beginning(*parts)
        found: dict[int, list[tuple[bytes, str, bytes | None]]] = {part.partition: [] for part in parts}
        deadline = time.monotonic() + timeout_s
        while any(consumer.position(part) < ends[part] for part in parts):
            if time.monotonic() > deadline:
                raise AssertionError(f"{topic} was not read to its end in {timeout_s} s")
            for part, records in consumer.poll(timeout_ms=200).items():
                found[part.partition] += [(record.value, content_type(record.headers), record.key)
                                          for record in records]
        return [record for number in sorted(found) for record in found[number]]
    finally:
        consumer.close()


def read_items(bootstrap: str, topic: str, kind: type[T]) -> list[T]:
    """Return every item of a topic; a record that cannot be decoded fails the test."""
    decoder = Decoder(kind)
    items: list[T] = []
    for value, content, _ in read_records(bootstrap, topic):
        good, bad = decoder.decode(value, content)
        assert not bad, bad
        items += good
    return items
