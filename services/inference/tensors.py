"""Tensors of the Open Inference Protocol as bytes: little-endian, row-major, no padding. Pure.

Source: the binary tensor data extension. Only the datatypes that this service speaks: BYTES and FP32.
"""

import struct
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from schemas.errors import Invalid


def pack_bytes(items: Sequence[bytes]) -> bytes:
    """Return a BYTES tensor: each element as its length, 4 bytes, and itself."""
    return b"".join(part for item in items for part in (struct.pack("<I", len(item)), item))


def unpack_bytes(data: bytes, path: str) -> list[bytes]:
    """Read a BYTES tensor.

    Raises:
        Invalid: An element is cut off.
    """
    items: list[bytes] = []
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at:at + 4], "little")
        if at + 4 > len(data) or end > len(data):
            raise Invalid(f"{path}: element {len(items)} of the BYTES tensor is cut off", code="truncated", path=path)
        items.append(data[at + 4:end])
        at = end
    return items


def pack_floats(values: npt.NDArray[np.float32]) -> bytes:
    """Return an FP32 tensor."""
    return values.astype("<f4").tobytes()


def flatten(data: object) -> list[object]:
    """Return the elements of a nested or flat JSON array, row-major.

    Raises:
        Invalid: It is no array.
    """
    if not isinstance(data, list):
        raise Invalid("data is an array", code="wrong_type", path="data")
    flat: list[object] = []
    stack: list[object] = [*reversed(data)]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack.extend(reversed(item))
        else:
            flat.append(item)
    return flat
