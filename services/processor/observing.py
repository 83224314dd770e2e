"""Features: which observations an event gives about its user, its items and its labels; pure.

An observation is a row that is never changed, so every count, rate, recency and last value can be computed exactly as
of any moment, in whatever order the events came.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from schemas.events import Event
from schemas.loops import Entity, Feature, Loop
from services.processor import cleaning
from services.processor.attribution import Fact
from shared.fields import lookup

EVERY = "*"
Value = tuple[float | None, str | None]
_SEEN: Value = (None, None)


@dataclass(frozen=True, slots=True)
class Observation:
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


class Observer:
    """Knows the features of all loops."""

    def __init__(self, loops: Mapping[str, Loop]) -> None:
        self._by_event: dict[str, list[tuple[str, str, Feature]]] = {}
        self._of_labels: dict[str, list[tuple[str, Feature]]] = {}
        for loop in loops.values():
            for name, feature in loop.features.items():
                if feature.entity == "label":
                    self._of_labels.setdefault(loop.name, []).append((name, feature))
                else:
                    self._by_event.setdefault(feature.event, []).append((loop.name, name, feature))

    def observations(self, event: Event, facts: Iterable[Fact]) -> Sequence[Observation]:
        """Return what an event and its feedback say about any feature, each once.

        An event without the feature's key or value says nothing about it, and so does a key that is too long to store.
        """
        source = f"{event.project}/{event.id}"
        found: dict[tuple[str, str, str], Observation] = {}
        for features in (self._by_event.get(event.name, ()), self._by_event.get(EVERY, ())):
            for loop, name, feature in features:
                key = event.subject if feature.key is None else _key(lookup(event, feature.key))
                value = _value(event, feature.value)
                if key and value is not None:
                    found[loop, name, key] = Observation(loop, feature.entity, key, name, event.time_ms, source, *value)
        for fact in facts:
            for name, feature in self._of_labels.get(fact.loop, ()):
                value = _value(event, feature.value)
                if value is not None and cleaning.fits(fact.label, cleaning.MAX_KEY_BYTES):
                    found[fact.loop, name, fact.label] = Observation(fact.loop, "label", fact.label, name, fact.time_ms,
                                                                     source, *value)
        return list(found.values())


def _key(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    key = value if isinstance(value, str) else str(value)
    return key if cleaning.fits(key, cleaning.MAX_KEY_BYTES) else ""


def _value(event: Event, path: str | None) -> Value | None:
    """Return the value at a path as a number or as text, or None when the event has none there."""
    if path is None:
        return _SEEN
    value = lookup(event, path)
    if isinstance(value, str):
        return None, value[: cleaning.MAX_TEXT_VALUE_CHARS]
    if isinstance(value, int | float):
        try:
            return float(value), None
        except OverflowError:
            return None, str(value)
    return None
