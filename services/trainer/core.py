"""What the trainer knows: the head's sums, the examples it is measured on, and how far it has read. Pure."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import numpy.typing as npt

from schemas.manifest import Interval
from services.trainer.examples import Change, Embedded, Example
from services.trainer.intervals import wilson
from shared.models.analytic import RidgeHead, features, fit_temperature

Vectors = npt.NDArray[np.float32]
# Of how many of the newest answers the prequential accuracy is taken.
_PREQUENTIAL = 1000


@dataclass(frozen=True)
class Scorer:
    """A version's head, to be measured: projection (D, M), head (M, C), on embeddings of one encoder.

    Attributes:
        version: None for a candidate that has no name yet.
        encoder: Digest of the encoder whose embeddings it needs.
        cut: The last seq that it has learned.
    """

    version: str | None
    encoder: str
    projection: Vectors
    head: Vectors
    labels: tuple[str, ...]
    cut: int

    def scores(self, embeddings: Vectors) -> Vectors:
        """(B, D) -> (B, C) float32: the regression's outputs, before temperature and softmax."""
        found: Vectors = features(embeddings, self.projection) @ self.head
        return found

    def measure(self, unseen: "Unseen") -> Vectors:
        """The scores of unseen examples, (n, C) float32; their random features are used where they are at hand."""
        found: Vectors = unseen.features(self.projection) @ self.head
        return found

    def right(self, scores: Vectors, labels: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Whether the best score is the true label's, (B,); never for a label it does not know."""
        if not self.labels:
            return np.zeros(len(labels), bool)
        found: npt.NDArray[np.bool_] = scores.argmax(axis=1) == self.targets(labels)
        return found

    def targets(self, labels: Sequence[str]) -> npt.NDArray[np.int64]:
        """Each label's column, -1 for one it does not know."""
        columns = {label: column for column, label in enumerate(self.labels)}
        return np.array([columns.get(label, -1) for label in labels], np.int64)


@dataclass(frozen=True)
class Unseen:
    """Examples that no version has learned: labels (n,) and embeddings (n, D).

    Attributes:
        hidden: A projection and the examples' random features by it (n, M), when they are at hand: computing them for
            champion, candidate and temperature alike was three quarters of an update.
    """

    keys: tuple[str, ...]
    labels: tuple[str, ...]
    embeddings: Vectors
    hidden: tuple[Vectors, Vectors] | None = None

    def features(self, projection: Vectors) -> Vectors:
        """The examples' random features by a projection (D, M) -> (n, M)."""
        if self.hidden is not None and (self.hidden[0] is projection or np.array_equal(self.hidden[0], projection)):
            return self.hidden[1]
        return features(self.embeddings, projection)


class LearnerState(msgspec.Struct, frozen=True, kw_only=True):
    """A learner's plain values, beside its tensors: columns of the sums, and (seq, key, label) of the hold-out."""

    encoder: str
    cursor: int
    columns: list[str]
    held_out: list[tuple[int, str, str]]
    answers: list[bool]


class Learner:
    """One generation's learning: everything that a version of it is made from.

    Equal examples give an equal head whatever their order, their batches and the restarts between them.

    Attributes:
        head: The analytic head.
        encoder: Digest of the generation's encoder.
        cursor: The last seq that was read; every seq up to it is in the sums, or held out.
    """

    def __init__(self, head: RidgeHead, *, encoder: str, window: int, cursor: int = 0) -> None:
        self.head, self.encoder, self.cursor = head, encoder, cursor
        self._window = window
        self._held: dict[str, Embedded] = {}
        self._hidden: dict[str, Vectors] = {}  # random features (M,) of those in _held that were measured on
        self._answers: deque[bool] = deque(maxlen=_PREQUENTIAL)

    @property
    def held_out(self) -> tuple[Embedded, ...]:
        """The newest held-out examples, oldest first, at most the gate's window."""
        return tuple(self._held.values())

    @property
    def n_learned(self) -> int:
        """How many examples are in the sums."""
        return self.head.n_examples

    def absorb(self, changed: Iterable[Change], *, cursor: int) -> int:
        """Take in what new rows change and move the cursor; returns how many changes went into the sums.

        Raises:
            ValueError: The cursor would go back: these rows were absorbed before.
        """
        if cursor < self.cursor:
            raise ValueError(f"seq {cursor} was read before: the cursor is at {self.cursor}")
        gone, come = [], []
        for change in changed:
            if change.held_out:
                self._hold(change.new)
            else:
                come.append(change.new)
                if change.old is not None:
                    gone.append(change.old)
        if gone:
            self.head.subtract(*_stacked(gone))
        if come:
            self.head.add(*_stacked(come))
        self.cursor = cursor
        return len(come)

    def forget(self, learned: Sequence[Embedded], held_out: Sequence[Embedded] = ()) -> None:
        """Take a subject's examples out, exactly as if they had never been.

        Args:
            learned: The revisions in force of those that are in the sums; of ``held_out`` those that are not.
        """
        if learned:
            self.head.subtract(*_stacked(learned))
        for example in held_out:
            self._drop(example.key)

    def answered(self, rows: Iterable[Example]) -> None:
        """Count what users got: whether each first revision's prediction was right."""
        for row in rows:
            if row.revision == 1:
                self._answers.append(row.predicted == row.label)

    def prequential(self, confidence: float) -> Interval | None:
        """Share of right answers among the newest thousand; None when there were none."""
        n, right = len(self._answers), sum(self._answers)
        return Interval(right / n, *wilson(right, n, confidence), n) if n else None

    def candidate(self) -> Scorer:
        """The head as it is now."""
        return Scorer(None, self.encoder, self.head.projection, self.head.weights(), self.head.labels, self.cursor)

    def unseen(self, fresh: Iterable[Embedded] = ()) -> Unseen:
        """The held-out examples and the given fresh ones, of both the newest, at most the gate's window."""
        newest = {e.key: e for e in (*self._held.values(), *fresh)}
        chosen = list(newest.values())[-self._window:]
        found = together(chosen, self.head.projection.shape[0])
        return replace(found, hidden=(self.head.projection, self._features(chosen)))

    def state(self, *, solved: bool = False) -> tuple[dict[str, np.ndarray], "LearnerState"]:
        """Tensors and plain values from which ``restored`` builds an equal learner; ``solved`` as for the head."""
        held = self.held_out
        vectors = together(held, self.head.projection.shape[0]).embeddings
        tensors = {**self.head.snapshot(solved=solved), "held_out": vectors}
        return tensors, LearnerState(encoder=self.encoder, cursor=self.cursor, columns=list(self.head.columns),
                                     held_out=[(e.seq, e.key, e.label) for e in held], answers=list(self._answers))

    @classmethod
    def restored(cls, tensors: Mapping[str, np.ndarray], state: "LearnerState", *, ridge: float, window: int,
                 adaptive: bool = False) -> "Learner":
        """Build a learner from its state."""
        head = RidgeHead.restore(tensors, state.columns, ridge=ridge, adaptive=adaptive)
        learner = cls(head, encoder=state.encoder, window=window, cursor=state.cursor)
        for (seq, key, label), vector in zip(state.held_out, tensors["held_out"], strict=True):
            learner._hold(Embedded(seq, key, label, vector))
        learner._answers.extend(state.answers)
        return learner

    def _hold(self, example: Embedded) -> None:
        self._drop(example.key)
        self._held[example.key] = example
        while len(self._held) > self._window:
            self._drop(next(iter(self._held)))

    def _drop(self, key: str) -> None:
        self._held.pop(key, None)
        self._hidden.pop(key, None)

    def _features(self, examples: Sequence[Embedded]) -> Vectors:
        """Random features (n, M); those of the hold-out are computed once."""
        kept = [self._held.get(e.key) is e for e in examples]
        rows = [self._hidden.get(e.key) if held else None for e, held in zip(examples, kept, strict=True)]
        missing = [i for i, row in enumerate(rows) if row is None]
        if missing:
            made = features(np.stack([examples[i].embedding for i in missing]), self.head.projection)
            for i, row in zip(missing, made, strict=True):
                rows[i] = row
                if kept[i]:
                    self._hidden[examples[i].key] = row.copy()  # not a view that keeps the whole block
        return np.stack([row for row in rows if row is not None]) if rows \
            else np.zeros((0, self.head.width), np.float32)


def temperature(scorer: Scorer, scores: Vectors, unseen: Unseen) -> float:
    """The temperature that fits the scorer's probabilities to its scores of examples that it has not learned."""
    return fit_temperature(scores, scorer.targets(unseen.labels))


def together(examples: Sequence[Embedded], dim: int) -> Unseen:
    """Stack examples."""
    vectors = np.stack([e.embedding for e in examples]) if examples else np.zeros((0, dim), np.float32)
    return Unseen(tuple(e.key for e in examples), tuple(e.label for e in examples), vectors)


def _stacked(examples: Sequence[Embedded]) -> tuple[Vectors, list[str]]:
    return np.stack([e.embedding for e in examples]), [e.label for e in examples]
