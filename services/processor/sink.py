"""Writes batches to Postgres: one transaction per batch, with the fence, so that every effect happens exactly once."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from schemas.errors import Transient
from schemas.loops import Loop
from services.processor import join
from services.processor import statements as sql
from services.processor.attribution import Fact
from services.processor.copying import copy
from services.processor.examples import lock_loops, write_examples
from services.processor.fence import admit
from services.processor.joining import Joined, Joiner
from services.processor.orphans import Orphan
from services.processor.orphans import dead_letter as orphaned
from services.processor.preparing import Batch, Effects, Preparer
from services.processor.records import Answer, Partition, Record
from services.processor.rows import (
    DEAD,
    EVENTS,
    OBSERVATIONS,
    PREDICTIONS,
    Row,
    dead_row,
    prediction_row,
    text_array,
)
from shared.missing import Missing, missing_predictions
from shared.postgres import Connection, Duplicate, Rollback, connect, wrapped

CONSUMER = "ratchet-processor"
# So many batches after one that held something known, each is asked about before it is written.
_CAREFUL = 50
Holes = Mapping[tuple[Partition, int], int]


class Known(Transient):
    """Something of a batch is stored already, or was by another worker meanwhile."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """What one transaction did.

    Attributes:
        next_offsets: The fence of each partition that moved.
        n_dropped: Records that had been done before.
        n_events, n_predictions, n_feedback, n_observations, n_dead: Rows that are new.
        n_repeated: Events that had been stored before, under another offset.
        n_waiting: Feedback whose prediction is not here yet.
        n_joined: First revisions of examples; ``n_revised``: further ones.
        n_late: Feedback that came after its window.
        seconds: From the first statement to the commit.
    """

    next_offsets: dict[Partition, int]
    n_records: int
    n_dropped: int
    n_events: int = 0
    n_repeated: int = 0
    n_predictions: int = 0
    n_feedback: int = 0
    n_waiting: int = 0
    n_joined: int = 0
    n_revised: int = 0
    n_late: int = 0
    n_observations: int = 0
    n_dead: int = 0
    seconds: float = 0.0


class Sink:
    """One connection to Postgres, opened when needed. Not for several threads at once.

    After any error the connection is closed and the transaction is gone with it; the same call may be made again, and
    a commit whose answer was lost is found done by the fence.

    What a batch holds is nearly always new: the fence drops what was done, and only a client's retry brings an event
    again under another offset. So rows are copied straight into their tables, without asking; a unique index that
    refuses one costs the transaction, which is made again and asks first, as do some batches after it.
    """

    def __init__(self, url: str, loops: Mapping[str, Loop], preparer: Preparer) -> None:
        self._url, self._loops, self._preparer, self._joiner = url, loops, preparer, Joiner(loops)
        self._connection: Connection | None = None
        self._careful = 0

    def store(self, records: Sequence[Record], batch: Batch, *, holes: Holes | None = None) -> Stored:
        """Store what is new in a batch, and move the fence. Blocks until it is committed.

        Args:
            batch: The records, prepared. Should some of them turn out to be done, the others are prepared anew.
            holes: Offsets that are known not to exist; see ``fence.admit``.

        Raises:
            Gap: Records are missing before one of these.
            Invalid: Something in the batch cannot be stored; nothing was.
            Transient: Postgres is away or busy.
            Permanent: A statement or the schema is wrong.
        """
        try:
            return self._store(records, batch, holes or {}, careful=self._careful > 0)
        except Known:
            if self._careful:
                raise
        self._careful = _CAREFUL
        return self._store(records, batch, holes or {}, careful=True)

    def rehearse(self, batch: Batch) -> None:
        """Try whether a batch can be stored, and take it back.

        Raises:
            Invalid: It cannot.
        """
        with self._transaction("rehearse an item") as connection:
            self._write(connection, batch, careful=True)
            raise Rollback

    def mature(self, now_ms: int, *, limit: int) -> tuple[int, int]:
        """Mature the open predictions whose deadline has passed, and give them the loop's default label if it has one.

        Safe in several workers at once: each takes what no other one is at.

        Returns:
            How many predictions matured, and how many examples that gave. Fewer than ``limit`` matured means that none
            are left.
        """
        with self._transaction("mature predictions") as connection:
            loops = [row[0] for row in connection.execute(sql.DUE_LOOPS, [now_ms, limit]).fetchall()]
            if not loops:
                return 0, 0
            next_seqs = lock_loops(connection, loops)
            due = connection.execute(sql.LOCK_MATURE, [now_ms, loops, limit]).fetchall()
            connection.execute(sql.SET_MATURED, [text_array([prediction for prediction, _, _ in due])])
            decisions = [decision for prediction, loop, deadline_ms in due
                         if (decision := join.mature(prediction, loop, deadline_ms, self._loops.get(loop)))]
            write_examples(connection, decisions, next_seqs)
        return len(due), len(decisions)

    def orphan(self, now_ms: int, *, limit: int) -> tuple[int, int]:
        """Give up waiting for the predictions that were waited for until now, with a dead letter for each feedback.

        Safe in several workers at once, as ``mature`` is. A prediction that comes after all is joined all the same.

        Returns:
            How many predictions were given up, and how many dead letters are new. Fewer than ``limit`` given up means
            that none are left.
        """
        with self._transaction("orphan feedback") as connection:
            missing = [row[0] for row in connection.execute(sql.LOCK_ORPHANS, [now_ms, limit]).fetchall()]
            if not missing:
                return 0, 0
            connection.execute(sql.SET_ORPHANED, [text_array(missing)])
            orphans = map(Orphan._make, connection.execute(sql.READ_ORPHANS, [text_array(missing)]).fetchall())
            copy(connection, DEAD, [dead_row(orphaned(orphan, self._loops.get(orphan.loop))) for orphan in orphans])
            n_dead = connection.execute(sql.INSERT_DEAD).rowcount
        return len(missing), n_dead

    def missing(self) -> dict[str, Missing]:
        """Return the predictions that feedback names and that are not here, by loop."""
        with self._transaction("count missing predictions") as connection:
            return missing_predictions(connection)

    def fences(self) -> dict[Partition, int]:
        """Return the next offset of every partition that was ever read."""
        with self._transaction("read the fences") as connection:
            rows = connection.execute(sql.READ_FENCES, [CONSUMER]).fetchall()
        return {(topic, part): offset for topic, part, offset in rows}

    def set_fences(self, seen: Mapping[Partition, int], next_offsets: Mapping[Partition, int]) -> None:
        """Set the next offset of partitions, unless another worker has moved it. For the preflight only.

        Args:
            seen: What ``fences`` returned.
        """
        with self._transaction("set the fences") as connection:
            found = _lock_fences(connection, sorted(next_offsets), next_offsets)
            _move_fences(connection, {partition: offset for partition, offset in next_offsets.items()
                                      if found[partition] == seen.get(partition)})

    def close(self) -> None:
        """Close the connection; the next call opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _store(self, records: Sequence[Record], batch: Batch, holes: Holes, *, careful: bool) -> Stored:
        started = time.perf_counter()
        with self._transaction("store a batch") as connection:
            fences = _lock_fences(connection, sorted({record.partition for record in records}))
            admitted = admit(records, fences, holes)
            batch = self._preparer.prepare(admitted.records) if admitted.n_dropped else batch
            done = self._write(connection, batch, careful=careful)
            _move_fences(connection, admitted.next_offsets)
        self._careful = max(self._careful - 1, 0)
        return Stored(next_offsets=admitted.next_offsets, n_records=len(admitted.records), n_dropped=admitted.n_dropped,
                      seconds=time.perf_counter() - started, **done)

    @contextmanager
    def _transaction(self, doing: str) -> Iterator[Connection]:
        try:
            if self._connection is None:
                self._connection = connect(self._url, name=CONSUMER, autocommit=True)
                with wrapped("prepare the session"):
                    self._connection.execute((sql.SESSION + sql.STAGE).encode())
            with wrapped(doing), self._connection.transaction():
                yield self._connection
        except Duplicate as exc:
            self.close()
            raise Known(str(exc)) from exc
        except BaseException:
            self.close()
            raise

    def _write(self, connection: Connection, batch: Batch, *, careful: bool) -> dict[str, int]:
        """Write everything but the fence; the join comes last, since it locks other workers out.

        Args:
            careful: Ask first which events and predictions are stored already.
        """
        events = _unknown_events(connection, batch.events) if careful else batch.events
        answers = _unknown_predictions(connection, batch.predictions) if careful else batch.predictions
        copy(connection, EVENTS, (effects.row for effects in events))
        copy(connection, PREDICTIONS, map(prediction_row, answers))
        facts: list[Fact] = []
        observations: list[Row] = []
        dead = {letter.id: letter for letter in batch.dead}
        for effects in events:
            facts += effects.facts
            observations += effects.observations
            dead.update((letter.id, letter) for letter in effects.dead)
        copy(connection, OBSERVATIONS, observations)
        n_dead = 0
        if copy(connection, DEAD, map(dead_row, dead.values())):
            n_dead = connection.execute(sql.INSERT_DEAD).rowcount
        predictions = [answer.prediction for answer in answers]
        joined = Joined()
        if predictions or facts:
            next_seqs = lock_loops(connection, {p.loop for p in predictions} | {fact.loop for fact in facts})
            joined = self._joiner.join(connection, predictions, facts)
            write_examples(connection, joined.decisions, next_seqs)
        n_joined = sum(d.action == "insert" and d.revision == 1 for d in joined.decisions)
        return {
            "n_events": len(events), "n_repeated": batch.n_events - len(events), "n_predictions": len(predictions),
            "n_feedback": len(facts), "n_waiting": joined.n_waiting, "n_joined": n_joined,
            "n_revised": sum(d.action == "insert" for d in joined.decisions) - n_joined, "n_late": joined.n_late,
            "n_observations": len(observations), "n_dead": n_dead,
        }


