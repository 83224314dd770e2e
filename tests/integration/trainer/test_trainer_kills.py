"""Killed at any moment, however often: every example is learned once, every version has its own name."""

import random
from collections.abc import Callable
from pathlib import Path
from threading import Event

from schemas.loops import Loop
from shared.models.encoder import Encoder
from shared.registry import Registry
from tests.integration.trainer.conftest import LOOP, Bench, build
from tests.integration.trainer.test_trainer_learning import champion, head_of, learned, reference, same
from tests.support import forks, tiny_bert

Until = Callable[..., None]


def work(postgres_url: str, redis_url: str, artifacts: str, directory: str, loop: Loop) -> None:
    """A trainer process, snapshotting all the time."""
    import torch

    torch.set_num_threads(1)
    base = Encoder.load(directory, device="cpu")
    registry = Registry.connect(redis_url, Path(artifacts))
    build(postgres_url, redis_url, Path(artifacts), base, loop, registry, snapshot_every_s=0.0).run(Event())


def test_killed_at_random_moments_the_head_is_that_of_an_undisturbed_trainer(bench: Bench, until: Until) -> None:
    rng = random.Random(5)
    arguments = (bench.postgres_url, bench.redis_url, str(bench.artifacts), bench.base.base.id, bench.loop)
    process = forks.start(work, *arguments)
    texts, labels = tiny_bert.corpus(400)
    kills = 0
    try:
        for start in range(0, 400, 20):
            bench.put(texts[start:start + 20], labels[start:start + 20])
            if start % 100 == 40:
                # Between nothing and a whole update later: reading, publishing, promoting, snapshotting.
                seen = len(bench.registry.log(LOOP))
                until(lambda seen=seen: len(bench.registry.log(LOOP)) > seen)
                process.join(rng.random() * 0.06)
                process.kill()
                process.join(10)
                kills += 1
                process = forks.start(work, *arguments)
        until(lambda: bench.registry.aliases(LOOP).champion and champion(bench).examples[-1].last == 400)
    finally:
        process.kill()
        process.join(10)
    assert kills == 4
    manifest = champion(bench)
    assert manifest.n_examples == len(learned(bench))
    same(head_of(bench, manifest), reference(bench, learned(bench)))
    versions = [entry.version for entry in bench.registry.log(LOOP) if entry.action == "published"]
    assert len(versions) == len(set(versions))
    named = [run[1] for run in bench.runs() if run[1] is not None]
    assert len(named) == len(set(named))
    assert set(named) <= set(versions)
