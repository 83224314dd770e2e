"""Adapters as plain tensors: how a LoRA or a fully tuned encoder is stored, and how it is merged into the base.

LoRA (Hu et al., ICLR 2022) adds ``scale * B @ A`` to chosen weight matrices. Stored beside A and B under peft's own
names is ``adapter.scale`` (1,): the tensors alone say what the encoder is. Merged once at load, serving costs
what the base costs, and no live tensor is ever changed.
"""

from collections.abc import Mapping

import numpy as np
import torch

from schemas.errors import Permanent

LORA, FULL, SCALE = "adapter.", "encoder.", "adapter.scale"
_PEFT, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"


def is_adapter(name: str) -> bool:
    """Whether a manifest's tensor belongs to the encoder (and not to the head)."""
    return name.startswith((LORA, FULL))


def merged(params: Mapping[str, torch.Tensor], adapter: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Return the parameters that an adapter changes, with their new values.

    Args:
        params: The base's parameters by name; not changed.
        adapter: ``adapter.scale``, ``adapter.base_model.model.<module>.lora_A.weight`` (r, in) and ``lora_B``
            (out, r), or ``encoder.<param>``.

    Raises:
        Permanent: A tensor names no parameter of the base, or does not fit its shape.
    """
    changed: dict[str, torch.Tensor] = {}
    # encoder.* sorts after adapter.*, but a LoRA that was trained on a fully tuned encoder stands on its weights.
    for name, array in sorted(adapter.items(), reverse=True):
        if name.startswith(FULL):
            target = _target(params, name.removeprefix(FULL), name)
            changed[name.removeprefix(FULL)] = _fitting(torch.from_numpy(array.copy()).to(target), target, name)
        elif name.startswith(LORA) and name.endswith(_A):
            param = name.removeprefix(LORA).removeprefix(_PEFT).removesuffix(_A) + ".weight"
            target = changed.get(param, _target(params, param, name))
            pair = name.removesuffix(_A) + _B
            if SCALE not in adapter or pair not in adapter or adapter[pair].shape[1] != array.shape[0]:
                raise Permanent(f"the adapter tensor {name} lacks a fitting {pair} or {SCALE}")
            # float64 on the CPU: every replica gets the same bits whatever its device.
            delta = float(adapter[SCALE][0]) * (adapter[pair].astype(np.float64) @ array.astype(np.float64))
            if delta.shape != tuple(target.shape):
                raise Permanent(f"the adapter tensor {name} makes {delta.shape}, the base has {tuple(target.shape)}")
            changed[param] = (target.cpu().double() + torch.from_numpy(delta)).float()
    if not changed:
        raise Permanent("the adapter changes nothing: it holds no encoder.* and no lora_A tensor")
    return changed


def _target(params: Mapping[str, torch.Tensor], param: str, name: str) -> torch.Tensor:
    if param not in params:
        raise Permanent(f"the adapter tensor {name} changes {param}, which the base encoder does not have")
    return params[param]


def _fitting(value: torch.Tensor, target: torch.Tensor, name: str) -> torch.Tensor:
    if value.shape != target.shape:
        raise Permanent(f"the adapter tensor {name} is {tuple(value.shape)}, the base has {tuple(target.shape)}")
    return value
