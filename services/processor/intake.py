"""Reads records: which events, predictions and dead letters they hold, cleaned for Postgres; pure."""

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from schemas.dead import DeadLetter
from schemas.errors import Invalid
from schemas.events import MAX_ID_BYTES, Event
from schemas.frames import Decoder
from schemas.predictions import Prediction
from schemas.topics import Topics
from services.processor import cleaning
from services.processor.records import Answer, Arrival, Contents, Record, dead_letter

# The only way in which JSON can hold a NUL; a raw one is malformed. Looking for it once per record is cheap, walking
# through every event is not.
_NUL_ESCAPE = b"\\u0000"
_MAX_REAL = 3.4e38


class Body(msgspec.Struct, frozen=True, omit_defaults=True):
    """The column ``events.body``: what of an event has no column of its own."""

    source: str
    original_time: str | None = None
    properties: dict[str, Any] = {}
    traits: dict[str, Any] = {}
    context: dict[str, Any] = {}


class Intake:
    """Reads the records of one installation's topics."""

    def __init__(self, topics: Topics) -> None:
        self._topics = topics
        self._events, self._predictions, self._dead = Decoder(Event), Decoder(Prediction), Decoder(DeadLetter)

    def read(self, records: Sequence[Record]) -> Contents:
        """Return everything the records hold. Nothing is raised: what cannot be stored becomes a dead letter."""
        contents = Contents()
        for record in records:
            if record.topic == self._topics.events:
                self._read_events(record, contents)
            elif record.topic == self._topics.predictions:
                self._read_predictions(record, contents)
            else:
                self._read_dead(record, contents)
        return contents

    def _read_events(self, record: Record, into: Contents) -> None:
        good, bad = self._events.decode(record.value, record.content_type)
        dirty = _NUL_ESCAPE in record.value
        for index, event in enumerate(good):
            try:
                into.events.append(arrival(event, dirty=dirty))
            except Invalid as fault:
                into.dead.append(dead_letter(record, f"{index}", fault, _shown(event), project=event.project))
        into.dead.extend(_undecodable(record, bad))

    def _read_predictions(self, record: Record, into: Contents) -> None:
        good, bad = self._predictions.decode(record.value, record.content_type)
        dirty = _NUL_ESCAPE in record.value
        for index, prediction in enumerate(good):
            try:
                into.predictions.append(answer(prediction, dirty=dirty))
            except Invalid as fault:
                into.dead.append(dead_letter(record, f"{index}", fault, _shown(prediction)))
        into.dead.extend(_undecodable(record, bad))

    def _read_dead(self, record: Record, into: Contents) -> None:
        good, bad = self._dead.decode(record.value, record.content_type)
        for index, letter in enumerate(good):
            try:
                into.dead.append(_clean_dead(letter))
            except Invalid as fault:
                into.dead.append(dead_letter(record, f"{index}", fault, _shown(letter), project=letter.project))
        into.dead.extend(_undecodable(record, bad))


def arrival(event: Event, *, dirty: bool) -> Arrival:
    """Return an event as it can be stored.

    Args:
        dirty: It may hold NUL characters; they become U+FFFD.

    Raises:
        Invalid: An id is missing or too long, or the body cannot be stored.
    """
    if dirty:
        event = _cleaned(event)
    time_ms, received_ms = cleaning.time_ms(event.time_ms), cleaning.time_ms(event.received_ms)
    if time_ms != event.time_ms or received_ms != event.received_ms:
        event = msgspec.structs.replace(event, time_ms=time_ms, received_ms=received_ms)
    cleaning.require(event.id, "id", MAX_ID_BYTES)
    cleaning.require(event.project, "project", cleaning.MAX_PROJECT_BYTES)
    cleaning.require(event.subject, "subject", cleaning.MAX_KEY_BYTES, may_be_empty=True)
    body = Body(event.source, event.original_time, event.properties, event.traits, event.context)
    return Arrival(event, cleaning.json_bytes(body))


def answer(prediction: Prediction, *, dirty: bool) -> Answer:
    """Return a prediction as it can be stored; see ``arrival``.

    Raises:
        Invalid: An id is missing or too long, or a number or an object cannot be stored.
    """
    if dirty:
        prediction = _cleaned(prediction)
    if (time_ms := cleaning.time_ms(prediction.time_ms)) != prediction.time_ms:
        prediction = msgspec.structs.replace(prediction, time_ms=time_ms)
    cleaning.require(prediction.id, "id", cleaning.MAX_KEY_BYTES)
    cleaning.require(prediction.loop, "loop", cleaning.MAX_KEY_BYTES)
    cleaning.require(prediction.subject, "subject", cleaning.MAX_KEY_BYTES, may_be_empty=True)
    if not math.isfinite(prediction.propensity) or abs(prediction.propensity) > _MAX_REAL:
        raise Invalid(f"propensity is {prediction.propensity}, not a probability", code="invalid", path="propensity")
    return Answer(prediction, cleaning.json_bytes(prediction.input), cleaning.json_bytes(prediction.scores))


def _clean_dead(letter: DeadLetter) -> DeadLetter:
    cleaning.require(letter.id, "id", MAX_ID_BYTES)
    clean: DeadLetter = _cleaned(letter)
    return msgspec.structs.replace(clean, time_ms=cleaning.time_ms(clean.time_ms), payload=cleaning.cut(clean.payload))


def _cleaned(item: Any) -> Any:
    """Return a copy of a struct in which every text is clean.

    Raises:
        Invalid: It is nested too deeply to be walked through.
    """
    try:
        changed = {name: clean for name in item.__struct_fields__
                   if (clean := cleaning.tree(value := getattr(item, name))) is not value}
    except RecursionError as exc:
        raise Invalid("it is nested too deeply to be stored", code="unstorable") from exc
    return msgspec.structs.replace(item, **changed)


def _undecodable(record: Record, bad: Sequence[tuple[bytes, Invalid]]) -> list[DeadLetter]:
    return [dead_letter(record, f"bad.{index}", fault, data[: cleaning.MAX_PAYLOAD_BYTES].decode(errors="replace"))
            for index, (data, fault) in enumerate(bad)]


def _shown(item: Any) -> str:
    try:
        return cleaning.json_bytes(item).decode()
    except Invalid:
        return ""
