"""What the inference benchmarks share: texts, a trained head, and Ratchet's inference on real servers."""

import csv
import gzip
import http.client
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import redis
from safetensors.numpy import load_file, save_file

from benchmarks.inference_load import Endpoint
from schemas.manifest import GateDecision, Golden, Manifest, SeqRange
from schemas.topics import Topics
from shared.kafka import create_topics
from shared.models.analytic import RidgeHead, projection
from shared.models.encoder import Encoder
from shared.models.text_classification import HEAD, PROJECTION, decode
from shared.ports import HOST
from shared.registry import Registry, blobs
from tests.support.servers import embedded
from tests.support.services import ServiceProcess, start_service

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "banking77"
MODEL = ROOT / ".cache" / "inference"
LOOP, KEY, MAX_TOKENS, TEMPERATURE = "support", "infer-key", 128, 0.1
_GOLDEN = ("hello", "I was charged twice for the same order, please give me my money back")


def texts() -> list[str]:
    """The messages that are asked about: Banking77's test set, in an order of its own."""
    with (DATA / "test.csv").open(encoding="utf-8", newline="") as file:
        found = [row["text"] for row in csv.DictReader(file)]
    return [found[i] for i in np.random.default_rng(1).permutation(len(found))]


def model() -> Path:
    """The folder with ``head.safetensors`` and ``labels.json``, learned from 3,000 messages when first asked for."""
    if not (MODEL / "labels.json").exists():
        MODEL.mkdir(parents=True, exist_ok=True)
        with gzip.open(DATA / "train.csv.gz", "rt", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        chosen = [rows[i] for i in np.random.default_rng(2).permutation(len(rows))[:3000]]
        encoder = Encoder.load("minilm", device="cpu")
        head = RidgeHead(projection(encoder.dim, 3000, 17), ridge=20.0)
        head.add(encoder.encode([row["text"] for row in chosen], max_tokens=MAX_TOKENS),
                 [row["category"] for row in chosen])
        save_file({PROJECTION: head.projection, HEAD: np.ascontiguousarray(head.weights())}, MODEL / "head.safetensors")
        (MODEL / "labels.json").write_text(json.dumps(head.labels))
    return MODEL


@dataclass
class Stack:
    """A real Kafka and Redis, a registry with a champion, and replicas of Ratchet's inference."""

    registry: Registry
    folder: Path
    env: Mapping[str, str]
    tensors: dict[str, np.ndarray]
    labels: list[str]
    replicas: list[ServiceProcess] = field(default_factory=list)

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder that all versions share."""
        return Encoder.load("minilm", device="cpu")

    @cached_property
    def _golden(self) -> np.ndarray:
        return self.encoder.encode(_GOLDEN, max_tokens=MAX_TOKENS)

    def start(self, **settings: str) -> ServiceProcess:
        """Start one more replica; returns when it serves."""
        name = f"inference-{len(self.replicas)}"
        self.replicas.append(start_service("inference", {**self.env, "RATCHET_REPLICA": name, **settings}, self.folder,
                                           label=name))
        return self.replicas[-1]

    def endpoint(self, replica: ServiceProcess) -> Endpoint:
        """Where a replica answers its plain API."""
        return Endpoint(replica.port, f"/v1/loops/{LOOP}/predict", lambda text: {"text": text, "user_id": "u1"},
                        (("Authorization", f"Bearer {KEY}"),))

    def publish(self, *, seed: int | None = None, adapter: Mapping[str, np.ndarray] | None = None,
                broken: str = "") -> Manifest:
        """Store a version that nobody serves yet.

        Args:
            seed: Gives it a head of its own.
            adapter: Makes it a generation of its own.
            broken: A tensor of the adapter that loses its last row: it does not fit, though every byte is right.
        """
        tensors = dict(self.tensors)
        if seed is not None:
            noise = np.random.default_rng(seed).standard_normal(tensors[HEAD].shape).astype(np.float32)
            tensors[HEAD] = tensors[HEAD] + noise * np.float32(1e-4)
        encoder = self.encoder.adapted(adapter) if adapter else self.encoder
        embeddings = encoder.encode(_GOLDEN, max_tokens=MAX_TOKENS) if adapter else self._golden
        scores = decode(embeddings, tensors[PROJECTION], tensors[HEAD], TEMPERATURE)
        tensors |= adapter or {}
        if broken:
            tensors[broken] = tensors[broken][:-1]
        gate = GateDecision(verdict="accepted", rule="first", metric="accuracy", confidence=0.95, reason="a benchmark")
        manifest = Manifest(
            loop=LOOP, version=self.registry.next_version(LOOP), task="text-classification",
            generation=1 if adapter else 0, method="full" if adapter else "analytic",
            created_ms=time.time_ns() // 1_000_000, parent=None, base=self.encoder.base, encoder=encoder.digest,
            tokenizer=self.encoder.tokenizer_digest, max_tokens=MAX_TOKENS,
            tensors={name: blobs.ref(array) for name, array in tensors.items()}, labels=self.labels,
            examples=[SeqRange(1, 3000)], n_examples=3000, seed=17, code_version="benchmark", gate=gate,
            golden=Golden(list(_GOLDEN), scores.tolist(), 2e-3), settings={"temperature": TEMPERATURE})
        self.registry.publish(manifest, tensors)
        return manifest

    def shown(self, replica: ServiceProcess) -> dict[str, Any]:
        """What a replica says of itself."""
        connection = http.client.HTTPConnection(HOST, replica.port, timeout=30)
        try:
            connection.request("GET", f"/v1/loops/{LOOP}", headers={"Authorization": f"Bearer {KEY}"})
            found: dict[str, Any] = json.loads(connection.getresponse().read())
            return found
        finally:
            connection.close()

    def damage(self, manifest: Manifest, spoil: Callable[[bytes], bytes]) -> None:
        """Change the stored bytes of a version's head, in Redis and on disk."""
        sha256 = manifest.tensors[HEAD].sha256
        client = redis.Redis.from_url(self.env["RATCHET_REDIS_URL"])
        for key in client.scan_iter(f"*blob:{sha256}:*"):
            client.set(key, spoil(client.get(key)))
        client.close()
        for path in self.folder.rglob(f"{sha256}.safetensors"):
            path.write_bytes(spoil(path.read_bytes()))

    def promote(self, version: str) -> None:
        """Make a version the champion."""
        self.registry.promote(LOOP, version, actor="benchmark", reason="a benchmark")


@contextmanager
def stack() -> Iterator[Stack]:
    """Start Kafka and Redis, and publish and promote the first version; no replica yet."""
    found = model()
    with ExitStack() as things:
        servers = things.enter_context(embedded(names=("kafka", "redis"))).servers
        folder = Path(things.enter_context(TemporaryDirectory(prefix="ratchet-bench-")))
        topics = Topics("bench")
        create_topics(servers.kafka, topics.all, partitions=3)
        (folder / "loops").mkdir()
        (folder / "loops" / f"{LOOP}.toml").write_text(
            f'name = "{LOOP}"\n[feedback.correction]\nevent = "Done"\nlabel = "properties.queue"\n')
        registry = Registry.connect(servers.redis_url, folder / "artifacts")
        things.callback(registry.close)
        made = Stack(registry, folder, {
            "RATCHET_KAFKA_BOOTSTRAP": servers.kafka, "RATCHET_TOPIC_PREFIX": "bench",
            "RATCHET_REDIS_URL": servers.redis_url, "RATCHET_ARTIFACTS_DIR": str(folder / "artifacts"),
            "RATCHET_LOOPS_DIR": str(folder / "loops"), "RATCHET_PSEUDONYM_KEY": "k" * 16,
            "RATCHET_INFER_KEYS": f"app:{KEY}", "RATCHET_DEVICE": "cpu"},
            dict(load_file(found / "head.safetensors")), json.loads((found / "labels.json").read_text()))
        things.callback(lambda: [replica.stop() for replica in made.replicas])
        made.promote(made.publish().version)
        yield made
