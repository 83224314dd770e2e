"""What every task passes: predicting is pure, save-load gives the same, it beats a constant, batches are invisible."""

import msgspec
import numpy as np
import pytest

from schemas.errors import Permanent
from schemas.manifest import GateDecision, Golden, Manifest
from shared.models.analytic import RidgeHead, projection
from shared.models.encoder import Encoder
from shared.models.text_classification import HEAD, PROJECTION, Classifier, encoder_for
from shared.registry import blobs
from tests.support import tiny_bert
from tests.unit.models.test_encoder import adapter_for

WIDTH = 256


def trained(encoder: Encoder, n: int = 300, *, seed: int = 5) -> tuple[Manifest, dict[str, np.ndarray]]:
    texts, labels = tiny_bert.corpus(n)
    head = RidgeHead(projection(encoder.dim, WIDTH, seed), ridge=1.0)
    head.add(encoder.encode(texts, max_tokens=32), labels)
    tensors = {PROJECTION: head.projection, HEAD: head.weights()}
    return manifest_for(encoder, tensors, list(head.labels)), tensors


def manifest_for(encoder: Encoder, tensors: dict[str, np.ndarray], labels: list[str]) -> Manifest:
    gate = GateDecision(verdict="accepted", rule="first", metric="accuracy", confidence=0.95, reason="")
    return Manifest(loop="a", version="v1", task="text-classification", generation=0, method="analytic", created_ms=0,
                    parent=None, base=encoder.base, encoder=encoder.digest, tokenizer=encoder.tokenizer_digest,
                    max_tokens=32, tensors={name: blobs.ref(array) for name, array in tensors.items()}, labels=labels,
                    examples=[], n_examples=0, seed=1, code_version="0", gate=gate, golden=Golden([], [], 1e-3),
                    settings={"temperature": 0.1})


def test_it_beats_the_constant_baseline_by_far(tiny: Encoder) -> None:
    manifest, tensors = trained(tiny)
    classifier = Classifier.load(manifest, tensors, tiny)
    texts, labels = tiny_bert.corpus(300, seed=1)
    predicted = classifier.probabilities(classifier.embed(texts)).argmax(axis=1)
    accuracy = np.mean([classifier.labels[i] == label for i, label in zip(predicted, labels, strict=True)])
    assert accuracy > 3 * max(labels.count(label) for label in set(labels)) / len(labels)


def test_predicting_is_pure_and_rows_sum_to_one(tiny: Encoder) -> None:
    manifest, tensors = trained(tiny)
    kept = {name: array.copy() for name, array in tensors.items()}
    classifier = Classifier.load(manifest, tensors, tiny)
    texts, _ = tiny_bert.corpus(20, seed=2)
    first = classifier.probabilities(classifier.embed(texts))
    np.testing.assert_array_equal(classifier.probabilities(classifier.embed(texts)), first)
    np.testing.assert_allclose(first.sum(axis=1), 1.0, atol=1e-5)
    for name, array in tensors.items():
        np.testing.assert_array_equal(array, kept[name])


def test_batching_changes_no_answer(tiny: Encoder) -> None:
    manifest, tensors = trained(tiny)
    classifier = Classifier.load(manifest, tensors, tiny)
    texts, _ = tiny_bert.corpus(40, seed=3)
    together = classifier.probabilities(classifier.embed(texts))
    alone = np.concatenate([classifier.probabilities(classifier.embed([text])) for text in texts])
    np.testing.assert_allclose(alone, together, atol=1e-4)
    np.testing.assert_array_equal(alone.argmax(axis=1), together.argmax(axis=1))


def test_saved_and_loaded_it_answers_the_same(tiny: Encoder) -> None:
    manifest, tensors = trained(tiny)
    loaded = {name: blobs.unpack(blobs.pack(array), blobs.ref(array)) for name, array in tensors.items()}
    vectors = tiny.encode(tiny_bert.corpus(20, seed=4)[0], max_tokens=32)
    np.testing.assert_array_equal(Classifier.load(manifest, loaded, tiny).probabilities(vectors),
                                  Classifier.load(manifest, tensors, tiny).probabilities(vectors))


