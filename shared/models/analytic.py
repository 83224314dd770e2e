"""The analytic head: ridge regression on random features of a frozen encoder, exact after every update.

RanPAC (McDonnell et al., NeurIPS 2023): with h = relu(e W) for a fixed random W, the head is
``(G + ridge I)^-1 C`` with ``G = sum h h^T`` and ``C = sum h y^T``. The sums do not depend on the order of the
examples, nothing is ever forgotten, and any example can be taken out again. The inverse is kept up to date by blocks
(Woodbury's identity) and solved afresh on a schedule, before rounding errors could show.

How much noise there is in the labels differs by a factor of a hundred between streams, and with it the best ridge: at
1,500 tweets a ridge of 20 is right for 69 % of new ones, one of 320 for 75 %. An adaptive head therefore chooses its
ridge now and then, by generalised cross-validation (Golub, Heath and Wahba, Technometrics 1979) from the sums alone.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import torch

from schemas.errors import Invalid, Permanent

Vectors = npt.NDArray[np.float32]

# Above this many rows at once a fresh solve is cheaper than Woodbury's identity, and exact.
_BLOCK = 512
# A fresh solve after so many updated rows. Measured at M = 2,000 to 4,000: after 1,000 rows in blocks of 50 the head
# is off by a relative 4e-12; the schedule keeps it near that for ever, whatever is added and subtracted.
_RESOLVE_ROWS = 20_000
# The ridge is chosen first at so many examples, then whenever they have grown fourfold. A choice that changes it costs
# a fresh solve and inverse, 3 s at M = 3,000 beside a busy server, in which nothing new is learned: choosing at 50 and
# at every growth by half cost 5 points of the first 1,500 messages of Banking77 at 50 a second.
_FIRST_CHOICE, _CHOICE_GROWTH = 1_000, 4.0
# Tried are the declared ridge and its doublings: the loss is flat around its least, and a coarse grid keeps heads of
# nearly equal examples equal.
_RIDGES = 2.0 ** np.arange(0, 11)
# The ridge taken is the least one whose loss is within a quarter of the least: the loss is of squared errors, and with
# many labels the most answers are right at a weaker ridge. After 4,000 of Banking77 91.1 % are right at the least loss
# and 91.9 % at the ridge taken; after 1,500 tweets 74.9 % and 75.1 %.
_NEAR = 1.25
# From the first so many features: the eigenvalues of 750 take 0.2 s, of 3,000 10 s, and the ridge per feature that
# they want differs by less than a doubling.
_CHOICE_WIDTH = 750
# The temperatures that are tried.
_TEMPERATURES = np.geomspace(0.01, 1.0, 41)


def projection(dim: int, width: int, seed: int) -> Vectors:
    """Return the fixed random matrix W (D, M) float32.

    Its columns are orthogonal within blocks of D and have the lengths of Gaussian ones (orthogonal random features,
    Yu et al., NeurIPS 2016): the same kernel with less variance than independent columns.
    """
    rng = np.random.default_rng(seed)
    blocks = []
    for start in range(0, width, dim):
        q, r = np.linalg.qr(rng.standard_normal((dim, dim)))
        lengths = np.sqrt(rng.chisquare(dim, size=dim))
        blocks.append((q * np.sign(np.diag(r)) * lengths)[:, :width - start])
    return np.concatenate(blocks, axis=1).astype(np.float32)


def features(embeddings: Vectors, weight: Vectors) -> Vectors:
    """Return h = relu(e W): (B, D) and (D, M) -> (B, M) float32."""
    h: Vectors = np.maximum(embeddings @ weight, np.float32(0))
    return h


class RidgeHead:
    """Ridge regression onto one-hot labels, updated exactly by adding and subtracting examples.

    Attributes:
        projection: W (D, M) float32.
        ridge: The regularisation in use, above 0.
    """

    def __init__(self, weight: Vectors, *, ridge: float, adaptive: bool = False) -> None:
        """Begin without examples.

        Args:
            adaptive: Choose the ridge by the data, from the given one upwards. The head is then that of the ridge in
                use, exactly; which one that is may depend, near a tie, on when it was chosen.
        """
        self.projection, self.ridge = weight, ridge
        self._least_ridge, self._adaptive, self._chosen_at = ridge, adaptive, 0
        width = weight.shape[1]
        self._projection64 = torch.from_numpy(weight.astype(np.float64))
        self._gram = torch.zeros((width, width), dtype=torch.float64)  # its lower triangle only
        self._cross = np.zeros((width, 0), np.float64)
        self._inverse: torch.Tensor | None = torch.eye(width, dtype=torch.float64).div_(ridge)
        # The Cholesky factor of the present sums, after a solve: the inverse is made from it when an update needs it,
        # which in a row of large ones, as after a restart, none does; it is half of a solve's time.
        self._factor: torch.Tensor | None = None
        self._head = np.zeros((width, 0), np.float64)
        self._columns: dict[str, int] = {}
        self._counts: list[int] = []
        self._since_solve = 0

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that have examples, in the order of the columns of ``weights``."""
        return tuple(label for label, column in self._columns.items() if self._counts[column] > 0)

    @property
    def counts(self) -> dict[str, int]:
        """How many examples each label has; labels without any are left out."""
        return {label: self._counts[column] for label, column in self._columns.items() if self._counts[column] > 0}

    @property
    def n_examples(self) -> int:
        """How many examples are in the sums."""
        return sum(self._counts)

    def add(self, embeddings: Vectors, labels: Sequence[str]) -> None:
        """Learn examples: embeddings (B, D) float32 with their labels. Unknown labels get a new column."""
        self._update(embeddings, labels, 1)

    def subtract(self, embeddings: Vectors, labels: Sequence[str]) -> None:
        """Take examples out again, as if they had never been learned.

        Raises:
            Invalid: A label has fewer examples than are taken out; nothing is changed.
        """
        for label in set(labels):
            if self.counts.get(label, 0) < sum(1 for other in labels if other == label):
                raise Invalid(f"cannot take out more examples of the label {label!r} than were learned")
        self._update(embeddings, labels, -1)

    def weights(self) -> Vectors:
        """Return the head (M, C) float32, C = len(labels); (M, 0) before the first example."""
        self._solve_if_due()
        kept = [column for label, column in self._columns.items() if self._counts[column] > 0]
        return self._head[:, kept].astype(np.float32)

    def solve(self) -> None:
        """Compute the head afresh from the sums: exact; 0.5 s for 3,000 features on one core."""
        self._inverse = self._factor = None  # freed first: each (M, M) matrix is 72 MB at M = 3,000
        regular = self._gram.clone()
        regular.diagonal().add_(self.ridge)
        factor = torch.linalg.cholesky(regular)
        del regular
        self._head = torch.cholesky_solve(torch.from_numpy(self._cross), factor).numpy()
        self._factor = factor
        self._since_solve = 0

    def snapshot(self, *, solved: bool = False) -> dict[str, np.ndarray]:
        """Return the sums as tensors.

        ``gram`` (M (M + 1) / 2,) float64 is the lower triangle, row by row; ``cross`` (M, C) float64; ``counts`` (C,)
        int64; ``projection`` (D, M) float32; ``ridge`` (2,) float64: the one in use, and how many examples there were
        when it was chosen.

        Args:
            solved: Add ``inverse`` (a triangle too) and ``head`` (M, C), so that the restored head need not be solved.
        """
        tensors = {"gram": _packed(self._gram), "cross": self._cross.copy(),
                   "counts": np.array(self._counts, np.int64), "projection": self.projection,
                   "ridge": np.array([self.ridge, self._chosen_at], np.float64)}
        if not solved:
            return tensors
        self.solve()
        inverse = self._inverted()
        return tensors | {"inverse": _packed(self._gram if inverse is None else inverse), "head": self._head.copy()}

    @property
    def width(self) -> int:
        """M, the number of random features."""
        return int(self.projection.shape[1])

    @property
    def columns(self) -> tuple[str, ...]:
        """Every label that has a column, in order, those without examples included; goes with ``snapshot``."""
        return tuple(self._columns)

    @classmethod
    def restore(cls, tensors: Mapping[str, np.ndarray], columns: Iterable[str], *, ridge: float,
                adaptive: bool = False) -> "RidgeHead":
        """Build a head from a snapshot and its columns; solved afresh on first use.

        Raises:
            Permanent: The tensors do not belong together.
        """
        head = cls(tensors["projection"], ridge=ridge, adaptive=adaptive)
        if adaptive and "ridge" in tensors:
            head.ridge, head._chosen_at = float(tensors["ridge"][0]), int(tensors["ridge"][1])
        head._columns = {label: i for i, label in enumerate(columns)}
        head._counts = [int(n) for n in tensors["counts"]]
        width, n_columns = head.width, len(head._columns)
        if tensors["gram"].shape != (width * (width + 1) // 2,) or tensors["cross"].shape != (width, n_columns) \
                or len(head._counts) != n_columns:
            raise Permanent("the snapshot's tensors do not belong together")
        head._gram = _unpacked(tensors["gram"], width)
        head._cross = tensors["cross"].copy()
        head._inverse = _unpacked(tensors["inverse"], width) if "inverse" in tensors else None
        head._head = tensors["head"].copy() if "head" in tensors else np.zeros_like(head._cross)
        return head

    def _update(self, embeddings: Vectors, labels: Sequence[str], sign: int) -> None:
        if len(embeddings) != len(labels):
            raise ValueError(f"{len(embeddings)} embeddings for {len(labels)} labels")
        for start in range(0, len(labels), _BLOCK):
            block = slice(start, start + _BLOCK)
            self._update_block(embeddings[block], labels[block], sign, incremental=len(labels) <= _BLOCK)
        if self._adaptive and self.n_examples >= max(_FIRST_CHOICE, _CHOICE_GROWTH * self._chosen_at):
            self._choose_ridge()

    def _update_block(self, embeddings: Vectors, labels: Sequence[str], sign: int, *, incremental: bool) -> None:
        self._grow(labels)
        rows = len(labels)
        # In float64, unlike serving: float32 products depend on the batch in their last bits, and what is subtracted
        # in another batch than it was added in would not cancel.
        given = torch.from_numpy(np.asarray(embeddings, np.float64))
        h = (given @ self._projection64).clamp_(min=0.0)
        targets = np.zeros((rows, len(self._columns)))
        for row, label in enumerate(labels):
            targets[row, self._columns[label]] = 1.0
            self._counts[self._columns[label]] += sign
        y = torch.from_numpy(targets)
        inverse = self._inverted() if incremental else None
        self._factor = None
        self._add_gram(h, sign)
        torch.from_numpy(self._cross).addmm_(h.T, y, alpha=sign)
        self._since_solve += rows
        if inverse is None:
            self._inverse = None
            return
        # (A + s h'h)^-1 = P - s P h' (I + s h P h')^-1 h P; the head moves by that gain times its own residual.
        ph = inverse @ h.T
        inner = torch.eye(rows, dtype=torch.float64) + sign * (h @ ph)
        factor, failed = torch.linalg.cholesky_ex(inner)
        if failed.item() != 0:
            self._inverse = None
            return
        gain = torch.cholesky_solve(ph.T, factor)
        inverse.addmm_(ph, gain, alpha=-sign)
        head = torch.from_numpy(self._head)
        head.addmm_(gain.T, y - h @ head, alpha=sign)

    def _inverted(self) -> torch.Tensor | None:
        """The inverse of the present sums, if it is there or can be made without a solve."""
        if self._inverse is None and self._factor is not None:
            self._inverse, self._factor = torch.cholesky_inverse(self._factor), None
        return self._inverse

    def _add_gram(self, h: torch.Tensor, sign: int) -> None:
        """Add h'h to the lower triangle, by blocks of columns: 9/16 of the whole product's work."""
        step = max(1, -(-self.width // 8))
        for start in range(0, self.width, step):
            end = start + step
            self._gram[start:, start:end].addmm_(h[:, start:].T, h[:, start:end], alpha=sign)

    def _choose_ridge(self) -> None:
        """Take the least ridge whose generalised cross-validation error is near the least; solve afresh if it changed.

        With G = U diag(d) U' and z = U' C, both the residuals and the degrees of freedom of every ridge are sums over
        d and z: no example is looked at again.
        """
        n = self._chosen_at = self.n_examples
        # Fewer features than half the examples: near n features the criterion finds a second, false least at 0.
        width = min(self.width, _CHOICE_WIDTH, n // 2)
        d, vectors = torch.linalg.eigh(self._gram[:width, :width])
        z = (vectors.T @ torch.from_numpy(self._cross)[:width]).square_().sum(1).numpy()
        eigenvalues = d.clamp_(min=0.0).numpy()
        losses = []
        for ridge in self._least_ridge * _RIDGES * (width / self.width):
            residual = n - float((z * (eigenvalues + 2 * ridge) / (eigenvalues + ridge) ** 2).sum())
            freedom = float((eigenvalues / (eigenvalues + ridge)).sum())
            losses.append(max(residual, 0.0) / (n - freedom) ** 2)
        chosen = self._least_ridge * float(_RIDGES[int(np.argmax(np.array(losses) <= _NEAR * min(losses)))])
        if chosen != self.ridge:
            self.ridge, self._inverse, self._factor = chosen, None, None

    def _grow(self, labels: Sequence[str]) -> None:
        new = [label for label in dict.fromkeys(labels) if label not in self._columns]
        for label in new:
            self._columns[label] = len(self._columns)
            self._counts.append(0)
        if new:
            wider = ((0, 0), (0, len(new)))
            self._cross, self._head = np.pad(self._cross, wider), np.pad(self._head, wider)

    def _solve_if_due(self) -> None:
        unsolved = self._inverse is None and self._factor is None
        if self._columns and (unsolved or self._since_solve >= _RESOLVE_ROWS):
            self.solve()


def _packed(matrix: torch.Tensor) -> np.ndarray:
    """The lower triangle of a symmetric (M, M) matrix, row by row, (M (M + 1) / 2,)."""
    rows = matrix.numpy()
    packed = np.empty(len(rows) * (len(rows) + 1) // 2, rows.dtype)
    start = 0
    for i, row in enumerate(rows):
        packed[start:start + i + 1] = row[:i + 1]
        start += i + 1
    return packed


def _unpacked(packed: np.ndarray, width: int) -> torch.Tensor:
    rows = np.zeros((width, width), packed.dtype)
    start = 0
    for i in range(width):
        rows[i, :i + 1] = packed[start:start + i + 1]
        start += i + 1
    diagonal = rows.diagonal().copy()
    rows = rows + rows.T
    np.fill_diagonal(rows, diagonal)
    return torch.from_numpy(rows)


def fit_temperature(scores: npt.NDArray[np.float32], targets: npt.NDArray[np.int64]) -> float:
    """Return the temperature that makes softmax(scores / t) likeliest (Guo et al., ICML 2017).

    Args:
        scores: (B, C) of examples that the head has not learned.
        targets: (B,) the column of the true label, -1 where the label has no column; those are left out.
    """
    known = targets >= 0
    scores, targets = scores[known], targets[known]
    if len(targets) < 30 or scores.shape[1] < 2:
        return DEFAULT_TEMPERATURE
    shifted = scores - scores.max(axis=1, keepdims=True)
    true = shifted[np.arange(len(targets)), targets]
    low, high = 0, len(_TEMPERATURES) - 1
    # The loss is convex in 1 / t: its slope, the mean score minus the true one, tells on which side the least is. In
    # float32, and six passes instead of one per temperature: 1,000 examples of 1,000 labels took 195 ms before.
    while low < high:
        middle = (low + high) // 2
        weights = np.exp(shifted / np.float32(np.sqrt(_TEMPERATURES[middle] * _TEMPERATURES[middle + 1])))
        mean = np.einsum("ij,ij->i", weights, shifted) / weights.sum(axis=1)
        low, high = (middle + 1, high) if float((mean - true).mean()) > 0 else (low, middle)
    return float(_TEMPERATURES[low])


# Fits heads on Banking77 from a few hundred examples on (measured: 0.05 to 0.12).
DEFAULT_TEMPERATURE = 0.1
