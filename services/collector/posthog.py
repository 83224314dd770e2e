"""PostHog's capture protocols, both generations: requests and captures to events."""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs

import msgspec

from schemas.errors import Invalid
from schemas.events import Event, Kind
from schemas.posthog import Batch, Capture
from services.collector import times, values
from services.collector.envelope import Envelope
from services.collector.intake import Arrival, Raw, Verdict, decode, open_object, split, text
from services.collector.limits import Limits
from services.collector.masks import id_text
from services.collector.privacy import Identity, Privacy

_KINDS: Mapping[str, Kind] = {
    "$identify": "identify", "$set": "identify", "$create_alias": "alias", "$groupidentify": "group",
    "$pageview": "page", "$screen": "screen",
}
_batch = msgspec.json.Decoder(Batch)
_capture = msgspec.json.Decoder(Capture)


def open_body(body: bytes, limits: Limits) -> Envelope:
    """Open a request: a batch, a single capture, or a bare list of captures, as JSON or as a ``data=`` form.

    Raises:
        Invalid: It is none of these.
    """
    body = unwrapped(body)
    if body.lstrip()[:1] == b"[":
        return _open_list(body, limits)
    try:
        batch = _batch.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _open_object(body, limits)
    sent = batch.sent_at if batch.sent_at is not None else batch.sentAt
    return Envelope(list(batch.batch), batch.api_key or batch.token, times.lenient_ms(sent), prefix="batch",
                    look=values.may_hold_nul(body))


def unwrapped(body: bytes) -> bytes:
    """Return the JSON inside a ``data=<base64>`` form, as browsers' beacons send it; other bodies as they are.

    Raises:
        Invalid: It is such a form, but not base64.
    """
    if not body.startswith(b"data="):
        return body
    try:
        data = parse_qs(body.decode("ascii"), max_num_fields=8, strict_parsing=True)["data"][0]
        return base64.b64decode(data.replace(" ", "+"), validate=True)
    except (ValueError, KeyError, binascii.Error) as exc:
        raise Invalid("the form field data is not base64", code="invalid_form", path="data") from exc


def _open_list(body: bytes, limits: Limits) -> Envelope:
    try:
        parts = msgspec.json.decode(body, type=list[msgspec.Raw])
        raws: list[Raw] = list(parts)
        first = msgspec.json.decode(parts[0]) if parts else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        items = values.parse_leniently(body)
        if not isinstance(items, list):
            raise Invalid("the body is not a list of captures", code="wrong_type") from None
        raws, first = split(items, limits), items[0] if items else None
    fields = first if isinstance(first, dict) else {}
    return Envelope(raws, _key(fields), times.lenient_ms(fields.get("sent_at")), look=values.may_hold_nul(body))


def _open_object(body: bytes, limits: Limits) -> Envelope:
    raw, fields = open_object(body, limits)
    sent_ms = times.lenient_ms(fields.get("sent_at", fields.get("sentAt")))
    if "batch" not in fields:
        return Envelope([raw], _key(fields), sent_ms, alone=True)
    items = fields["batch"]
    if not isinstance(items, list):
        raise Invalid("batch is not a list", code="wrong_type", path="batch")
    return Envelope(split(items, limits), _key(fields), sent_ms, prefix="batch")


def _key(fields: Mapping[str, Any]) -> Any:
    properties = fields.get("properties")
    inside = properties.get("token") if isinstance(properties, dict) else None
    return fields.get("api_key") or fields.get("token") or inside


