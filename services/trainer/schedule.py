"""When to fine-tune: often enough to matter, seldom enough that its cost stays in proportion. Pure."""

from dataclasses import dataclass
from typing import Literal

from schemas.loops import Training

# After a fine-tune every example is embedded anew. Waiting until the learned examples grew by half makes the sizes
# of successive fine-tunes a geometric series: all of them together cost at most three times the last one.
GROWTH = 0.5


@dataclass(frozen=True)
class Started:
    """The last fine-tune's start.

    Attributes:
        at_ms: When, ms since the epoch; 0 for never.
        cut: The last seq that it could learn from.
        n_learned: How many examples were learned by then.
    """

    at_ms: int = 0
    cut: int = 0
    n_learned: int = 0


def is_due(training: Training, last: Started, *, now_ms: int, n_learned: int, n_labels: int) -> bool:
    """Whether the next fine-tune should start: enough new examples, time and growth, and labels to tell apart."""
    if training.method == "analytic" or n_labels < 2:
        return False
    new = n_learned - last.n_learned
    return (new >= training.every_examples and new >= GROWTH * last.n_learned
            and now_ms - last.at_ms >= training.every * 1000)


def method(training: Training) -> Literal["lora", "full"]:
    """The fine-tune's part of the loop's method."""
    return "full" if training.method.endswith("full") else "lora"
