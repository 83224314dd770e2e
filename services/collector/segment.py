"""Segment's HTTP tracking API, which RudderStack's SDKs speak as well: requests and calls to events."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Literal, cast

import msgspec

from schemas.errors import Invalid
from schemas.events import Event, Kind
from schemas.segment import Batch, Call
from services.collector import times, values
from services.collector.envelope import Envelope
from services.collector.intake import Arrival, decode, open_object, split, text
from services.collector.limits import Limits
from services.collector.masks import id_text
from services.collector.privacy import Identity, Privacy

Type = Literal["track", "identify", "page", "screen", "group", "alias"]
TYPES: tuple[Type, ...] = ("track", "identify", "page", "screen", "group", "alias")

_batch = msgspec.json.Decoder(Batch)
_call = msgspec.json.Decoder(Call)


def open_batch(body: bytes, limits: Limits) -> Envelope:
    """Open ``/v1/batch``.

    Raises:
        Invalid: It is not a batch at all, and no event of it can be saved.
    """
    try:
        batch = _batch.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        return _open_leniently(body, limits, exc)
    context = _shared_context(batch.context, len(batch.batch), limits)
    return Envelope(list(batch.batch), batch.writeKey, times.lenient_ms(batch.sentAt), context, "batch",
                    look=values.may_hold_nul(body))


def open_single(body: bytes, limits: Limits) -> Envelope:
    """Open ``/v1/track`` and its like: the body is the call, with the key and the time of sending in it."""
    raw, fields = open_object(body, limits)
    return Envelope([raw], fields.get("writeKey"), times.lenient_ms(fields.get("sentAt")), alone=True,
                    look=values.may_hold_nul(body))


def _open_leniently(body: bytes, limits: Limits, exc: Exception) -> Envelope:
    value = values.parse_leniently(body)
    items = value.get("batch") if isinstance(value, dict) else None
    if not isinstance(items, list):
        fault = values.refusal(exc)
        raise Invalid(f"the body is no batch of calls: {fault}", code=fault.code, path=fault.path or "batch") from exc
    context = value.get("context")
    context = _shared_context(context if isinstance(context, dict) else None, len(items), limits)
    return Envelope(split(items, limits), value.get("writeKey"), times.lenient_ms(value.get("sentAt")), context,
                    "batch")


def _shared_context(context: dict[str, Any] | None, n_events: int, limits: Limits) -> dict[str, Any] | None:
    """Check the context of a whole batch like an event: every event gets a copy of it.

    Raises:
        Invalid: It cannot be stored, or would make the batch too large.
    """
    if not context:
        return None
    values.check({"context": context}, limits)
    n_bytes = len(msgspec.json.encode(context))
    if n_bytes > limits.max_event_bytes or n_bytes * n_events > limits.max_shared_bytes:
        raise Invalid(f"the batch's context has {n_bytes} bytes, for each of {n_events} events; at most "
                      f"{limits.max_event_bytes} are taken, and {limits.max_shared_bytes} for all of them",
                      code="too_large", path="context")
    return context


class Reader:
    """Reads calls.

    Args:
        kind: What the path says the call is; None in a batch, where each call says so itself.
        context: Of the whole batch.
    """

    def __init__(self, privacy: Privacy, limits: Limits, *, kind: Type | None = None,
                 context: dict[str, Any] | None = None) -> None:
        self._privacy, self._limits, self._kind, self._context = privacy, limits, kind, context

    def __call__(self, raw: bytes | msgspec.Raw, arrival: Arrival) -> tuple[Event, Sequence[Identity]]:
        """Turn one call into an event, and say which ids name its user.

        Raises:
            Invalid: A field is missing or wrong.
        """
        limits, privacy, project = self._limits, self._privacy, arrival.project
        call: Call = decode(raw, _call, limits, look=arrival.look)
        kind = self._kind or call.type
        if kind not in TYPES:
            raise Invalid(f"the type is none of {', '.join(TYPES)}" if kind else "the field type is missing",
                          code="unknown_type" if kind else "missing_field", path="type")
        user = "" if call.userId is None else self._id(call.userId, "userId")
        anonymous = "" if call.anonymousId is None else self._id(call.anonymousId, "anonymousId")
        previous = "" if call.previousId is None else self._id(call.previousId, "previousId")
        if not user and not anonymous:
            raise Invalid("the call names no user: neither userId nor anonymousId", code="missing_field", path="userId")
        identities = [privacy.identity(project, user or anonymous)]
        properties, traits = call.properties or {}, call.traits or {}
        # A copy each time: hiding fields in a shared one would hash their hashes at the second call.
        context = {**deepcopy(self._context), **(call.context or {})} if self._context else call.context or {}
        if kind == "group":
            group = None if call.groupId is None else self._id(call.groupId, "groupId")
            context["groupId"] = text(group, "groupId", limits.max_id_chars)
        elif kind == "alias":
            text(previous, "previousId", limits.max_id_chars)
        n_nested = privacy.hide(project, "properties", properties) if properties else 0
        if traits:
            n_nested += privacy.hide(project, "traits", traits)
        if context:
            n_nested += privacy.hide(project, "context", context)
        if n_nested > limits.max_depth:
            values.check({"properties": properties, "traits": traits, "context": context}, limits)
        if (user and anonymous) or previous:
            others = {name: privacy.identity(project, id_)
                      for name, id_ in (("anonymous", anonymous if user else ""), ("previous", previous)) if id_}
            identities += others.values()
            context["subjects"] = {"user": identities[0].subject} | {
                name: identity.subject for name, identity in others.items()}
        original, path = call.originalTimestamp, "originalTimestamp"
        if original is None:
            original, path = call.timestamp, "timestamp"
        time_ms = times.parse_ms(original, path)
        sent_ms = arrival.sent_ms if call.sentAt is None else times.lenient_ms(call.sentAt)
        return Event(
            id=text(call.messageId, "messageId", limits.max_id_chars) if call.messageId else arrival.new_id(),
            project=project, kind=cast(Kind, kind), name=self._name(call, kind), subject=identities[0].subject,
            time_ms=times.corrected_ms(time_ms, sent_ms, arrival.received_ms), received_ms=arrival.received_ms,
            source=_source(call), original_time=None if original is None else str(original),
            properties=properties, traits=traits, context=context), identities

    def _id(self, value: str | float, path: str) -> str:
        id_ = value if isinstance(value, str) else id_text(value)
        if len(id_) > self._limits.max_id_chars:
            raise Invalid(f"{path} has {len(id_)} characters; at most {self._limits.max_id_chars} are taken",
                          code="too_long", path=path)
        return id_

    def _name(self, call: Call, kind: str) -> str:
        if kind == "track":
            return text(call.event, "event", self._limits.max_name_chars)
        if kind in ("page", "screen") and call.name:
            return text(call.name, "name", self._limits.max_name_chars)
        return kind


def _source(call: Call) -> str:
    if call.channel is not None:
        return "rudder"
    library = call.context.get("library") if call.context else None
    name = library.get("name") if isinstance(library, dict) else None
    return "rudder" if isinstance(name, str) and "rudder" in name.lower() else "segment"
