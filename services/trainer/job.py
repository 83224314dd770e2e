"""A fine-tune's folder: what the child process is told, and what it hands back.

    job.json                 what to do; written once, before the child starts
    present.safetensors      the present generation's adapter, if it has one
    champion.safetensors     the present generation's head at the cut, to be compared with
    checkpoint.safetensors   the fine-tune's progress
    adapter.safetensors      the new adapter; there once the fine-tune is done
    learner-*.safetensors    the new generation's sums
    progress.json            which of the latter is the newest
    result.json, result.safetensors   the end: written last
"""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from schemas.errors import Permanent
from services.trainer.core import Scorer

T = TypeVar("T")
ADAPTER, PRESENT, CHAMPION, RESULT = "adapter", "present", "champion", "result"


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One fine-tune.

    Attributes:
        generation: The number of the generation that it makes.
        encoder: Digest of the present generation's encoder, from which it goes on.
        since: Examples after this seq are new; older ones are replayed.
        cut: The last seq that it learns from.
        window: How many examples the gate compares on, at most.
    """

    loop: str
    text_path: str
    base: str
    encoder: str
    generation: int
    method: Literal["lora", "full"]
    since: int
    cut: int
    replay: float
    learning_rate: float
    epochs: int
    batch_size: int
    lora_rank: int
    seed: int
    projection: int
    ridge: float
    holdout: float
    max_tokens: int
    window: int


class Progressed(msgspec.Struct, frozen=True):
    """The child's newest snapshot, and the head at the cut once it got there."""

    snapshot: str
    at_cut: bool


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What the child found. Beside it in ``result.safetensors``: ``head`` (M, C) at the cut, ``fresh`` (n, D).

    Attributes:
        encoder: Digest of the new encoder.
        snapshot: The new generation's sums, caught up with newer examples.
        labels: The columns of the head at the cut.
        fresh: (seq, prediction id, label) of examples after the cut, embedded by the new encoder in ``fresh``.
        n_tuned: On how many examples it was fine-tuned, in how many steps, with which mean loss at the end.
    """

    encoder: str
    snapshot: str
    labels: list[str]
    fresh: list[tuple[int, str, str]]
    n_tuned: int
    n_steps: int
    last_loss: float
    seconds: float


class Folder:
    """One job's files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, job: Job, *, adapter: Mapping[str, np.ndarray], champion: Scorer) -> None:
        """Lay the job down; whatever was there before is gone. The job is there once ``job.json`` is."""
        self.clear()
        self.path.mkdir(parents=True)
        if adapter:
            self.put(PRESENT, adapter)
        self.put(CHAMPION, {"head": champion.head}, labels=list(champion.labels))
        self._write("job.json", msgspec.json.encode(job))

    def job(self) -> Job | None:
        """The job, or None when there is none."""
        return self._read("job.json", Job)

    def result(self) -> Result | None:
        """The result, or None while there is none."""
        return self._read("result.json", Result)

    def progressed(self) -> Progressed | None:
        """How far the sums are; None before the first snapshot."""
        return self._read("progress.json", Progressed)

    def report(self, progressed: Progressed) -> None:
        """Say how far the sums are."""
        self._write("progress.json", msgspec.json.encode(progressed))

    def finish(self, result: Result, tensors: Mapping[str, np.ndarray]) -> None:
        """Hand the result back."""
        self.put(RESULT, tensors)
        self._write("result.json", msgspec.json.encode(result))

    def has(self, name: str) -> bool:
        """Whether these tensors are there."""
        return (self.path / f"{name}.safetensors").is_file()

    def put(self, name: str, tensors: Mapping[str, np.ndarray], *, labels: list[str] | None = None) -> None:
        """Write tensors, and labels beside them; there whole or not at all."""
        part = self.path / f".{name}.part"
        save_file({key: np.ascontiguousarray(array) for key, array in tensors.items()}, part)
        part.replace(self.path / f"{name}.safetensors")
        if labels is not None:
            self._write(f"{name}.json", msgspec.json.encode(labels))

    def get(self, name: str) -> dict[str, np.ndarray]:
        """Read tensors.

        Raises:
            Permanent: They are damaged or missing.
        """
        try:
            return dict(load_file(self.path / f"{name}.safetensors"))
        except (OSError, SafetensorError) as exc:
            raise Permanent(f"the fine-tune's {name} in {self.path} cannot be read: {exc}") from exc

    def labels(self, name: str) -> tuple[str, ...]:
        """Read the labels beside tensors."""
        return tuple(self._read(f"{name}.json", list[str]) or ())

    def clear(self) -> None:
        """Delete the job; first its ``job.json``, so that half a folder is no job."""
        (self.path / "job.json").unlink(missing_ok=True)
        if self.path.exists():
            shutil.rmtree(self.path)

    def _write(self, name: str, data: bytes) -> None:
        part = self.path / f".{name}.part"
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.path / name)

    def _read(self, name: str, kind: type[T]) -> T | None:
        try:
            return msgspec.json.decode((self.path / name).read_bytes(), type=kind)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as exc:
            raise Permanent(f"{self.path / name} cannot be read: {exc}") from exc
