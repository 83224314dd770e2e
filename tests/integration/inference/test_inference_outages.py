"""Inference keeps answering while Redis or Kafka are away, loses nothing it could keep, and comes back after a kill."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from schemas.topics import Topics
from shared.kafka import create_topics
from shared.registry import Registry
from tests.support import tiny_bert
from tests.support.servers import RestartableServers, embedded
from tests.support.services import ROOT, eventually

from .conftest import LOOP, Publisher, Running
from .test_inference_swaps import assert_consistent, load


@pytest.fixture
def kafka_and_redis() -> Iterator[RestartableServers]:
    """A Kafka and a Redis that the test may kill."""
    with embedded(names=("kafka", "redis"), durable=False) as running:
        yield running


@pytest.fixture
def own(kafka_and_redis: RestartableServers, tiny_base: Path, tiny_encoder: Any, tmp_path: Path
        ) -> tuple[dict[str, str], Publisher]:
    """Settings of an inference on servers of the test's own, and a publisher for it."""
    topics = Topics(prefix="outage")
    create_topics(kafka_and_redis.servers.kafka, topics.all, partitions=2)
    folder = tmp_path / "own-loops"
    folder.mkdir()
    (folder / "loop.toml").write_text(tiny_bert.loop_file(LOOP, tiny_base))
    env = {"RATCHET_KAFKA_BOOTSTRAP": kafka_and_redis.servers.kafka,
           "RATCHET_REDIS_URL": kafka_and_redis.servers.redis_url, "RATCHET_TOPIC_PREFIX": topics.prefix,
           "RATCHET_ARTIFACTS_DIR": str(tmp_path / "own-artifacts"), "RATCHET_LOOPS_DIR": str(folder)}
    registry = Registry.connect(env["RATCHET_REDIS_URL"], tmp_path / "own-artifacts")
    return env, Publisher(registry, tiny_encoder, tiny_base)


def test_redis_killed_emptied_and_restored_while_serving(
        serve: Callable[..., Running], own: tuple[dict[str, str], Publisher],
        kafka_and_redis: RestartableServers) -> None:
    env, publisher = own
    publisher.champion()
    publisher.champion()
    inference = serve(**env)
    with load(inference.process.url) as seen:
        kafka_and_redis.kill("redis")
        eventually(lambda: "Redis" in inference.loop()["degraded"])
        status, body = inference.process.get("/health/ready")
        assert (status, b"Redis" in body) == (200, True)
        kafka_and_redis.start("redis")
        eventually(lambda: inference.loop()["degraded"] == "")
        import redis
        with redis.Redis.from_url(env["RATCHET_REDIS_URL"]) as client:
            client.flushall()
        eventually(lambda: "registry restore" in inference.loop()["degraded"])
        assert inference.loop()["version"] == "v2"
        [report] = publisher.registry.restore()
        assert report.champion == "v2"
        eventually(lambda: inference.loop()["degraded"] == "")
        publisher.champion()
        inference.serves("v3")
        eventually(lambda: seen.latest == "v3")
        publisher.registry.rollback(LOOP, actor="op", reason="worse")
        inference.serves("v2")
    assert_consistent(seen, publisher)
    assert {answer["version"] for _, answer in seen.answers} == {"v2", "v3"}


def test_inference_started_on_an_emptied_redis_serves_the_champion(
        serve: Callable[..., Running], publisher: Publisher, inference_env: dict[str, str]) -> None:
    import redis
    publisher.champion()
    with redis.Redis.from_url(inference_env["RATCHET_REDIS_URL"]) as client:
        client.flushdb()
    assert serve().predict("help")[0]["version"] == "v1"


def test_killed_inference_serves_the_champion_again(serve: Callable[..., Running], publisher: Publisher) -> None:
    publisher.champion()
    inference = serve()
    inference.predict("help")
    inference.process.kill()
    publisher.champion()
    inference.process.start()
    assert inference.predict("help")[0]["version"] == "v2"


