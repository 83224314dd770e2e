"""What learning costs: the analytic head beside the bare encoder, a fine-tune beside a bare torch loop.

The head's update is everything the trainer computes for new examples without a server: embeddings, the sums, the
candidate, the gate on 1,000 unseen examples, the temperature. The bare loop trains the same network with the same
optimiser and batches, padded as they come. With ``--device cuda`` the fine-tune is measured there, in bfloat16, on the
22 M encoder and, with ``--seven-billion``, on Mistral's architecture with random weights and LoRA.
"""

import argparse
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model

from benchmarks import streams
from benchmarks.harness import Bench
from schemas.loops import Gate, Training
from services.trainer.core import Learner, temperature
from services.trainer.examples import Change, Embedded
from services.trainer.gate import Pairs, decide
from services.trainer.reading import Shape
from shared.models import finetune, flops
from shared.models.analytic import RidgeHead, projection
from shared.models.encoder import Encoder, limit_threads, pooled
from shared.models.finetune import Plan, Step
from shared.models.weights import find

_BARE_ENCODER, _BARE_LOOP = "bare encoder", "bare torch loop"
_BLOCK = 50


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the benchmark's options."""
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where to fine-tune")
    parser.add_argument("--threads", type=int, default=1, help="of the CPU (default: %(default)s)")
    parser.add_argument("--examples", type=int, default=1000, help="new examples of an update (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=4, help="of the fine-tune, of 32 texts (default: %(default)s)")
    parser.add_argument("--compile", action="store_true", help="with torch.compile")
    parser.add_argument("--seven-billion", action="store_true", help="the 7 B network too: 40 GB of GPU memory")


def run(options: argparse.Namespace, bench: Bench) -> None:
    """Measure the head, its growth, and the fine-tune."""
    limit_threads(options.threads)
    rows = streams.banking77(streams.DATA).train if streams.DATA.is_dir() else _made_up(2000)
    encoder = Encoder.load("minilm", device="cpu")
    _head(options, bench, encoder, rows)
    _growth(bench)
    if options.device == "cuda":
        encoder = Encoder.load("minilm", device="cuda")
    _fine_tune(options, bench, "22 M", encoder, rows)
    if options.seven_billion:
        _fine_tune(options, bench, "7 B", random_decoder(encoder, options.device), rows)
    if options.device == "cpu":
        bench.note("the fine-tune on a GPU (bfloat16, 22 M and 7 B parameters) was not measured: run it with "
                   "--device cuda --seven-billion where there is one")


# The analytic head

def _head(options: argparse.Namespace, bench: Bench, encoder: Encoder, rows: streams.Rows) -> None:
    bench.figure("update", "s", better="lower", title="CPU time per 1,000 new examples")
    texts = [text for text, _ in rows[:options.examples]]
    scale = 1000 / len(texts)
    shape = Shape.of(Training(), max_tokens=streams.MAX_TOKENS, window=Gate().window)
    learner = shape.learner(encoder)
    rng = np.random.default_rng(1)
    labels = [label for _, label in rows]
    known = _unit(rng, 1500, encoder.dim)
    learner.absorb([Change(Embedded(i, f"k{i}", labels[i], vector), None, i >= 500)
                    for i, vector in enumerate(known)], cursor=1500)
    learner.candidate()

    def bare() -> Mapping[str, float]:
        began = time.process_time()
        encoder.encode(texts, max_tokens=streams.MAX_TOKENS)
        return {"update": scale * (time.process_time() - began)}

    def ours(at_once: int) -> Mapping[str, float]:
        began = time.process_time()
        vectors = encoder.encode(texts, max_tokens=streams.MAX_TOKENS)
        for start in range(0, len(texts), at_once):
            _update(learner, vectors[start:start + at_once], labels[start:start + at_once])
        return {"update": scale * (time.process_time() - began)}

    bench.alternate({"ratchet": lambda: ours(len(texts)), _BARE_ENCODER: bare,
                     f"ratchet, {_BLOCK} at a time": lambda: ours(_BLOCK)})
    bench.bar("update", at_most=1.5, against=_BARE_ENCODER)
    bench.note(f"one update of {len(texts)} examples, as the trainer reads them, or one for every {_BLOCK}; "
               f"M = {shape.projection}, {len(set(labels))} labels; where serving logged the embeddings, the trainer's "
               "share of the forward passes is none")


def _update(learner: Learner, vectors: np.ndarray, labels: list[str]) -> None:
    """Everything between reading and publishing, as ``services.trainer.app`` does it."""
    before = learner.candidate()
    cursor = learner.cursor + len(labels)
    learner.absorb([Change(Embedded(cursor + i, f"n{cursor + i}", label, vector), None, False)
                    for i, (label, vector) in enumerate(zip(labels, vectors, strict=True))], cursor=cursor)
    scorer, unseen = learner.candidate(), learner.unseen()
    scores = scorer.measure(unseen)
    decide("non-inferior", Pairs(unseen.labels, before.right(before.measure(unseen), unseen.labels),
                                 scorer.right(scores, unseen.labels)), Gate())
    temperature(scorer, scores, unseen)


def _growth(bench: Bench) -> None:
    bench.figure("head", "ms", better="lower", title="CPU time of the head alone for 50 examples")
    bench.figure("solve", "s", better="lower", title="a fresh solve")
    rng = np.random.default_rng(2)

    def measured(dim: int, width: int, n_labels: int) -> Callable[[], Mapping[str, float]]:
        def measure() -> Mapping[str, float]:
            head = RidgeHead(projection(dim, width, 1), ridge=20.0)
            names = [f"l{i}" for i in range(n_labels)]
            head.add(_unit(rng, n_labels + _BLOCK, dim), (names * 2 + names[:_BLOCK] * _BLOCK)[:n_labels + _BLOCK])
            began = time.process_time()
            head.solve()
            solved = time.process_time() - began
            began = time.process_time()
            for _ in range(3):
                head.add(_unit(rng, _BLOCK, dim), [names[i] for i in rng.integers(0, n_labels, _BLOCK)])
                head.weights()
            return {"head": 1000 * (time.process_time() - began) / 3, "solve": solved}
        return measure

    bench.alternate({f"ratchet, D={dim} M={width}, {n_labels} labels": measured(dim, width, n_labels)
                     for dim, width, n_labels in ((384, 3000, 10), (384, 3000, 100), (384, 3000, 1000),
                                                  (1024, 3000, 100), (384, 1500, 100))}, rounds=1)


# The fine-tune

def _fine_tune(options: argparse.Namespace, bench: Bench, size: str, encoder: Encoder, rows: streams.Rows) -> None:
    name = f"tokens_{size.replace(' ', '')}"
    bench.figure(name, "1/s", title=f"LoRA, {size} parameters: tokens, padding apart")
    mfu = f"mfu_{size.replace(' ', '')}"
    bench.figure(mfu, "%", title=f"LoRA, {size} parameters: model FLOPs utilisation")
    peak = flops.peak(options.device) or (flops.measured_peak() if options.device == "cpu" else None)
    texts, labels = (list(part) for part in zip(*rows[:32 * options.steps], strict=True))
    plan = Plan("lora", 3e-4, streams.MAX_TOKENS, 17, compiled=options.compile)

    def figures(n_tokens: int, operations: float, seconds: float) -> Mapping[str, float]:
        return {name: n_tokens / seconds, **({mfu: 100 * operations / seconds / peak} if peak else {})}

    def ours() -> Mapping[str, float]:
        steps: list[Step] = []
        finetune.tune(encoder, {}, texts, labels, plan, on_step=steps.append)
        timed = steps[1:]  # the first one allocates, and compiles
        return figures(sum(s.n_tokens for s in timed), sum(s.flops for s in timed), sum(s.seconds for s in timed))

    def bare() -> Mapping[str, float]:
        return figures(*_bare_loop(encoder, texts, labels, replace(plan, compiled=False)))

    bench.alternate({"ratchet": ours, _BARE_LOOP: bare})
    bench.bar(name, at_least=0.95, against=_BARE_LOOP)
    what = "the maker's bfloat16 peak" if options.device == "cuda" else \
        f"what float32 matrix products reach here, {peak / 1e9:.0f} GFLOP/s" if peak else "unknown"
    bench.note(f"{size}: batches of 32, {plan.lora_rank} ranks on every linear layer; the peak is {what}")


def _bare_loop(encoder: Encoder, texts: list[str], labels: list[str], plan: Plan) -> tuple[int, float, float]:
    """What one writes first: peft, AdamW, padded batches. Returns tokens, operations and seconds without step one."""
    start = encoder.trainable().requires_grad_(False)
    names = [name for name, module in start.named_modules()
             if isinstance(module, torch.nn.Linear) and not name.startswith("pooler")]
    model: Any = get_peft_model(start, LoraConfig(r=plan.lora_rank, lora_alpha=2 * plan.lora_rank, lora_dropout=0.0,
                                                  target_modules=names, bias="none")).train()
    classes = sorted(set(labels))
    classifier = torch.nn.Linear(encoder.dim, len(classes)).to(encoder.device)
    trained = [*(p for p in model.parameters() if p.requires_grad), *classifier.parameters()]
    optimiser = torch.optim.AdamW(trained, lr=plan.learning_rate)
    rows = encoder.tokenize(texts, max_tokens=plan.max_tokens)
    each = flops.per_token(model, sum(map(len, rows)) / len(rows), full=False)
    n_tokens, seconds = 0, 0.0
    for number, first in enumerate(range(0, len(rows), plan.batch_size)):
        part = rows[first:first + plan.batch_size]
        began = time.monotonic()
        ids, mask = encoder.pad(part)
        targets = torch.tensor([classes.index(label) for label in labels[first:first + plan.batch_size]])
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(encoder.device, torch.bfloat16, enabled=encoder.device == "cuda"):
            logits = classifier(pooled(model, ids, mask))
        loss = torch.nn.functional.cross_entropy(logits.float(), targets.to(encoder.device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, plan.clip_norm)
        optimiser.step()
        float(loss.detach())
        if number:
            n_tokens += sum(map(len, part))
            seconds += time.monotonic() - began
    return n_tokens, n_tokens * each, seconds


def random_decoder(like: Encoder, device: str, **shape: int) -> Encoder:
    """An encoder with Mistral 7 B's architecture and random bfloat16 weights; reads ``like``'s tokens.

    Args:
        shape: Of ``MistralConfig``, to make it smaller.
    """
    from transformers import AutoModel, MistralConfig

    found = find(like.base.id)
    with torch.device(device):
        model = AutoModel.from_config(MistralConfig(**shape), dtype=torch.bfloat16)
    return Encoder(model.eval().requires_grad_(False), like._tokenizer, found, "random", device)


def _unit(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    vectors = rng.standard_normal((n, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _made_up(n: int) -> streams.Rows:
    rng = np.random.default_rng(3)
    words = [f"word{i}" for i in range(500)]
    return [(" ".join(rng.choice(words, rng.integers(4, 30))), f"label{i % 77}") for i in range(n)]
