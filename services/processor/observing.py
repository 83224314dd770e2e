"""Features: which observations an event gives about its user, its items and its labels; pure.

An observation is a row that is never changed, so every count, rate, recency and last value can be computed exactly as
of any moment, in whatever order the events came.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from schemas.events import Event
from schemas.loops import Entity, Loop
from services.processor import cleaning
from services.processor.attribution import Fact
from shared.fields import Getter, getter

EVERY = "*"
Value = tuple[float | None, str | None]
_SEEN: Value = (None, None)


class Observation(NamedTuple):
    """One event's contribution to one feature.

    Attributes:
        key: The subject, the item's id, or the label.
        number, text: The value; both None for a feature that only counts.
    """

    loop: str
    entity: Entity
    key: str
    feature: str
    time_ms: int
    source_id: str
    number: float | None
    text: str | None


class _Ready(NamedTuple):
    """A feature with its paths made ready; ``find_key`` is None for the event's subject."""

    loop: str
    name: str
    entity: Entity
    find_key: Getter | None
    find_value: Getter | None


class Observer:
    """Knows the features of all loops."""

    def __init__(self, loops: Mapping[str, Loop]) -> None:
        by_event: dict[str, list[_Ready]] = {EVERY: []}
        self._of_labels: dict[str, list[_Ready]] = {}
        for loop in loops.values():
            for name, feature in loop.features.items():
                ready = _Ready(loop.name, name, feature.entity, getter(feature.key) if feature.key else None,
                               getter(feature.value) if feature.value else None)
                if feature.entity == "label":
                    self._of_labels.setdefault(loop.name, []).append(ready)
                else:
                    by_event.setdefault(feature.event, []).append(ready)
        self._every = by_event.pop(EVERY)
        self._by_event = {event: [*features, *self._every] for event, features in by_event.items()}

    def observations(self, event: Event, facts: Iterable[Fact]) -> Sequence[Observation]:
        """Return what an event and its feedback say about any feature, each once.

        An event without the feature's key or value says nothing about it, and so does a key that is too long to store.
        """
        source = f"{event.project}/{event.id}"
        found: dict[tuple[str, str, str], Observation] = {}
        for loop, name, entity, find_key, find_value in self._by_event.get(event.name, self._every):
            key = _key(find_key(event)) if find_key else event.subject
            value = _value(find_value(event)) if find_value else _SEEN
            if key and value is not None:
                found[loop, name, key] = Observation(loop, entity, key, name, event.time_ms, source, *value)
        for fact in facts:
            for _, name, entity, _, find_value in self._of_labels.get(fact.loop, ()):
                value = _value(find_value(event)) if find_value else _SEEN
                if value is not None and cleaning.fits(fact.label, cleaning.MAX_KEY_BYTES):
                    found[fact.loop, name, fact.label] = Observation(fact.loop, entity, fact.label, name, fact.time_ms,
                                                                     source, *value)
        return list(found.values())


def _key(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    key = value if isinstance(value, str) else str(value)
    return key if cleaning.fits(key, cleaning.MAX_KEY_BYTES) else ""


def _value(value: Any) -> Value | None:
    """Return a value as a number or as text, or None when it is neither."""
    if isinstance(value, str):
        return None, value[: cleaning.MAX_TEXT_VALUE_CHARS]
    if isinstance(value, int | float):
        try:
            return float(value), None
        except OverflowError:
            return None, str(value)
    return None
