"""Small losses do not add up: a simulation of steps that each lose too little to be shown."""

import numpy as np
import pytest

from schemas.loops import Gate
from schemas.manifest import GateDecision
from services.trainer.anchor import Anchor
from services.trainer.core import Scorer, Unseen
from services.trainer.gate import Pairs, decide

N = 600
EYE = np.eye(N, dtype=np.float32)
UNSEEN = Unseen(tuple(map(str, range(N))), ("a",) * N, EYE, (EYE, EYE))
GATE = Gate()


def version(name: str, right: np.ndarray, encoder: str = "e") -> Scorer:
    """A head that is right on exactly these of the examples."""
    return Scorer(name, encoder, EYE, np.stack([right, ~right], axis=1).astype(np.float32), ("a", "b"), 1)


def drifted(right: np.ndarray, rng: np.random.Generator, *, losses: int, gains: int) -> np.ndarray:
    """The next candidate: some of what was right is wrong now, and the other way round."""
    found = right.copy()
    found[rng.choice(np.flatnonzero(right), losses, replace=False)] = False
    wrong = np.flatnonzero(~right)
    found[rng.choice(wrong, min(gains, len(wrong)), replace=False)] = True
    return found


def served(*, anchored: bool, losses: int, gains: int, n_steps: int = 150) -> tuple[np.ndarray, int]:
    """Which examples the champion is right on after so many candidates, and how many of these were refused."""
    rng = np.random.default_rng(1)
    anchor, n_refused = Anchor(), 0
    champion = np.arange(N) < N * 0.9
    anchor.keep(version("v0", champion))
    for step in range(1, n_steps):
        right = drifted(champion, rng, losses=losses, gains=gains)
        decision = decide("non-inferior", Pairs(UNSEEN.labels, champion, right), GATE)
        if anchored:
            decision, as_good = anchor.judge(decision, right, UNSEEN, encoder="e", champion=None, gate=GATE)
            if as_good and decision.verdict == "accepted":
                anchor.keep(version(f"v{step}", right))
        n_refused += decision.verdict == "rejected"
        champion = right if decision.verdict == "accepted" else champion
    return champion, n_refused


def test_losses_too_small_to_be_shown_add_up_without_an_anchor_and_not_with_one() -> None:
    without, _ = served(anchored=False, losses=3, gains=1)
    with_one, n_refused = served(anchored=True, losses=3, gains=1)
    assert without.mean() < 0.55
    assert with_one.mean() > 0.9 - GATE.margin - 0.03
    assert n_refused > 50


def test_steps_that_gain_as_much_as_they_lose_are_let_through() -> None:
    right, n_refused = served(anchored=True, losses=2, gains=2)
    assert n_refused <= 5
    assert right.mean() > 0.87


@pytest.mark.parametrize(("encoder", "released"), [("other", False), ("e", True)])
def test_the_best_of_another_generation_or_before_an_operators_choice_does_not_count(encoder: str,
                                                                                     released: bool) -> None:
    anchor = Anchor()
    anchor.keep(version("v1", np.ones(N, bool)))
    if released:
        anchor.release()
    worse = np.arange(N) < N / 2
    accepted = GateDecision(verdict="accepted", rule="non-inferior", metric="accuracy", confidence=0.95, reason="why")
    assert anchor.judge(accepted, worse, UNSEEN, encoder=encoder, champion="v2", gate=GATE) == (accepted, True)


def test_a_refusal_names_the_best_and_its_numbers() -> None:
    anchor = Anchor()
    anchor.keep(version("v7", np.ones(N, bool)))
    accepted = GateDecision(verdict="accepted", rule="non-inferior", metric="accuracy", confidence=0.95, reason="why")
    decision, as_good = anchor.judge(accepted, np.arange(N) < N / 2, UNSEEN, encoder="e", champion="v9", gate=GATE)
    assert (decision.verdict, as_good) == ("rejected", False)
    assert "why; but beside v7, the best so far: shown worse" in decision.reason
