"""When to update and when to fine-tune: often enough to matter, seldom enough to stay in proportion. Pure."""

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


def next_update_at(every_s: float, began_at: float, ended_at: float, worked_s: float) -> float:
    """When the next update may start.

    The trainer rests as long as it worked, but no longer than ``every_s``: it learns with half of a core and leaves the
    rest to serving, and the few updates that take seconds (a fresh solve) are not followed by a pause as long again.

    Args:
        every_s: Least time between the starts of two updates; 0: at once, without a rest.
        began_at, ended_at: When the last one began to read and was done, on any clock in seconds.
        worked_s: CPU time that it took; on a busy machine less than passed, where a longer rest would help nobody.
    """
    return max(began_at + every_s, ended_at + min(worked_s, every_s))


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
