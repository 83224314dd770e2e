"""The learner: equal examples give an equal head, whatever the order, the batches, the revisions and the restarts."""

import random

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.loops import Seconds, Training
from services.trainer.core import Learner, LearnerState, Scorer
from services.trainer.examples import Change, Embedded, Example, changes, in_force, logged_embedding
from services.trainer.reading import Batch
from services.trainer.schedule import GROWTH, Started, is_due, next_update_at
from services.trainer.tuning import sample
from shared.holdout import is_held_out
from shared.models.analytic import RidgeHead, features, projection

DIM, SEED, SHARE = 12, 3, 0.2
W = projection(DIM, 64, 1)


def row(seq: int, key: str, label: str, *, revision: int = 1, subject: str = "", encoder: str = "e",
        predicted: str | None = None, text: str = "text") -> Example:
    vector = np.random.default_rng([int.from_bytes(key.encode()) % 2**31]).standard_normal(DIM).astype("<f4")
    return Example(seq, key, revision, subject, label, text, vector.tobytes(), encoder, predicted)


def vectors(rows: list[Example]) -> dict[int, np.ndarray]:
    found = {r.seq: logged_embedding(r, "e", DIM) for r in rows}
    return {seq: vector for seq, vector in found.items() if vector is not None}


def learner(*, window: int = 50) -> Learner:
    return Learner(RidgeHead(W, ridge=2.0), encoder="e", window=window)


def feed(target: Learner, rows: list[Example], *, batch: int, history: list[Example] | None = None) -> None:
    """Absorb rows in batches, as the reader does."""
    history = rows if history is None else history
    for start in range(0, len(rows), batch):
        part = rows[start:start + batch]
        before = in_force(r for r in history if r.seq <= target.cursor)
        revised = {r.prediction_id: before[r.prediction_id] for r in part if r.prediction_id in before}
        target.absorb(changes(part, revised, vectors([*part, *revised.values()]), share=SHARE, seed=SEED),
                      cursor=part[-1].seq)
        target.answered(part)


def stream(n: int, *, seed: int = 0) -> list[Example]:
    """New examples with revisions of earlier ones among them, seqs without gaps."""
    rng = random.Random(seed)
    rows: list[Example] = []
    revisions: dict[str, int] = {}
    for seq in range(1, n + 1):
        key = f"pr_{rng.randrange(n // 2)}"
        revisions[key] = revisions.get(key, 0) + 1
        rows.append(row(seq, key, rng.choice("abcd"), revision=revisions[key], subject=f"s{int(key[3:]) % 17}"))
    return rows


def weights(target: Learner) -> dict[str, np.ndarray]:
    return dict(zip(target.head.labels, target.head.weights().T, strict=True))


def same(a: Learner, b: Learner) -> None:
    assert a.head.counts == b.head.counts
    assert a.cursor == b.cursor
    assert sorted(e.key for e in a.held_out) == sorted(e.key for e in b.held_out)
    first, second = weights(a), weights(b)
    for label in first:
        np.testing.assert_allclose(first[label], second[label], atol=1e-8, rtol=1e-5)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(1, 60), st.integers(1, 60))
def test_batches_and_revisions_do_not_matter(seed: int, first: int, second: int) -> None:
    rows = stream(60, seed=seed)
    one, other, once = learner(), learner(), learner()
    feed(one, rows, batch=first)
    feed(other, rows, batch=second)
    final = sorted(in_force(rows).values(), key=lambda r: r.seq)
    once.absorb(changes(final, {}, vectors(final), share=SHARE, seed=SEED), cursor=rows[-1].seq)
    same(one, other)
    same(one, once)


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(0, 59))
def test_a_restart_from_a_snapshot_changes_nothing(seed: int, killed_at: int) -> None:
    rows = stream(60, seed=seed)
    whole, first = learner(), learner()
    feed(whole, rows, batch=7)
    feed(first, rows[:killed_at], batch=5)
    tensors, state = first.state()
    kept = msgspec.json.decode(msgspec.json.encode(state), type=LearnerState)
    resumed = Learner.restored(tensors, kept, ridge=2.0, window=50)
    feed(resumed, [r for r in rows if r.seq > resumed.cursor], batch=11, history=rows)
    same(whole, resumed)
    assert whole.prequential(0.95) == resumed.prequential(0.95)


def test_rows_that_were_absorbed_before_are_refused() -> None:
    target = learner()
    feed(target, stream(20), batch=20)
    with pytest.raises(ValueError, match="read before"):
        target.absorb([], cursor=19)


