"""Joins predictions with feedback inside the sink's transaction, safely beside other workers.

Whoever brings a prediction or a feedback has locked its loop (``examples.lock_loops``), and reads what others have
brought only after that: of two workers that bring the two halves at the same moment, the second one sees both (READ
COMMITTED: each statement sees what was committed before it began). The row of a prediction in ``joins`` is locked as
well, since feedback of one loop may name a prediction of another.
"""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

from schemas.loops import Loop
from schemas.predictions import Prediction
from services.processor import join
from services.processor import statements as sql
from services.processor.attribution import Fact
from services.processor.copying import copy
from services.processor.join import Current, Decision
from services.processor.rows import (
    FEEDBACK,
    JOINS,
    Row,
    feedback_row,
    int_array,
    join_row,
    text_array,
    waiting_row,
)
from shared.postgres import Connection

_WAITING, _OPEN, _LABELLED = "waiting", "open", "labelled"


@dataclass(frozen=True, slots=True)
class Joined:
    """What a batch's predictions and feedback gave.

    Attributes:
        n_waiting: Feedback whose prediction is not here yet.
        n_late: Feedback that came after its window.
    """

    decisions: list[Decision] = field(default_factory=list)
    n_waiting: int = 0
    n_late: int = 0


@dataclass(frozen=True, slots=True)
class _Row:
    """A locked row of ``joins``."""

    loop: str
    state: str
    predicted_ms: int | None


class Joiner:
    """Joins by the rules of the loops."""

    def __init__(self, loops: Mapping[str, Loop]) -> None:
        self._loops = loops
        kinds = [(loop.name, name, float(kind.window))
                 for loop in loops.values() for name, kind in loop.feedback.items()]
        self._kinds = [[k[0] for k in kinds], [k[1] for k in kinds], [k[2] for k in kinds]]

    def join(self, connection: Connection, predictions: Sequence[Prediction], facts: Sequence[Fact]) -> Joined:
        """Store the feedback and return what becomes of the examples.

        Args:
            predictions: Those that this transaction stored; their loops are locked.
            facts: The feedback of those events that this transaction stored; their loops are locked.

        Raises:
            psycopg.errors.UniqueViolation: Another worker brought one of the predictions for another loop.
        """
        arrived = {p.id: p for p in predictions}
        said: dict[str, list[Fact]] = {}
        for fact in facts:
            said.setdefault(fact.prediction_id, []).append(fact)
        found = _lock(connection, sorted(arrived.keys() | said.keys()))
        copy(connection, JOINS, (row for key, row in sorted(self._rows(arrived, said).items()) if key not in found))
        came = [arrived[key] for key, row in found.items() if row.predicted_ms is None and key in arrived]
        predicted = {key: (row.loop, row.predicted_ms) for key, row in found.items() if row.predicted_ms is not None}
        predicted |= {p.id: (p.loop, p.time_ms) for p in came}
        predicted |= {key: (arrived[key].loop, arrived[key].time_ms)
                      for key in said if key in arrived and key not in found}
        # An open prediction has neither feedback nor example, and a missing one has no example.
        older = [key for key, row in found.items() if row.state != _OPEN and row.predicted_ms is not None
                 and any(fact.loop == row.loop for fact in said.get(key, ()))]
        current = _read_labels(connection, older)
        deciding, several = _read_feedback(connection, [*older, *(p.id for p in came)], predicted)
        # In the order of their index.
        rows = [feedback_row(fact, late=self._is_late(fact, predicted)) for key in sorted(said) for fact in said[key]]
        n_late = sum(row[-1] for row in rows) + self._set_late(connection, came, deciding, several)
        copy(connection, FEEDBACK, rows)
        self._wait_on(connection, {key: said[key] for key in found if key in said and key not in predicted})
        decisions = self._decide(predicted, said, deciding, current)
        decided = {decision.prediction_id for decision in decisions}
        self._arrive(connection, came, decided)
        relabelled = [key for key in decided
                      if key in found and key not in arrived and found[key].state != _LABELLED]
        if relabelled:
            connection.execute(sql.SET_LABELLED, [text_array(sorted(relabelled))])
        return Joined(decisions, sum(len(said[key]) for key in said if key not in predicted), n_late)

    def _rows(self, arrived: Mapping[str, Prediction], said: Mapping[str, list[Fact]]) -> dict[str, Row]:
        """Return the row of each prediction as it is if nothing about it is stored yet."""
        rows = {}
        for p in arrived.values():
            state = _LABELLED if any(fact.loop == p.loop for fact in said.get(p.id, ())) else _OPEN
            rows[p.id] = join_row(p.id, p.loop, p.time_ms, self._deadline_ms(p), state)
        for key, facts in said.items():
            if key not in arrived:
                rows[key] = waiting_row(key, facts[0].loop, *self._span_ms(facts), _WAITING)
        return rows

    def _decide(self, predicted: Mapping[str, tuple[str, int]], said: Mapping[str, list[Fact]],
                deciding: Mapping[str, Fact], current: Mapping[str, Current]) -> list[Decision]:
        decisions = []
        # In order of id, so that a replay of a batch numbers its examples alike.
        for key in sorted(predicted):
            loop, predicted_ms = predicted[key]
            facts = [fact for fact in said.get(key, ()) if fact.loop == loop]
            if key in deciding:
                facts.append(deciding[key])
            if facts:
                newest = facts[0] if len(facts) == 1 else max(facts, key=lambda fact: fact.order)
                decision = join.decide(key, predicted_ms, self._loops.get(loop), newest, current.get(key))
                if decision:
                    decisions.append(decision)
        return decisions

    def _arrive(self, connection: Connection, predictions: Sequence[Prediction], decided: Container[str]) -> None:
        """Tell the rows that waited for these predictions what has become of them."""
        if predictions:
            connection.execute(sql.ARRIVE, [
                text_array([p.id for p in predictions]), text_array([p.loop for p in predictions]),
                text_array([_LABELLED if p.id in decided else _OPEN for p in predictions]),
                int_array([p.time_ms for p in predictions]), int_array([self._deadline_ms(p) for p in predictions])])

    def _set_late(self, connection: Connection, predictions: Sequence[Prediction], deciding: Mapping[str, Fact],
                  several: Container[str]) -> int:
        """Mark the feedback that waited for these predictions and was late; returns how much of it was."""
        late = []
        for p in predictions:
            fact = deciding.get(p.id)
            if fact and p.id not in several and join.is_late(fact, p.time_ms, self._loops.get(p.loop)):
                late.append((p.id, fact.loop, fact.kind, fact.project, fact.event_id))
        many = [p for p in predictions if p.id in several]
        if many:
            late += connection.execute(sql.READ_LATE, [
                text_array([p.id for p in many]), text_array([p.loop for p in many]),
                int_array([p.time_ms for p in many]), *self._kinds]).fetchall()
        if late:
            connection.execute(sql.SET_LATE, [text_array(column) for column in zip(*late, strict=True)])
        return len(late)

    def _wait_on(self, connection: Connection, said: Mapping[str, Sequence[Fact]]) -> None:
        """Tell the rows of predictions that are still missing until when this further feedback waits for them."""
        if said:
            since, until = zip(*map(self._span_ms, said.values()), strict=True)
            connection.execute(sql.WAIT_ON, [text_array(list(said)), int_array(since), int_array(until)])

    def _span_ms(self, facts: Sequence[Fact]) -> tuple[int, int]:
        """Return since when and until when the feedback on one missing prediction waits for it."""
        return (min(fact.received_ms for fact in facts),
                max(join.waits_until_ms(fact, self._loops.get(fact.loop)) for fact in facts))

    def _is_late(self, fact: Fact, predicted: Mapping[str, tuple[str, int]]) -> bool:
        loop, predicted_ms = predicted.get(fact.prediction_id, ("", 0))
        return loop == fact.loop and join.is_late(fact, predicted_ms, self._loops.get(loop))

    def _deadline_ms(self, prediction: Prediction) -> int:
        return join.deadline_ms(prediction.time_ms, self._loops.get(prediction.loop))


