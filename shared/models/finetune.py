"""Fine-tunes an encoder on labelled texts: LoRA or every weight, resumable, the same with one process or many.

The network is the encoder and a cosine classifier that starts at the labels' mean embeddings, so that the first steps
already push texts towards their label instead of first finding out where the labels are. The classifier is thrown
away afterwards: the analytic head is computed anew on the tuned encoder.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict

from shared.models import flops
from shared.models.checkpoint import load_checkpoint, save_checkpoint
from shared.models.encoder import Encoder, pooled
from shared.models.lora import FULL, LORA, SCALE
from shared.models.ranks import Ranks

# logits = 20 * cosine: with 77 labels a text at its label's mean then starts at a loss near 1.
_SCALE = 20.0
# Rows whose gradient is computed at once on a CPU: they stay in the cache and need little padding. The sum over a
# batch is the same, and a LoRA step of 32 messages takes 0.6 s of one core instead of 1.2 s.
_CPU_ROWS = 8
# The classifier may move faster than the encoder: it is not kept.
_HEAD_RATE = 10.0
# Every weight at once needs smaller steps than an adapter: a tenth of the loop's learning rate.
_FULL_RATE = 0.1
_LORA_SCALE = 2.0


@dataclass(frozen=True)
class Plan:
    """How to fine-tune.

    Attributes:
        method: ``lora``, or ``full`` (with a tenth of ``learning_rate``).
        learning_rate: The peak, after the warm-up; it falls linearly to 0.
        warm_up: Share of the steps during which the rate grows from 0.
        clip_norm: Greatest norm of the gradient.
        checkpoint_every: Steps between checkpoints.
        compiled: Let torch.compile fuse the network's kernels; for a GPU and long runs, since it takes a minute.
        seed: Equal seeds, texts and devices give equal weights, with or without an interruption.
    """

    method: Literal["lora", "full"]
    learning_rate: float
    max_tokens: int
    seed: int
    epochs: int = 1
    batch_size: int = 32
    lora_rank: int = 16
    warm_up: float = 0.1
    clip_norm: float = 1.0
    checkpoint_every: int = 25
    compiled: bool = False


@dataclass(frozen=True)
class Step:
    """One finished step: its number from 1, of how many, the mean loss per text, the rate and the gradient's norm.

    Attributes:
        n_tokens: Of all processes together, padding apart.
        flops: Floating-point operations that these tokens take, see ``flops``; of all processes together.
        seconds: How long it took, checkpoints apart.
    """

    number: int
    total: int
    loss: float
    learning_rate: float
    gradient_norm: float
    n_tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0


@dataclass
class _Network:
    """The trainable model and the cosine classifier: weight (C, D)."""

    model: Any
    classifier: torch.nn.Parameter
    trained: dict[str, torch.nn.Parameter] = field(default_factory=dict)
    forward: Any = None

    def loss(self, ids: torch.Tensor, mask: torch.Tensor, targets: torch.Tensor,
             weights: torch.Tensor) -> torch.Tensor:
        """Weighted sum of cross-entropies: ids and mask (B, T), targets and weights (B,) -> ()."""
        vectors = pooled(self.forward or self.model, ids, mask)
        logits = _SCALE * vectors @ torch.nn.functional.normalize(self.classifier, dim=-1).T
        return (torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none") * weights).sum()


def tune(base: Encoder, adapter: Mapping[str, np.ndarray], texts: Sequence[str], labels: Sequence[str], plan: Plan, *,
         checkpoint: Path | None = None, ranks: Ranks | None = None,
         on_step: Callable[[Step], None] = lambda step: None) -> dict[str, np.ndarray]:
    """Fine-tune and return the new adapter, relative to the base.

    Args:
        base: The plain base encoder; not changed.
        adapter: The present one, from which training goes on; empty for the base itself.
        checkpoint: Where progress is kept; a run that finds one there goes on from it. None: not kept.
        ranks: The processes that share the work; None: this one alone.

    Returns:
        ``adapter.*`` tensors, or ``encoder.*`` for ``full``; together with what the present adapter held besides.
    """
    ranks = ranks or Ranks()
    rows = base.tokenize(texts, max_tokens=plan.max_tokens)
    names = sorted(set(labels))
    targets = np.array([names.index(label) for label in labels], np.int64)
    torch.manual_seed(plan.seed)
    network = _build(base, adapter, _means(base.adapted(adapter), texts, targets, len(names), plan), plan)
    optimiser = _optimiser(network, plan)
    steps = _batches(len(texts), plan)
    weights = class_weights(targets)
    done = load_checkpoint(checkpoint, network.trained, optimiser) if checkpoint else 0
    if plan.compiled:
        network.forward = torch.compile(network.model, dynamic=True)
    each = flops.per_token(network.model, sum(map(len, rows)) / max(1, len(rows)), full=plan.method == "full")
    for number, chosen in enumerate(steps, start=1):
        if number <= done:
            continue
        began = time.monotonic()
        # Seeded by the step, so that a resumed run draws the same dropout as one that was never interrupted.
        torch.manual_seed(hash((plan.seed, number, ranks.rank)) & 0x7FFFFFFF)
        rate = _rate(number, len(steps), plan)
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * rate
        optimiser.zero_grad(set_to_none=True)
        mine = chosen[ranks.rank::ranks.world]
        loss = _backward(network, base, rows, targets, weights, mine, len(chosen))
        ranks.add_up(network.trained.values())
        norm = torch.nn.utils.clip_grad_norm_(list(network.trained.values()), plan.clip_norm)
        optimiser.step()
        total, n_tokens = ranks.sum(loss), sum(len(rows[i]) for i in chosen)  # after it, a GPU is done with the step
        on_step(Step(number, len(steps), total, plan.learning_rate * rate, float(norm), n_tokens, n_tokens * each,
                     time.monotonic() - began))
        if checkpoint and ranks.rank == 0 and (number % plan.checkpoint_every == 0 or number == len(steps)):
            save_checkpoint(checkpoint, network.trained, optimiser, number)
    return _adapter(network, base, adapter, plan)


def class_weights(targets: np.ndarray) -> np.ndarray:
    """Return each example's weight (N,) float32: by the root of its label's rarity, at most 4, mean 1."""
    counts = np.bincount(targets)
    weights = np.sqrt(counts[counts > 0].mean() / counts[targets])
    weights = np.clip(weights, 0.25, 4.0)
    return np.asarray(weights / weights.mean(), np.float32)


def _backward(network: _Network, base: Encoder, rows: Sequence[list[int]], targets: np.ndarray, weights: np.ndarray,
              mine: np.ndarray, n_batch: int) -> float:
    """Add this process's share of the batch's mean gradient; returns its share of the mean loss."""
    if len(mine) == 0:
        for parameter in network.trained.values():
            parameter.grad = torch.zeros_like(parameter)
        return 0.0
    cuda = base.device == "cuda"
    size = len(mine) if cuda else _CPU_ROWS
    by_length = sorted(mine, key=lambda i: len(rows[i]))
    total = 0.0
    for part in (by_length[start:start + size] for start in range(0, len(by_length), size)):
        ids, mask = base.pad([rows[i] for i in part])
        # bfloat16 needs no loss scaling; on a CPU it is slower than float32 and would make runs differ by processor.
        with torch.autocast(device_type=base.device, dtype=torch.bfloat16, enabled=cuda):
            loss = network.loss(ids, mask, torch.from_numpy(targets[part]).to(base.device),
                                torch.from_numpy(weights[part]).to(base.device)) / n_batch
        loss.backward()
        total += float(loss.detach())
    for parameter in network.trained.values():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return total


def _batches(n: int, plan: Plan) -> list[np.ndarray]:
    """Row numbers of every batch of every epoch, shuffled by the seed."""
    found = []
    for epoch in range(plan.epochs):
        order = np.random.default_rng([plan.seed, epoch]).permutation(n)
        found += [order[start:start + plan.batch_size] for start in range(0, n, plan.batch_size)]
    return found


def _rate(number: int, total: int, plan: Plan) -> float:
    """The share of the peak rate at a step: up linearly during the warm-up, then down linearly to 0."""
    warm = max(1, round(plan.warm_up * total))
    return min(1.0, number / warm) * (1.0 if number <= warm else max(0.0, (total - number + 1) / (total - warm + 1)))


def _means(encoder: Encoder, texts: Sequence[str], targets: np.ndarray, n_labels: int, plan: Plan) -> np.ndarray:
    """Mean embedding per label (C, D), from at most 8 texts of each: enough to start from."""
    taken: dict[int, list[int]] = {}
    for row, target in enumerate(targets.tolist()):
        if len(taken.setdefault(target, [])) < 8:
            taken[target].append(row)
    flat = [row for target in range(n_labels) for row in taken[target]]
    vectors = encoder.encode([texts[row] for row in flat], max_tokens=plan.max_tokens)
    owner = np.array([targets[row] for row in flat])
    return np.stack([vectors[owner == target].mean(axis=0) for target in range(n_labels)])


def _build(base: Encoder, adapter: Mapping[str, np.ndarray], means: np.ndarray, plan: Plan) -> _Network:
    classifier = torch.nn.Parameter(torch.from_numpy(means.astype(np.float32)).to(base.device))
    full_part = {name: array for name, array in adapter.items() if name.startswith(FULL)}
    if plan.method == "full":
        model = base.adapted(adapter).trainable().train()
        trained = {name: p for name, p in model.named_parameters() if not name.startswith("pooler.")}
    else:
        start = base.adapted(full_part).trainable().requires_grad_(False)
        config = LoraConfig(r=plan.lora_rank, lora_alpha=round(_LORA_SCALE * plan.lora_rank), lora_dropout=0.0,
                            target_modules=_linear_modules(start), bias="none")
        model = get_peft_model(start, config).train()
        present = {name.removeprefix(LORA): torch.from_numpy(array.copy()) for name, array in adapter.items()
                   if name.startswith(LORA) and name != SCALE}
        if present and all(array.shape[0] == plan.lora_rank for name, array in present.items() if ".lora_A." in name):
            set_peft_model_state_dict(model, present)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    return _Network(model, classifier, {**trained, "classifier": classifier})


def _linear_modules(model: Any) -> list[str]:
    """Every linear layer of the encoder but the pooler, whose output is not used."""
    return [name for name, module in model.named_modules()
            if isinstance(module, torch.nn.Linear) and not name.startswith("pooler")]


def _optimiser(network: _Network, plan: Plan) -> torch.optim.AdamW:
    peak = plan.learning_rate * (_FULL_RATE if plan.method == "full" else 1.0)
    body = [p for name, p in network.trained.items() if name != "classifier"]
    groups = [{"params": body, "peak": peak, "weight_decay": 0.01},
              {"params": [network.classifier], "peak": plan.learning_rate * _HEAD_RATE, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=peak)


def _adapter(network: _Network, base: Encoder, before: Mapping[str, np.ndarray], plan: Plan) -> dict[str, np.ndarray]:
    if plan.method == "full":
        return {FULL + name: p.detach().cpu().numpy().copy() for name, p in network.trained.items()
                if name != "classifier"}
    state = get_peft_model_state_dict(network.model)
    kept = {name: array for name, array in before.items() if name.startswith(FULL)}
    tuned = {LORA + name: tensor.detach().float().cpu().numpy().copy() for name, tensor in state.items()}
    return {**kept, **tuned, SCALE: np.array([_LORA_SCALE], np.float32)}