def test_a_forgotten_subject_leaves_a_head_trained_without_it() -> None:
    rows = stream(80)
    subject = next(r.subject for r in rows if not is_held_out(r.subject, r.prediction_id, SHARE, SEED))
    whole, without = learner(), learner()
    feed(whole, rows, batch=9)
    others = [r for r in rows if r.subject != subject]
    feed(without, others, batch=9)
    mine = [r for r in in_force(rows).values() if r.subject == subject]
    whole.forget([Embedded(r.seq, r.prediction_id, r.label, vectors([r])[r.seq]) for r in mine])
    assert whole.head.counts == without.head.counts
    for label, column in weights(whole).items():
        np.testing.assert_allclose(column, weights(without)[label], atol=1e-8, rtol=1e-5)


def test_a_forgotten_held_out_subject_is_measured_on_no_more() -> None:
    rows = stream(80)
    target = learner()
    feed(target, rows, batch=9)
    gone = target.held_out[0]
    target.forget([], [gone])
    assert gone.key not in {e.key for e in target.held_out}


def test_a_subject_is_held_out_whole_and_never_learned() -> None:
    rows = stream(200)
    target = learner(window=500)
    feed(target, rows, batch=20)
    held = {e.key for e in target.held_out}
    by_subject = {r.subject: {q.prediction_id in held for q in rows if q.subject == r.subject} for r in rows}
    assert all(len(sides) == 1 for sides in by_subject.values())
    assert held
    assert target.n_learned == len(in_force(rows)) - len(held)


def test_about_the_declared_share_is_held_out() -> None:
    assert 0.02 < np.mean([is_held_out(f"s{i}", "", 0.03, 17) for i in range(5000)]) < 0.04
    assert not any(is_held_out(f"s{i}", "", 0.0, 17) for i in range(100))
    assert is_held_out("", "pr_1", 0.5, 1) == is_held_out("", "pr_1", 0.5, 1)


def test_the_hold_out_keeps_the_newest_and_takes_corrections() -> None:
    target = learner(window=3)
    held = [Change(Embedded(i, f"k{i}", "a", np.zeros(DIM, np.float32)), None, True) for i in range(1, 6)]
    target.absorb(held, cursor=5)
    assert [e.key for e in target.held_out] == ["k3", "k4", "k5"]
    target.absorb([Change(Embedded(6, "k3", "b", np.zeros(DIM, np.float32)), held[2].new, True)], cursor=6)
    assert [(e.key, e.label) for e in target.held_out] == [("k4", "a"), ("k5", "a"), ("k3", "b")]


def test_a_logged_embedding_of_another_encoder_or_length_is_not_used() -> None:
    good = row(1, "k", "a")
    assert logged_embedding(good, "e", DIM) is not None
    assert logged_embedding(good, "other", DIM) is None
    assert logged_embedding(good, "e", DIM + 1) is None
    broken = np.full(DIM, np.nan, "<f4").tobytes()
    assert logged_embedding(Example(1, "k", 1, "", "a", "", broken, "e", None), "e", DIM) is None


def test_a_row_without_an_embedding_teaches_nothing_but_is_counted_as_read() -> None:
    target = learner()
    target.absorb(changes([row(1, "k", "a")], {}, {}, share=0, seed=1), cursor=1)
    assert (target.n_learned, target.cursor) == (0, 1)


def test_revisions_are_not_measured_on() -> None:
    rows = [row(1, "k", "a"), row(2, "k", "b", revision=2), row(3, "m", "a")]
    assert [e.key for e in Batch(rows, vectors(rows)).unseen()] == ["k", "m"]


def test_a_candidate_does_not_change_when_learning_goes_on() -> None:
    target = learner()
    rows = stream(60)
    feed(target, rows[:30], batch=30)
    candidate = target.candidate()
    before = candidate.head.copy()
    feed(target, rows[30:], batch=30, history=rows)
    np.testing.assert_array_equal(candidate.head, before)


def test_an_unknown_label_is_never_right() -> None:
    scorer = Scorer("v1", "e", W, np.ones((64, 1), np.float32), ("a",), 1)
    embeddings = np.ones((2, DIM), np.float32)
    assert scorer.right(scorer.scores(embeddings), ["a", "new"]).tolist() == [True, False]
    empty = Scorer("v0", "e", W, np.ones((64, 0), np.float32), (), 0)
    assert empty.right(empty.scores(embeddings), ["a", "b"]).tolist() == [False, False]


