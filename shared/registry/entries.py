"""Reads what Redis and the journal hold back into values."""

import msgspec

from shared.registry.artifacts import JournalLine
from shared.registry.values import ALIASES, Aliases, LogEntry


def aliases_of(state: dict[str, str]) -> Aliases:
    """Return the aliases that a stored hash means."""
    return Aliases(**{name: state.get(name) or None for name in ALIASES}, epoch=_int(state.get("epoch", "0")))


def entry_of(line: JournalLine) -> LogEntry:
    """Return the log entry that a stored line means."""
    raw = line.entry
    try:
        fields = msgspec.json.decode(raw["fields"], type=dict[str, str]) if "fields" in raw else {}
    except msgspec.DecodeError:
        fields = {}
    return LogEntry(id=line.id, time_ms=_int(line.id.partition("-")[0]), action=raw.get("action", ""),
                    actor=raw.get("actor", ""), reason=raw.get("reason", ""), version=raw.get("version") or None,
                    before=raw.get("before") or None, after=raw.get("after") or None,
                    epoch=_int(raw.get("epoch", "0")), fields=fields)


def _int(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0
