"""Postgres as the trainer sees it: examples to read, decisions and progress to keep."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec

from schemas.errors import Transient
from schemas.manifest import GateDecision
from services.trainer.examples import Example
from services.trainer.schedule import Started
from shared import postgres

_COLUMNS = "seq, prediction_id, revision, subject, label, input, embedding, encoder, predicted"
_WITHOUT_EMBEDDINGS = _COLUMNS.replace("embedding", "''::bytea")
_CHANNEL = "ratchet_examples"


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a loop's trainer is, beside the sums themselves. Kept in ``trainer_state``.

    Attributes:
        snapshot: SHA-256 of the snapshot file that goes with it; empty when there is none.
        cursor: The last seq in that snapshot.
        generation: The encoder state in use; 0 is the base.
        encoder: Digest of the generation's encoder; empty for the base.
        settings: What the generation was fine-tuned with, for its manifests.
        started: The last fine-tune's start.
    """

    snapshot: str = ""
    cursor: int = 0
    generation: int = 0
    encoder: str = ""
    settings: dict[str, float | str] = {}
    started: Started = Started()


class Store:
    """One loop's rows. Reconnects by itself: after a Transient error the next call tries again.

    Raises (from every method):
        Transient: Postgres is away or busy.
    """

    def __init__(self, url: str, loop: str, *, text_path: str) -> None:
        self._url, self._loop = url, loop
        self._text_key = text_path.rpartition(".")[2]
        self._connection: postgres.Connection | None = None

    def close(self) -> None:
        """Close the connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def read(self, *, after: int, limit: int, upto: int | None = None) -> list[Example]:
        """Read examples in the order of their seqs, from the one after ``after`` on, ``upto`` included."""
        return self._examples(
            f"SELECT {_COLUMNS} FROM examples WHERE loop = %s AND seq > %s AND seq <= %s ORDER BY seq LIMIT %s",
            [self._loop, after, 2**62 if upto is None else upto, limit])

    def before(self, prediction_ids: Sequence[str], *, upto: int) -> dict[str, Example]:
        """Read, by prediction id, the revision that was in force when ``upto`` was the last seq."""
        if not prediction_ids:
            return {}
        rows = self._examples(
            f"SELECT DISTINCT ON (prediction_id) {_COLUMNS} FROM examples WHERE prediction_id = ANY(%s) "
            "AND loop = %s AND seq <= %s ORDER BY prediction_id, revision DESC",
            [list(prediction_ids), self._loop, upto])
        return {row.prediction_id: row for row in rows}

    def in_force(self, seqs: Sequence[int], *, upto: int) -> list[Example]:
        """Read those of the seqs whose revision was in force when ``upto`` was the last seq; without embeddings."""
        return self._examples(
            f"SELECT {_WITHOUT_EMBEDDINGS} FROM examples AS e WHERE loop = %s AND seq = ANY(%s) AND NOT EXISTS ("
            "SELECT FROM labels AS newer WHERE newer.prediction_id = e.prediction_id AND newer.loop = e.loop "
            "AND newer.revision > e.revision AND newer.seq <= %s) ORDER BY seq", [self._loop, list(seqs), upto])

    def of_subject(self, subject: str, *, upto: int) -> list[Example]:
        """Read every row of one subject up to a seq."""
        return self._examples(f"SELECT {_COLUMNS} FROM examples WHERE loop = %s AND subject = %s AND seq <= %s "
                              "ORDER BY seq", [self._loop, subject, upto])

    def last_seq(self) -> int:
        """The newest example's seq; 0 when there is none."""
        rows = self._fetch("SELECT coalesce(max(seq), 0) FROM labels WHERE loop = %s", [self._loop])
        return int(rows[0][0])

    def wait(self, timeout_s: float) -> bool:
        """Wait until examples are announced, at most so long; returns whether they were.

        Announcements that came since the last call count. A missed one costs nothing but the time-out.
        """
        with self._guard("listen"):
            notes = self._connected().notifies(timeout=timeout_s, stop_after=1)
            return any(note.payload in ("", self._loop) for note in notes)

    def record_run(self, *, run_id: str, method: str, version: str | None, started_ms: int, ended_ms: int,
                   first_seq: int, last_seq: int, gate: GateDecision) -> None:
        """Write down a decision; a later one of the same run id takes its place."""
        with self._guard("record a training run"):
            self._connected().execute(
                "INSERT INTO training_runs (loop, run_id, method, version, started_at, ended_at, first_seq, last_seq, "
                "gate) VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s::jsonb) "
                "ON CONFLICT (loop, run_id) DO UPDATE SET version = excluded.version, "
                "started_at = excluded.started_at, ended_at = excluded.ended_at, first_seq = excluded.first_seq, "
                "gate = excluded.gate",
                [self._loop, run_id, method, version, _time(started_ms), _time(ended_ms), first_seq, last_seq,
                 msgspec.json.encode(gate).decode()])

    def progress(self) -> Progress:
        """Read the loop's progress; the beginning when there is none."""
        rows = self._fetch("SELECT state::text FROM trainer_state WHERE loop = %s", [self._loop])
        return msgspec.json.decode(rows[0][0], type=Progress) if rows else Progress()

    def save(self, progress: Progress) -> None:
        """Keep the loop's progress."""
        with self._guard("save the trainer's state"):
            self._connected().execute(
                "INSERT INTO trainer_state (loop, state) VALUES (%s, %s::jsonb) "
                "ON CONFLICT (loop) DO UPDATE SET state = excluded.state, updated_at = now()",
                [self._loop, msgspec.json.encode(progress).decode()])

    def _examples(self, query: str, values: list[Any]) -> list[Example]:
        return [Example(seq, key, revision, subject, label, self._text(given), bytes(embedding), encoder, predicted)
                for seq, key, revision, subject, label, given, embedding, encoder, predicted
                in self._fetch(query, values)]

    def _text(self, given: Any) -> str:
        text = given.get(self._text_key, given.get("text")) if isinstance(given, dict) else None
        return text if isinstance(text, str) else ""

    def _fetch(self, query: str, values: list[Any]) -> list[tuple[Any, ...]]:
        with self._guard("read"):
            # Binary results: an embedding as text would cost three times its size.
            cursor = self._connected().cursor(binary=True)
            return cursor.execute(query.encode(), values).fetchall()

    def _connected(self) -> postgres.Connection:
        if self._connection is None or self._connection.closed:
            self._connection = postgres.connect(self._url, name=f"ratchet-trainer {self._loop}"[:60],
                                                autocommit=True)
            self._connection.execute(f"LISTEN {_CHANNEL}".encode())
        return self._connection

    @contextmanager
    def _guard(self, doing: str) -> Iterator[None]:
        """Turn driver errors into ours, and drop a connection that failed: the next call opens another."""
        try:
            with postgres.wrapped(doing):
                yield
        except Transient:
            self.close()
            raise


def _time(ms: int) -> datetime:
    return datetime.fromtimestamp(ms / 1000, UTC)
