"""Tensors as bytes: one tensor per safetensors blob, addressed by the SHA-256 of the blob."""

import hashlib
from collections.abc import Mapping

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from schemas.manifest import Manifest, TensorRef
from shared.registry.values import Corrupt

_NAME = "tensor"


def pack(array: np.ndarray) -> bytes:
    """Return the blob of a tensor; equal tensors give equal bytes."""
    blob: bytes = save({_NAME: np.ascontiguousarray(array)})
    return blob


def ref(array: np.ndarray) -> TensorRef:
    """Return how a manifest refers to a tensor."""
    return ref_of(array, pack(array))


def ref_of(array: np.ndarray, blob: bytes) -> TensorRef:
    """Return how a manifest refers to a tensor that is packed already."""
    return TensorRef(sha256=digest(blob), dtype=str(array.dtype), shape=tuple(array.shape), n_bytes=len(blob))


def compare(manifest: Manifest, tensors: Mapping[str, np.ndarray]) -> None:
    """Check that tensors have the names, dtypes and shapes that a manifest gives them.

    Raises:
        Corrupt: They do not.
    """
    if set(tensors) != set(manifest.tensors):
        raise Corrupt(f"loop {manifest.loop} version {manifest.version}: the manifest names {sorted(manifest.tensors)} "
                      f"but the tensors are {sorted(tensors)}")
    for name, ref in manifest.tensors.items():
        if (str(tensors[name].dtype), tuple(tensors[name].shape)) != (ref.dtype, tuple(ref.shape)):
            raise _not_the_one(manifest, name)


def pack_for(manifest: Manifest, name: str, array: np.ndarray) -> bytes:
    """Return the blob of one of a manifest's tensors.

    Raises:
        Corrupt: It is not the one that the manifest refers to.
    """
    blob = pack(array)
    if ref_of(array, blob) != manifest.tensors[name]:
        raise _not_the_one(manifest, name)
    return blob


def digest(data: bytes) -> str:
    """Return the SHA-256 of some bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def check(blob: bytes, sha256: str, where: str) -> bytes:
    """Return the blob itself if it is what its address says.

    Raises:
        Corrupt: Truncated, or a bit is wrong. safetensors itself would load a flipped bit without a word.
    """
    found = digest(blob)
    if found != sha256:
        raise Corrupt(f"tensor {sha256[:12]} in {where} is damaged: its {len(blob)} bytes have SHA-256 {found[:12]}")
    return blob


def unpack(blob: bytes, expected: TensorRef) -> np.ndarray:
    """Return the tensor of a blob whose digest was checked.

    Raises:
        Corrupt: It is not one tensor of the dtype and shape that the manifest promises.
    """
    try:
        tensors: dict[str, np.ndarray] = load(blob)
    except (SafetensorError, ValueError, KeyError) as exc:
        raise Corrupt(f"tensor {expected.sha256[:12]} is not a safetensors blob: {exc}") from exc
    array = tensors.get(_NAME)
    if array is None or str(array.dtype) != expected.dtype or array.shape != tuple(expected.shape):
        raise Corrupt(f"tensor {expected.sha256[:12]} is not {expected.dtype} {tuple(expected.shape)} as its manifest "
                      "says")
    return array


def _not_the_one(manifest: Manifest, name: str) -> Corrupt:
    return Corrupt(f"loop {manifest.loop} version {manifest.version}: tensor {name} is not the one that the manifest "
                   "refers to")
