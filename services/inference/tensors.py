"""Tensors of the Open Inference Protocol as bytes: little-endian, row-major, no padding. Pure.

Source: the binary tensor data extension. Only the datatypes that this service speaks: BYTES and FP32.
"""

import struct
import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from schemas.errors import Invalid

# Lists of one element inside each other: nobody nests deeper than the protocol's shapes.
_LISTS_PER_ELEMENT = 8


def pack_bytes(items: Sequence[bytes]) -> bytes:
    """Return a BYTES tensor: each element as its length, 4 bytes, and itself."""
    return b"".join(part for item in items for part in (struct.pack("<I", len(item)), item))


def unpack_bytes(data: bytes, path: str, *, at_most: int = sys.maxsize) -> list[bytes]:
    """Read a BYTES tensor.

    Args:
        at_most: Elements that are expected; 16 MB may hold 4 million, and reading those holds up everybody else.

    Raises:
        Invalid: An element is cut off, or there are more.
    """
    items: list[bytes] = []
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at:at + 4], "little")
        if at + 4 > len(data) or end > len(data):
            raise Invalid(f"{path}: element {len(items)} of the BYTES tensor is cut off", code="truncated", path=path)
        if len(items) == at_most:
            raise Invalid(f"{path}: the BYTES tensor has more than {at_most} elements", code="wrong_shape", path=path)
        items.append(data[at + 4:end])
        at = end
    return items


def pack_floats(values: npt.NDArray[np.float32]) -> bytes:
    """Return an FP32 tensor."""
    return values.astype("<f4").tobytes()


def flatten(data: object, *, at_most: int = sys.maxsize) -> list[object]:
    """Return the elements of a nested or flat JSON array, row-major.

    Args:
        at_most: Elements that are expected.

    Raises:
        Invalid: It is no array, or it holds more, lists without elements included.
    """
    if not isinstance(data, list):
        raise Invalid("data is an array", code="wrong_type", path="data")
    flat: list[object] = []
    # Lists count as well: 5 million empty ones held up every other request for 12 s.
    left = at_most if at_most == sys.maxsize else _LISTS_PER_ELEMENT * at_most
    stack: list[object] = [data]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            left -= len(item)
            if left < 0:
                raise Invalid(f"data has more than {at_most} elements", code="wrong_shape", path="data")
            stack.extend(reversed(item))
        else:
            flat.append(item)
    return flat
