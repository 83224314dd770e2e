"""How large things may be. Every limit is checked before anything is stored."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits on what one event may hold.

    Attributes:
        max_event_bytes: Of one event as sent.
        max_events: Events in one request.
        max_depth: Levels of nesting inside an event. Parsers downstream give up at about 1,000.
        max_fields: Keys and list items inside an event, all levels together.
        max_shared_bytes: Of a batch's own context, with all the copies that its events get.
        max_id_chars: Of a user's id; an event's id has a limit in bytes, ``schemas.events.MAX_ID_BYTES``, as well.
        max_name_chars: Of an event's name.
    """

    max_event_bytes: int = 32 << 10
    max_events: int = 10_000
    max_depth: int = 64
    max_fields: int = 10_000
    max_shared_bytes: int = 16 << 20
    max_id_chars: int = 512
    max_name_chars: int = 1024