def test_equal_seeds_make_equal_versions(tiny: Encoder) -> None:
    first, second, other = (trained(tiny, seed=seed)[0].tensors for seed in (5, 5, 6))
    assert first == second
    assert first != other


def test_without_labels_there_is_nothing_to_choose_from(tiny: Encoder) -> None:
    tensors = {PROJECTION: projection(tiny.dim, WIDTH, 1), HEAD: np.zeros((WIDTH, 0), np.float32)}
    classifier = Classifier.load(manifest_for(tiny, tensors, []), tensors, tiny)
    assert classifier.probabilities(classifier.embed(["card", "loan"])).shape == (2, 0)


def test_golden_scores_are_checked(tiny: Encoder) -> None:
    manifest, tensors = trained(tiny)
    classifier = Classifier.load(manifest, tensors, tiny)
    texts = ["my card", "a loan please"]
    scores = classifier.probabilities(classifier.embed(texts)).astype(float).tolist()
    classifier.check_golden(Golden(texts, scores, 1e-4))
    classifier.check_golden(Golden([], [], 1e-4))
    scores[0][0] += 0.01
    with pytest.raises(Permanent, match="golden"):
        classifier.check_golden(Golden(texts, scores, 1e-4))
    with pytest.raises(Permanent, match="golden"):
        classifier.check_golden(Golden(texts, [row[:-1] for row in scores], 1e-4))


@pytest.mark.parametrize("broken", ["nan", "shape", "missing", "labels", "temperature", "encoder"])
def test_parts_that_do_not_fit_are_refused(tiny: Encoder, broken: str) -> None:
    manifest, tensors = trained(tiny, 50)
    if broken == "nan":
        tensors[HEAD][0, 0] = np.nan
    if broken == "shape":
        tensors[HEAD] = tensors[HEAD][:-1]
    if broken == "missing":
        del tensors[PROJECTION]
    replaced = {"labels": {"labels": ["only one"]}, "temperature": {"settings": {"temperature": -1.0}},
                "encoder": {"encoder": "0" * 64}}.get(broken, {})
    with pytest.raises(Permanent):
        Classifier.load(msgspec.structs.replace(manifest, **replaced), tensors, tiny)


def test_generations_share_one_base_and_versions_of_one_share_its_encoder(tiny: Encoder) -> None:
    plain, _ = trained(tiny, 20)
    adapter = adapter_for(tiny)
    tuned = msgspec.structs.replace(plain, encoder=tiny.adapted(adapter).digest)
    cache: dict[str, Encoder] = {}
    first = encoder_for(plain, {}, cache, device="cpu")
    second = encoder_for(tuned, adapter, cache, device="cpu")
    assert encoder_for(tuned, {}, cache) is second
    assert set(cache) == {plain.encoder, tuned.encoder}
    assert first._model.embeddings.word_embeddings.weight is second._model.embeddings.word_embeddings.weight


def test_another_base_or_adapter_than_the_manifests_is_refused(tiny: Encoder) -> None:
    manifest, _ = trained(tiny, 20)
    other_base = msgspec.structs.replace(manifest, base=msgspec.structs.replace(manifest.base, sha256="0" * 64))
    with pytest.raises(Permanent, match="stands on the base"):
        encoder_for(other_base, {}, {}, device="cpu")
    with pytest.raises(Permanent, match="base and adapter give"):
        encoder_for(msgspec.structs.replace(manifest, encoder="1" * 64), adapter_for(tiny), {}, device="cpu")
    with pytest.raises(Permanent, match="tokenizer"):
        encoder_for(msgspec.structs.replace(manifest, tokenizer="1" * 64), {}, {}, device="cpu")
