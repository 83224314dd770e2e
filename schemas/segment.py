"""What Segment's and RudderStack's SDKs send: one call, and a batch of calls.

The field names are the protocol's own. Fields that Ratchet does not use are not named and are dropped.
"""

from typing import Any

import msgspec

Id = str | int | float | None


class Call(msgspec.Struct, kw_only=True, gc=False):
    """One tracking call.

    Attributes:
        type: track, identify, page, screen, group or alias; given by the path when a call comes alone.
        name: Of a page or screen.
        originalTimestamp: RudderStack's name for the time on the sender's clock; outranks ``timestamp``.
        sentAt: When the call left, on the sender's clock; RudderStack's Node SDK sets it on each call.
        channel: Only RudderStack sets it.
    """

    type: str | None = None
    userId: Id = None
    anonymousId: Id = None
    previousId: Id = None
    groupId: Id = None
    messageId: str | None = None
    event: str | None = None
    name: str | None = None
    category: str | None = None
    timestamp: str | int | float | None = None
    originalTimestamp: str | int | float | None = None
    sentAt: Any = None
    channel: str | None = None
    properties: dict[str, Any] | None = None
    traits: dict[str, Any] | None = None
    context: dict[str, Any] | None = None


class Batch(msgspec.Struct, kw_only=True):
    """Many calls in one request. Each call stays raw, so that a bad one does not spoil the others.

    Attributes:
        context: Of every call that has no such field of its own.
        writeKey: The key, for clients that send no Authorization header.
    """

    batch: list[msgspec.Raw]
    sentAt: Any = None
    writeKey: Any = None
    context: dict[str, Any] | None = None
