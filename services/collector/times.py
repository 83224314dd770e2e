"""When an event happened, corrected for the sender's clock."""

from datetime import UTC, datetime
from typing import Any

from schemas.errors import Invalid

# Numbers below this are seconds since the epoch, above it milliseconds: 1e11 s is the year 5138, 1e11 ms is 1973.
_SECONDS_BELOW = 1e11


def parse_ms(value: Any, path: str) -> int | None:
    """Read a time: ISO 8601 (without a zone it is UTC), or a number of s or ms since the epoch. None stays None.

    Raises:
        Invalid: It is no time, or before 1970.
    """
    if value is None or value == "":
        return None
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=UTC)
            ms = moment.timestamp() * 1000
        elif isinstance(value, int | float) and not isinstance(value, bool):
            ms = value * 1000 if abs(value) < _SECONDS_BELOW else value
        else:
            raise ValueError("neither text nor number")
        if not 0 <= ms < 253402300800000:  # the year 10000
            raise ValueError("outside 1970 to 9999")
        return int(ms)
    except (ValueError, OverflowError) as exc:
        # The value is not quoted: whoever mixes up two fields sends a name or an address here.
        raise Invalid(f"{path} is no time from 1970 to 9999: neither ISO 8601 nor a number of s or ms since the epoch",
                      code="invalid_timestamp", path=path) from exc


def lenient_ms(value: Any) -> int | None:
    """Read the time at which a request was sent; None when it cannot be read, since no event depends on it."""
    try:
        return parse_ms(value, "")
    except Invalid:
        return None


def plausible_ms(text: str | None) -> int | None:
    """Read a sender's clock in ms from a query; None when it is not from 2000 to 2099, as a mere counter would be."""
    if text is None or not (text.isascii() and text.isdecimal()) or len(text) > 13:
        return None
    ms = int(text)
    return ms if 946_684_800_000 <= ms < 4_102_444_800_000 else None


def corrected_ms(time_ms: int | None, sent_ms: int | None, received_ms: int) -> int:
    """Return when an event happened on our clock: ``received - (sent - time)`` (Segment's and PostHog's rule).

    Never later than ``received_ms``: a clock that is ahead must not put events into the future, where no attribution
    window would find them.
    """
    if time_ms is None:
        return received_ms
    if sent_ms is None:
        return min(time_ms, received_ms)
    return max(0, min(received_ms - (sent_ms - time_ms), received_ms))
