"""The trainer on real Postgres and Redis: it learns, publishes, obeys pins, and records every decision."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from schemas.errors import Transient
from schemas.loops import Gate
from schemas.manifest import Manifest
from services.trainer import app
from services.trainer.core import Learner
from services.trainer.reading import Batch, Reader
from shared.holdout import is_held_out
from shared.models.analytic import RidgeHead, projection
from shared.models.encoder import Encoder
from shared.models.text_classification import HEAD, Classifier, encoder_for
from tests.integration.trainer.conftest import LOOP, Bench
from tests.support import tiny_bert

Until = Callable[..., None]


def champion(bench: Bench) -> Manifest:
    version = bench.registry.aliases(LOOP).champion
    assert version is not None
    return bench.registry.manifest(LOOP, version)


def head_of(bench: Bench, manifest: Manifest) -> dict[str, np.ndarray]:
    return dict(zip(manifest.labels, bench.registry.tensors(manifest, [HEAD])[HEAD].T, strict=True))


def reference(bench: Bench, examples: list[tuple[str, str]]) -> dict[str, np.ndarray]:
    """The head of exactly these texts and labels, with the ridge that the champion says it has."""
    t = bench.loop.training
    ridge = float(champion(bench).settings["ridge"])
    head = RidgeHead(projection(bench.base.dim, t.projection, t.seed), ridge=ridge)
    head.add(bench.base.encode([text for text, _ in examples], max_tokens=32), [label for _, label in examples])
    return dict(zip(head.labels, head.weights().T, strict=True))


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert set(found) == set(expected)
    for label in found:
        np.testing.assert_allclose(found[label], expected[label], atol=1e-5)


def learned(bench: Bench) -> list[tuple[str, str]]:
    """What the table says that must have been learned: the newest revisions of subjects that are not held out."""
    from services.trainer.examples import in_force
    from services.trainer.store import Store

    store = Store(bench.postgres_url, LOOP, text_path="properties.text")
    rows = in_force(store.read(after=0, limit=10**6)).values()
    store.close()
    t = bench.loop.training
    return [(r.text, r.label) for r in rows if not is_held_out(r.subject, r.prediction_id, t.holdout, t.seed)]


def test_a_version_is_served_that_learned_every_example(bench: Bench) -> None:
    trainer = bench.trainer()
    trainer.step()
    assert bench.registry.aliases(LOOP).champion is None
    for seed in range(3):
        bench.put(*tiny_bert.corpus(60, seed=seed))
        trainer.step()
    manifest = champion(bench)
    assert (manifest.version, manifest.parent, manifest.method) == ("v3", "v2", "analytic")
    assert [(r.first, r.last) for r in manifest.examples] == [(1, 180)]
    assert manifest.n_examples == len(learned(bench))
    same(head_of(bench, manifest), reference(bench, learned(bench)))
    classifier = Classifier.load(manifest, bench.registry.tensors(manifest),
                                 encoder_for(manifest, {}, {bench.base.digest: bench.base}))
    classifier.check_golden(manifest.golden)
    texts, labels = tiny_bert.corpus(100, seed=9)
    probs = classifier.probabilities(classifier.embed(texts))
    assert np.mean([classifier.labels[i] == label for i, label in zip(probs.argmax(1), labels, strict=True)]) > 0.7


def test_a_correction_replaces_what_was_learned_before(bench: Bench) -> None:
    trainer = bench.trainer()
    texts, labels = tiny_bert.corpus(60)
    bench.put(texts, labels, subjects=["s_one"] * 60)
    trainer.step()
    wrong = ["card" if label != "card" else "cash" for label in labels[:20]]
    bench.put(texts[:20], wrong, subjects=["s_one"] * 20, keys=[f"pr_{i + 1}" for i in range(20)], revision=2)
    trainer.step()
    assert champion(bench).n_examples == 60
    same(head_of(bench, champion(bench)), reference(bench, list(zip(texts, wrong + labels[20:], strict=True))))


def test_examples_that_serving_did_not_embed_are_embedded_here(bench: Bench) -> None:
    trainer = bench.trainer()
    bench.put(*tiny_bert.corpus(40), embed=False)
    trainer.step()
    same(head_of(bench, champion(bench)), reference(bench, learned(bench)))


def test_a_pinned_loop_learns_and_publishes_but_does_not_promote(bench: Bench) -> None:
    trainer = bench.trainer()
    bench.put(*tiny_bert.corpus(40))
    trainer.step()
    bench.registry.pin(LOOP, actor="operator", reason="a test")
    bench.put(*tiny_bert.corpus(40, seed=1))
    trainer.step()
    assert bench.registry.aliases(LOOP).champion == "v1"
    assert [m.version for m in bench.registry.versions(LOOP)] == ["v2", "v1"]
    trainer.step()
    assert len(bench.registry.versions(LOOP)) == 2
    bench.registry.unpin(LOOP, actor="operator", reason="a test")
    trainer.step()
    assert champion(bench).version == "v3"


def test_a_worse_candidate_is_refused_and_both_logs_say_why(bench: Bench) -> None:
    trainer = bench.trainer(replace(bench.loop, gate=Gate(window=400, margin=0.0),
                                    training=replace(bench.loop.training, holdout=0.3)))
    bench.put(*tiny_bert.corpus(300))
    trainer.step()
    texts, labels = tiny_bert.corpus(600, seed=1)
    names = sorted(set(labels))
    poisoned = [names[(names.index(label) + 1) % len(names)] for label in labels]
    # Held-out subjects tell the truth; those that are learned from do not.
    from services.trainer.examples import is_held_out
    subjects = [f"s_{1000 + i}" for i in range(600)]
    told = [label if is_held_out(s, "", 0.3, bench.loop.training.seed) else wrong
            for s, label, wrong in zip(subjects, labels, poisoned, strict=True)]
    bench.put(texts, told, subjects=subjects)
    trainer.step()
    assert champion(bench).version == "v1"
    entry = bench.registry.log(LOOP)[-1]
    assert (entry.action, entry.actor) == ("rejected", "trainer")
    assert "shown worse" in entry.reason
    assert float(entry.fields["high"]) < 0
    assert [(run[1], run[4]) for run in bench.runs()] == [("v1", "accepted"), (None, "rejected")]


def test_every_decision_is_recorded_with_its_range(bench: Bench) -> None:
    trainer = bench.trainer()
    for seed in range(2):
        bench.put(*tiny_bert.corpus(30, seed=seed))
        trainer.step()
    assert bench.runs() == [("analytic", "v1", 1, 30, "accepted"), ("analytic", "v2", 31, 60, "accepted")]
    promoted = [(e.version, e.actor) for e in bench.registry.log(LOOP) if e.action == "promoted"]
    assert promoted == [("v1", "trainer"), ("v2", "trainer")]


def test_after_a_restart_nothing_is_learned_twice_or_published_again(bench: Bench) -> None:
    first = bench.trainer()
    bench.put(*tiny_bert.corpus(80))
    first.step()
    first.close()
    second = bench.trainer()
    second.step()
    assert champion(bench).version == "v1"
    bench.put(*tiny_bert.corpus(20, seed=1))
    second.step()
    assert champion(bench).n_examples == len(learned(bench))
    same(head_of(bench, champion(bench)), reference(bench, learned(bench)))


def test_a_version_that_was_published_but_not_promoted_is_made_up_for(bench: Bench,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    first = bench.trainer()
    bench.put(*tiny_bert.corpus(40))

    def fail(*args: object, **kwargs: object) -> None:
        raise Transient("redis went away")

    with monkeypatch.context() as patch:
        patch.setattr(bench.registry, "promote", fail)
        with pytest.raises(Transient):
            first.step()
    second = bench.trainer()
    second.step()
    assert champion(bench).version == "v2"
    same(head_of(bench, champion(bench)), reference(bench, learned(bench)))
    assert bench.runs() == [("analytic", "v2", 1, 40, "accepted")], "the same decision, taken again, is one row"


def test_no_run_names_a_version_that_was_not_published(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = bench.trainer()
    bench.put(*tiny_bert.corpus(40))

    def fail(*args: object, **kwargs: object) -> None:
        raise Transient("redis went away")

    monkeypatch.setattr(bench.registry, "publish", fail)
    with pytest.raises(Transient):
        trainer.step()
    assert bench.runs() == []


def test_a_start_that_is_interrupted_goes_on_where_it_was(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.put(*tiny_bert.corpus(100))
    absorb, stop, read = Reader.absorb, threading.Event(), []

    def interrupted(reader: Reader, learner: Learner, **kwargs: object) -> Batch:
        batch = absorb(reader, learner, limit=20)
        read.extend(row.seq for row in batch.rows)
        if len(read) == 40:
            stop.set()
        assert len(read) <= 100
        return batch

    monkeypatch.setattr(Reader, "absorb", interrupted)
    monkeypatch.setattr(app, "BATCH", 20)
    bench.trainer().run(stop)
    assert read == list(range(1, 41))
    second = bench.trainer()
    second.step()
    assert read == list(range(1, 101))
    assert champion(bench).n_examples == len(learned(bench))


def test_a_changed_loop_learns_everything_anew(bench: Bench) -> None:
    first = bench.trainer()
    bench.put(*tiny_bert.corpus(80))
    first.step()
    first.close()
    bench.loop = replace(bench.loop, training=replace(bench.loop.training, ridge=3.0))
    second = bench.trainer()
    bench.put(*tiny_bert.corpus(10, seed=1))
    second.step()
    same(head_of(bench, champion(bench)), reference(bench, learned(bench)))


def test_a_forgotten_subject_is_in_no_later_version(bench: Bench) -> None:
    from services.trainer.examples import is_held_out

    t = bench.loop.training
    subject = next(s for s in (f"u_{i}" for i in range(99)) if not is_held_out(s, "", t.holdout, t.seed))
    trainer = bench.trainer()
    texts, labels = tiny_bert.corpus(60)
    bench.put(texts, labels)
    kept = learned(bench)
    bench.put(*tiny_bert.corpus(15, seed=1), subjects=[subject] * 15)
    trainer.step()
    assert champion(bench).n_examples == len(kept) + 15
    assert trainer.forget(subject) == 15
    trainer.step()
    assert champion(bench).n_examples == len(kept)
    same(head_of(bench, champion(bench)), reference(bench, kept))
    trainer.close()
    again = bench.trainer()
    again.step()
    assert again._present().n_learned == len(kept)


def test_a_champion_on_another_base_is_compared_on_texts_embedded_again(bench: Bench, tmp_path: Path) -> None:
    bench.put(*tiny_bert.corpus(150))
    first = bench.trainer()
    first.step()
    first.close()
    bench.base = Encoder.load(str(tiny_bert.make(tmp_path / "other", seed=3)), device="cpu")
    bench.loop = replace(bench.loop, base=bench.base.base.id)
    second = bench.trainer()
    second.step()
    manifest = champion(bench)
    assert manifest.encoder == bench.base.digest
    assert manifest.gate.difference is not None
    assert manifest.gate.difference.n > 5
    same(head_of(bench, manifest), reference(bench, learned(bench)))


def test_an_announcement_wakes_the_trainer_at_once(bench: Bench, until: Until) -> None:
    trainer = bench.trainer()
    stop = threading.Event()
    thread = threading.Thread(target=trainer.run, args=[stop])
    thread.start()
    try:
        until(lambda: not trainer.fault)
        bench.put(*tiny_bert.corpus(40))
        until(lambda: bench.registry.aliases(LOOP).champion == "v1")
        assert trainer.fault == ""
    finally:
        stop.set()
        thread.join(20)


def test_old_versions_lose_their_weights_but_not_their_manifests(bench: Bench) -> None:
    trainer = bench.trainer()
    for seed in range(31):
        bench.put(*tiny_bert.corpus(3, seed=seed))
        trainer.step()
    assert len(bench.registry.versions(LOOP)) == 31
    blobs = list((bench.artifacts / LOOP / "blobs").rglob("*.safetensors"))
    assert len(blobs) <= 20 + 10 + 2