class Reader:
    """Reads captures."""

    def __init__(self, privacy: Privacy, limits: Limits) -> None:
        self._privacy, self._limits = privacy, limits

    def __call__(self, raw: bytes | msgspec.Raw, arrival: Arrival) -> tuple[Event, Sequence[Identity]]:
        """Turn one capture into an event, and say which ids name its user.

        Raises:
            Invalid: A field is missing or wrong.
        """
        capture: Capture = decode(raw, _capture, self._limits, look=arrival.look)
        name = text(capture.event, "event", self._limits.max_name_chars)
        properties = capture.properties or {}
        properties.pop("token", None)
        user = self._id(capture.distinct_id, "distinct_id")
        inside = self._id(properties.pop("distinct_id", None), "properties.distinct_id")
        user = user or text(inside, "distinct_id", self._limits.max_id_chars)
        anonymous = self._id(properties.pop("$anon_distinct_id", None), "properties.$anon_distinct_id")
        alias = self._id(properties.pop("alias", None), "properties.alias") if name == "$create_alias" else ""
        traits = {key: value for source in (properties.pop("$set_once", None), properties.pop("$set", None),
                                            capture.set_once, capture.set)
                  if isinstance(source, dict) for key, value in source.items()}
        context: dict[str, Any] = {key: value for key, value in
                                   (("session_id", capture.session_id), ("window_id", capture.window_id)) if value}
        project = arrival.project
        n_nested = (self._privacy.hide(project, "properties", properties)
                    + self._privacy.hide(project, "traits", traits))
        if n_nested > self._limits.max_depth:
            values.check({"properties": properties, "traits": traits}, self._limits)
        subject = self._privacy.subject(project, user)
        if others := {name_: self._privacy.subject(project, id_)
                      for name_, id_ in (("anonymous", anonymous), ("previous", alias)) if id_}:
            context["subjects"] = {"user": subject, **others}
        event = Event(
            id=text(capture.uuid, "uuid", self._limits.max_id_chars) if capture.uuid else arrival.new_id(),
            project=project, kind=_KINDS.get(name, "track"), name=name, subject=subject,
            time_ms=self._time_ms(capture, arrival), received_ms=arrival.received_ms, source="posthog",
            original_time=None if capture.timestamp is None else str(capture.timestamp),
            properties=properties, traits=traits, context=context)
        return event, [self._privacy.identity(project, id_) for id_ in {user, inside, anonymous, alias} if id_]

    def _time_ms(self, capture: Capture, arrival: Arrival) -> int:
        time_ms = times.parse_ms(capture.timestamp, "timestamp")
        if time_ms is None and capture.offset is not None:
            return times.corrected_ms(arrival.received_ms - int(max(0.0, min(capture.offset, 1e15))), None,
                                      arrival.received_ms)
        ignore = (capture.options or {}).get("disable_skew_correction") is True
        return times.corrected_ms(time_ms, None if ignore else arrival.sent_ms, arrival.received_ms)

    def _id(self, value: Any, path: str) -> str:
        if value is None:
            return ""
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise Invalid(f"{path} is neither text nor number", code="wrong_type", path=path)
        id_ = id_text(value)
        if len(id_) > self._limits.max_id_chars:
            raise Invalid(f"{path} has {len(id_)} characters; at most {self._limits.max_id_chars} are taken",
                          code="too_long", path=path)
        return id_


def results_by_uuid(raws: Sequence[Raw], verdicts: Sequence[Verdict]) -> dict[str, dict[str, str]]:
    """Return the second generation's answer: per uuid ``ok``, or ``drop`` with the reason."""
    results = {}
    for raw, verdict in zip(raws, verdicts, strict=True):
        uuid = sent_uuid(raw)
        if uuid:
            results[uuid] = ({"result": "drop", "details": f"{verdict.code}: {verdict.message}"} if verdict.code
                             else {"result": "ok"})
    return results


def sent_uuid(raw: Raw) -> str:
    """Return a capture's uuid exactly as sent; empty when it has none that can be read."""
    try:
        value = msgspec.json.decode(raw) if isinstance(raw, bytes | msgspec.Raw) else raw.value
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return ""
    uuid = value.get("uuid") if isinstance(value, dict) else None
    return uuid if isinstance(uuid, str) and uuid.isprintable() else ""