def _unknown_events(connection: Connection, events: Sequence[Effects]) -> Sequence[Effects]:
    projects, ids = text_array([e.key[0] for e in events]), text_array([e.key[1] for e in events])
    known = set(connection.execute(sql.KNOWN_EVENTS, [projects, ids]).fetchall())
    return [effects for effects in events if effects.key not in known]


def _unknown_predictions(connection: Connection, answers: Sequence[Answer]) -> Sequence[Answer]:
    ids = text_array([answer.prediction.id for answer in answers])
    known = {row[0] for row in connection.execute(sql.KNOWN_PREDICTIONS, [ids]).fetchall()}
    return [answer for answer in answers if answer.prediction.id not in known]


def _lock_fences(connection: Connection, partitions: Sequence[Partition],
                 starts: Mapping[Partition, int] | None = None) -> dict[Partition, int]:
    """Lock the fences of partitions, in order; those that do not exist are made, at 0 or where they are to start."""
    topics, parts = [topic for topic, _ in partitions], [part for _, part in partitions]
    rows = connection.execute(sql.LOCK_FENCES, [CONSUMER, topics, parts]).fetchall()
    if len(rows) < len(partitions):
        connection.execute(sql.ADD_FENCES, [CONSUMER, topics, parts, [(starts or {}).get(p, 0) for p in partitions]])
        rows = connection.execute(sql.LOCK_FENCES, [CONSUMER, topics, parts]).fetchall()
    return {(topic, part): offset for topic, part, offset in rows}


def _move_fences(connection: Connection, next_offsets: Mapping[Partition, int]) -> None:
    if next_offsets:
        ordered = sorted(next_offsets.items())
        connection.execute(sql.MOVE_FENCES, [CONSUMER, [p[0] for p, _ in ordered], [p[1] for p, _ in ordered],
                                             [offset for _, offset in ordered]])
