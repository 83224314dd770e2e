"""Limits of what Postgres can store, and how an item is brought within them; pure.

A value that Postgres refuses would fail its whole batch for ever, so nothing unclean may reach the sink.
"""

from typing import Any

import msgspec

from schemas.errors import Invalid

# A btree entry holds at most 2,704 bytes, and the observations' key is an event's id and several of these together.
MAX_KEY_BYTES = 256
MAX_PROJECT_BYTES = 128
MAX_LABEL_CHARS = 256
MAX_TEXT_VALUE_CHARS = 1024
MAX_PAYLOAD_BYTES = 32 * 1024
# Years 1 to 9999, the range that Python's datetime and Postgres's timestamptz share, a day from either end so that
# no time zone leads out of it.
MIN_TIME_MS = -62_135_510_400_000
MAX_TIME_MS = 253_402_214_400_000

_NUL, _REPLACEMENT = "\x00", "\ufffd"
_encoder = msgspec.json.Encoder()


def text(value: str) -> str:
    """Return a text without what Postgres's text cannot hold: NUL and lone surrogates become U+FFFD."""
    if _NUL in value:
        value = value.replace(_NUL, _REPLACEMENT)
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return value


def tree(value: Any) -> Any:
    """Return a JSON value whose every text and key is clean."""
    if isinstance(value, str):
        return text(value)
    if isinstance(value, dict):
        return {text(key): tree(part) for key, part in value.items()}
    if isinstance(value, list):
        return [tree(part) for part in value]
    return value


def time_ms(value: int) -> int:
    """Return a time that both Python and Postgres can hold: beyond the years 1 to 9999 it becomes the nearest."""
    return min(max(value, MIN_TIME_MS), MAX_TIME_MS)


def cut(payload: str) -> str:
    """Return a dead letter's payload, clean and at most 32 KiB of UTF-8."""
    clean = text(payload)
    if len(clean) * 4 <= MAX_PAYLOAD_BYTES:
        return clean
    return clean.encode()[:MAX_PAYLOAD_BYTES].decode(errors="ignore")


def fits(value: str, max_bytes: int) -> bool:
    """Tell whether a text takes at most so many bytes of UTF-8."""
    return len(value) * 4 <= max_bytes or len(value.encode()) <= max_bytes


def require(value: str, path: str, max_bytes: int, *, may_be_empty: bool = False) -> None:
    """Check an id.

    Raises:
        Invalid: It is empty or longer than ``max_bytes`` in UTF-8.
    """
    if not value and not may_be_empty:
        raise Invalid(f"{path} is empty", code="missing_field", path=path)
    if not fits(value, max_bytes):
        raise Invalid(f"{path} is {len(value.encode())} bytes long; at most {max_bytes} can be stored",
                      code="too_long", path=path)


def json_bytes(value: Any) -> bytes:
    """Return a value as JSON that Postgres's jsonb takes; integers of any size stay exact.

    Raises:
        Invalid: It is nested too deeply, or holds what JSON has no form for.
    """
    try:
        return _encoder.encode(value)
    except (RecursionError, OverflowError, ValueError) as exc:
        raise Invalid(f"it cannot be stored as JSON: {exc}", code="unstorable") from exc
