"""The Kafka topics. A topic is never deleted and made again under one name: its offsets would look old."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Topics:
    """The names of the topics of one installation.

    Attributes:
        prefix: Set by ``RATCHET_TOPIC_PREFIX``; installations that share a Kafka differ in it.
    """

    prefix: str = "ratchet"

    @property
    def events(self) -> str:
        """User events from the collector, partitioned by subject."""
        return f"{self.prefix}.events"

    @property
    def predictions(self) -> str:
        """Predictions from inference, partitioned by subject."""
        return f"{self.prefix}.predictions"

    @property
    def dead(self) -> str:
        """Dead letters, with their reason."""
        return f"{self.prefix}.dead"

    @property
    def all(self) -> tuple[str, str, str]:
        """Every topic."""
        return (self.events, self.predictions, self.dead)
