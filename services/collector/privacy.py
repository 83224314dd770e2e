"""Keeps people's ids and other personal fields out of everything that is stored.

A user's own ids become the *subject*, wherever in the event they stand; configured fields become keyed hashes.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from schemas.errors import Invalid
from schemas.events import Event
from services.collector.masks import MIN_INSIDE_TEXT, Mask, id_text, same_in_url
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
# Fields that name a user, at any depth, in small letters: senders do not agree on userId, userID and userid.
_IDENTITIES = frozenset({
    "userid", "user_id", "anonymousid", "anonymous_id", "previousid", "previous_id", "distinctid", "distinct_id",
    "$user_id", "$anon_distinct_id", "$device_id", "$distinct_id",
})
_NESTED = frozenset({dict, list})
_LETTERS = re.compile(rb"[^!-@\[-`{-~]+")
_MIN_CORE = 4
_SECRETS = frozenset({"writekey", "api_key", "token", "access_token"})
_MAX_CACHED = 50_000
_MAX_KNOWN_KEYS, _MAX_KNOWN_KEY_CHARS = 10_000, 64
_MAX_REFUSED_IDS = 64
# Numbers that JSON may spell otherwise than the id: 1e+16 and 10000000000000000.
_NUMBER = re.compile(r"[+-]?(\d{16,}|[\d.]+e[+-]?\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Identity:
    """A user's id.

    Attributes:
        needle: How it looks in JSON, in small letters.
        core: The longest part of ``needle`` without letters; empty when that is short.
        hard: It may look so different elsewhere that a search for ``needle`` proves nothing.
        escapable: In URLs it looks different.
    """

    id: str
    subject: str
    needle: bytes
    core: bytes
    hard: bool
    escapable: bool


class Privacy:
    """Replaces ids and fields by pseudonyms.

    Args:
        fields: Dotted paths from ``properties``, ``traits`` or ``context``; a value that is an object or a list is
            replaced leaf by leaf.
    """

    def __init__(self, pseudonymiser: Pseudonymiser, fields: Iterable[str] = DEFAULT_FIELDS) -> None:
        self._pseudonymiser = pseudonymiser
        self._identities: dict[tuple[str, str], Identity] = {}
        self._harmless_keys: set[str] = set()
        containers: dict[str, dict[tuple[str, ...], set[str]]] = {"properties": {}, "traits": {}, "context": {}}
        self._names = set()
        for path in fields:
            root, *inner = path.split(".")
            if root not in containers or not inner or not all(inner):
                raise ValueError(f"{path!r} is not a path such as 'traits.email' (from properties, traits or context)")
            if inner[-1].lower() in _IDENTITIES:
                continue  # replaced anyway, by the subject; twice would be the hash of a hash
            containers[root].setdefault(tuple(inner[:-1]), set()).add(inner[-1])
            self._names.add(inner[-1])
        containers["context"].setdefault(("traits",), set()).add("id")
        containers["traits"].setdefault((), set()).add("id")
        self._containers = {root: [(inner, frozenset(names)) for inner, names in found.items()]
                            for root, found in containers.items()}
        self._first_keys = {root: frozenset().union(*(inner[:1] or names for inner, names in found))
                            for root, found in self._containers.items()}

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
            needle = (user_id if inside else f'"{user_id}"').encode("utf-8", "surrogatepass").lower()
            plain = user_id.isascii() and user_id.isprintable() and not set(' "\\').intersection(user_id)
            found = Identity(user_id, self._pseudonymiser.subject(project, user_id), needle, _core(needle),
                             hard=not plain or _NUMBER.fullmatch(user_id) is not None,
                             escapable=inside and not same_in_url(user_id))
            self._identities[project, user_id] = found
        return found

    def hide(self, project: str, root: str, values: dict[str, Any]) -> int:
        """Replace fields that name a user, at any depth, and the configured fields, in place.

        Args:
            root: ``properties``, ``traits`` or ``context``: what ``values`` are.

        Returns:
            How many objects and lists there are, ``values`` included: they cannot be nested deeper.
        """
        n_seen = 0
        todo: list[Any] = [values]
        for item in todo:
            n_seen += 1
            children = item
            if type(item) is dict:
                # Keys are few and come again and again: one look at all of them in C, not at each in Python.
                if not self._harmless_keys.issuperset(item):
                    self._hide_users(project, item)
                children = item.values()
            if not _NESTED.isdisjoint(map(type, children)):
                todo += [child for child in children if type(child) in _NESTED]
        # Afterwards, or a user's id inside of a configured field would be the hash of a hash.
        if not self._first_keys[root].isdisjoint(values):
            self._hide_fields(project, root, values)
        return n_seen

    def _hide_users(self, project: str, item: dict[str, Any]) -> None:
        for key, child in item.items():
            if key.lower() in _IDENTITIES:
                item[key] = self._hidden_user(project, child)
            elif len(key) <= _MAX_KNOWN_KEY_CHARS:
                if len(self._harmless_keys) >= _MAX_KNOWN_KEYS:
                    self._harmless_keys.clear()
                self._harmless_keys.add(key)

    def _hide_fields(self, project: str, root: str, values: dict[str, Any]) -> None:
        for inner, names in self._containers[root]:
            holder: Any = values
            for key in inner:
                holder = holder.get(key) if isinstance(holder, dict) else None
            if isinstance(holder, dict) and not names.isdisjoint(holder):
                for name in names & holder.keys():
                    holder[name] = self._hidden(project, name, holder[name])

    def without_ids(self, event: Event, ids: Iterable[str]) -> Event:
        """Return the event with every remaining occurrence of a user's ids replaced by the subject.

        Covers names, keys, texts that contain an id of 6 characters or more (also as in a URL), and whole values, in
        any letter case.
        """
        mask = Mask({id_: self.subject(event.project, id_) for id_ in ids})
        return Event(
            id=mask.text(event.id), project=event.project, kind=event.kind, name=mask.text(event.name),
            subject=event.subject, time_ms=event.time_ms, received_ms=event.received_ms, source=event.source,
            original_time=event.original_time, properties=mask.value(event.properties),
            traits=mask.value(event.traits), context=mask.value(event.context))

    def scrubbed(self, project: str, value: Any, texts: Sequence[str]) -> tuple[Any, list[str]]:
        """Return refused input, and texts about it, with everything replaced that may name a person.

        Refused input has no known shape: fields are found by their name alone, at any depth, and e-mail addresses
        wherever they are.

        Raises:
            Invalid: It names so many users that replacing them all would take too long.
        """
        ids: set[str] = set()
        cleaned = self._scrub(project, value, "", ids)
        if len(ids) > _MAX_REFUSED_IDS:
            raise Invalid(f"the event names more than {_MAX_REFUSED_IDS} users", code="too_many_fields")
        mask = Mask({id_: self.subject(project, id_) for id_ in ids if id_},
                    address=lambda found: self._pseudonymiser.field(project, found))
        return mask.value(cleaned), [mask.text(text) for text in texts]

    def fingerprint(self, project: str, data: bytes) -> str:
        """Return 32 hex digits that are the same for the same input; without the key nobody can check a guess."""
        return self._pseudonymiser.field(project, data.decode("latin-1")).removeprefix("h_")

    def _scrub(self, project: str, value: Any, parent: str, ids: set[str]) -> Any:
        if isinstance(value, list):
            return [self._scrub(project, child, parent, ids) for child in value]
        if not isinstance(value, dict):
            return value
        cleaned: dict[str, Any] = {}
        for key, child in value.items():
            small = key.lower()
            if small in _SECRETS:
                continue
            if small in _IDENTITIES or (key == "id" and parent == "traits"):
                _collect(child, ids)
                cleaned[key] = self._hidden_user(project, child)
            elif key in self._names and (key != "id" or parent):  # an id at the top is that of a CloudEvent
                cleaned[key] = self._hidden(project, key, child)
            else:
                cleaned[key] = self._scrub(project, child, key, ids)
        return cleaned

    def _hidden_user(self, project: str, value: Any) -> Any:
        if isinstance(value, dict):
            # Who sends an object where an id belongs may well have the ids as its keys.
            return {self.subject(project, key): self._hidden_user(project, child) for key, child in value.items()}
        if isinstance(value, list):
            return [self._hidden_user(project, child) for child in value]
        return value if value is None or isinstance(value, bool) else self.subject(project, id_text(value))

    def _hidden(self, project: str, name: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: self._hidden(project, name, child) for key, child in value.items()}
        if isinstance(value, list):
            return [self._hidden(project, name, child) for child in value]
        if value is None or value == "" or isinstance(value, bool):
            return value
        if name == "id":
            return self.subject(project, id_text(value))
        return self._pseudonymiser.field(project, str(value))


def leaks(data: bytes, identities: Iterable[Identity]) -> bool:
    """Tell whether an encoded item may still name a user.

    Args:
        data: JSON as msgspec writes it, which escapes nothing but control characters, quotes and backslashes.
    """
    for identity in identities:
        if identity.hard or (identity.escapable and b"%" in data):
            return True
        # The longest part without letters is searched first: it looks the same in small letters, which take time.
        if (not identity.core or identity.core in data) and identity.needle in data.lower():
            return True
    return False


def _core(needle: bytes) -> bytes:
    longest = max(_LETTERS.split(needle), key=len)
    return longest if len(longest) >= _MIN_CORE else b""


def _collect(value: Any, ids: set[str]) -> None:
    """Gather everything in a field that names a user: long keys too, since some send objects keyed by id."""
    if isinstance(value, dict):
        ids.update(key for key in value if len(key) >= MIN_INSIDE_TEXT)
        value = list(value.values())
    if isinstance(value, list):
        for child in value:
            _collect(child, ids)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        ids.add(id_text(value))
