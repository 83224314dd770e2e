"""Orphans: feedback whose prediction did not come while it waited for it; pure."""

import time
from typing import NamedTuple

from schemas.dead import DeadLetter, letter_id
from schemas.loops import Loop
from services.processor import cleaning

CODE = "orphaned"


class Orphan(NamedTuple):
    """One feedback with what its event said.

    Attributes:
        deadline_ms: Until when it waited, ms since the epoch.
        properties: Of the event, as JSON.
    """

    loop: str
    kind: str
    project: str
    event_id: str
    prediction_id: str
    deadline_ms: int
    properties: str


def dead_letter(orphan: Orphan, loop: Loop | None) -> DeadLetter:
    """Return the dead letter of an orphan; the same one gives the same id however often it is orphaned.

    Args:
        loop: None when it is not declared any more; then nobody knows which field named the prediction.
    """
    kind = loop.feedback.get(orphan.kind) if loop else None
    origin = f"{orphan.project}/{orphan.event_id}"
    return DeadLetter(
        id=letter_id(f"{origin}/{orphan.loop}/{orphan.kind}/{CODE}"), stage="processor", code=CODE,
        path=kind.prediction if kind else "", project=orphan.project,
        message=f"feedback {orphan.event_id} ({orphan.kind} of {orphan.loop}) names prediction {orphan.prediction_id}, "
                f"which had not come by {_moment(orphan.deadline_ms)}: it was lost before it was logged, or its id is "
                "none of ours; the feedback is kept, and labels the prediction should it still come",
        time_ms=orphan.deadline_ms, origin=origin, payload=cleaning.cut(orphan.properties))


def _moment(ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(ms / 1000))
