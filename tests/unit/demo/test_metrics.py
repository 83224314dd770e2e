"""What a run is measured by."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.manifest import SeqRange
from services.demo.metrics import (
    Answer,
    freeze_place,
    histogram,
    loop_times,
    percentile,
    rolling,
    share,
    swaps,
    thin,
    window_of,
)


def answer(index: int, version: str, at_s: float, *, label: str | None = "a", truth: str = "a") -> Answer:
    return Answer(index, at_s, f"pr_{index}", version, label, truth)


def test_no_answer_is_a_wrong_answer():
    assert not answer(0, "v0", 0.0, label=None).correct


def test_the_share_of_nothing_is_none():
    assert share([]) is None
    assert share([True, False, True, True]) == 0.75


def test_rolling_accuracy_forgets_what_is_older_than_its_span():
    flags = dict(enumerate([False] * 10 + [True] * 10))
    points = rolling(flags, 10, least=1)
    assert points[9] == (9, 0.0)
    assert points[14] == (14, 0.5)
    assert points[19] == (19, 1.0)


def test_rolling_accuracy_of_a_sample_counts_places_not_flags():
    sample = {0: False, 10: False, 20: True, 30: True}
    assert rolling(sample, 20, least=1) == [(0, 0.0), (10, 0.0), (20, 0.5), (30, 1.0)]


def test_rolling_accuracy_leaves_out_points_made_of_too_little():
    assert rolling({0: True, 1: True, 2: True}, 500, least=3) == [(2, 1.0)]


@given(st.lists(st.floats(0, 1000), min_size=1), st.floats(0, 1))
def test_a_percentile_lies_between_the_smallest_and_the_largest(values: list[float], q: float):
    found = percentile(values, q)
    assert found is not None
    assert min(values) <= found <= max(values) or found == pytest.approx(min(values))


def test_percentiles_interpolate_between_neighbours():
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 2.5
    assert percentile([7.0], 0.95) == 7.0
    assert percentile([], 0.5) is None


def test_a_swap_is_a_version_that_answers_for_the_first_time():
    interleaved = [answer(0, "v0", 0.0), answer(1, "v1", 1.0), answer(2, "v0", 1.1), answer(3, "v2", 2.0)]
    assert swaps(interleaved) == 2
    assert swaps([]) == 0


def test_loop_time_runs_from_acceptance_to_the_first_answer_by_a_version_that_learned_it():
    answers = [answer(0, "v0", 0.0), answer(1, "v0", 1.0), answer(2, "v1", 2.5), answer(3, "v2", 4.0)]
    accepted = {"pr_0": 0.2, "pr_1": 1.2}
    learned = {"v1": [SeqRange(1, 1)], "v2": [SeqRange(1, 2)]}
    times = loop_times(answers, accepted, {"pr_0": 1, "pr_1": 2}, learned)
    assert times.values_s == (pytest.approx(2.3), pytest.approx(2.8))
    assert (times.n_unlearned, times.n_unserved) == (0, 0)


def test_feedback_that_no_version_learned_is_counted_and_has_no_loop_time():
    answers = [answer(0, "v1", 2.0)]
    times = loop_times(answers, {"pr_0": 0.5, "pr_9": 0.6}, {"pr_0": 1, "pr_9": 2}, {"v1": [SeqRange(1, 1)]})
    assert len(times.values_s) == 1
    assert times.n_unlearned == 1


def test_feedback_of_held_out_users_has_no_loop_time_though_a_range_covers_it():
    times = loop_times([answer(0, "v1", 2.0)], {"pr_0": 0.5, "pr_1": 0.6}, {"pr_0": 1, "pr_1": 2},
                       {"v1": [SeqRange(1, 2)]}, {"pr_1"})
    assert times.values_s == (1.5,)
    assert (times.n_held_out, times.n_unlearned) == (1, 0)


def test_feedback_without_an_example_counts_as_unlearned():
    times = loop_times([answer(0, "v1", 2.0)], {"pr_0": 0.5}, {}, {"v1": [SeqRange(1, 5)]})
    assert times.n_unlearned == 1


def test_feedback_learned_by_a_version_that_never_answered_is_counted_apart():
    times = loop_times([answer(0, "v1", 2.0)], {"pr_0": 2.5}, {"pr_0": 2},
                       {"v1": [SeqRange(1, 1)], "v2": [SeqRange(1, 2)]})
    assert times.values_s == ()
    assert times.n_unserved == 1


def test_loop_time_takes_the_first_answer_even_when_a_later_version_was_named_first():
    answers = [answer(0, "v3", 3.0), answer(1, "v2", 5.0)]
    times = loop_times(answers, {"pr_0": 1.0}, {"pr_0": 7}, {"v2": [SeqRange(1, 7)], "v3": [SeqRange(1, 7)]})
    assert times.values_s == (2.0,)


def test_loop_times_agree_with_a_search_through_everything():
    rng = random.Random(3)
    answers = [answer(i, f"v{min(i // 7, 9)}", i * 0.1 + rng.random()) for i in range(100)]
    learned = {f"v{n}": [SeqRange(1, n * 4), SeqRange(n * 4 + 3, n * 4 + 5)] for n in range(1, 10)}
    accepted = {f"pr_{i}": i * 0.1 for i in range(60)}
    seqs = {f"pr_{i}": i + 1 for i in range(60)}
    expected = []
    for prediction_id, at_s in accepted.items():
        seq = seqs[prediction_id]
        knowing = {v for v, spans in learned.items() if any(s.first <= seq <= s.last for s in spans)}
        times = [min(a.answered_s for a in answers if a.version == v) for v in knowing
                 if any(a.version == v for a in answers)]
        if times:
            expected.append(max(0.0, min(times) - at_s))
    assert sorted(loop_times(answers, accepted, seqs, learned).values_s) == pytest.approx(sorted(expected))


def test_the_never_updated_version_has_seen_at_most_a_tenth_of_the_stream():
    assert freeze_place(10_003) == 1000
    assert freeze_place(5) == 0


def test_accuracy_now_is_over_500_messages_or_a_fifth_of_a_short_stream():
    assert window_of(10_003) == 500
    assert window_of(720) == 144
    assert window_of(30) == 25


@given(st.lists(st.floats(0, 10), max_size=50))
def test_a_histogram_counts_every_value_once(values: list[float]):
    assert sum(histogram(values, [0.0, 1.0, 2.0, 5.0])) == len(values)


@given(st.integers(0, 3000), st.integers(2, 100))
def test_a_thinned_series_keeps_its_ends_and_stays_small(n: int, n_points: int):
    points = [(i, 0.5) for i in range(n)]
    kept = thin(points, n_points)
    assert len(kept) <= n_points + 1
    assert not points or (kept[0], kept[-1]) == (points[0], points[-1])
