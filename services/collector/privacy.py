"""Keeps people's ids and other personal fields out of everything that is stored.

A user's own ids become the *subject*, wherever in the event they stand; configured fields become keyed hashes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from schemas.events import Event
from shared.pseudonym import Pseudonymiser

DEFAULT_FIELDS = (
    "context.ip", "context.traits.email", "context.traits.phone", "context.traits.name", "context.traits.firstName",
    "context.traits.lastName", "context.traits.username", "context.traits.address", "context.traits.birthday",
    "context.device.id", "context.device.advertisingId", "context.device.token",
    "traits.email", "traits.phone", "traits.name", "traits.firstName", "traits.lastName", "traits.username",
    "traits.address", "traits.birthday", "traits.ip",
    "properties.email", "properties.phone", "properties.ip", "properties.$ip", "properties.$email", "properties.$name",
    "properties.$phone",
)
_IDENTITIES = frozenset({
    "userId", "user_id", "userid", "anonymousId", "anonymous_id", "anonymousid", "previousId", "previous_id",
    "distinct_id", "$user_id", "$anon_distinct_id", "$device_id", "$distinct_id",
})
_SECRETS = frozenset({"writeKey", "api_key", "token", "access_token"})
# An id shorter than this is replaced only where it is the whole value: cutting "u1" out of every text would destroy it.
MIN_INSIDE_TEXT = 6
_MAX_CACHED = 50_000


@dataclass(frozen=True, slots=True)
class Identity:
    """A user's id as sent, its subject, and how it looks inside JSON and inside a URL (None when the same)."""

    id: str
    subject: str
    needle: bytes
    quoted: bytes | None


