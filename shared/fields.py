"""Dotted paths into events: ``properties.order.id``; ``data`` is another name for ``properties``."""

from typing import Any

from schemas.events import Event


def lookup(event: Event, path: str) -> Any:
    """Return the value at a path, or None when any part is missing. A key that holds a dot is found too."""
    head, _, rest = path.partition(".")
    root = getattr(event, "properties" if head == "data" else head, None)
    return _descend(root, rest)


def _descend(value: Any, path: str) -> Any:
    if not path:
        return value
    if not isinstance(value, dict):
        return None
    if path in value:
        return value[path]
    head, _, rest = path.partition(".")
    return _descend(value.get(head), rest) if rest else None
