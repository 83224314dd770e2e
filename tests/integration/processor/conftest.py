"""A processor on real Kafka and Postgres, a way to fill its topics, and a look into its tables."""

import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaProducer

from schemas import frames
from schemas.events import Event
from schemas.predictions import Prediction
from schemas.topics import Topics
from tests.support import join_reference
from tests.support.tables import Tables

# As the fixture ``topics`` makes them.
N_PARTITIONS = 3


@pytest.fixture
def loops_dir(tmp_path: Path) -> Path:
    """The reference's loops as files."""
    folder = tmp_path / "loops"
    folder.mkdir()
    for name, text in join_reference.LOOPS.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def processor_env(service_env: dict[str, str], loops_dir: Path) -> dict[str, str]:
    """Settings of a processor with the reference's loops."""
    return service_env | {"RATCHET_LOOPS_DIR": str(loops_dir), "RATCHET_PROCESSOR_MAX_RECORDS": "20"}


class Sender:
    """Writes items to the topics, in frames and one by one, and any bytes as they are."""

    def __init__(self, bootstrap: str, topics: Topics) -> None:
        self.topics = topics
        self._producer = KafkaProducer(bootstrap_servers=bootstrap, acks="all", linger_ms=2)

    def send(self, items: Sequence[Event | Prediction], *, frame: int = 20) -> None:
        """Send items in order, grouped into frames per partition; blocks until Kafka has them."""
        for start in range(0, len(items), frame * N_PARTITIONS):
            groups: dict[tuple[str, int], list[Event | Prediction]] = {}
            for item in items[start: start + frame * N_PARTITIONS]:
                topic = self.topics.events if isinstance(item, Event) else self.topics.predictions
                part = zlib.crc32((item.subject or item.id).encode()) % N_PARTITIONS
                groups.setdefault((topic, part), []).append(item)
            for (topic, part), group in groups.items():
                if len(group) == 1:
                    self.raw(topic, frames.encode_one(group[0]), part=part)
                else:
                    self.raw(topic, frames.encode(group), part=part, kind=frames.FRAME)
        self._producer.flush(timeout=30)

    def raw(self, topic: str, value: bytes | None, *, part: int = 0, kind: str | None = None) -> None:
        """Send one record's bytes without waiting."""
        headers = [(frames.HEADER, kind.encode())] if kind else []
        self._producer.send(topic, value=value, key=b"k", partition=part, headers=headers)

    def flush(self) -> None:
        """Block until Kafka has everything."""
        self._producer.flush(timeout=30)

    def close(self) -> None:
        """Close the connection."""
        self._producer.close(timeout=5)


@pytest.fixture
def new_sender() -> Iterator[Callable[[str, Topics], Sender]]:
    """Makes senders that are closed after the test."""
    made: list[Sender] = []

    def make(bootstrap: str, topics: Topics) -> Sender:
        made.append(Sender(bootstrap, topics))
        return made[-1]

    yield make
    for sender in made:
        sender.close()


@pytest.fixture
def sender(new_sender: Callable[[str, Topics], Sender], servers: Any, topics: Topics) -> Sender:
    """A sender to the test's own topics."""
    return new_sender(servers.kafka, topics)


@pytest.fixture
def tables(postgres_url: str) -> Tables:
    """The test's own database."""
    return Tables(postgres_url)