def test_prequential_accuracy_counts_first_answers_only() -> None:
    target = learner()
    target.answered([row(1, "k", "a", predicted="a"), row(2, "m", "a", predicted=None),
                     row(3, "m", "b", revision=2, predicted="b")])
    measured = target.prequential(0.95)
    assert measured is not None
    assert (measured.value, measured.n) == (0.5, 2)


TRAINING = Training(every_examples=100, every=Seconds(60), method="analytic+lora")


@pytest.mark.parametrize(("last", "now_ms", "n", "due"), [
    (Started(), 100_000, 99, False), (Started(), 100_000, 100, True), (Started(), 1, 100, False),
    (Started(50_000, 0, 100), 100_000, 400, False), (Started(40_000, 0, 100), 100_000, 200, True),
    (Started(40_000, 0, 1000), 100_000, int(1000 * (1 + GROWTH)) - 1, False),
    (Started(40_000, 0, 1000), 100_000, int(1000 * (1 + GROWTH)), True)])
def test_a_fine_tune_waits_for_examples_time_and_growth(last: Started, now_ms: int, n: int, due: bool) -> None:
    assert is_due(TRAINING, last, now_ms=now_ms, n_learned=n, n_labels=5) is due


def test_without_a_method_or_labels_there_is_no_fine_tune() -> None:
    assert not is_due(Training(method="analytic"), Started(), now_ms=10**9, n_learned=10**6, n_labels=5)
    assert not is_due(TRAINING, Started(), now_ms=10**9, n_learned=10**6, n_labels=1)


def test_the_growth_rule_bounds_the_cost_of_all_fine_tunes() -> None:
    last, cost = Started(), 0
    for n in range(1, 50_000):
        if is_due(TRAINING, last, now_ms=last.at_ms + 60_000, n_learned=n, n_labels=5):
            cost += n
            last = Started(last.at_ms + 60_000, n, n)
    assert cost <= 3 * 50_000


def test_the_replay_sample_holds_all_new_and_some_old_examples() -> None:
    chosen = sample(since=80, cut=100, replay=1.5, seed=1)
    assert chosen == sorted(set(chosen))
    assert [seq for seq in chosen if seq > 80] == list(range(81, 101))
    assert len([seq for seq in chosen if 1 <= seq <= 80]) == 30
    assert chosen == sample(since=80, cut=100, replay=1.5, seed=1)
    assert sample(since=80, cut=100, replay=100, seed=1) == list(range(1, 101))


def test_the_replay_sample_of_a_long_history_is_bounded_and_keeps_its_proportion() -> None:
    chosen = sample(since=1_000_000, cut=1_500_000, replay=1.0, seed=1, most=1000)
    assert len(chosen) == len(set(chosen)) == 1000
    assert sum(seq > 1_000_000 for seq in chosen) == 500
    assert min(chosen) >= 1
    assert max(chosen) <= 1_500_000


@pytest.mark.parametrize(("ended_at", "worked_s", "next_at"),
                         [(10.1, 0.05, 10.25), (10.2, 0.2, 10.4), (11.0, 0.1, 11.1)])
def test_the_trainer_rests_as_long_as_it_worked_and_never_updates_more_often_than_told(
        ended_at: float, worked_s: float, next_at: float) -> None:
    assert next_update_at(0.25, 10.0, ended_at, worked_s) == pytest.approx(next_at)
    assert next_update_at(0.0, 10.0, ended_at, worked_s) == ended_at


@pytest.mark.parametrize("seed", range(3))
def test_features_that_are_kept_are_those_of_the_embeddings(seed: int) -> None:
    rows = stream(200, seed=seed)
    target = learner(window=20)
    for start in range(0, 200, 40):
        feed(target, rows[start:start + 40], batch=40, history=rows)
        fresh = [Embedded(1000 + i, f"new_{i}", "a", np.full(DIM, i, np.float32)) for i in range(3)]
        unseen = target.unseen(fresh)
        np.testing.assert_allclose(unseen.features(W), features(unseen.embeddings, W), atol=1e-4)
        other = projection(DIM, 32, 5)
        np.testing.assert_allclose(unseen.features(other), features(unseen.embeddings, other), atol=1e-4)
        target.forget([], target.held_out[:2])
    assert len(target._hidden) <= 20


def test_nothing_unseen_has_no_features() -> None:
    unseen = learner().unseen()
    assert unseen.features(W).shape == (0, 64)
