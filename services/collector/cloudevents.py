"""CloudEvents 1.0 over HTTP: the binary, structured and batched content modes (CloudEvents HTTP protocol binding 1.0).

A CloudEvent's ``subject`` is what the event is about, not who caused it. The user is named by the extension ``userid``
or ``anonymousid``, or inside an object's data by ``userId``, ``user_id``, ``anonymousId`` or ``anonymous_id``.
"""

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote_to_bytes

import msgspec

from schemas.errors import Invalid
from schemas.events import Event
from services.collector import times, values
from services.collector.envelope import Envelope
from services.collector.intake import Arrival, Raw, Spoiled, decode, open_object, split, text
from services.collector.limits import Limits
from services.collector.masks import id_text
from services.collector.privacy import Identity, Privacy

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
_USER = ("userid", "anonymousid")
_DATA_USER = ("userId", "user_id", "anonymousId", "anonymous_id")
_decoder = msgspec.json.Decoder()
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}[Tt ]\d{2}:\d{2}:\d{2}(\.\d+)?([Zz]|[+-]\d{2}:\d{2})")


def open_request(body: bytes, headers: Mapping[str, str], limits: Limits) -> Envelope:
    """Open a request in the mode that its Content-Type names.

    Args:
        headers: With lower-case names.

    Raises:
        Invalid: It is no CloudEvent; ``unsupported_media_type`` when its format is one that is not spoken here.
    """
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == BATCH:
        return _open_batch(body, limits)
    if kind == STRUCTURED:
        raw, _ = open_object(body, limits)
        return Envelope([raw], alone=True, look=values.may_hold_nul(body))
    if kind.startswith("application/cloudevents"):
        raise Invalid(f"the event format {kind!r} is not spoken here; JSON is", code="unsupported_media_type",
                      path="content-type")
    if not any(name.startswith("ce-") for name in headers):
        raise Invalid(f"no CloudEvent: the Content-Type is {kind or 'missing'!r} and there are no ce- headers",
                      code="unsupported_media_type", path="content-type")
    return Envelope([_from_binary(body, kind, headers, limits)], alone=True)


def _open_batch(body: bytes, limits: Limits) -> Envelope:
    try:
        return Envelope(list(msgspec.json.decode(body, type=list[msgspec.Raw])), look=values.may_hold_nul(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        items = values.parse_leniently(body)
        if not isinstance(items, list):
            raise Invalid("the body is not a JSON list of CloudEvents", code="wrong_type") from exc
        return Envelope(split(items, limits))


def _from_binary(body: bytes, kind: str, headers: Mapping[str, str], limits: Limits) -> Raw:
    """Put a binary-mode request into the structured form, so that both are read alike."""
    event: dict[str, Any] = {name[3:]: header_value(value, name) for name, value in headers.items()
                             if name.startswith("ce-")}
    if "datacontenttype" in event:
        raise Invalid("binary mode names the data's type in Content-Type, not in ce-datacontenttype",
                      code="unexpected_field", path="ce-datacontenttype")
    if "data" in event or "data_base64" in event:
        raise Invalid("no attribute may be named data", code="unexpected_field", path="ce-data")
    if kind:
        event["datacontenttype"] = kind
    if body and (not kind or kind == "application/json" or kind.endswith("+json")):
        try:
            event["data"] = values.parse_leniently(body)
        except Invalid as exc:
            return Spoiled(event, Invalid(str(exc), code=exc.code, path="data"))
        return split([event], limits)[0]
    if body and kind.startswith("text/"):
        event["data"] = body.decode("utf-8", "replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
    elif body:
        event["data_base64"] = base64.b64encode(body).decode()
    return msgspec.json.encode(event)


def header_value(value: str, name: str) -> str:
    """Decode an attribute's header: percent-encoding, optional quotes (binding, section 3.1.3.2).

    Raises:
        Invalid: What is encoded is not UTF-8.
    """
    if len(value) >= 2 and value[0] == value[-1] == '"':
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    if "%" not in value:
        return value
    try:
        return unquote_to_bytes(value).decode("utf-8")
    except UnicodeDecodeError as exc:
        raise Invalid(f"the header {name} is not percent-encoded UTF-8", code="invalid_utf8", path=name) from exc


class Reader:
    """Reads CloudEvents in the JSON format."""

    def __init__(self, privacy: Privacy, limits: Limits) -> None:
        self._privacy, self._limits = privacy, limits

    def __call__(self, raw: bytes | msgspec.Raw, arrival: Arrival) -> tuple[Event, Sequence[Identity]]:
        """Turn one CloudEvent into an event, and say which id names its user.

        Raises:
            Invalid: An attribute is missing or wrong.
        """
        sent = decode(raw, _decoder, self._limits, look=arrival.look)
        if not isinstance(sent, dict):
            raise Invalid("the CloudEvent is not a JSON object", code="wrong_type")
        version = _attribute(sent, "specversion", self._limits.max_name_chars)
        if version != "1.0":
            raise Invalid("this specversion is not spoken here; 1.0 is", code="unsupported_version",
                          path="specversion")
        source = _attribute(sent, "source", self._limits.max_id_chars)
        id_ = _attribute(sent, "id", self._limits.max_id_chars)
        name = _attribute(sent, "type", self._limits.max_name_chars)
        if any(character.isspace() for character in source):
            raise Invalid("source is no URI reference: it holds white space", code="invalid_source", path="source")
        properties = _properties(sent)
        context = {key: value for key, value in sent.items() if key not in ("data", "data_base64")}
        user = self._user(context, properties)
        project = arrival.project
        n_nested = (self._privacy.hide(project, "properties", properties)
                    + self._privacy.hide(project, "context", context))
        if n_nested > self._limits.max_depth:
            values.check({"data": properties, **context}, self._limits)
        event = Event(
            # Source and id together identify a CloudEvent; the space cannot stand in a source.
            id=f"{source} {id_}", project=project, kind="cloudevent", name=name,
            subject=self._privacy.subject(project, user),
            time_ms=times.corrected_ms(_time(sent), None, arrival.received_ms), received_ms=arrival.received_ms,
            source="cloudevents", original_time=sent.get("time"), properties=properties, context=context)
        return event, [self._privacy.identity(project, user)] if user else []

    def _user(self, context: Mapping[str, Any], properties: Mapping[str, Any]) -> str:
        for holder, names in ((context, _USER), (properties, _DATA_USER)):
            for name in names:
                value = holder.get(name)
                if isinstance(value, str | int | float) and not isinstance(value, bool) and value != "":
                    id_ = id_text(value)
                    return text(id_, name, self._limits.max_id_chars)
        return ""


def _attribute(sent: Mapping[str, Any], name: str, max_chars: int) -> str:
    value = sent.get(name)
    if value is not None and not isinstance(value, str):
        raise Invalid(f"the attribute {name} is not text", code="wrong_type", path=name)
    return text(value, name, max_chars)


def _properties(sent: Mapping[str, Any]) -> dict[str, Any]:
    if "data" in sent and "data_base64" in sent:
        raise Invalid("the event has both data and data_base64", code="unexpected_field", path="data_base64")
    if "data_base64" in sent:
        return {"data_base64": sent["data_base64"]}
    data = sent.get("data")
    if isinstance(data, dict):
        return data
    return {} if data is None else {"data": data}


def _time(sent: Mapping[str, Any]) -> int | None:
    time = sent.get("time")
    if time is None:
        return None
    if not isinstance(time, str) or not _DATE.fullmatch(time):
        raise Invalid("time is no RFC 3339 time", code="invalid_timestamp", path="time")
    return times.parse_ms(time.upper(), "time")
