"""Reads a service's settings from the environment into one frozen dataclass.

A field is described where it is declared::

    @dataclass(frozen=True)
    class Settings:
        port: int = setting("RATCHET_COLLECTOR_PORT", 8080, "TCP port the collector listens on.")
        collect_keys: Keys = setting("RATCHET_COLLECT_KEYS", None, "name:key pairs, comma separated.", secret=True)
"""

import os
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from schemas.errors import Permanent

T = TypeVar("T")
_TRUE, _FALSE = {"1", "true", "yes", "on"}, {"0", "false", "no", "off"}
_NUMBERS = {int: "a whole number", float: "a number"}


class InvalidSetting(Permanent):
    """A setting is missing or wrong; names the variable."""


class Keys(dict[str, str]):
    """API keys by name, written ``name:key,name:key``; a part without a colon is a key named ``default``."""

    def __hash__(self) -> int:  # type: ignore[override]  # keys are read once and never changed: a default of a field
        return hash(frozenset(self.items()))

    @classmethod
    def parse(cls, text: str) -> "Keys":
        """Read the pairs.

        Raises:
            ValueError: A name or key is empty, or a name stands twice.
        """
        keys = cls()
        for part in filter(None, (p.strip() for p in text.split(","))):
            name, _, key = part.rpartition(":")
            name = name or "default"
            if not key or name in keys:
                raise ValueError(f"the key named {name!r} is empty or stands twice")
            keys[name] = key
        return keys


def setting(variable: str, default: Any = MISSING, doc: str = "", *, secret: bool = False,
            check: Callable[[Any], str | None] | None = None) -> Any:
    """Declare a setting.

    Args:
        variable: Name of the environment variable.
        default: Used when the variable is unset or empty; without one the variable is required.
        doc: One sentence with the unit and what None means.
        secret: Masked wherever settings are shown.
        check: Returns what is wrong with a value, or None.
    """
    meta = {"variable": variable, "doc": doc, "secret": secret, "check": check}
    return field(metadata=meta) if default is MISSING else field(default=default, metadata=meta)


def read(kind: type[T], environ: Mapping[str, str] | None = None) -> T:
    """Build a settings dataclass from the environment.

    Raises:
        InvalidSetting: A variable is missing or its value is wrong. Names every such variable at once.
    """
    environ = os.environ if environ is None else environ
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    wrong: list[str] = []
    for spec in fields(kind):  # type: ignore[arg-type]
        variable = spec.metadata["variable"]
        text = environ.get(variable, "")
        if not text:
            if spec.default is MISSING:
                wrong.append(f"{variable} is not set: {spec.metadata['doc']}")
            continue
        try:
            value = _convert(hints[spec.name], text)
        except ValueError as exc:
            shown = "***" if spec.metadata["secret"] else repr(text)
            wrong.append(f"{variable}={shown} is wrong: {'not readable' if spec.metadata['secret'] else exc}")
            continue
        fault = spec.metadata["check"](value) if spec.metadata["check"] else None
        if fault:
            wrong.append(f"{variable} is wrong: {fault}")
        values[spec.name] = value
    if wrong:
        raise InvalidSetting("; ".join(wrong))
    return kind(**values)


def shown(settings: Any) -> dict[str, str]:
    """Return the settings by variable as text, secrets masked, for the log line at start."""
    return {
        spec.metadata["variable"]: "***" if spec.metadata["secret"] and getattr(settings, spec.name)
        else str(getattr(settings, spec.name))
        for spec in fields(settings)
    }


def port(value: int) -> str | None:
    """A check for TCP ports."""
    return None if 0 <= value <= 65535 else f"{value} is not a port (0 to 65535)"


def positive(value: float) -> str | None:
    """A check for numbers above 0."""
    return None if value > 0 else f"{value} is not above 0"


def _convert(hint: Any, text: str) -> Any:
    if get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(a for a in get_args(hint) if a is not type(None))
    if get_origin(hint) is tuple:
        return tuple(_convert(get_args(hint)[0], part.strip()) for part in text.split(",") if part.strip())
    if hint is bool:
        if text.lower() not in _TRUE | _FALSE:
            raise ValueError("neither true nor false")
        return text.lower() in _TRUE
    if hint is Keys:
        return Keys.parse(text)
    if hint is Path:
        return Path(text).expanduser()
    if hint is str:
        return text
    if hint in _NUMBERS:
        try:
            return hint(text)
        except ValueError:
            raise ValueError(f"must be {_NUMBERS[hint]}") from None
    raise TypeError(f"no rule to read a {hint}")
