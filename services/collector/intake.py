"""Takes the events of one request, good ones to the events topic, bad ones to the dead letters, each with a verdict."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from schemas import frames
from schemas.dead import DeadLetter
from schemas.errors import Invalid
from schemas.events import MAX_ID_BYTES, Event
from services.collector import values
from services.collector.limits import Limits
from services.collector.privacy import Identity, Privacy, leaks

_MAX_PAYLOAD = 32 << 10
_SURE_ID_CHARS = MAX_ID_BYTES // 4  # so many characters never take more bytes in UTF-8


@dataclass(frozen=True, slots=True)
class Arrival:
    """What is known of a request before its events are read.

    Attributes:
        project: Name of the key that let it in.
        origin: The HTTP path.
        received_ms: When it came, ms since the epoch.
        sent_ms: When it left, on the sender's clock; None when it does not say.
        new_id: Makes an id for an event that has none.
        look: A text in it may hold a character that cannot be stored; False is certain.
    """

    project: str
    origin: str
    received_ms: int
    new_id: Callable[[], str]
    sent_ms: int | None = None
    look: bool = True


class Verdict(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What became of one event, as it is answered.

    Attributes:
        status: ``accepted`` or ``rejected``.
        code: Why it was rejected; with ``path``, the field's place in the request, and ``message`` in words.
    """

    index: int
    id: str
    status: str
    code: str = ""
    path: str | msgspec.UnsetType = msgspec.UNSET
    message: str | msgspec.UnsetType = msgspec.UNSET


@dataclass(slots=True)
class Intake:
    """The outcome of one request, in the order of its events.

    Attributes:
        encoded: Each of ``events`` as it is written.
    """

    events: list[Event] = field(default_factory=list)
    encoded: list[bytes] = field(default_factory=list)
    dead: list[DeadLetter] = field(default_factory=list)
    verdicts: list[Verdict] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Spoiled:
    """An event that had to be read leniently and that no strict reader would take."""

    value: Any
    fault: Invalid


Raw = bytes | msgspec.Raw | Spoiled
Reader = Callable[[bytes | msgspec.Raw, Arrival], tuple[Event, Sequence[Identity]]]
"""Turns one raw event into an event and the ids that name its user; raises Invalid."""


def split(items: Sequence[Any], limits: Limits) -> list[Raw]:
    """Turn leniently parsed events into raw ones again, so that only the guilty ones are refused."""
    found: list[Raw] = []
    for item in items:
        try:
            values.check(item, limits)
            found.append(msgspec.json.encode(item))
        except Invalid as exc:
            found.append(Spoiled(item, exc))
    return found


def open_object(body: bytes, limits: Limits) -> tuple[Raw, dict[str, Any]]:
    """Open a body that is one event: the event, still raw, and its top-level fields.

    Raises:
        Invalid: It is not a JSON object.
    """
    raw: Raw = body
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        value = values.parse_leniently(body)
        raw = split([value], limits)[0]
    if not isinstance(value, dict):
        raise Invalid("the body is not a JSON object", code="wrong_type")
    return raw, value


def take(raws: Sequence[Raw], arrival: Arrival, read: Reader, privacy: Privacy, limits: Limits, *,
         prefix: str = "") -> Intake:
    """Read every event; a bad one never costs its neighbours.

    Args:
        prefix: Where the events stand in the request, for paths: ``batch`` gives ``batch.3.userId``.
    """
    intake = Intake()
    for index, raw in enumerate(raws):
        try:
            if isinstance(raw, Spoiled):
                raise raw.fault
            if len(raw) > limits.max_event_bytes:
                raise Invalid(f"the event has {len(raw)} bytes; at most {limits.max_event_bytes} are taken",
                              code="too_large")
            event, identities = read(raw, arrival)
            data = frames.encode_one(event)
            # What is written is what is searched: nothing in it is escaped that could hide an id.
            if leaks(data, identities):
                event = privacy.without_ids(event, {identity.id for identity in identities})
                data = frames.encode_one(event)
            if len(event.id) > _SURE_ID_CHARS:
                _check_id(event.id)
        except Invalid as exc:
            letter, verdict = _refuse(raw, index, exc, arrival, privacy, prefix)
            intake.dead.append(letter)
            intake.verdicts.append(verdict)
            continue
        intake.events.append(event)
        intake.encoded.append(data)
        intake.verdicts.append(Verdict(index, event.id, "accepted"))
    return intake


