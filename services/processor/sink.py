"""Writes batches to Postgres: one transaction per batch, with the fence, so that every effect happens exactly once."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from schemas.loops import Loop
from services.processor import join
from services.processor import statements as sql
from services.processor.attribution import Fact
from services.processor.examples import write_examples
from services.processor.fence import admit
from services.processor.joining import Joiner
from services.processor.orphans import Orphan
from services.processor.orphans import dead_letter as orphaned
from services.processor.preparing import Batch, Effects, Preparer
from services.processor.records import Partition, Record
from services.processor.rows import (
    DEAD,
    EVENTS,
    OBSERVATIONS,
    PREDICTIONS,
    Row,
    copy,
    dead_row,
    prediction_row,
    text_array,
)
from shared.missing import Missing, missing_predictions
from shared.postgres import Connection, connect, wrapped

CONSUMER = "ratchet-processor"
Holes = Mapping[tuple[Partition, int], int]


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
    """

    def __init__(self, url: str, loops: Mapping[str, Loop], preparer: Preparer) -> None:
        self._url, self._loops, self._preparer, self._joiner = url, loops, preparer, Joiner(loops)
        self._connection: Connection | None = None

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
        started = time.perf_counter()
        with self._transaction("store a batch") as connection:
            fences = _lock_fences(connection, sorted({record.partition for record in records}))
            admitted = admit(records, fences, holes or {})
            done = self._write(connection, self._preparer.prepare(admitted.records) if admitted.n_dropped else batch)
            _move_fences(connection, admitted.next_offsets)
        return Stored(next_offsets=admitted.next_offsets, n_records=len(admitted.records), n_dropped=admitted.n_dropped,
                      seconds=time.perf_counter() - started, **done)

    def rehearse(self, batch: Batch) -> None:
        """Try whether a batch can be stored, and take it back.

        Raises:
            Invalid: It cannot.
        """
        with self._transaction("rehearse an item") as connection:
            self._write(connection, batch)
            raise psycopg.Rollback

    def mature(self, now_ms: int, *, limit: int) -> tuple[int, int]:
        """Mature the open predictions whose deadline has passed, and give them the loop's default label if it has one.

        Safe in several workers at once: each takes what no other one is at.

        Returns:
            How many predictions matured, and how many examples that gave. Fewer than ``limit`` matured means that none
            are left.
        """
        with self._transaction("mature predictions") as connection:
            due = connection.execute(sql.LOCK_MATURE, [now_ms, limit]).fetchall()
            if not due:
                return 0, 0
            connection.execute(sql.SET_MATURED, [text_array([prediction for prediction, _, _ in due])])
            decisions = [decision for prediction, loop, deadline_ms in due
                         if (decision := join.mature(prediction, loop, deadline_ms, self._loops.get(loop)))]
            write_examples(connection, decisions)
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

    @contextmanager
    def _transaction(self, doing: str) -> Iterator[Connection]:
        try:
            if self._connection is None:
                self._connection = connect(self._url, name=CONSUMER, autocommit=True)
                with wrapped("prepare the session"):
                    self._connection.execute((sql.SESSION + sql.STAGE).encode())
            with wrapped(doing), self._connection.transaction():
                yield self._connection
        except BaseException:
            self.close()
            raise

    def _write(self, connection: Connection, batch: Batch) -> dict[str, int]:
        """Write everything but the fence. The examples come last: their counters lock other workers out."""
        events = _insert_events(connection, batch.events)
        new_ids = _insert_predictions(connection, batch)
        facts: list[Fact] = []
        observations: list[Row] = []
        dead = {letter.id: letter for letter in batch.dead}
        for effects in events:
            facts += effects.facts
            observations += effects.observations
            dead.update((letter.id, letter) for letter in effects.dead)
        if copy(connection, OBSERVATIONS, observations):
            connection.execute(sql.INSERT_OBSERVATIONS)
        n_dead = 0
        if copy(connection, DEAD, map(dead_row, dead.values())):
            n_dead = connection.execute(sql.INSERT_DEAD).rowcount
        predictions = [a.prediction for a in batch.predictions if a.prediction.id in new_ids]
        joined = self._joiner.join(connection, predictions, facts)
        write_examples(connection, joined.decisions)
        n_joined = sum(d.action == "insert" and d.revision == 1 for d in joined.decisions)
        return {
            "n_events": len(events), "n_repeated": batch.n_events - len(events), "n_predictions": len(predictions),
            "n_feedback": len(facts), "n_waiting": joined.n_waiting, "n_joined": n_joined,
            "n_revised": sum(d.action == "insert" for d in joined.decisions) - n_joined, "n_late": joined.n_late,
            "n_observations": len(observations), "n_dead": n_dead,
        }


def _insert_events(connection: Connection, events: Sequence[Effects]) -> Sequence[Effects]:
    """Insert events and return those that are new."""
    if not copy(connection, EVENTS, (effects.row for effects in events)):
        return ()
    cursor = connection.execute(sql.INSERT_EVENTS)
    # Nearly always all of them are new: then the count says so, and their ids need not travel back.
    if cursor.rowcount == len(events):
        return events
    new = set(cursor.fetchall())
    return [effects for effects in events if effects.key in new]


def _insert_predictions(connection: Connection, batch: Batch) -> set[str]:
    """Insert predictions and return the ids of those that are new."""
    if not copy(connection, PREDICTIONS, map(prediction_row, batch.predictions)):
        return set()
    return {row[0] for row in connection.execute(sql.INSERT_PREDICTIONS).fetchall()}


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
