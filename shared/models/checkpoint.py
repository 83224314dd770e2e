"""Keeps a fine-tune's progress in one safetensors file: weights, the optimiser's moments, and the step."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from shared.logs import Log

_log = Log("ratchet.models")
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def save_checkpoint(path: Path, trained: Mapping[str, torch.nn.Parameter], optimiser: Any, step: int) -> None:
    """Write progress; the old checkpoint is replaced at once or not at all."""
    tensors = {}
    for name, parameter in trained.items():
        tensors[f"weight.{name}"] = parameter.detach().cpu().contiguous()
        for moment, value in optimiser.state[parameter].items():
            tensors[f"{moment}.{name}"] = value.detach().cpu().contiguous().clone()
    part = path.with_suffix(".part")
    save_file(tensors, part, metadata={"step": str(step)})
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(path)


def load_checkpoint(path: Path, trained: Mapping[str, torch.nn.Parameter], optimiser: Any) -> int:
    """Read progress into weights and optimiser; returns the last finished step, 0 when there is none to go on from."""
    if not path.is_file():
        return 0
    try:
        with safe_open(path, framework="pt") as file:
            held = set(file.keys())
            if {f"weight.{name}" for name in trained} != {name for name in held if name.startswith("weight.")}:
                _log.warning("checkpoint_ignored", path=str(path), reason="it belongs to another network")
                return 0
            step = int(file.metadata()["step"])
            for name, parameter in trained.items():
                with torch.no_grad():
                    parameter.copy_(file.get_tensor(f"weight.{name}"))
                optimiser.state[parameter] = {
                    moment: value if moment == "step" else value.to(parameter.device)
                    for moment in _MOMENTS for value in [file.get_tensor(f"{moment}.{name}")]
                }
            return step
    except (SafetensorError, OSError, KeyError, ValueError) as exc:
        _log.warning("checkpoint_ignored", path=str(path), reason=str(exc))
        return 0
