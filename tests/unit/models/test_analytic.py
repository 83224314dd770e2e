"""The analytic head: equal to solving afresh, in any order, with anything taken out again."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.errors import Invalid, Permanent
from shared.models import analytic
from shared.models.analytic import RidgeHead, features, fit_temperature, projection

DIM, WIDTH, RIDGE = 16, 64, 5.0
W = projection(DIM, WIDTH, 3)


def examples(n: int, *, seed: int = 0, n_labels: int = 5) -> tuple[np.ndarray, list[str]]:
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((n, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors, [f"label {i}" for i in rng.integers(0, n_labels, n)]


def reference(vectors: np.ndarray, labels: list[str], order: tuple[str, ...]) -> np.ndarray:
    """Ridge regression as augmented least squares: rows sqrt(ridge) * I with targets 0."""
    h = features(vectors, W).astype(np.float64)
    y = np.array([[float(label == column) for column in order] for label in labels])
    rows = np.concatenate([h, np.sqrt(RIDGE) * np.eye(WIDTH)])
    return np.linalg.lstsq(rows, np.concatenate([y, np.zeros((WIDTH, len(order)))]), rcond=None)[0]


def learned(vectors: np.ndarray, labels: list[str], *, block: int = 50) -> RidgeHead:
    head = RidgeHead(W, ridge=RIDGE)
    for start in range(0, len(labels), block):
        head.add(vectors[start:start + block], labels[start:start + block])
    return head


@pytest.mark.parametrize("block", [1, 7, 50, 1000])
def test_the_head_equals_least_squares_whatever_the_blocks(block: int) -> None:
    vectors, labels = examples(600)
    head = learned(vectors, labels, block=block)
    np.testing.assert_allclose(head.weights(), reference(vectors, labels, head.labels), atol=1e-6)
    assert head.n_examples == 600


@settings(max_examples=25)
@given(st.permutations(range(40)), st.integers(1, 40))
def test_the_order_of_the_examples_does_not_matter(order: list[int], block: int) -> None:
    vectors, labels = examples(40)
    expected = learned(vectors, labels)
    head = learned(vectors[order], [labels[i] for i in order], block=block)
    columns = [head.labels.index(label) for label in expected.labels]
    np.testing.assert_allclose(head.weights()[:, columns], expected.weights(), atol=1e-6)


@settings(max_examples=25)
@given(st.sets(st.integers(0, 59), min_size=1, max_size=59))
def test_what_is_subtracted_was_never_learned(gone: set[int]) -> None:
    vectors, labels = examples(60)
    head = learned(vectors, labels)
    rows = sorted(gone)
    head.subtract(vectors[rows], [labels[i] for i in rows])
    kept = [i for i in range(60) if i not in gone]
    expected = learned(vectors[kept], [labels[i] for i in kept])
    assert head.counts == {label: expected.counts[label] for label in head.labels}
    columns = [expected.labels.index(label) for label in head.labels]
    np.testing.assert_allclose(head.weights(), expected.weights()[:, columns], atol=1e-6)


def test_a_label_without_examples_left_is_gone() -> None:
    vectors, _ = examples(4)
    head = learned(vectors, ["a", "a", "b", "b"])
    head.subtract(vectors[:2], ["a", "a"])
    assert head.labels == ("b",)
    assert head.weights().shape == (WIDTH, 1)
    head.add(vectors[:1], ["a"])
    assert set(head.labels) == {"a", "b"}


def test_more_than_was_learned_cannot_be_subtracted() -> None:
    vectors, labels = examples(3, n_labels=1)
    head = learned(vectors, labels)
    with pytest.raises(Invalid, match="more examples"):
        head.subtract(np.concatenate([vectors, vectors]), labels * 2)
    np.testing.assert_allclose(head.weights(), reference(vectors, labels, head.labels), atol=1e-6)


def test_new_labels_grow_the_head_and_leave_the_others_scores() -> None:
    vectors, labels = examples(30, n_labels=2)
    head = learned(vectors, labels)
    assert head.weights().shape == (WIDTH, 2)
    head.add(*examples(5, seed=9, n_labels=1)[:1], ["new"] * 5)
    assert head.weights().shape == (WIDTH, 3)
    assert head.labels[2] == "new"


def test_a_head_that_knows_nothing_has_no_columns() -> None:
    head = RidgeHead(W, ridge=RIDGE)
    assert head.weights().shape == (WIDTH, 0)
    assert (head.labels, head.n_examples) == ((), 0)


@pytest.mark.parametrize("solved", [False, True])
def test_a_restored_head_is_the_same_and_goes_on_the_same(solved: bool) -> None:
    vectors, labels = examples(120)
    head = learned(vectors[:100], labels[:100])
    restored = RidgeHead.restore(head.snapshot(solved=solved), head.columns, ridge=RIDGE)
    np.testing.assert_allclose(restored.weights(), head.weights(), atol=1e-6)
    for each in (head, restored):
        each.add(vectors[100:], labels[100:])
    np.testing.assert_allclose(restored.weights(), head.weights(), atol=1e-6)
    assert restored.counts == head.counts


def test_a_snapshot_whose_parts_do_not_belong_together_is_refused() -> None:
    head = learned(*examples(10))
    with pytest.raises(Permanent, match="belong together"):
        RidgeHead.restore(head.snapshot(), ["one"], ridge=RIDGE)


def test_rounding_errors_stay_small_over_many_updates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analytic, "_RESOLVE_ROWS", 10**9)
    head = RidgeHead(W, ridge=RIDGE)
    vectors, labels = examples(400)
    for start in range(0, 400, 4):
        head.add(vectors[start:start + 4], labels[start:start + 4])
    for start in range(0, 200, 4):
        head.subtract(vectors[start:start + 4], labels[start:start + 4])
    np.testing.assert_allclose(head.weights(), reference(vectors[200:], labels[200:], head.labels), atol=1e-6)


def test_the_schedule_solves_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analytic, "_RESOLVE_ROWS", 100)
    solved = []
    solve = RidgeHead.solve
    monkeypatch.setattr(RidgeHead, "solve", lambda self: (solved.append(1), solve(self))[1])
    head = RidgeHead(W, ridge=RIDGE)
    vectors, labels = examples(250)
    for start in range(0, 250, 50):
        head.add(vectors[start:start + 50], labels[start:start + 50])
        head.weights()
    assert len(solved) == 2


def test_the_projection_is_the_same_for_the_same_seed_and_orthogonal_in_blocks() -> None:
    np.testing.assert_array_equal(projection(DIM, WIDTH, 3), W)
    assert not np.array_equal(projection(DIM, WIDTH, 4), W)
    block = W[:, :DIM] / np.linalg.norm(W[:, :DIM], axis=0)
    np.testing.assert_allclose(block.T @ block, np.eye(DIM), atol=1e-5)
    assert projection(DIM, 70, 3).shape == (DIM, 70)


def test_the_temperature_makes_probabilities_honest() -> None:
    rng = np.random.default_rng(0)
    sharpness, scores = 0.2, rng.standard_normal((4000, 4)).astype(np.float32)
    probs = np.exp(scores / sharpness)
    probs /= probs.sum(axis=1, keepdims=True)
    targets = np.array([rng.choice(4, p=row) for row in probs])
    assert fit_temperature(scores, targets) == pytest.approx(sharpness, rel=0.2)


def test_too_few_examples_give_the_default_temperature() -> None:
    assert fit_temperature(np.zeros((3, 2), np.float32), np.zeros(3, np.int64)) == analytic.DEFAULT_TEMPERATURE


def noisy(n: int, share: float, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    """Two groups of vectors; the labels of a share of them are drawn by lot."""
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, 2, n)
    found = rng.standard_normal((n, DIM)) * 0.7 + np.where(groups[:, None] == 1, 0.5, -0.5)
    labels = np.where(rng.random(n) < share, rng.integers(0, 2, n), groups)
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32), [f"l{g}" for g in labels]


def accuracy(head: RidgeHead, share: float) -> float:
    test, labels = noisy(2000, 0.0, seed=9)
    best = (features(test, head.projection) @ head.weights()).argmax(axis=1)
    return float(np.mean([head.labels[i] == label for i, label in zip(best, labels, strict=True)]))


def test_noisy_labels_get_a_greater_ridge_and_better_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analytic, "_FIRST_CHOICE", 300)
    ridges = {}
    for share in (0.0, 0.7):
        fixed, adaptive = (RidgeHead(projection(DIM, 200, 1), ridge=0.1, adaptive=a) for a in (False, True))
        for head in (fixed, adaptive):
            head.add(*noisy(300, share))
        ridges[share] = adaptive.ridge
        assert accuracy(adaptive, share) >= accuracy(fixed, share) - 0.005
    assert fixed.ridge == 0.1
    assert ridges[0.7] > ridges[0.0]
    assert accuracy(adaptive, 0.7) > accuracy(fixed, 0.7) + 0.03


def test_an_adaptive_head_is_the_exact_one_of_its_ridge_and_is_restored_with_it(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(analytic, "_FIRST_CHOICE", 260)
    vectors, labels = noisy(300, 0.7)
    head = RidgeHead(projection(DIM, 200, 1), ridge=0.1, adaptive=True)
    for start in range(0, 300, 20):
        head.add(vectors[start:start + 20], labels[start:start + 20])
        head.weights()
    restored = RidgeHead.restore(head.snapshot(), head.columns, ridge=0.1, adaptive=True)
    exact = RidgeHead(head.projection, ridge=head.ridge)
    exact.add(vectors, labels)
    assert restored.ridge == head.ridge > 0.1
    for other in (restored, exact):
        columns = [other.labels.index(label) for label in head.labels]
        np.testing.assert_allclose(other.weights()[:, columns], head.weights(), atol=1e-6)


def test_the_ridge_is_chosen_at_geometric_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    head = RidgeHead(projection(DIM, 32, 1), ridge=0.1, adaptive=True)
    chosen: list[int] = []
    choose = head._choose_ridge
    monkeypatch.setattr(head, "_choose_ridge", lambda: (chosen.append(head.n_examples), choose()))
    vectors, labels = noisy(5000, 0.5)
    for start in range(0, 5000, 50):
        head.add(vectors[start:start + 50], labels[start:start + 50])
    assert chosen == [1000, 4000]
