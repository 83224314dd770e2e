"""Builders for registry tests: small versions with real tensors, and a Redis of their own."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import redis

from schemas.manifest import BaseRef, GateDecision, Golden, Manifest, SeqRange
from shared.registry import Bounds, Registry
from shared.registry.blobs import ref

LOOP = "support-intents"


def tensors_of(seed: int, *, n_labels: int = 3) -> dict[str, np.ndarray]:
    """The tensors of one version; the projection is the same for all of them."""
    rng = np.random.default_rng(seed)
    return {"projection.weight": np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32),
            "head.weight": rng.normal(size=(16, n_labels)).astype(np.float32)}


def manifest_of(version: str, tensors: dict[str, np.ndarray], *, loop: str = LOOP) -> Manifest:
    """A manifest that refers to these tensors."""
    return Manifest(
        loop=loop, version=version, task="text-classification", generation=0, method="analytic", created_ms=1,
        parent=None, base=BaseRef(id="tiny", sha256="0" * 64), encoder="e" * 64, tokenizer="t" * 64, max_tokens=16,
        tensors={name: ref(array) for name, array in tensors.items()}, labels=["a", "b", "c"],
        examples=[SeqRange(first=1, last=10)], n_examples=10, seed=17, code_version="test",
        gate=GateDecision(verdict="accepted", rule="first", metric="accuracy", confidence=0.95, reason="the first"),
        golden=Golden(texts=[], scores=[], tolerance=1e-4))


@dataclass
class World:
    """A registry with the Redis and the directory behind it."""

    registry: Registry
    client: redis.Redis
    artifacts: Path
    redis_url: str

    def publish(self, *, seed: int | None = None, loop: str = LOOP) -> Manifest:
        """Publish the next version and return its manifest."""
        version = self.registry.next_version(loop)
        tensors = tensors_of(int(version[1:]) if seed is None else seed)
        manifest = manifest_of(version, tensors, loop=loop)
        self.registry.publish(manifest, tensors)
        return manifest

    def champion(self, *, seed: int | None = None) -> Manifest:
        """Publish and promote the next version."""
        manifest = self.publish(seed=seed)
        self.registry.promote(LOOP, manifest.version, actor="test", reason="better")
        return manifest

    def again(self, *, bounds: Bounds | None = None) -> Registry:
        """Another process's view of the same registry."""
        return Registry.connect(self.redis_url, self.artifacts, bounds=bounds)


@pytest.fixture
def world(redis_url: str, tmp_path: Path) -> Iterator[World]:
    client = redis.Redis.from_url(redis_url)
    registry = Registry.connect(redis_url, tmp_path / "artifacts")
    yield World(registry, client, tmp_path / "artifacts", redis_url)
    registry.close()
    client.close()


@pytest.fixture
def flip() -> Callable[[bytes, int], bytes]:
    """Flips one bit of some bytes."""
    def flipped(data: bytes, bit: int) -> bytes:
        changed = bytearray(data)
        changed[bit // 8 % len(changed)] ^= 1 << bit % 8
        return bytes(changed)
    return flipped
