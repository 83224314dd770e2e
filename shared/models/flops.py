"""How much arithmetic a fine-tune's step takes, and what the device could do: model FLOPs utilisation (MFU)."""

import time
from typing import Any

import torch

# Dense bfloat16 multiply-adds counted as two, per second, from the makers' data sheets; by a part of the device's name.
_PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12, "4090": 165e12}


def per_token(model: Any, length: float, *, full: bool) -> float:
    """Return a training step's floating-point operations per token (Kaplan et al. 2020, with attention).

    Forward: two per weight of every matrix, embeddings apart, and four per layer, token of the text and hidden unit.
    Backward: as many for the activations and, if every weight is trained, as many again for the weights.

    Args:
        length: Tokens of a text, on average.
    """
    weights: int = sum(module.weight.numel() for name, module in model.named_modules()
                  if isinstance(module, torch.nn.Linear) and "lora_" not in name and "pooler" not in name)
    forward = 2.0 * weights + 4.0 * model.config.num_hidden_layers * length * model.config.hidden_size
    return float(forward * (3.0 if full else 2.0))


def peak(device: str) -> float | None:
    """Return a GPU's operations per second; None when it is not known, and for a CPU: measure that."""
    if device != "cuda":
        return None
    name = torch.cuda.get_device_name()
    return next((value for part, value in _PEAKS.items() if part in name), None)


def measured_peak(*, size: int = 1024, tries: int = 5) -> float:
    """Return what float32 products of square matrices reach on this CPU with the present number of threads."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    best = float("inf")
    for _ in range(tries):
        began = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - began)
    return 2.0 * size**3 / best
