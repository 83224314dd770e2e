"""A Kafka producer that only remembers, for tests of what sends."""

from collections.abc import Sequence
from concurrent.futures import Future

import msgspec

from schemas.dead import DeadLetter
from schemas.errors import Transient
from schemas.events import Event
from schemas.frames import encode_one
from shared.kafka import Part, Record
from shared.kafka.grouping import Told


class FakeProducer:
    """Acknowledges at once, unless told otherwise.

    Attributes:
        parts: What was sent and acknowledged.
        away: Why nothing can be sent; empty when it can.
        silent: Take records, but never acknowledge them in time.
    """

    def __init__(self, topics: Sequence[str]) -> None:
        self.parts: list[Part] = []
        self.away = ""
        self.silent = False
        self._topics = frozenset(topics)

    @property
    def records(self) -> list[Record]:
        """What was sent and acknowledged, decoded."""
        return [(topic, key, msgspec.json.decode(data, type=DeadLetter if topic.endswith("dead") else Event))
                for topic, key, data in self.parts]

    def send_many(self, records: Sequence[Record]) -> Future[None]:
        """Remember items."""
        future: Future[None] = Future()
        self.send_encoded([(topic, key, encode_one(item)) for topic, key, item in records],
                          lambda fault: future.set_exception(fault) if fault else future.set_result(None))
        return future

    def send_encoded(self, parts: Sequence[Part], told: Told) -> None:
        """Remember encoded items."""
        if unknown := {topic for topic, _, _ in parts} - self._topics:
            raise ValueError(f"the topics {unknown} were not named when the producer was made")
        if self.away and parts:
            raise Transient(f"Kafka is away: {self.away}")
        if self.silent:
            told(Transient("Kafka is away: no acknowledgement"))
        else:
            self.parts += parts
            told(None)

    def fault(self) -> str:
        """Why nothing can be sent."""
        return self.away
