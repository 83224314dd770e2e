"""What PostHog's SDKs send: one capture, and a batch of captures, in both generations of the protocol."""

from typing import Any

import msgspec

from schemas.segment import Id


class Capture(msgspec.Struct, kw_only=True):
    """One captured event.

    Attributes:
        offset: ms before the request was sent; browsers send it instead of a time.
        set: Person properties to set; also found inside ``properties``.
        set_once: Person properties to set unless they are set.
        options: Second generation only; ``disable_skew_correction`` is used.
    """

    event: str | None = None
    uuid: str | None = None
    distinct_id: Id = None
    timestamp: str | int | float | None = None
    offset: int | float | None = None
    properties: dict[str, Any] | None = None
    set: dict[str, Any] | None = msgspec.field(name="$set", default=None)
    set_once: dict[str, Any] | None = msgspec.field(name="$set_once", default=None)
    options: dict[str, Any] | None = None
    session_id: str | None = None
    window_id: str | None = None


class Batch(msgspec.Struct, kw_only=True):
    """Many captures in one request; each stays raw, so that a bad one does not spoil the others."""

    batch: list[msgspec.Raw]
    sent_at: Any = None
    sentAt: Any = None
    api_key: Any = None
    token: Any = None
