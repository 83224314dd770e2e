"""What comes in from Kafka, before anything is known about it, and what it turns out to hold."""

from dataclasses import dataclass, field
from typing import NamedTuple

from schemas.dead import DeadLetter, letter_id
from schemas.errors import Invalid
from schemas.events import Event
from schemas.predictions import Prediction
from services.processor import cleaning

Partition = tuple[str, int]


# The types here and in the modules beside it that are made for every event are tuples: a frozen dataclass takes five
# times as long to make, which was a fifth of the processor's time.
class Record(NamedTuple):
    """One Kafka record.

    Attributes:
        content_type: From its header; says whether ``value`` is a frame or a single item.
        value: Empty for a tombstone.
        time_ms: The record's own timestamp, ms since the epoch.
    """

    topic: str
    part: int
    offset: int
    time_ms: int
    content_type: str
    value: bytes

    @property
    def partition(self) -> Partition:
        """Topic and partition, the key of the fence."""
        return self.topic, self.part

    @property
    def origin(self) -> str:
        """``topic/partition/offset``."""
        return f"{self.topic}/{self.part}/{self.offset}"


class Arrival(NamedTuple):
    """An event that can be stored, with its body as JSON that Postgres takes."""

    event: Event
    body: bytes


class Answer(NamedTuple):
    """A prediction that can be stored, with its objects as JSON that Postgres takes."""

    prediction: Prediction
    input: bytes
    scores: bytes


@dataclass(frozen=True, slots=True)
class Contents:
    """Everything that some records hold: the good items, and a dead letter for each bad one."""

    events: list[Arrival] = field(default_factory=list)
    predictions: list[Answer] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)


def dead_letter(record: Record, index: str, fault: Invalid, payload: str, *, project: str = "") -> DeadLetter:
    """Return the dead letter of one item of a record; the same item gives the same id however often it is read.

    Args:
        index: Which item of the record.
    """
    return DeadLetter(id=letter_id(f"{record.origin}/{index}"), stage="processor", code=fault.code,
                      path=cleaning.text(fault.path),
                      message=cleaning.text(str(fault)), time_ms=cleaning.time_ms(record.time_ms),
                      project=cleaning.text(project), payload=cleaning.cut(payload), origin=record.origin)
