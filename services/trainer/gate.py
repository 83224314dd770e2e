"""The gate: whether a candidate may serve, decided from how both versions did on examples neither has learned."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from schemas.loops import Gate
from schemas.manifest import GateDecision, Interval, LabelCheck
from services.trainer.intervals import paired_difference, shown_worse, wilson

Rule = Literal["first", "non-inferior", "superior"]


@dataclass(frozen=True)
class Pairs:
    """Both versions on the same examples, none of which either has learned.

    Attributes:
        labels: The true label of each (n,).
        champion, candidate: Whether each got it right, (n,) bool.
    """

    labels: Sequence[str]
    champion: npt.NDArray[np.bool_]
    candidate: npt.NDArray[np.bool_]


def decide(rule: Rule, pairs: Pairs, gate: Gate) -> GateDecision:
    """Let a candidate through or not.

    - ``first``: there is no champion; any candidate that has learned an example is better than no answer.
    - ``non-inferior``: a small step that only adds evidence; refused when it is shown to be worse than the champion by
      more than ``gate.margin``. Nothing to measure on is no evidence against it.
    - ``superior``: a large step; let through only when it is shown to be better.

    Both of the latter are refused when a label is shown to have been forgotten: its recall fell by more than
    ``gate.max_forgetting``, and by more than chance explains at ``gate.confidence`` over all labels together.
    """
    n = len(pairs.labels)
    right = int(pairs.candidate.sum())
    candidate = Interval(right / n if n else 0.0, *wilson(right, n, gate.confidence), n)
    if rule == "first":
        return GateDecision(verdict="accepted", rule=rule, metric=gate.metric, confidence=gate.confidence,
                            candidate=candidate, reason="there is no champion yet")
    champion_right = int(pairs.champion.sum())
    champion = Interval(champion_right / n if n else 0.0, *wilson(champion_right, n, gate.confidence), n)
    value, low, high = paired_difference(*_table(pairs.champion, pairs.candidate), gate.confidence)
    labels = check_labels(pairs, gate)
    forgotten = [check.label for check in labels if not check.ok]
    accepted, reason = _judge(rule, n, value, low, high, gate)
    if forgotten:
        lost = f"forgets {_listed(forgotten)} (recall fell by more than {gate.max_forgetting:g})"
        accepted, reason = False, lost if accepted else f"{reason}; {lost}"
    return GateDecision(verdict="accepted" if accepted else "rejected", rule=rule, metric=gate.metric,
                        confidence=gate.confidence, champion=champion, candidate=candidate,
                        difference=Interval(value, low, high, n), labels=labels, reason=reason)


def check_labels(pairs: Pairs, gate: Gate) -> list[LabelCheck]:
    """Compare both versions' recall on every label that has examples, in the labels' order."""
    names, owner = np.unique(np.asarray(pairs.labels, dtype=object), return_inverse=True) if pairs.labels \
        else (np.array([], dtype=object), np.array([], dtype=np.int64))
    n = np.bincount(owner, minlength=len(names))
    champion = np.bincount(owner, weights=pairs.champion, minlength=len(names))
    candidate = np.bincount(owner, weights=pairs.candidate, minlength=len(names))
    losses = np.bincount(owner, weights=pairs.champion & ~pairs.candidate, minlength=len(names))
    gains = np.bincount(owner, weights=pairs.candidate & ~pairs.champion, minlength=len(names))
    suspects = shown_worse({name: (int(losses[i]), int(gains[i])) for i, name in enumerate(names)}, gate.confidence)
    return [LabelCheck(str(name), int(n[i]), round(float(champion[i] / n[i]), 4), round(float(candidate[i] / n[i]), 4),
                       not (name in suspects and (losses[i] - gains[i]) / n[i] > gate.max_forgetting))
            for i, name in enumerate(names)]


def _judge(rule: Rule, n: int, value: float, low: float, high: float, gate: Gate) -> tuple[bool, str]:
    shown = f"difference {value:+.4f}, between {low:+.4f} and {high:+.4f} on {n} unseen examples"
    if rule == "superior":
        return (True, f"shown better: {shown}") if low > 0 else (False, f"not shown better: {shown}")
    if high < -gate.margin:
        return False, f"shown worse by more than {gate.margin:g}: {shown}"
    return True, f"not shown worse: {shown}"


def _table(champion: npt.NDArray[np.bool_], candidate: npt.NDArray[np.bool_]) -> tuple[int, int, int, int]:
    return (int((champion & candidate).sum()), int((champion & ~candidate).sum()),
            int((candidate & ~champion).sum()), int((~champion & ~candidate).sum()))


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
