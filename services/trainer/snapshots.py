"""Snapshots of a learner in the artifact directory, so that a start need not read the whole history again."""

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from schemas.errors import Permanent, Transient
from services.trainer.core import LearnerState
from shared.logs import Log

_log = Log("ratchet.trainer")


class _Whole(msgspec.Struct, frozen=True):
    """What stands beside the tensors; ``fingerprint`` names everything that shaped the sums."""

    fingerprint: str
    state: LearnerState


class Snapshots:
    """One loop's snapshot files: ``learner-<sha256>.safetensors``, named by their content."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def save(self, tensors: Mapping[str, np.ndarray], state: LearnerState, *, fingerprint: str) -> str:
        """Write a snapshot, synced to disk; returns its SHA-256. Does not touch others: see ``keep``.

        Raises:
            Transient: The disk is full, or cannot be written.
        """
        whole = msgspec.json.encode(_Whole(fingerprint, state)).decode()
        part = self._directory / f".{state.cursor}.part"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            save_file({name: np.ascontiguousarray(array) for name, array in tensors.items()}, part, {"state": whole})
            with part.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                os.fsync(file.fileno())
            part.replace(self._path(digest))
        except (OSError, SafetensorError) as exc:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise Transient(f"no snapshot can be written to {self._directory}: {exc}", retry_after_s=5.0) from exc
        return digest

    def load(self, digest: str, *, fingerprint: str) -> tuple[dict[str, np.ndarray], LearnerState] | None:
        """Read a snapshot, checked; None, with a log line, when it is missing, damaged or of another shape."""
        path = self._path(digest)
        try:
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    raise Permanent("its digest is wrong")
            with safe_open(path, framework="np") as tensors:
                names = list(tensors.keys())
                whole = msgspec.json.decode(tensors.metadata()["state"], type=_Whole)
                if whole.fingerprint != fingerprint:
                    raise Permanent("the loop's base, projection, ridge, hold-out, seed or max_tokens changed since")
                return {name: tensors.get_tensor(name) for name in names}, whole.state
        except (OSError, SafetensorError, msgspec.DecodeError, KeyError, Permanent) as exc:
            _log.warning("snapshot_not_used", sha256=digest, reason=str(exc), path=str(self._directory))
            return None

    def keep(self, digest: str) -> None:
        """Delete every other snapshot."""
        for path in self._directory.glob("learner-*.safetensors"):
            if path != self._path(digest):
                path.unlink(missing_ok=True)
        for path in self._directory.glob(".*.part"):
            path.unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        return self._directory / f"learner-{digest}.safetensors"
