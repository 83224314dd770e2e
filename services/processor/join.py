"""The join: which example a prediction and its feedback make; pure.

Whatever the order in which predictions and feedback arrive, and however often, the last revision of the example is the
same: the feedback with the greatest ``Fact.order`` decides.
"""

from typing import Literal, NamedTuple

from schemas.loops import Loop, Seconds
from services.processor.attribution import Fact

DEFAULT = "default"
# For a loop that is not declared here (any more): its predictions are kept as long as a feedback's usual window.
_USUAL_WINDOW_S = Seconds(7 * 86400)


class Current(NamedTuple):
    """The newest revision of an example, as stored."""

    revision: int
    label: str
    source: str
    labelled_ms: int
    late: bool


class Decision(NamedTuple):
    """What an example is to become.

    Attributes:
        action: ``insert`` a new revision, which is learned from; ``amend`` the newest one in place: the same label
            from the same kind, only confirmed at another time, so that there is nothing new to learn.
        source: The feedback kind, or ``default``.
        labelled_ms: Event time of the deciding feedback, or the deadline.
        late: The deciding feedback came after its window.
    """

    action: Literal["insert", "amend"]
    prediction_id: str
    loop: str
    revision: int
    label: str
    source: str
    labelled_ms: int
    late: bool


def window_s(loop: Loop | None) -> float:
    """How long after a prediction its feedback is waited for."""
    return loop.window_s if loop else _USUAL_WINDOW_S


def deadline_ms(predicted_ms: int, loop: Loop | None) -> int:
    """When a prediction matures without feedback."""
    return predicted_ms + round(window_s(loop) * 1000)


def is_late(fact: Fact, predicted_ms: int, loop: Loop | None) -> bool:
    """Tell whether feedback happened, or reached the collector, after its own kind's window had closed.

    Both times belong to the event, so the answer does not depend on when it is processed.
    """
    return max(fact.time_ms, fact.received_ms) > predicted_ms + _window_ms(fact, loop)


def waits_until_ms(fact: Fact, loop: Loop | None) -> int:
    """Until when feedback waits for its prediction: its kind's window, from its receipt on."""
    return fact.received_ms + _window_ms(fact, loop)


def decide(prediction_id: str, predicted_ms: int, loop: Loop | None, deciding: Fact,
           current: Current | None) -> Decision | None:
    """Decide what becomes of an example.

    Args:
        deciding: Of all feedback of the prediction's loop so far, that with the greatest order.
        current: The newest revision; None when there is no example yet.

    Returns:
        What to write, or None when the example is already as it should be.
    """
    late = is_late(deciding, predicted_ms, loop)
    revision = current.revision if current else 0
    if current and (current.label, current.source) == (deciding.label, deciding.kind):
        if (current.labelled_ms, current.late) == (deciding.time_ms, late):
            return None
        return Decision("amend", prediction_id, deciding.loop, revision, deciding.label, deciding.kind,
                        deciding.time_ms, late)
    return Decision("insert", prediction_id, deciding.loop, revision + 1, deciding.label, deciding.kind,
                    deciding.time_ms, late)


def _window_ms(fact: Fact, loop: Loop | None) -> int:
    kind = loop.feedback.get(fact.kind) if loop else None
    return round((kind.window if kind else window_s(loop)) * 1000)


def mature(prediction_id: str, loop_name: str, deadline: int, loop: Loop | None) -> Decision | None:
    """Decide what a prediction without feedback becomes at its deadline: the default label, or nothing."""
    if loop is None or loop.default_label is None:
        return None
    return Decision("insert", prediction_id, loop_name, 1, loop.default_label, DEFAULT, deadline, False)
