"""Inference answers from what the registry promotes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from shared.pseudonym import Pseudonymiser
from tests.support.services import eventually

from .conftest import LOOP, Publisher, Running


def test_before_any_version_the_answer_is_no_label_and_is_logged_with_its_embedding(
        serve: Callable[..., Running], publisher: Publisher, predictions: Callable[[], list[Any]]) -> None:
    inference = serve()
    [answer] = inference.predict("where is my card", user="u1")
    assert (answer["label"], answer["scores"], answer["version"]) == (None, {}, "v0")
    [logged] = eventually(predictions)  # type: ignore[misc]
    assert (logged.id, logged.loop, logged.version, logged.label) == (answer["prediction_id"], LOOP, "v0", None)
    assert logged.input == {"text": "where is my card"}
    assert logged.subject == Pseudonymiser("a-test-key-of-32-characters-1234").subject("app", "u1")
    assert logged.encoder == publisher.encoder.digest
    np.testing.assert_allclose(np.frombuffer(logged.embedding, "<f4"),
                               publisher.encoder.encode(["where is my card"], max_tokens=32)[0], atol=1e-5)


def test_the_champion_answers_and_each_answer_says_so(serve: Callable[..., Running], publisher: Publisher,
                                                      predictions: Callable[[], list[Any]]) -> None:
    publisher.champion()
    inference = serve()
    texts = ["where is my card", "top up failed", "please help"]
    answers = inference.predict(*texts)
    for text, answer in zip(texts, answers, strict=True):
        wanted = publisher.scores("v1", text)
        assert answer["version"] == "v1"
        assert answer["label"] == max(wanted, key=wanted.__getitem__)
        assert answer["scores"] == pytest.approx(wanted, abs=1e-4)
    assert len({answer["prediction_id"] for answer in answers}) == 3
    logged = eventually(lambda: (found := predictions()) and len(found) == 3 and found)
    assert {item.id for item in logged} == {answer["prediction_id"] for answer in answers}  # type: ignore[attr-defined]
    shown = inference.loop()
    assert (shown["version"], shown["epoch"], shown["n_examples"], shown["examples"], shown["labels"]) == \
        ("v1", 1, 7, [[1, 7]], ["card", "rate", "top_up"])
    assert inference.client.get("/v1/loops").json()[0]["name"] == LOOP


def test_a_promotion_is_followed_and_a_rollback_needs_no_reload(
        serve: Callable[..., Running], publisher: Publisher) -> None:
    publisher.champion()
    inference = serve()
    for number in range(2, 5):
        publisher.champion(labels=("card", "rate", "top_up", f"new-{number}"))
        inference.serves(f"v{number}")
    assert set(inference.predict("help")[0]["scores"]) == {"card", "rate", "top_up", "new-4"}
    publisher.registry.rollback(LOOP, actor="op", reason="worse")
    inference.serves("v3")
    assert inference.loop()["n_swaps"] == 4
    assert len(inference.logged("version_swapped")) == 5


def test_what_is_registered_is_what_is_served(serve: Callable[..., Running], publisher: Publisher) -> None:
    publisher.champion()
    serve(RATCHET_REPLICA="replica-7")
    [replica] = eventually(lambda: publisher.registry.replicas(LOOP))  # type: ignore[misc]
    assert (replica.name, replica.version, replica.epoch) == ("replica-7", "v1", 1)


def test_another_encoder_generation_takes_over_with_its_own_embeddings(serve: Callable[..., Running],
                                                                       publisher: Publisher) -> None:
    publisher.champion()
    inference = serve()
    name = "encoder.encoder.layer.0.output.dense.weight"
    weight = np.random.default_rng(9).normal(size=(32, 64)).astype(np.float32)
    publisher.champion(adapter={name: weight}, generation=1)
    inference.serves("v2")
    assert inference.loop()["encoder"] != publisher.encoder.digest
    assert inference.predict("where is my card")[0]["scores"] == \
        pytest.approx(publisher.scores("v2", "where is my card"), abs=1e-4)
    publisher.champion(adapter={name: weight}, generation=1)
    inference.serves("v3")
    assert inference.predict("where is my card")[0]["scores"] == \
        pytest.approx(publisher.scores("v3", "where is my card"), abs=1e-4)


def test_metrics_tell_requests_latency_swaps_and_the_serving_version(serve: Callable[..., Running],
                                                                     publisher: Publisher) -> None:
    publisher.champion()
    inference = serve()
    inference.predict("help", "please")
    text = inference.client.get("/metrics").text
    for line in (f'ratchet_predictions_total{{loop="{LOOP}"}} 2.0',
                 f'ratchet_serving_version_info{{loop="{LOOP}",version="v1"}} 1.0',
                 f'ratchet_inference_requests_total{{code="200",loop="{LOOP}",protocol="plain"}} 1.0',
                 f'ratchet_predictions_lost_total{{loop="{LOOP}"}}', "ratchet_inference_batch_texts_bucket",
                 f'ratchet_inference_latency_seconds_count{{loop="{LOOP}"}} 1.0'):
        assert line in text
