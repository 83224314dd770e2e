"""The accounts at the end of a run: what Postgres stored of what was accepted, and what each version learned."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from schemas.manifest import GateDecision, Manifest
from shared import postgres
from shared.holdout import is_held_out
from shared.registry import Registry

_MANY = 1_000_000


@dataclass(frozen=True)
class Run:
    """One decision of the gate: a candidate and whether it was let through. ``version`` is empty for a refused one."""

    version: str
    method: str
    ended_ms: int
    first_seq: int
    last_seq: int
    gate: GateDecision


@dataclass(frozen=True)
class Accounts:
    """What the stores hold of a run.

    Attributes:
        stored: How many of the events accepted by the collector have a row in ``events``.
        feedback: How many feedback rows they made.
        effects: How many examples they made, every revision counted, so that a doubled effect shows.
        seqs: The example each prediction became, by prediction id: the sequence number of its first revision.
        held_out: The predictions whose examples are never learned from, by their subject.
        manifests: Every version published since the run began, oldest first.
        runs: Every decision of the gate since the run began, oldest first.
    """

    stored: int
    feedback: int
    effects: int
    seqs: dict[str, int]
    held_out: frozenset[str]
    manifests: Sequence[Manifest]
    runs: Sequence[Run]


def stored(postgres_url: str, event_ids: Sequence[str], prediction_ids: Sequence[str]) -> tuple[int, int, int]:
    """Count events, feedback and examples of these ids; cheap enough to wait on.

    Raises:
        Transient: Postgres is away.
    """
    with postgres.connect(postgres_url, name="ratchet-demo", autocommit=True) as connection:
        ids, predictions = list(event_ids), list(prediction_ids)
        row = connection.execute(
            "SELECT (SELECT count(*) FROM events WHERE id = ANY(%s)),"
            "       (SELECT count(*) FROM feedback WHERE event_id = ANY(%s)),"
            "       (SELECT count(*) FROM examples WHERE prediction_id = ANY(%s) AND source <> 'default')",
            (ids, ids, predictions)).fetchone()
    n_events, n_feedback, n_examples = row or (0, 0, 0)
    return int(n_events), int(n_feedback), int(n_examples)


def last_seq(postgres_url: str, loop: str) -> int:
    """The sequence number of the newest example of a loop; 0 when it has none."""
    with postgres.connect(postgres_url, name="ratchet-demo", autocommit=True) as connection:
        row = connection.execute("SELECT coalesce(max(seq), 0) FROM examples WHERE loop = %s", (loop,)).fetchone()
    return int(row[0]) if row else 0


def embeddings(postgres_url: str, prediction_ids: Sequence[str], encoder: str) -> dict[str, bytes]:
    """The embeddings that an encoder made when these predictions were served, by prediction id.

    Raises:
        Transient: Postgres is away.
    """
    with postgres.connect(postgres_url, name="ratchet-demo", autocommit=True) as connection:
        rows = connection.execute("SELECT id, embedding FROM predictions WHERE id = ANY(%s) AND encoder = %s",
                                  (list(prediction_ids), encoder)).fetchall()
    return {prediction_id: bytes(embedding) for prediction_id, embedding in rows}


def read(postgres_url: str, redis_url: str, artifacts_dir: Path, *, loop: str, since_ms: int,
         event_ids: Sequence[str], prediction_ids: Sequence[str]) -> Accounts:
    """Read the accounts of a run.

    Args:
        since_ms: When the run began, ms since the epoch; versions and decisions from before are left out.
        event_ids: The events that the collector accepted.
        prediction_ids: The predictions they were feedback on.

    Raises:
        Transient: Postgres or Redis is away.
    """
    n_events, n_feedback, n_examples = stored(postgres_url, event_ids, prediction_ids)
    with postgres.connect(postgres_url, name="ratchet-demo", autocommit=True) as connection:
        examples = connection.execute(
            "SELECT prediction_id, seq, subject FROM examples WHERE loop = %s AND prediction_id = ANY(%s)"
            " AND source <> 'default' AND revision = 1", (loop, list(prediction_ids))).fetchall()
        rows = connection.execute(
            "SELECT version, method, extract(epoch FROM ended_at) * 1000, first_seq, last_seq, gate::text"
            " FROM training_runs WHERE loop = %s AND ended_at >= to_timestamp(%s) ORDER BY ended_at",
            (loop, since_ms / 1000)).fetchall()
    registry = Registry.connect(redis_url, artifacts_dir)
    try:
        newest_first = registry.versions(loop, limit=_MANY)
    finally:
        registry.close()
    manifests = [m for m in reversed(newest_first) if m.created_ms >= since_ms]
    return Accounts(n_events, n_feedback, n_examples, {prediction_id: seq for prediction_id, seq, _ in examples},
                    _held_out(examples, manifests), manifests, [_run(row) for row in rows])


def _held_out(examples: Sequence[tuple[Any, ...]], manifests: Sequence[Manifest]) -> frozenset[str]:
    if not manifests:
        return frozenset()
    share, seed = float(manifests[-1].settings.get("holdout", 0.0)), manifests[-1].seed
    return frozenset(prediction_id for prediction_id, _, subject in examples
                     if is_held_out(subject, prediction_id, share, seed))


def _run(row: Sequence[Any]) -> Run:
    version, method, ended_ms, first_seq, last_seq_, gate = row
    return Run(version or "", method, int(ended_ms), first_seq, last_seq_,
               msgspec.json.decode(gate, type=GateDecision))