class Privacy:
    """Replaces ids and fields by pseudonyms.

    Args:
        fields: Dotted paths from ``properties``, ``traits`` or ``context``; a value that is an object or a list is
            replaced leaf by leaf.
    """

    def __init__(self, pseudonymiser: Pseudonymiser, fields: Iterable[str] = DEFAULT_FIELDS) -> None:
        self._pseudonymiser = pseudonymiser
        self._identities: dict[tuple[str, str], Identity] = {}
        containers: dict[str, dict[tuple[str, ...], set[str]]] = {"properties": {}, "traits": {}, "context": {}}
        self._names = set()
        for path in fields:
            root, *inner = path.split(".")
            if root not in containers or not inner or not all(inner):
                raise ValueError(f"{path!r} is not a path such as 'traits.email' (from properties, traits or context)")
            containers[root].setdefault(tuple(inner[:-1]), set()).add(inner[-1])
            self._names.add(inner[-1])
        for root in containers:
            containers[root].setdefault((), set()).update(_IDENTITIES)
        containers["context"].setdefault(("traits",), set()).update(_IDENTITIES | {"id"})
        containers["traits"][()].add("id")
        self._containers = {root: [(inner, frozenset(names)) for inner, names in found.items()]
                            for root, found in containers.items()}

    def subject(self, project: str, user_id: str) -> str:
        """Return the subject of a user; empty for an empty id."""
        return self.identity(project, user_id).subject if user_id else ""

    def identity(self, project: str, user_id: str) -> Identity:
        """Return what there is to know about a user's id, which is not empty."""
        found = self._identities.get((project, user_id))
        if found is None:
            if len(self._identities) >= _MAX_CACHED:
                self._identities.clear()
            inside = len(user_id) >= MIN_INSIDE_TEXT
            needle = (user_id if inside else f'"{user_id}"').encode("utf-8", "surrogatepass")
            quoted = quote(user_id, safe="", errors="surrogatepass") if inside else user_id
            found = Identity(user_id, self._pseudonymiser.subject(project, user_id), needle,
                             None if quoted == user_id else quoted.encode())
            self._identities[project, user_id] = found
        return found

    def hide_fields(self, project: str, root: str, values: dict[str, Any]) -> None:
        """Replace the configured fields, and fields that name a user, in place.

        Args:
            root: ``properties``, ``traits`` or ``context``: what ``values`` are.
        """
        for inner, names in self._containers[root]:
            holder: Any = values
            for key in inner:
                holder = holder.get(key) if isinstance(holder, dict) else None
            if isinstance(holder, dict) and not names.isdisjoint(holder):
                for name in names & holder.keys():
                    holder[name] = self._hidden(project, name, holder[name])

    def without_ids(self, event: Event, ids: Iterable[str]) -> Event:
        """Return the event with every remaining occurrence of a user's ids replaced by the subject.

        Covers names, keys, texts that contain an id of 6 characters or more (also as in a URL), and whole values.
        """
        whole = {id_: self.subject(event.project, id_) for id_ in ids}
        inside: dict[str, str] = {}
        for id_, subject in whole.items():
            if len(id_) >= MIN_INSIDE_TEXT:
                inside |= {id_: subject, quote(id_): subject, quote(id_, safe=""): subject}
        # Longest first: an id may contain another one.
        table = dict(sorted(inside.items(), key=lambda pair: -len(pair[0])))
        return Event(
            id=_replace(event.id, whole, table), project=event.project, kind=event.kind,
            name=_replace(event.name, whole, table), subject=event.subject, time_ms=event.time_ms,
            received_ms=event.received_ms, source=event.source, original_time=event.original_time,
            properties=_replace(event.properties, whole, table), traits=_replace(event.traits, whole, table),
            context=_replace(event.context, whole, table))

    def scrubbed(self, project: str, value: Any) -> Any:
        """Return refused input with everything replaced that may name a person, whatever its shape.

        Refused input has no known shape, so fields are found by their name alone, at any depth.
        """
        ids: set[str] = set()
        _collect_ids(value, ids)
        cleaned = self._scrub(project, value)
        whole = {id_: self.subject(project, id_) for id_ in ids if id_}
        inside = dict(sorted(((id_, subject) for id_, subject in whole.items() if len(id_) >= MIN_INSIDE_TEXT),
                             key=lambda pair: -len(pair[0])))
        return _replace(cleaned, whole, inside)

    def _scrub(self, project: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._hidden(project, key, child) if key in _IDENTITIES or key in self._names
                    else self._scrub(project, child)
                    for key, child in value.items() if key not in _SECRETS}
        if isinstance(value, list):
            return [self._scrub(project, child) for child in value]
        return value

    def _hidden(self, project: str, name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._hidden(project, name, child) for key, child in value.items()}
        if isinstance(value, list):
            return [self._hidden(project, name, child) for child in value]
        if value is None or value == "" or isinstance(value, bool):
            return value
        if name in _IDENTITIES or name == "id":
            return self.subject(project, id_text(value))
        return self._pseudonymiser.field(project, str(value))


def id_text(value: str | float) -> str:
    """Return an id as text; a whole number sent as a float is the same id as the integer."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def leaks(data: bytes, identities: Sequence[Identity]) -> bool:
    """Tell whether an id may stand in the raw event more often than in the fields that name the user.

    Args:
        identities: One for each such field; one that stands in two of them comes twice.
    """
    for identity in identities:
        expected = 1 if len(identities) == 1 else sum(other.id == identity.id for other in identities)
        if data.count(identity.needle) != expected or (identity.quoted is not None and identity.quoted in data):
            return True
    return False


def _collect_ids(value: Any, found: set[str]) -> None:
    if isinstance(value, dict):
        for key, child in value.items():
            if key in _IDENTITIES and isinstance(child, str | int | float) and not isinstance(child, bool):
                found.add(id_text(child))
            else:
                _collect_ids(child, found)
    elif isinstance(value, list):
        for child in value:
            _collect_ids(child, found)


def _replace(value: Any, whole: Mapping[str, str], inside: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        if value in whole:
            return whole[value]
        for id_, subject in inside.items():
            if id_ in value:
                value = value.replace(id_, subject)
        return value
    if isinstance(value, dict):
        return {_replace(key, whole, inside): _replace(child, whole, inside) for key, child in value.items()}
    if isinstance(value, list):
        return [_replace(child, whole, inside) for child in value]
    if isinstance(value, int | float) and not isinstance(value, bool) and (text := id_text(value)) in inside:
        return inside[text]
    return value
