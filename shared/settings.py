"""Reads a service's settings from the environment into one frozen dataclass.

A field is described where it is declared::

    @dataclass(frozen=True)
    class Settings:
        port: int = setting("RATCHET_COLLECTOR_PORT", 8080, "TCP port the collector listens on.")
        collect_keys: Keys = setting("RATCHET_COLLECT_KEYS", None, "name:key pairs, comma separated.", secret=True)
        kafka: Kafka = group()

A group is such a dataclass itself, which several services include: ``shared/surroundings.py`` has those.
"""

import os
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, field, fields
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


def group(default: Any = MISSING, *, of: str = "") -> Any:
    """Declare a group of settings.

    Args:
        default: A group whose values its settings have when their variables are unset; without one, their own.
        of: What stands for ``*`` in the names of its variables.
    """
    return field(metadata={"group": of, "default": default})


def read(kind: type[T], environ: Mapping[str, str] | None = None) -> T:
    """Build a settings dataclass from the environment.

    Raises:
        InvalidSetting: A variable is missing or its value is wrong. Names every such variable at once.
    """
    wrong: list[str] = []
    values = _read(kind, os.environ if environ is None else environ, "", MISSING, wrong)
    if wrong:
        raise InvalidSetting("; ".join(wrong))
    return kind(**values)


def _read(kind: Any, environ: Mapping[str, str], of: str, default: Any, wrong: list[str]) -> dict[str, Any]:
    """Return the values by field, and add what is wrong to ``wrong``; its values are then of no use."""
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for spec in fields(kind):
        usual = spec.default if default is MISSING else getattr(default, spec.name)
        if "group" in spec.metadata:
            inner = hints[spec.name]
            n_wrong = len(wrong)
            found = _read(inner, environ, spec.metadata["group"], spec.metadata["default"], wrong)
            if len(wrong) == n_wrong:
                values[spec.name] = inner(**found)
            continue
        variable = _variable(spec, of)
        text = environ.get(variable, "")
        if not text:
            if usual is MISSING:
                wrong.append(f"{variable} is not set: {spec.metadata['doc'].rstrip('.')}")
            values[spec.name] = usual
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
    return values


def shown(settings: Any, of: str = "") -> dict[str, str]:
    """Return the settings by variable as text, secrets masked, for the log line at start.

    Args:
        of: Of a group, what it was declared with.
    """
    text: dict[str, str] = {}
    for spec in fields(settings):
        value = getattr(settings, spec.name)
        if "group" in spec.metadata:
            text |= shown(value, spec.metadata["group"])
        else:
            text[_variable(spec, of)] = "***" if spec.metadata["secret"] and value else str(value)
    return text


def _variable(spec: Field[Any], of: str) -> str:
    name: str = spec.metadata["variable"]
    return name.replace("*", of)


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
