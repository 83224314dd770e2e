"""An event: what a user did, as the collector writes it to ``ratchet.events``."""

from typing import Any, Literal

import msgspec

# Of an event's id as UTF-8. Postgres indexes at most 2,704 bytes, and the id is only a part of the observations' key.
MAX_ID_BYTES = 512

Kind = Literal["track", "identify", "page", "screen", "group", "alias", "cloudevent"]


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One validated, pseudonymised user event. ``(project, id)`` identifies it for ever.

    Attributes:
        id: The client's message id (Segment ``messageId``, PostHog ``uuid``, CloudEvents ``source`` + ``id``).
        project: The name of the write key that let it in, never the key itself.
        kind: The call it came by; every CloudEvent is ``cloudevent``.
        name: Segment event name, page or screen name, or CloudEvents ``type``; the kind when it has none.
        subject: The pseudonymous user, ``s_`` and 32 hex digits; empty when the event names no user.
        time_ms: Event time, ms since the epoch, corrected for the sender's clock.
        received_ms: When the collector took it, ms since the epoch.
        source: The protocol it came by: ``segment``, ``rudder``, ``posthog`` or ``cloudevents``.
        original_time: The sender's own timestamp, as sent; None when there was none.
        properties: Segment ``properties``, or the CloudEvents ``data`` when that is an object.
        traits: Segment ``traits`` (identify, group); empty otherwise.
        context: Segment ``context``, or the CloudEvents attributes.
    """

    id: str
    project: str
    kind: Kind
    name: str
    subject: str
    time_ms: int
    received_ms: int
    source: str
    original_time: str | None = None
    properties: dict[str, Any] = {}
    traits: dict[str, Any] = {}
    context: dict[str, Any] = {}
