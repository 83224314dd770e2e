"""What the trainer knows: the head's sums, the examples it is measured on, and how far it has read. Pure."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

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
    """Examples that no version has learned: labels (n,) and embeddings (n, D)."""

    keys: tuple[str, ...]
    labels: tuple[str, ...]
    embeddings: Vectors


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
            self._held.pop(example.key, None)

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
        return together(list(newest.values())[-self._window:], self.head.projection.shape[0])

    def state(self, *, solved: bool = False) -> tuple[dict[str, np.ndarray], "LearnerState"]:
        """Tensors and plain values from which ``restored`` builds an equal learner; ``solved`` as for the head."""
        held = self.held_out
        vectors = together(held, self.head.projection.shape[0]).embeddings
        tensors = {**self.head.snapshot(solved=solved), "held_out": vectors}
        return tensors, LearnerState(encoder=self.encoder, cursor=self.cursor, columns=list(self.head.columns),
                                     held_out=[(e.seq, e.key, e.label) for e in held], answers=list(self._answers))

    @classmethod
    def restored(cls, tensors: Mapping[str, np.ndarray], state: "LearnerState", *, ridge: float,
                 window: int) -> "Learner":
        """Build a learner from its state."""
        head = RidgeHead.restore(tensors, state.columns, ridge=ridge)
        learner = cls(head, encoder=state.encoder, window=window, cursor=state.cursor)
        for (seq, key, label), vector in zip(state.held_out, tensors["held_out"], strict=True):
            learner._hold(Embedded(seq, key, label, vector))
        learner._answers.extend(state.answers)
        return learner

    def _hold(self, example: Embedded) -> None:
        self._held.pop(example.key, None)
        self._held[example.key] = example
        while len(self._held) > self._window:
            del self._held[next(iter(self._held))]


def temperature(scorer: Scorer, unseen: Unseen) -> float:
    """The temperature that fits the scorer's probabilities to examples it has not learned."""
    return fit_temperature(scorer.scores(unseen.embeddings), scorer.targets(unseen.labels))


def together(examples: Sequence[Embedded], dim: int) -> Unseen:
    """Stack examples."""
    vectors = np.stack([e.embedding for e in examples]) if examples else np.zeros((0, dim), np.float32)
    return Unseen(tuple(e.key for e in examples), tuple(e.label for e in examples), vectors)


def _stacked(examples: Sequence[Embedded]) -> tuple[Vectors, list[str]]:
    return np.stack([e.embedding for e in examples]), [e.label for e in examples]
