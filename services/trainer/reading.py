"""Brings a learner up to date with the examples table: reads, embeds what is not embedded, absorbs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from schemas.loops import Training
from services.trainer.core import Learner, LearnerState
from services.trainer.embeddings import Embeddings
from services.trainer.examples import Embedded, Example, Vector, changes, logged_embedding
from services.trainer.store import Store
from shared.models.analytic import RidgeHead, projection
from shared.models.encoder import Encoder

BATCH = 1000


@dataclass(frozen=True)
class Shape:
    """What shapes the sums; when one of these changes, they are built anew from all examples.

    Attributes:
        ridge: The least; the head takes a greater one where the labels are noisy.
        holdout: Share of subjects that are only measured on.
        window: How many held-out examples are kept.
    """

    projection: int
    ridge: float
    holdout: float
    seed: int
    max_tokens: int
    window: int

    @classmethod
    def of(cls, training: Training, *, max_tokens: int, window: int) -> "Shape":
        """The shape that a loop declares."""
        return cls(training.projection, training.ridge, training.holdout, training.seed, max_tokens, window)

    def fingerprint(self, encoder: Encoder) -> str:
        """Names the shape and the encoder."""
        return (f"{encoder.digest} projection={self.projection} ridge={self.ridge!r} holdout={self.holdout!r} "
                f"seed={self.seed} max_tokens={self.max_tokens}")

    def learner(self, encoder: Encoder) -> Learner:
        """A learner that has read nothing."""
        weight = projection(encoder.dim, self.projection, self.seed)
        return Learner(RidgeHead(weight, ridge=self.ridge, adaptive=True), encoder=encoder.digest, window=self.window)

    def restored(self, tensors: Mapping[str, np.ndarray], state: LearnerState) -> Learner:
        """A learner as it was when its state was taken."""
        return Learner.restored(tensors, state, ridge=self.ridge, window=self.window, adaptive=True)


@dataclass(frozen=True)
class Batch:
    """Rows in the order of their seqs, with their embeddings by seq."""

    rows: list[Example]
    vectors: dict[int, Vector]

    def unseen(self) -> list[Embedded]:
        """The rows that can be measured on; revisions are left out, since their text may have been learned."""
        return [Embedded(row.seq, row.prediction_id, row.label, self.vectors[row.seq]) for row in self.rows
                if row.revision == 1 and row.seq in self.vectors]


class Reader:
    """Reads one loop's examples for one encoder.

    Attributes:
        n_embedded: How many examples had to be embedded here, because serving used another encoder.
        n_skipped: How many rows had neither a text nor an embedding; they teach nothing.
    """

    def __init__(self, store: Store, encoder: Encoder, shape: Shape) -> None:
        self._store, self._encoder, self._shape = store, encoder, shape
        self._embeddings = Embeddings(encoder, max_tokens=shape.max_tokens)
        self.n_embedded = self.n_skipped = 0

    def absorb(self, learner: Learner, *, upto: int | None = None, limit: int = BATCH) -> Batch:
        """Read the next rows and absorb them; an empty batch: nothing new."""
        rows = self._store.read(after=learner.cursor, limit=limit, upto=upto)
        if not rows:
            return Batch([], {})
        revised = [row.prediction_id for row in rows if row.revision > 1]
        before = self._store.before(revised, upto=learner.cursor)
        vectors = self.embed([*rows, *before.values()])
        learner.absorb(changes(rows, before, vectors, share=self._shape.holdout, seed=self._shape.seed),
                       cursor=rows[-1].seq)
        learner.answered(rows)
        return Batch(rows, vectors)

    def embed(self, rows: Sequence[Example]) -> dict[int, Vector]:
        """Return embeddings by seq: the logged one where this encoder made it, else embedded here."""
        found: dict[int, Vector] = {}
        missing = []
        for row in rows:
            vector = logged_embedding(row, self._encoder.digest, self._encoder.dim)
            if vector is not None:
                found[row.seq] = vector
            elif row.text:
                missing.append(row)
            else:
                self.n_skipped += 1
        if missing:
            self.n_embedded += len(missing)
            found |= dict(zip((row.seq for row in missing), self._embeddings.of([row.text for row in missing]),
                              strict=True))
        return found

    def peek(self, learner: Learner, *, limit: int) -> Batch:
        """Read the rows after the cursor without absorbing them; only those that serving embedded by this encoder."""
        rows = self._store.read(after=learner.cursor, limit=limit)
        logged = {row.seq: logged_embedding(row, self._encoder.digest, self._encoder.dim) for row in rows}
        return Batch(rows, {seq: vector for seq, vector in logged.items() if vector is not None})
