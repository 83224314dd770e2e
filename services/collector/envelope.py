"""A request taken apart: its events still raw, and what it says about itself."""

from dataclasses import dataclass
from typing import Any

from services.collector.intake import Raw


@dataclass(frozen=True, slots=True)
class Envelope:
    """One request before it is known who sent it: the key may stand in its body.

    Attributes:
        raws: The events, each readable by itself.
        key: The key in the body, of whatever type the sender put there; None when there is none.
        sent_ms: When it left, on the sender's clock.
        context: Shared by all events.
        prefix: Where the events stand in the body, for paths.
        alone: The body is one event and no list.
        look: A text in it may hold a character that cannot be stored; False is certain.
    """

    raws: list[Raw]
    key: Any = None
    sent_ms: int | None = None
    context: dict[str, Any] | None = None
    prefix: str = ""
    alone: bool = False
    look: bool = True