def _lock(connection: Connection, keys: Sequence[str]) -> dict[str, _Row]:
    if not keys:
        return {}
    cursor = connection.execute(sql.LOCK_JOINS, [text_array(keys)])
    return {key: _Row(loop, state, predicted_ms) for key, loop, state, predicted_ms in cursor.fetchall()}


def _read_feedback(connection: Connection, keys: Sequence[str], predicted: Mapping[str, tuple[str, int]]
                   ) -> tuple[dict[str, Fact], set[str]]:
    """Return the deciding feedback of each prediction that has one, and the predictions that have more than one."""
    deciding: dict[str, Fact] = {}
    several = set()
    if keys:
        rows = connection.execute(
            sql.READ_FEEDBACK, [text_array(keys), text_array([predicted[key][0] for key in keys])]).fetchall()
        for key, kind, project, event_id, label, subject, happened_ms, received_ms in rows:
            fact = Fact(predicted[key][0], kind, project, event_id, key, label, subject, happened_ms, received_ms)
            known = deciding.get(key)
            if known:
                several.add(key)
            if not known or fact.order > known.order:
                deciding[key] = fact
    return deciding, several


def _read_labels(connection: Connection, keys: Sequence[str]) -> dict[str, Current]:
    """Return the newest revision of each prediction's example that has one."""
    if not keys:
        return {}
    cursor = connection.execute(sql.READ_LABELS, [text_array(keys)])
    return {key: Current(*current) for key, *current in cursor.fetchall()}
