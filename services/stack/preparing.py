"""Makes the topics and tables that the services need, in any Kafka and Postgres.

Runs in images that hold no embedded server, so it needs nothing of the extra ``embedded``.
"""

from collections.abc import Callable
from dataclasses import dataclass

from schemas.topics import Topics
from shared.settings import group, positive, setting
from shared.surroundings import Kafka, Postgres


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where, and how many partitions."""

    kafka: Kafka = group()
    postgres: Postgres = group()
    partitions: int = setting("RATCHET_TOPIC_PARTITIONS", 4, "Partitions of each topic when it is made.",
                              check=positive)
    retention_ms: int = setting("RATCHET_TOPIC_RETENTION_MS", -1, "How long Kafka keeps records, in ms; -1: for ever.")
    deadline_s: float = setting("RATCHET_START_TIMEOUT_S", 180.0, "How long to wait for Kafka and Postgres, in s.",
                                check=positive)


def run(settings: Settings, say: Callable[[str], None]) -> None:
    """Make the topics and tables. Idempotent; what is there stays as it is.

    Raises:
        Transient: Kafka or Postgres does not answer in time.
    """
    from shared.kafka import create_topics, wait_for_kafka
    from shared.postgres import migrate, wait_for_postgres

    topics = Topics(settings.kafka.topic_prefix).all
    wait_for_kafka(settings.kafka.bootstrap, settings.deadline_s)
    create_topics(settings.kafka.bootstrap, topics, partitions=settings.partitions, retention_ms=settings.retention_ms)
    say(f"topics: {', '.join(topics)}")
    wait_for_postgres(settings.postgres.url, deadline_s=settings.deadline_s)
    say(f"tables: {', '.join(migrate(settings.postgres.url)) or 'up to date'}")
