"""Examples as the trainer sees them, and which of them it never learns from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shared.holdout import is_held_out

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Example:
    """One row of the examples table.

    Attributes:
        seq: Its place within the loop; no gaps, in commit order.
        prediction_id: What it is an example of; revisions share it.
        revision: From 1; the greatest counts.
        text: The input; empty when the prediction had none.
        embedding: float32 little-endian (D,), as serving computed it; may be empty.
        encoder: The digest of the encoder that made it.
        predicted: What was answered; None before a label was known.
    """

    seq: int
    prediction_id: str
    revision: int
    subject: str
    label: str
    text: str
    embedding: bytes
    encoder: str
    predicted: str | None


@dataclass(frozen=True)
class Embedded:
    """An example with its embedding (D,) by the encoder in use."""

    seq: int
    key: str
    label: str
    embedding: Vector


@dataclass(frozen=True)
class Change:
    """What one prediction's newest example changes: the contribution that goes and the one that comes.

    Attributes:
        old: The revision that was in force before; None for a new example.
        held_out: Whether it is only measured on.
    """

    new: Embedded
    old: Embedded | None
    held_out: bool


def in_force(rows: Iterable[Example]) -> dict[str, Example]:
    """The greatest revision of each prediction, in the order of their seqs."""
    newest: dict[str, Example] = {}
    for row in rows:
        held = newest.get(row.prediction_id)
        if held is None or row.revision > held.revision:
            newest.pop(row.prediction_id, None)
            newest[row.prediction_id] = row
    return newest


def logged_embedding(row: Example, digest: str, dim: int) -> Vector | None:
    """The embedding that serving logged, if this encoder made it and it is whole; else None."""
    if row.encoder != digest or len(row.embedding) != 4 * dim:
        return None
    vector = np.frombuffer(row.embedding, "<f4").astype(np.float32)
    return vector if np.isfinite(vector).all() else None


def changes(rows: Sequence[Example], before: Mapping[str, Example], vectors: Mapping[int, Vector], *,
            share: float, seed: int) -> list[Change]:
    """Work out what new rows change.

    Args:
        rows: New rows, any revisions.
        before: By prediction id, the revision that was in force before these rows.
        vectors: Embeddings by seq, of rows and of ``before``; a row without one teaches nothing.
        share: Of subjects that are held out.
    """
    found = []
    for key, row in in_force(rows).items():
        old = before.get(key)
        if row.seq not in vectors or (old is not None and old.revision >= row.revision):
            continue
        gone = Embedded(old.seq, key, old.label, vectors[old.seq]) if old is not None and old.seq in vectors else None
        # A revision keeps the side of its prediction's first example, whoever corrected it.
        held_out = is_held_out((old or row).subject, key, share, seed)
        found.append(Change(Embedded(row.seq, key, row.label, vectors[row.seq]), gone, held_out))
    return found
