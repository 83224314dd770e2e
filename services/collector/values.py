"""Which JSON values can be stored: everything that Kafka's readers and Postgres can hold, and nothing else.

Text with the character U+0000 is refused and not cleaned: Postgres can hold it neither in text nor in jsonb, and an id
or a label from which it was cut would quietly be another one.
"""

import json
import math
from typing import Any

import msgspec

from schemas.errors import Invalid
from services.collector.limits import Limits

_NUL = b"\\u0000"


def parse_leniently(data: bytes) -> Any:
    """Read JSON with Python's own reader, which also takes NaN and lone surrogates.

    SDKs in Python send NaN as it is. Strict readers refuse the whole request for it; with this one the guilty event
    can be told from its neighbours.

    Raises:
        Invalid: It is not JSON at all, or nested too deeply to be read.
    """
    try:
        return json.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as exc:
        raise Invalid(f"the text is not UTF-8 (byte {exc.start})", code="invalid_utf8") from exc
    except RecursionError as exc:
        raise Invalid("the JSON is nested too deeply to be read", code="too_deep") from exc
    except ValueError as exc:
        raise Invalid(f"the text is not JSON: {_shown(str(exc))}", code="invalid_json") from exc


def may_hold_nul(data: bytes) -> bool:
    """Tell quickly whether a text in this JSON might hold the character U+0000; False is certain."""
    return b"\\" in data and _NUL in data


def check(value: Any, limits: Limits) -> None:
    """Check a parsed event.

    Raises:
        Invalid: A value cannot be stored; ``path`` says which.
    """
    left = limits.max_fields
    todo: list[tuple[Any, tuple[str, ...]]] = [(value, ())]
    while todo:
        item, path = todo.pop()
        if isinstance(item, dict):
            left -= len(item)
            for key in item:
                _check_text(key, (*path, key))
            todo += [(child, (*path, key)) for key, child in item.items()]
        elif isinstance(item, list):
            left -= len(item)
            todo += [(child, (*path, str(index))) for index, child in enumerate(item)]
        elif isinstance(item, str):
            _check_text(item, path)
        elif isinstance(item, float) and math.isnan(item):
            raise Invalid("NaN is not a JSON number", code="not_a_number", path=dotted(path))
        elif isinstance(item, float) and math.isinf(item):
            raise Invalid("the number is infinite or too large to be stored", code="number_out_of_range",
                          path=dotted(path))
        if left < 0:
            raise Invalid(f"the event has more than {limits.max_fields} fields", code="too_many_fields")
        if len(path) > limits.max_depth:
            raise Invalid(f"the event is nested deeper than {limits.max_depth} levels", code="too_deep",
                          path=dotted(path[:8]))


def dotted(path: tuple[str, ...]) -> str:
    """Join a path with dots, without characters that cannot be stored."""
    return _shown(".".join(path))


def _check_text(text: str, path: tuple[str, ...]) -> None:
    if "\0" in text:
        raise Invalid("the text holds the character U+0000, which cannot be stored", code="nul_character",
                      path=dotted(path))
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as exc:
        raise Invalid(f"the text holds half of a surrogate pair (character {exc.start})", code="lone_surrogate",
                      path=dotted(path)) from exc


def _shown(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\u0000")[:500]


def explain(data: bytes, exc: Exception, limits: Limits) -> Invalid:
    """Say why an event could not be decoded: which value cannot be stored, else what the decoder said."""
    try:
        check(parse_leniently(data), limits)
    except Invalid as found:
        if found.code != "invalid_json":
            return found
    return refusal(exc)


def refusal(exc: Exception) -> Invalid:
    """Say what a decoder's error means, with the field's path."""
    if isinstance(exc, UnicodeDecodeError):
        return Invalid(f"the text is not UTF-8 (byte {exc.start})", code="invalid_utf8")
    if isinstance(exc, RecursionError):
        return Invalid("the event is nested too deeply to be read", code="too_deep")
    message, _, path = str(exc).partition(" - at `$")
    path = path.rstrip("`").lstrip(".").replace("[", ".").replace("]", "").rstrip(".")
    if message.startswith("Object missing required field"):
        name = message.split("`")[1]
        return Invalid(f"the field {name} is missing", code="missing_field", path=f"{path}.{name}".lstrip("."))
    if "out of range" in message:
        return Invalid("a number is too large to be stored", code="number_out_of_range", path=path)
    code = "wrong_type" if isinstance(exc, msgspec.ValidationError) else "invalid_json"
    return Invalid(_shown(message), code=code, path=_shown(path))


def storable(value: Any) -> Any:
    """Return a copy of a leniently parsed value that can be stored, with what cannot be stored spelled out as text.

    Raises:
        RecursionError: It is nested too deeply.
    """
    if isinstance(value, dict):
        return {_shown(key): storable(child) for key, child in value.items()}
    if isinstance(value, list):
        return [storable(child) for child in value]
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode().replace("\0", "\\u0000")
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
