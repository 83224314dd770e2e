"""The gate: what it lets through, and how often it errs."""

from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.loops import Gate
from services.trainer.gate import Pairs, Rule, check_labels, decide
from services.trainer.intervals import paired_difference, shown_worse, wilson, worse_by_chance

GATE = Gate()


def pairs(*, both: int = 0, champion: int = 0, candidate: int = 0, neither: int = 0, label: str = "a") -> Pairs:
    """So many examples that both, only the champion, only the candidate, or neither got right."""
    n = both + champion + candidate + neither
    theirs = [True] * (both + champion) + [False] * (candidate + neither)
    ours = [True] * both + [False] * champion + [True] * candidate + [False] * neither
    return Pairs([label] * n, np.array(theirs, bool), np.array(ours, bool))


def together(*parts: Pairs) -> Pairs:
    return Pairs([label for part in parts for label in part.labels], np.concatenate([p.champion for p in parts]),
                 np.concatenate([p.candidate for p in parts]))


def test_the_first_version_passes_on_nothing() -> None:
    decision = decide("first", pairs(), GATE)
    assert (decision.verdict, decision.champion, decision.difference) == ("accepted", None, None)


def test_a_small_step_passes_when_nothing_can_be_measured() -> None:
    decision = decide("non-inferior", pairs(), GATE)
    assert decision.verdict == "accepted"
    assert decision.difference is not None
    assert (decision.difference.low, decision.difference.high, decision.difference.n) == (-1.0, 1.0, 0)


def test_a_small_step_passes_when_it_looks_worse_but_is_not_shown_to_be() -> None:
    assert decide("non-inferior", pairs(both=90, champion=4, candidate=2, neither=4), GATE).verdict == "accepted"


def test_a_small_step_that_is_shown_worse_is_refused_with_its_numbers() -> None:
    decision = decide("non-inferior", pairs(both=800, champion=60, candidate=10, neither=130), GATE)
    assert decision.verdict == "rejected"
    assert decision.difference is not None
    assert decision.difference.value == pytest.approx(-0.05)
    assert decision.difference.high < -GATE.margin
    assert "shown worse" in decision.reason
    assert "1000 unseen examples" in decision.reason


def test_a_fine_tune_needs_proof_and_not_only_a_better_figure() -> None:
    assert decide("superior", pairs(both=90, champion=2, candidate=4, neither=4), GATE).verdict == "rejected"
    assert decide("superior", pairs(both=850, champion=20, candidate=50, neither=80), GATE).verdict == "accepted"
    assert decide("superior", pairs(), GATE).verdict == "rejected"


@pytest.mark.parametrize("rule", ["non-inferior", "superior"])
def test_a_forgotten_label_stops_a_version_that_is_better_on_the_whole(rule: Rule) -> None:
    whole = together(pairs(both=700, candidate=100, neither=100, label="many"), pairs(champion=12, label="forgotten"))
    decision = decide(rule, whole, GATE)
    assert decision.verdict == "rejected"
    assert "forgets forgotten" in decision.reason
    assert [check.label for check in decision.labels if not check.ok] == ["forgotten"]


def test_a_label_with_few_examples_is_not_called_forgotten_by_chance() -> None:
    whole = together(pairs(both=700, candidate=80, neither=100, label="many"), pairs(both=2, champion=2, label="few"))
    decision = decide("superior", whole, GATE)
    assert decision.verdict == "accepted"
    few = next(check for check in decision.labels if check.label == "few")
    assert (few.n, few.champion, few.candidate, few.ok) == (4, 1.0, 0.5, True)


def test_every_label_with_examples_is_checked() -> None:
    labels = [f"label {i}" for i in range(9)]
    parts = [pairs(both=i + 1, neither=1, label=label) for i, label in enumerate(labels)]
    checks = check_labels(together(*parts), GATE)
    assert [check.label for check in checks] == labels
    assert [check.n for check in checks] == [i + 2 for i in range(9)]


def test_the_wilson_interval_is_the_published_one() -> None:
    # Newcombe (1998), Stat. Med. 17:857, table I: 81/263, 15/148, 0/20 and 1/29, two-sided 95 %.
    for right, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611),
                                (1, 29, 0.0061, 0.1718)):
        assert wilson(right, n, 0.975) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_the_paired_interval_is_symmetric_and_within_bounds() -> None:
    value, low, high = paired_difference(40, 7, 3, 10, 0.975)
    other = paired_difference(40, 3, 7, 10, 0.975)
    assert other == (pytest.approx(-value), pytest.approx(-high), pytest.approx(-low))
    assert low < value < high
    assert paired_difference(10, 0, 0, 0, 0.95)[1] < 0


@pytest.mark.parametrize(("right", "gain", "loss", "n"), [(0.9, 0.03, 0.03, 100), (0.95, 0.01, 0.03, 300),
                                                         (0.6, 0.1, 0.1, 50), (0.97, 0.02, 0.0, 60)])
def test_the_bounds_hold_as_often_as_they_say(right: float, gain: float, loss: float, n: int) -> None:
    rng = np.random.default_rng(1)
    shares = [right - loss, loss, gain, 1 - right - gain]
    missed_low = missed_high = 0
    for a, b, c, d in rng.multinomial(n, shares, size=3000):
        _, low, high = paired_difference(int(a), int(b), int(c), int(d), 0.95)
        missed_low += low > gain - loss
        missed_high += high < gain - loss
    assert max(missed_low, missed_high) / 3000 < 0.065


def test_equal_versions_are_rarely_called_better() -> None:
    rng = np.random.default_rng(2)
    passed = sum(decide("superior", pairs(both=int(a), champion=int(b), candidate=int(c), neither=int(d)), GATE).verdict
                 == "accepted" for a, b, c, d in rng.multinomial(400, [0.87, 0.03, 0.03, 0.07], size=1000))
    assert passed / 1000 < 0.06


@given(st.integers(0, 30), st.integers(0, 30))
def test_the_exact_test_is_the_binomial_tail(losses: int, gains: int) -> None:
    n = losses + gains
    assert worse_by_chance(losses, gains) == pytest.approx(
        sum(comb(n, k) * 0.5**n for k in range(losses, n + 1)))


@pytest.mark.parametrize("n", [1023, 1024, 5000, 100_000])
def test_the_exact_test_holds_for_the_largest_window(n: int) -> None:
    assert worse_by_chance(n // 2, n - n // 2) == pytest.approx(0.5, abs=0.03)
    assert worse_by_chance(n, 0) < 1e-300


@settings(max_examples=15)
@given(st.integers(1, 80), st.integers(0, 2**31))
def test_chance_alone_rarely_forgets_any_of_many_labels(n_labels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    errors = 0
    for _ in range(60):
        sizes = rng.integers(0, 12, n_labels)
        losses = rng.binomial(sizes, 0.5)
        errors += bool(shown_worse({str(i): (int(b), int(n - b)) for i, (n, b) in
                                    enumerate(zip(sizes, losses, strict=True))}, 0.95))
    assert errors <= 12  # of 60 at 5 %: more than 12 has a probability below 1e-4


def test_labels_without_disagreements_do_not_weaken_the_rest() -> None:
    found = {"lost": (9, 0)} | {f"quiet {i}": (1, 1) for i in range(200)}
    assert shown_worse(found, 0.95) == {"lost"}
