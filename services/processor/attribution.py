"""Attribution: which events are feedback, on which prediction, and with which label; pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from schemas.dead import DeadLetter, letter_id
from schemas.events import Event
from schemas.loops import Feedback, Loop
from services.processor import cleaning
from shared.fields import Getter, getter


class Fact(NamedTuple):
    """One feedback on one prediction: what an event says the label is, for one feedback kind of one loop."""

    loop: str
    kind: str
    project: str
    event_id: str
    prediction_id: str
    label: str
    subject: str
    time_ms: int
    received_ms: int

    @property
    def order(self) -> tuple[int, str, str, str]:
        """The greatest decides. Total within a prediction, so that no order of arrival changes the decision."""
        return self.time_ms, self.project, self.event_id, self.kind


class _Kind(NamedTuple):
    """A feedback kind with its paths made ready."""

    loop: str
    name: str
    declared: Feedback
    find_prediction: Getter
    find_label: Getter | None


class Attribution:
    """Knows the feedback kinds of all loops."""

    def __init__(self, loops: Mapping[str, Loop]) -> None:
        self._by_event: dict[str, list[_Kind]] = {}
        for loop in loops.values():
            for name, kind in loop.feedback.items():
                self._by_event.setdefault(kind.event, []).append(
                    _Kind(loop.name, name, kind, getter(kind.prediction), getter(kind.label) if kind.label else None))

    def facts(self, event: Event) -> tuple[list[Fact], list[DeadLetter]]:
        """Return what an event says about predictions, and a dead letter for each feedback that says it wrongly.

        An event that names no prediction is no feedback, whatever its name. It may be feedback of several kinds and
        of several loops.
        """
        facts: list[Fact] = []
        dead: list[DeadLetter] = []
        for loop, name, kind, find_prediction, find_label in self._by_event.get(event.name, ()):
            prediction = find_prediction(event)
            if prediction is None or prediction == "":
                continue
            label: Any = find_label(event) if find_label else kind.value
            fault = _prediction_fault(kind, prediction) or _label_fault(kind, label)
            if fault:
                dead.append(_dead_letter(event, loop, name, *fault))
            else:
                facts.append(Fact(loop, name, event.project, event.id, prediction, label, event.subject,
                                  event.time_ms, event.received_ms))
        return facts, dead


def _prediction_fault(kind: Feedback, prediction: Any) -> tuple[str, str, str] | None:
    if not isinstance(prediction, str):
        return "invalid_prediction", kind.prediction, f"the prediction id is {_kind_of(prediction)}, not text"
    if not cleaning.fits(prediction, cleaning.MAX_KEY_BYTES):
        return "too_long", kind.prediction, f"the prediction id is longer than {cleaning.MAX_KEY_BYTES} bytes"
    return None


def _label_fault(kind: Feedback, label: Any) -> tuple[str, str, str] | None:
    path = kind.label or ""
    if label is None or label == "":
        return "missing_label", path, f"the feedback has no label at {path}"
    if not isinstance(label, str):
        return "invalid_label", path, f"the label is {_kind_of(label)}, not text"
    if len(label) > cleaning.MAX_LABEL_CHARS:
        return "label_too_long", path, f"the label has {len(label)} characters; at most {cleaning.MAX_LABEL_CHARS}"
    return None


def _kind_of(value: Any) -> str:
    return {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "an object"}.get(
        type(value), type(value).__name__)


def _dead_letter(event: Event, loop: str, kind: str, code: str, path: str, message: str) -> DeadLetter:
    # By the event's identity and not by its offset: the same event sent twice is one dead letter, like every effect.
    return DeadLetter(id=letter_id(f"{event.project}/{event.id}/{loop}/{kind}"), stage="processor", code=code,
                      path=path, project=event.project,
                      message=f"feedback {event.id} ({kind} of {loop}): {message}; the event is kept, "
                              "but teaches nothing",
                      time_ms=event.time_ms, origin=f"{event.project}/{event.id}",
                      payload=cleaning.cut(cleaning.json_bytes(event.properties).decode()))