def test_with_kafka_away_answers_go_on_and_every_prediction_arrives_once_it_is_back(
        serve: Callable[..., Running], own: tuple[dict[str, str], Publisher],
        kafka_and_redis: RestartableServers) -> None:
    env, publisher = own
    publisher.champion()
    inference = serve(**env)
    before = inference.predict("where is my card")
    kafka_and_redis.kill("kafka")
    during = [answer for _ in range(20) for answer in inference.predict("top up failed", "help")]
    kafka_and_redis.start("kafka")
    after = inference.predict("please help")
    wanted = {answer["prediction_id"] for answer in [*before, *during, *after]}
    found = eventually(lambda: (ids := _ids(env)) >= wanted and ids, timeout_s=60)
    assert found == wanted
    assert inference.loop()["predictions_lost"] == 0


def test_beyond_its_bound_the_log_counts_what_it_loses_and_still_answers(
        serve: Callable[..., Running], own: tuple[dict[str, str], Publisher],
        kafka_and_redis: RestartableServers) -> None:
    env, publisher = own
    publisher.champion()
    inference = serve(**env, RATCHET_INFERENCE_LOG_MAX_BYTES="8000")
    kafka_and_redis.kill("kafka")
    eventually(lambda: b'"prediction log"' in inference.process.get("/health/ready")[1])
    assert inference.process.ready()
    for _ in range(30):
        assert inference.predict("help")[0]["label"]
    lost = inference.loop()["predictions_lost"]
    assert 10 <= lost < 30
    assert f'ratchet_predictions_lost_total{{loop="{LOOP}"}} {lost}.0' in inference.client.get("/metrics").text
    inference.process.kill()  # stopped in order it would try for 10 s to write the rest to a Kafka that is away


def test_a_dead_producer_thread_ends_the_process_and_says_why(inference_env: dict[str, str]) -> None:
    # As long as this process lived, every prediction would be answered and lost.
    code = ("from shared.kafka import FrameProducer; FrameProducer._turn = lambda self: 1 / 0; "
            "from services.inference.main import run; run()")
    ended = subprocess.run([sys.executable, "-c", code], env=inference_env | {"RATCHET_INFERENCE_PORT": "0"}, cwd=ROOT,
                           capture_output=True, text=True, timeout=90, check=False)
    assert ended.returncode == 1
    assert '"event":"inference_must_restart"' in ended.stderr
    assert "producer's thread has ended" in ended.stderr


def test_stopping_flushes_the_prediction_log(serve: Callable[..., Running], publisher: Publisher,
                                             predictions: Callable[[], list[Any]]) -> None:
    publisher.champion()
    inference = serve()
    answers = [answer for _ in range(10) for answer in inference.predict("help", "where is my card")]
    assert inference.process.stop()
    assert {item.id for item in predictions()} == {answer["prediction_id"] for answer in answers}
    assert inference.logged("stopped")


def _ids(env: dict[str, str]) -> set[str]:
    from kafka import KafkaConsumer, TopicPartition

    from schemas import frames
    from schemas.predictions import Prediction

    topic = f"{env['RATCHET_TOPIC_PREFIX']}.predictions"
    consumer = KafkaConsumer(bootstrap_servers=env["RATCHET_KAFKA_BOOTSTRAP"], enable_auto_commit=False,
                             auto_offset_reset="earliest")
    try:
        parts = [TopicPartition(topic, n) for n in consumer.partitions_for_topic(topic) or ()]
        consumer.assign(parts)
        ends = consumer.end_offsets(parts)
        decoder, found = frames.Decoder(Prediction), set()
        while any(consumer.position(part) < ends[part] for part in parts):
            for records in consumer.poll(timeout_ms=500).values():
                for record in records:
                    found |= {item.id for item in decoder.decode(record.value,
                                                                 frames.content_type(record.headers))[0]}
        return found
    finally:
        consumer.close()
