"""Swaps under constant load: no failed request, no mixed answer, and no way in for a damaged version."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import redis

from schemas.manifest import Golden
from tests.support.services import eventually

from .conftest import KEY, LOOP, Publisher, Running

TEXTS = ["where is my card", "top up failed", "please help", "the rate", "money not here", "my top up", "is the card"]
N_SWAPS = 110


@dataclass
class Load:
    """What clients that never stop asking have seen."""

    url: str
    answers: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    mixed: list[object] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    slowest_s: float = 0.0
    stop: threading.Event = field(default_factory=threading.Event)

    @property
    def latest(self) -> str:
        """The version of the newest answer; empty before the first."""
        return self.answers[-1][1]["version"] if self.answers else ""

    def run(self, n_texts: int) -> None:
        with httpx.Client(base_url=self.url, headers=KEY, timeout=30) as client:
            turn = 0
            while not self.stop.is_set():
                turn += 1
                texts = [TEXTS[(turn + i) % len(TEXTS)] for i in range(n_texts)]
                started_s = time.monotonic()
                try:
                    response = client.post(f"/v1/loops/{LOOP}/predict",
                                           json={"inputs": [{"text": text} for text in texts]})
                except httpx.HTTPError as exc:
                    self.failures.append(repr(exc))
                    continue
                self.slowest_s = max(self.slowest_s, time.monotonic() - started_s)
                if response.status_code != 200:
                    self.failures.append(response.text)
                    continue
                found = response.json()["predictions"]
                if {item["version"] for item in found} != {response.headers["x-model-version"]}:
                    self.mixed.append(found)
                self.answers += zip(texts, found, strict=True)
                self.stop.wait(0.002)  # the clients share this process with the publisher


@contextmanager
def load(url: str) -> Iterator[Load]:
    """Four clients, asking for one text or several, until the block ends."""
    seen = Load(url)
    threads = [threading.Thread(target=seen.run, args=(n,)) for n in (1, 1, 3, 7)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        seen.stop.set()
        for thread in threads:
            thread.join(60)


def assert_consistent(seen: Load, publisher: Publisher) -> None:
    """Every answer is exactly what its version says, and no request failed or was answered by two versions."""
    assert seen.failures == []
    assert seen.mixed == []
    wanted: dict[tuple[str, str], dict[str, float]] = {}
    for text, answer in seen.answers:
        key = (answer["version"], text)
        if key not in wanted:
            wanted[key] = publisher.scores(*key)
        assert answer["scores"] == pytest.approx(wanted[key], abs=2e-4)
    ids = [answer["prediction_id"] for _, answer in seen.answers]
    assert len(set(ids)) == len(ids)


@pytest.mark.timeout(300)
def test_a_hundred_swaps_under_load_fail_no_request_and_mix_no_answer(
        serve: Callable[..., Running], publisher: Publisher) -> None:
    publisher.champion()
    inference = serve()
    with load(inference.process.url) as seen:
        for number in range(2, N_SWAPS + 2):
            publisher.champion(labels=("card", "rate", *(f"label-{i}" for i in range(number % 5))))
            inference.serves(f"v{number}")
            eventually(lambda version=f"v{number}": seen.latest == version)
    assert inference.loop()["n_swaps"] >= N_SWAPS
    assert_consistent(seen, publisher)
    print(f"{len(seen.answers)} answers over {N_SWAPS} swaps, slowest request {seen.slowest_s * 1000:.0f} ms")


def test_generations_swap_and_roll_back_under_load(serve: Callable[..., Running], publisher: Publisher) -> None:
    publisher.champion()
    inference = serve()
    name = "encoder.encoder.layer.1.output.dense.weight"
    with load(inference.process.url) as seen:
        for seed in range(4):
            weight = np.random.default_rng(seed).normal(size=(32, 64)).astype(np.float32)
            version = publisher.champion(adapter={name: weight}, generation=seed + 1).version
            inference.serves(version)
        publisher.registry.rollback(LOOP, actor="op", reason="worse")
        inference.serves("v4")
        publisher.registry.unpin(LOOP, actor="op", reason="go on")
    assert_consistent(seen, publisher)


Damage = Callable[[Publisher, redis.Redis, Path, Any], None]


def _flip(publisher: Publisher, client: redis.Redis, artifacts: Path, manifest: Any) -> None:
    sha256 = manifest.tensors["head.weight"].sha256
    for key in client.scan_iter(f"*blob:{sha256}:*"):
        data = bytearray(client.get(key))
        data[-3] ^= 4
        client.set(key, bytes(data))
    for path in artifacts.rglob(f"{sha256}.safetensors"):
        data = bytearray(path.read_bytes())
        data[-3] ^= 4
        path.write_bytes(data)


def _truncate(publisher: Publisher, client: redis.Redis, artifacts: Path, manifest: Any) -> None:
    sha256 = manifest.tensors["head.weight"].sha256
    for key in client.scan_iter(f"*blob:{sha256}:*"):
        client.set(key, client.get(key)[:-64])
    for path in artifacts.rglob(f"{sha256}.safetensors"):
        path.write_bytes(path.read_bytes()[:-64])


def _remove(publisher: Publisher, client: redis.Redis, artifacts: Path, manifest: Any) -> None:
    sha256 = manifest.tensors["head.weight"].sha256
    for key in client.scan_iter(f"*blob:{sha256}:*"):
        client.delete(key)
    for path in artifacts.rglob(f"{sha256}.safetensors"):
        path.unlink()


def test_damaged_versions_are_refused_and_the_old_one_keeps_serving(
        serve: Callable[..., Running], publisher: Publisher, inference_env: dict[str, str]) -> None:
    publisher.champion()
    inference = serve()
    artifacts = Path(inference_env["RATCHET_ARTIFACTS_DIR"])
    damages: list[Damage] = [_flip, _truncate, _remove]
    with redis.Redis.from_url(inference_env["RATCHET_REDIS_URL"]) as client, load(inference.process.url) as seen:
        for n_refused, damage in enumerate(damages, start=1):
            manifest = publisher.make()
            damage(publisher, client, artifacts, manifest)
            publisher.registry.promote(LOOP, manifest.version, actor="test", reason="looks good")
            eventually(lambda: publisher.registry.log(LOOP)[-1].action == "refused")
            entry = publisher.registry.log(LOOP)[-1]
            assert (entry.version, entry.fields["serving"]) == (manifest.version, "v1")
            shown = inference.loop()
            assert (shown["version"], manifest.version in shown["refused"]) == ("v1", True)
            assert f'ratchet_versions_refused_total{{loop="{LOOP}"}} {n_refused}.0' in \
                inference.client.get("/metrics").text
        good = publisher.champion()
        inference.serves(good.version)
    assert [line["version"] for line in inference.logged("version_refused")] == ["v2", "v3", "v4"]
    assert_consistent(seen, publisher)


def _golden(fields: dict[str, Any]) -> None:
    golden = fields["golden"]
    fields["golden"] = Golden(golden.texts, [[score + 0.01 for score in row] for row in golden.scores],
                              golden.tolerance)


def _labels(fields: dict[str, Any]) -> None:
    fields["labels"] = [*fields["labels"], "one too many"]


def _encoder(fields: dict[str, Any]) -> None:
    fields["encoder"] = "f" * 64


def _task(fields: dict[str, Any]) -> None:
    fields["task"] = "image-classification"


def test_versions_that_do_not_fit_are_refused(serve: Callable[..., Running], publisher: Publisher) -> None:
    publisher.champion()
    inference = serve()
    for spoil in (_golden, _labels, _encoder, _task):
        manifest = publisher.champion(spoil=spoil)
        eventually(lambda version=manifest.version: version in inference.loop()["refused"])
        assert inference.predict("help")[0]["version"] == "v1"
    assert inference.process.ready()


def test_a_damaged_champion_at_start_gives_way_to_the_previous_version(
        serve: Callable[..., Running], publisher: Publisher, inference_env: dict[str, str]) -> None:
    publisher.champion()
    manifest = publisher.champion()
    with redis.Redis.from_url(inference_env["RATCHET_REDIS_URL"]) as client:
        _flip(publisher, client, Path(inference_env["RATCHET_ARTIFACTS_DIR"]), manifest)
    inference = serve()
    assert inference.predict("help")[0]["version"] == "v1"
    assert list(inference.loop()["refused"]) == ["v2"]
