"""A Kafka producer that only remembers, for tests of what sends."""

from collections.abc import Sequence
from concurrent.futures import Future

from schemas.errors import Transient
from shared.kafka import Record


class FakeProducer:
    """Acknowledges at once, unless told otherwise.

    Attributes:
        records: What was sent and acknowledged.
        away: Why nothing can be sent; empty when it can.
        silent: Take records, but never acknowledge them in time.
    """

    def __init__(self, topics: Sequence[str]) -> None:
        self.records: list[Record] = []
        self.away = ""
        self.silent = False
        self._topics = frozenset(topics)

    def send_many(self, records: Sequence[Record]) -> Future[None]:
        """Remember the records."""
        if unknown := {topic for topic, _, _ in records} - self._topics:
            raise ValueError(f"the topics {unknown} were not named when the producer was made")
        if self.away and records:
            raise Transient(f"Kafka is away: {self.away}")
        future: Future[None] = Future()
        if self.silent:
            future.set_exception(Transient("Kafka is away: no acknowledgement"))
        else:
            self.records += records
            future.set_result(None)
        return future

    def fault(self) -> str:
        """Why nothing can be sent."""
        return self.away
