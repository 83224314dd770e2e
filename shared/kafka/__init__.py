"""Kafka from Python: a producer that cannot lose what it acknowledged, topics, and waiting for a broker.

The one home of kafka-python for everything that writes. ``FrameProducer`` groups items into frames, bounds its memory
and says within a second when Kafka is away.
"""

from shared.kafka.admin import create_topics, wait_for_kafka
from shared.kafka.grouping import Part, partition_of
from shared.kafka.producer import FrameProducer, Record

__all__ = ["FrameProducer", "Part", "Record", "create_topics", "partition_of", "wait_for_kafka"]
