"""What a careful user of a stream library writes to join pairs in Postgres: one transaction a batch, rows by id.

The libraries deliver at least once, so every insert steps over what is there. That and the features is all: no
revisions, no deadlines, no numbers without gaps, no dead letters; so the peers have less to do than Ratchet.
"""

from collections.abc import Iterable

import msgspec
import psycopg

from schemas.events import Event
from schemas.predictions import Prediction

Row = tuple[object, ...]
_EPOCH_MS = 946_684_800_000
_STAGE = """
SET timezone = 'UTC'; SET client_min_messages = warning;
CREATE TEMP TABLE new_events (LIKE events, prediction_id text, label text) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE new_predictions (LIKE predictions INCLUDING STORAGE) ON COMMIT DELETE ROWS;
"""
_EVENTS = ("project, id, kind, name, subject, event_time, received_at, body, prediction_id, label",
           ["text"] * 5 + ["int8", "int8", "bytea", "text", "text"])
_PREDICTIONS = ("id, loop, version, subject, event_time, label, scores, input, embedding, encoder, arm, propensity",
                ["text"] * 4 + ["int8", "text", "bytea", "bytea", "bytea", "text", "text", "float4"])
_INSERT = [
    "INSERT INTO predictions SELECT * FROM new_predictions ON CONFLICT DO NOTHING",
    """WITH fresh AS (
           INSERT INTO events SELECT project, id, kind, name, subject, event_time, received_at, body FROM new_events
           ON CONFLICT DO NOTHING RETURNING project, id),
       n AS (SELECT new_events.* FROM new_events JOIN fresh USING (project, id)),
       said AS (
           INSERT INTO feedback SELECT 'support-intents', 'correction', project, id, prediction_id, label, subject,
                                       event_time, received_at FROM n WHERE prediction_id IS NOT NULL)
       INSERT INTO observations
       SELECT 'support-intents', 'user', subject, 'activity', event_time, project || '/' || id FROM n
       UNION ALL
       SELECT 'support-intents', 'label', label, 'feedback', event_time, project || '/' || id FROM n
       WHERE prediction_id IS NOT NULL""",
]
# Whichever half came last finds the other. OFFSET 0: from the batch, by index, however old the statistics are.
_JOIN = """
INSERT INTO labels (loop, seq, prediction_id, revision, label, source, labelled_at)
SELECT 'support-intents', nextval('pairs_seq'), prediction_id, 1, label, 'correction', event_time
FROM (SELECT n.prediction_id, n.label, n.event_time
      FROM new_events n CROSS JOIN LATERAL (SELECT FROM predictions p WHERE p.id = n.prediction_id OFFSET 0) p
      UNION
      SELECT n.id, f.label, f.event_time
      FROM new_predictions n
      CROSS JOIN LATERAL (SELECT * FROM feedback f WHERE f.prediction_id = n.id OFFSET 0) f) pairs
ON CONFLICT (prediction_id, revision) DO NOTHING
"""
_COUNT = """
INSERT INTO loop_counters AS c VALUES ('support-intents', 1 + %(n)s)
ON CONFLICT (loop) DO UPDATE SET next_seq = c.next_seq + %(n)s
"""
_PROGRESS = """
INSERT INTO offsets AS o VALUES ('peer', 'frames', 0, %(n)s)
ON CONFLICT (consumer, topic, part) DO UPDATE SET next_offset = o.next_offset + %(n)s
"""


class Pairs:
    """Stores frames of events and predictions, joined. One connection."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True, prepare_threshold=None)
        self._connection.execute(_STAGE)
        self._events = msgspec.json.Decoder(list[Event])
        self._predictions = msgspec.json.Decoder(list[Prediction])
        self._n_apart = 0

    def write(self, frames: Iterable[tuple[str, bytes]]) -> None:
        """Store frames, each with its topic; blocks until they are committed."""
        n_frames, events, predictions = self._rows(frames)
        with self._connection.transaction():
            self._copy("new_events", _EVENTS, events)
            self._copy("new_predictions", _PREDICTIONS, predictions)
            for statement in _INSERT:
                self._connection.execute(statement)
            n_joined = self._connection.execute(_JOIN).rowcount
            self._connection.execute(_COUNT, {"n": n_joined})
            self._connection.execute(_PROGRESS, {"n": n_frames})

    def write_apart(self, frames: Iterable[tuple[str, bytes]]) -> None:
        """Store frames without joining them and without asking what is there: the ceiling."""
        n_frames, events, predictions = self._rows(frames)
        columns, types = _EVENTS
        with self._connection.transaction():
            self._copy("events", (columns.removesuffix(", prediction_id, label"), types[:8]), [e[:8] for e in events])
            self._copy("predictions", _PREDICTIONS, predictions)
            self._n_apart += len(events) + len(predictions)
            self._connection.execute("DELETE FROM loop_counters")
            self._connection.execute(_COUNT, {"n": self._n_apart // 2})
            self._connection.execute(_PROGRESS, {"n": n_frames})

    def _rows(self, frames: Iterable[tuple[str, bytes]]) -> tuple[int, list[Row], list[Row]]:
        n, events, predictions = 0, [], []
        for topic, value in frames:
            n += 1
            if topic.endswith("predictions"):
                predictions += map(_prediction_row, self._predictions.decode(value))
            else:
                events += map(_event_row, self._events.decode(value))
        return n, events, predictions

    def _copy(self, table: str, layout: tuple[str, list[str]], rows: list[Row]) -> None:
        columns, types = layout
        if rows:
            with self._connection.cursor() as cursor, \
                    cursor.copy(f"COPY {table} ({columns}) FROM STDIN (FORMAT BINARY)") as stream:
                stream.set_types(types)
                for row in rows:
                    stream.write_row(row)


def _time(ms: int) -> int:
    return (ms - _EPOCH_MS) * 1000


def _event_row(e: Event) -> Row:
    body = msgspec.json.encode({"source": e.source, "properties": e.properties, "context": e.context})
    return (e.project, e.id, e.kind, e.name, e.subject, _time(e.time_ms), _time(e.received_ms), body,
            e.properties.get("prediction_id"), e.properties.get("queue"))


def _prediction_row(p: Prediction) -> Row:
    return (p.id, p.loop, p.version, p.subject, _time(p.time_ms), p.label, msgspec.json.encode(p.scores),
            msgspec.json.encode(p.input), p.embedding, p.encoder, p.arm, p.propensity)
