"""Prepares a batch: everything about it that can be worked out before the database is asked; pure.

It is done beside the database's work on the batch before, in another thread, so it takes no time of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from schemas.dead import DeadLetter
from schemas.loops import Loop
from schemas.topics import Topics
from services.processor.attribution import Attribution, Fact
from services.processor.intake import Intake
from services.processor.observing import Observer
from services.processor.records import Answer, Contents, Record
from services.processor.rows import Row, event_row, observation_row


class Effects(NamedTuple):
    """What one event does if it is new.

    Attributes:
        key: Project and event id.
        row: For ``events``.
        facts: The feedback that it is.
        observations: For ``observations``.
        dead: One for each feedback that it says wrongly.
    """

    key: tuple[str, str]
    row: Row
    facts: list[Fact]
    observations: list[Row]
    dead: list[DeadLetter]


@dataclass(frozen=True, slots=True)
class Batch:
    """What some records do, each event and prediction once and in order of id.

    In order, so that two workers that are given the same ones wait for each other instead of locking each other out.
    """

    n_events: int
    events: list[Effects]
    predictions: list[Answer]
    dead: list[DeadLetter]


class Preparer:
    """Prepares batches by the rules of the loops."""

    def __init__(self, topics: Topics, loops: Mapping[str, Loop]) -> None:
        self._intake, self._attribution, self._observer = Intake(topics), Attribution(loops), Observer(loops)

    def read(self, records: Sequence[Record]) -> Contents:
        """Return what records hold."""
        return self._intake.read(records)

    def prepare(self, records: Sequence[Record]) -> Batch:
        """Return what records do."""
        return self.batch(self.read(records))

    def batch(self, contents: Contents) -> Batch:
        """Return what the contents of records do. Of items with the same id the first one counts."""
        events: dict[tuple[str, str], Effects] = {}
        for arrival in contents.events:
            event = arrival.event
            key = event.project, event.id
            if key not in events:
                facts, dead = self._attribution.facts(event)
                observations = [observation_row(o) for o in self._observer.observations(event, facts)]
                events[key] = Effects(key, event_row(arrival), facts, observations, dead)
        predictions: dict[str, Answer] = {}
        for answer in contents.predictions:
            predictions.setdefault(answer.prediction.id, answer)
        return Batch(len(contents.events), [events[key] for key in sorted(events)],
                     [predictions[key] for key in sorted(predictions)], contents.dead)
