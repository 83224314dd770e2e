"""What the fine-tune's process does, step by step; every step goes on where it was interrupted."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from services.trainer.core import Learner, Scorer, together
from services.trainer.examples import Embedded, Example
from services.trainer.job import ADAPTER, PRESENT, Folder, Job, Progressed, Result
from services.trainer.reading import BATCH, Reader, Shape
from services.trainer.snapshots import Snapshots
from services.trainer.store import Store
from shared.holdout import is_held_out
from shared.logs import Log
from shared.models.encoder import Encoder
from shared.models.finetune import Plan, Step, tune
from shared.models.ranks import Ranks

_log = Log("ratchet.trainer.finetune")

# A snapshot of the sums after so many embedded examples: at 10 ms each, what a crash can cost is half a minute.
_SNAPSHOT_ROWS = 3000
# Caught up when so few examples are left to embed: the trainer does the rest in well under a second.
_CAUGHT_UP = 50
_ROUNDS = 50
# Examples in one fine-tune, at most: their texts are in memory, and at 10 ms each it takes a quarter of an hour.
_MOST = 100_000


@dataclass(frozen=True)
class Tools:
    """What the process works with.

    Attributes:
        on_step: Told of every step of the fine-tune.
    """

    store: Store
    folder: Folder
    base: Encoder
    ranks: Ranks
    on_step: Callable[[Step], None]


def sample(*, since: int, cut: int, replay: float, seed: int, most: int = _MOST) -> list[int]:
    """Choose what to fine-tune on, as seqs in order, without looking at an example.

    Every new one and ``replay`` old ones per new one, drawn without return; at most ``most``, in that proportion.
    """
    n_new, n_old = cut - since, min(since, round(replay * (cut - since)))
    share = min(1.0, most / max(1, n_new + n_old))
    rng = np.random.default_rng([seed, since])
    old = rng.choice(since, round(share * n_old), replace=False) + 1
    new = rng.choice(n_new, round(share * n_new), replace=False) + since + 1
    return sorted([*old.tolist(), *new.tolist()])


def run(job: Job, tools: Tools) -> Result | None:
    """Do the job from wherever it stands; None on ranks other than 0, which only help with the fine-tune."""
    began = time.monotonic()
    last: list[Step] = []
    chosen = _chosen(job, tools.store)
    if not tools.folder.has(ADAPTER):
        _tune(job, tools, chosen, last)
    if tools.ranks.rank != 0:
        return None
    encoder = tools.base.adapted(tools.folder.get(ADAPTER))
    learner, at_cut, fresh = _learn(job, tools, encoder)
    tensors, state = learner.state(solved=True)
    snapshots = Snapshots(tools.folder.path)
    digest = snapshots.save(tensors, state, fingerprint=_shape(job).fingerprint(encoder))
    unseen = together(fresh[-job.window:], encoder.dim)
    result = Result(encoder=encoder.digest, snapshot=digest, labels=list(at_cut.labels),
                    fresh=[(e.seq, e.key, e.label) for e in fresh[-job.window:]], n_tuned=len(chosen),
                    n_steps=last[0].total if last else 0, last_loss=last[0].loss if last else 0.0,
                    seconds=time.monotonic() - began)
    tools.folder.finish(result, {"head": at_cut.head, "fresh": unseen.embeddings})
    return result


def _shape(job: Job) -> Shape:
    return Shape(job.projection, job.ridge, job.holdout, job.seed, job.max_tokens, job.window)


def _chosen(job: Job, store: Store) -> list[Example]:
    """The texts to fine-tune on, the same in every process and after every restart: the cut fixes them."""
    seqs = sample(since=job.since, cut=job.cut, replay=job.replay, seed=job.seed)
    return [row for start in range(0, len(seqs), BATCH)
            for row in store.in_force(seqs[start:start + BATCH], upto=job.cut)
            if row.text and not is_held_out(row.subject, row.prediction_id, job.holdout, job.seed)]


def _tune(job: Job, tools: Tools, chosen: Sequence[Example], last: list[Step]) -> None:
    present = tools.folder.get(PRESENT) if tools.folder.has(PRESENT) else {}
    plan = Plan(job.method, job.learning_rate, job.max_tokens, job.seed + job.generation, job.epochs, job.batch_size,
                job.lora_rank)

    def on_step(step: Step) -> None:
        last[:] = [step]
        tools.on_step(step)

    adapter = tune(tools.base, present, [row.text for row in chosen], [row.label for row in chosen], plan,
                   checkpoint=tools.folder.path / "checkpoint.safetensors", ranks=tools.ranks, on_step=on_step)
    if tools.ranks.rank == 0:
        tools.folder.put(ADAPTER, adapter)
        _log.info("tuned", loop=job.loop, generation=job.generation, n_examples=len(chosen),
                  loss=last[0].loss if last else None)


def _learn(job: Job, tools: Tools, encoder: Encoder) -> tuple[Learner, Scorer, list[Embedded]]:
    """The new encoder's sums: up to the cut, then up to now; with the head at the cut and the examples after it."""
    snapshots, shape = Snapshots(tools.folder.path), _shape(job)
    fingerprint = shape.fingerprint(encoder)
    done = tools.folder.progressed()
    held = snapshots.load(done.snapshot, fingerprint=fingerprint) if done else None
    learner = shape.restored(*held) if held else shape.learner(encoder)
    reader = Reader(tools.store, encoder, shape)
    since_snapshot = 0
    while learner.cursor < job.cut and (rows := reader.absorb(learner, upto=job.cut, limit=250).rows):
        since_snapshot += len(rows)
        if since_snapshot >= _SNAPSHOT_ROWS or learner.cursor >= job.cut:
            digest = snapshots.save(*learner.state(), fingerprint=fingerprint)
            tools.folder.report(Progressed(digest, learner.cursor >= job.cut))
            snapshots.keep(digest)
            since_snapshot = 0
    at_cut = learner.candidate()
    fresh: list[Embedded] = []
    for _ in range(_ROUNDS):
        batch = reader.absorb(learner, limit=250)
        held_out = {e.key for e in learner.held_out}
        fresh += [e for e in batch.unseen() if e.key not in held_out]
        if len(batch.rows) <= _CAUGHT_UP:
            break
    return learner, at_cut, fresh
