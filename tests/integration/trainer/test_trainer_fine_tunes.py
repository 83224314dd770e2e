"""Fine-tunes through the whole trainer: a better encoder becomes a new generation, a useless one does not."""

import subprocess
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from schemas.loops import Gate, Loop
from services.trainer.app import LoopTrainer
from services.trainer.job import Folder
from services.trainer.store import Store
from shared.models.analytic import RidgeHead, projection
from shared.models.lora import is_adapter
from shared.models.text_classification import HEAD, Classifier, encoder_for
from tests.integration.trainer.conftest import LOOP, Bench
from tests.integration.trainer.test_trainer_learning import champion, learned
from tests.support import tiny_bert

Until = Callable[..., None]


def tuning(bench: Bench, **changed: object) -> Loop:
    """The bench's loop with full fine-tunes, which a random tiny encoder needs."""
    training = replace(bench.loop.training, method="analytic+full", learning_rate=3e-2, epochs=6, projection=64,
                       **changed)  # type: ignore[arg-type]
    return replace(bench.loop, training=training, gate=Gate(window=400))


def ended(bench: Bench, trainer: LoopTrainer, until: Until) -> None:
    """Step until a fine-tune was decided on."""
    until(lambda: any(run[0] == "full" for run in bench.runs()), trainer.step, timeout_s=120)


def test_a_better_encoder_becomes_a_generation_while_updates_go_on(bench: Bench, until: Until) -> None:
    loop = tuning(bench)
    trainer = bench.trainer(loop)
    bench.put(*tiny_bert.corpus(300, hard=0.85))
    trainer.step()
    assert champion(bench).version == "v1"
    bench.put(*tiny_bert.corpus(100, seed=1, hard=0.85))
    trainer.step()
    assert champion(bench).version == "v2", "analytic updates go on while the child works"
    bench.put(*tiny_bert.corpus(300, seed=2, hard=0.85))
    ended(bench, trainer, until)
    tuned = next(m for m in bench.registry.versions(LOOP) if m.method == "full")
    assert tuned.generation == 1
    assert tuned.gate.rule == "superior"
    assert tuned.gate.difference is not None
    assert tuned.gate.difference.low > 0
    assert tuned.gate.difference.n >= 100
    assert tuned.settings["finetune_cut"] == 300
    bench.put(*tiny_bert.corpus(20, seed=3, hard=0.85))
    trainer.step()
    last = champion(bench)
    assert (last.method, last.generation, last.encoder) == ("analytic", 1, tuned.encoder)

    adapters = [name for name in last.tensors if is_adapter(name)]
    encoder = encoder_for(last, bench.registry.tensors(last, adapters), {})
    texts, labels = (list(part) for part in zip(*learned(bench), strict=True))
    t = loop.training
    head = RidgeHead(projection(encoder.dim, t.projection, t.seed), ridge=float(last.settings["ridge"]))
    head.add(encoder.encode(texts, max_tokens=32), labels)
    expected = dict(zip(head.labels, head.weights().T, strict=True))
    found = dict(zip(last.labels, bench.registry.tensors(last, [HEAD])[HEAD].T, strict=True))
    for label in expected:
        np.testing.assert_allclose(found[label], expected[label], atol=1e-4)
    Classifier.load(last, bench.registry.tensors(last), encoder).check_golden(last.golden)
    assert list((bench.artifacts / LOOP / "tensorboard" / "g1").glob("events.out.tfevents.*"))

    trainer.close()
    again = bench.trainer(loop)
    bench.put(*tiny_bert.corpus(10, seed=4, hard=0.85))
    again.step()
    assert (champion(bench).generation, champion(bench).encoder) == (1, tuned.encoder)
    assert champion(bench).n_examples == len(learned(bench))


def test_a_useless_fine_tune_is_refused_and_changes_nothing(bench: Bench, until: Until) -> None:
    trainer = bench.trainer(replace(tuning(bench), training=replace(tuning(bench).training, learning_rate=1e-9)))
    bench.put(*tiny_bert.corpus(150))
    trainer.step()
    bench.put(*tiny_bert.corpus(50, seed=1))
    ended(bench, trainer, until)
    trainer.step()
    assert ("full", None, 1, 150, "rejected") in bench.runs()
    assert (champion(bench).generation, champion(bench).encoder) == (0, bench.base.digest)
    assert [e.action for e in bench.registry.log(LOOP) if e.fields.get("rule") == "superior"] == ["rejected"]


def test_a_child_ends_with_its_trainer_and_the_next_trainer_goes_on_with_the_job(bench: Bench, until: Until) -> None:
    loop = tuning(bench)
    first = bench.trainer(loop, start=subprocess.Popen)
    bench.put(*tiny_bert.corpus(150, hard=0.85))
    folder = Folder(bench.artifacts / LOOP / "trainer" / "finetune")
    until(lambda: first._finetune._process is not None, first.step)
    process = first._finetune._process
    assert process is not None
    assert process.stdin is not None
    until((folder.path / "checkpoint.safetensors").is_file)
    process.stdin.close()  # what happens when the trainer is killed
    until(lambda: process.poll() is not None)
    assert process.returncode == 75
    second = bench.trainer(loop)
    ended(bench, second, until)
    assert [run[3] for run in bench.runs() if run[0] == "full"] == [150]
    assert folder.job() is None


def test_a_fine_tune_reads_each_prediction_once_as_it_was_at_the_cut(bench: Bench) -> None:
    bench.put(["one", "two", "three"], ["a", "a", "b"], keys=["k1", "k2", "k3"])
    bench.put(["one"], ["b"], keys=["k1"], revision=2)
    bench.put(["two"], ["c"], keys=["k2"], revision=2)
    store = Store(bench.postgres_url, LOOP, text_path="properties.text")
    found = [(row.seq, row.text, row.label, row.embedding) for row in store.in_force([1, 2, 3, 4, 5], upto=4)]
    assert found == [(2, "two", "a", b""), (3, "three", "b", b""), (4, "one", "b", b""), (5, "two", "c", b"")]
    assert [row.seq for row in store.in_force([1, 2, 3], upto=5)] == [3]
    store.close()
