"""A frame: one Kafka record that carries one or more items of one type.

kafka-python and Faust cost per record and not per byte, so many items in one record make them fast. The record's
``content-type`` header says which of the two forms its value has; a record without the header is read as a single
item, so that anyone can produce to the topics with the plainest of clients.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

import msgspec

from schemas.dead import DeadLetter
from schemas.errors import Invalid
from schemas.events import Event
from schemas.predictions import Prediction

FRAME = "application/vnd.ratchet.frame.v1+json"
SINGLE = "application/json"
HEADER = "content-type"

Item = TypeVar("Item", Event, Prediction, DeadLetter)
T = TypeVar("T")

# Nesting beyond Python's recursion limit is one more way of being undecodable.
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_encoder = msgspec.json.Encoder()


def encode(items: Sequence[Item]) -> bytes:
    """Return the value of a frame record: a JSON array of the items, in order."""
    return _encoder.encode(items)


def join(parts: Iterable[bytes]) -> bytes:
    """Return the value of a frame record from items already encoded by ``encode_one``; equal to ``encode``."""
    return b"[" + b",".join(parts) + b"]"


encode_one: Callable[[Event | Prediction | DeadLetter], bytes] = _encoder.encode
"""Returns the value of a single-item record (``application/json``)."""


def content_type(headers: Iterable[tuple[str, bytes | str]] | None) -> str:
    """Return the record's content type; ``application/json`` when no header names one."""
    for name, value in headers or ():
        if name.lower() == HEADER:
            return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    return SINGLE


class Decoder(Generic[T]):
    """Turns record values back into items of one type."""

    def __init__(self, item: type[T]) -> None:
        self._raw = msgspec.json.Decoder(list[msgspec.Raw])
        self._many = msgspec.json.Decoder(list[item])  # type: ignore[valid-type]
        self._one = msgspec.json.Decoder(item)

    def decode(self, value: bytes, kind: str = SINGLE) -> tuple[list[T], list[tuple[bytes, Invalid]]]:
        """Decode one record.

        Returns:
            The good items in order, and for each bad one its bytes and what is wrong with it. A record that cannot
            be read at all is one bad item. Nothing is raised: one bad item never costs its neighbours.
        """
        if kind.partition(";")[0].strip() != FRAME:
            try:
                return [self._one.decode(value)], []
            except _UNDECODABLE as exc:
                return [], [(value, _invalid(exc))]
        try:
            return self._many.decode(value), []
        except _UNDECODABLE:
            return self._decode_each(value)

    def _decode_each(self, value: bytes) -> tuple[list[T], list[tuple[bytes, Invalid]]]:
        good: list[T] = []
        bad: list[tuple[bytes, Invalid]] = []
        try:
            parts = self._raw.decode(value)
        except _UNDECODABLE as exc:
            return [], [(value, _invalid(exc))]
        for part in parts:
            try:
                good.append(self._one.decode(part))
            except _UNDECODABLE as exc:
                bad.append((bytes(part), _invalid(exc)))
        return good, bad


def _invalid(exc: Exception) -> Invalid:
    message, _, path = str(exc).partition(" - at `$")
    return Invalid(message, code="undecodable", path=path.rstrip("`").lstrip("."))