def decode(raw: bytes | msgspec.Raw, decoder: msgspec.json.Decoder[Any], limits: Limits, *, look: bool) -> Any:
    """Decode one raw event by its protocol's type, refusing values that cannot be stored, but for their depth.

    Args:
        look: A text may hold a character that cannot be stored.

    Raises:
        Invalid: With the path of the field inside the event.
    """
    try:
        call = decoder.decode(raw)
        # A field takes 2 bytes or more: short events have few enough.
        if look or len(raw) > 2 * limits.max_fields:
            values.check(msgspec.json.decode(raw), limits)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise values.explain(bytes(raw), exc, limits) from exc
    return call


def text(value: str | None, path: str, max_chars: int) -> str:
    """Return a required text.

    Raises:
        Invalid: It is missing, empty or too long.
    """
    if not value:
        raise Invalid(f"the field {path} is missing or empty", code="missing_field", path=path)
    if len(value) > max_chars:
        raise Invalid(f"{path} has {len(value)} characters; at most {max_chars} are taken", code="too_long", path=path)
    return value


def _check_id(id_: str) -> None:
    """Refuse an id that the processor could not store: an event that was accepted is never dropped later."""
    if len(id_.encode()) > MAX_ID_BYTES:
        raise Invalid(f"the event's id (CloudEvents: source and id) has {len(id_.encode())} bytes; at most "
                      f"{MAX_ID_BYTES} are taken", code="too_long", path="id")


def _refuse(raw: Raw, index: int, exc: Invalid, arrival: Arrival, privacy: Privacy,
            prefix: str) -> tuple[DeadLetter, Verdict]:
    place = (prefix, str(index)) if prefix else ()
    event_id, payload, path, message = "", "", "", str(exc)
    try:
        value, known = (raw.value, True) if isinstance(raw, Spoiled) else _parsed(bytes(raw))
        event_id = _own_id(value)
        scrubbed, (path, message) = privacy.scrubbed(arrival.project, value, (exc.path, message))
        if known:
            payload = msgspec.json.encode(values.storable(scrubbed))[:_MAX_PAYLOAD].decode("utf-8", "ignore")
    except (Invalid, RecursionError):
        pass  # it cannot be cleaned, so nothing of it is kept
    # From the content: the same bad event sent again is the same dead letter.
    content = repr(raw.value).encode("utf-8", "backslashreplace") if isinstance(raw, Spoiled) else bytes(raw)
    letter = DeadLetter(id=f"dl_{privacy.fingerprint(arrival.project, content)}", stage="collector", code=exc.code,
                        path=_joined(*place, path), message=message, time_ms=arrival.received_ms,
                        project=arrival.project, payload=payload, origin=arrival.origin)
    return letter, Verdict(index, event_id, "rejected", exc.code, _joined(*place, exc.path), str(exc))


def _parsed(data: bytes) -> tuple[Any, bool]:
    try:
        return values.parse_leniently(data), True
    except Invalid:
        return None, False


def _own_id(value: Any) -> str:
    """The id that the sender gave the event, as sent: by no other can it find the event again."""
    if not isinstance(value, dict):
        return ""
    found = value.get("messageId") or value.get("uuid") or value.get("id")
    return str(values.storable(found))[:512] if isinstance(found, str) else ""


def _joined(*parts: str) -> str:
    return ".".join(part for part in parts if part)
