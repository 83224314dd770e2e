"""Keeps the present generation's adapter in the artifact directory, and finds it again after a restart."""

import os
from pathlib import Path

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from schemas.errors import Permanent
from services.trainer.publisher import Generation
from services.trainer.store import Progress
from shared.logs import Log
from shared.models.encoder import Encoder
from shared.models.lora import is_adapter
from shared.registry import Registry

_log = Log("ratchet.trainer")


def keep(directory: Path, generation: Generation) -> None:
    """Write a generation's adapter to ``adapter-<digest>.safetensors``, synced; older ones are deleted."""
    if not generation.adapter:
        return
    directory.mkdir(parents=True, exist_ok=True)
    path = _path(directory, generation.encoder.digest)
    part = path.with_suffix(".part")
    save_file({name: np.ascontiguousarray(array) for name, array in generation.adapter.items()}, part)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)
    for old in directory.glob("adapter-*.safetensors"):
        if old != path:
            old.unlink(missing_ok=True)


def present(directory: Path, base: Encoder, progress: Progress, registry: Registry, loop: str) -> Generation:
    """Return the generation that progress names: from the directory, else from a version that holds its adapter.

    Falls back to the plain base, under a new number, when the loop's base was changed or the adapter is nowhere.
    """
    if progress.encoder in ("", base.digest):
        return Generation(progress.generation, base)
    try:
        adapter = dict(load_file(_path(directory, progress.encoder)))
    except (OSError, SafetensorError):
        adapter = _published(registry, loop, progress.encoder)
    if adapter:
        try:
            encoder = base.adapted(adapter)
        except Permanent as exc:
            _log.warning("generation_lost", loop=loop, generation=progress.generation, reason=str(exc))
        else:
            if encoder.digest == progress.encoder:
                return Generation(progress.generation, encoder, adapter, progress.settings)
    _log.warning("generation_lost", loop=loop, generation=progress.generation,
                 reason="its adapter does not fit the loop's base, or is gone: going on from the base")
    return Generation(progress.generation + 1, base)


def _published(registry: Registry, loop: str, encoder: str) -> dict[str, np.ndarray]:
    for manifest in registry.versions(loop):
        if manifest.encoder == encoder:
            return registry.tensors(manifest, [name for name in manifest.tensors if is_adapter(name)])
    return {}


def _path(directory: Path, digest: str) -> Path:
    return directory / f"adapter-{digest[:32]}.safetensors"
