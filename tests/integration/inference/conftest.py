"""A tiny encoder, versions made for it, and inference as a process beside real Redis and Kafka."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import numpy as np
import pytest

from schemas.manifest import GateDecision, Golden, Manifest, SeqRange
from shared.registry import Registry
from shared.registry.blobs import ref
from tests.support import tiny_bert
from tests.support.services import ServiceProcess, eventually

if TYPE_CHECKING:
    from shared.models.encoder import Encoder

LOOP = "support-intents"
# tritonclient adds its own headers to the caller's, so each call gets a copy.
KEY = MappingProxyType({"Authorization": "Bearer infer-key"})
WORDS = ["where", "is", "my", "card", "the", "money", "not", "here", "top", "up", "failed", "rate", "please", "help"]


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real BERT with random weights: two layers of 32, loaded like any local directory."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-base")
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
                            sep_token="[SEP]").save_pretrained(folder)
    torch.manual_seed(5)
    BertModel(BertConfig(vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                         intermediate_size=64, max_position_embeddings=160)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_encoder(tiny_base: Path) -> "Encoder":
    from shared.models.encoder import Encoder

    return Encoder.load(str(tiny_base), device="cpu")


@dataclass
class Publisher:
    """Makes and publishes versions for the tiny encoder, and knows what each of them must answer."""

    registry: Registry
    encoder: "Encoder"
    base: Path
    loop: str = LOOP
    made: dict[str, tuple[Manifest, dict[str, np.ndarray]]] = field(default_factory=dict)

    def make(self, *, labels: Sequence[str] = ("card", "rate", "top_up"),
             spoil: Callable[[dict[str, Any]], None] | None = None,
             adapter: Mapping[str, np.ndarray] | None = None, generation: int = 0) -> Manifest:
        """Publish the next version; ``spoil`` may change the manifest's fields first."""
        from shared.models.text_classification import Classifier

        version = self.registry.next_version(self.loop)
        rng = np.random.default_rng(int(version[1:]))
        encoder = self.encoder.adapted(adapter) if adapter else self.encoder
        tensors = {"projection.weight": np.random.default_rng(1).normal(size=(32, 64)).astype(np.float32),
                   "head.weight": rng.normal(size=(64, len(labels))).astype(np.float32), **(adapter or {})}
        fields: dict[str, Any] = {
            "loop": self.loop, "version": version, "task": "text-classification", "generation": generation,
            "method": "analytic", "created_ms": time.time_ns() // 1_000_000, "parent": None, "base": encoder.base,
            "encoder": encoder.digest, "tokenizer": encoder.tokenizer_digest, "max_tokens": 32,
            "tensors": {name: ref(array) for name, array in tensors.items()}, "labels": list(labels),
            "examples": [SeqRange(first=1, last=7)], "n_examples": 7, "seed": 1, "code_version": "test",
            "gate": GateDecision(verdict="accepted", rule="first", metric="accuracy", confidence=0.95, reason="test"),
            "golden": Golden(texts=[], scores=[], tolerance=1e-4), "settings": {"temperature": 2.0}}
        texts = ["where is my card", "top up failed"]
        plain = Classifier.load(Manifest(**fields), tensors, encoder)
        fields["golden"] = Golden(texts=texts, scores=plain.probabilities(plain.embed(texts)).tolist(),
                                  tolerance=1e-3)
        if spoil:
            spoil(fields)
        manifest = Manifest(**fields)
        self.registry.publish(manifest, tensors)
        self.made[version] = manifest, tensors
        return manifest

    def champion(self, **wishes: Any) -> Manifest:
        """Publish the next version and promote it."""
        manifest = self.make(**wishes)
        self.registry.promote(self.loop, manifest.version, actor="test", reason="better")
        return manifest

    def scores(self, version: str, text: str) -> dict[str, float]:
        """What this version must answer."""
        from shared.models.text_classification import Classifier, encoder_for

        manifest, tensors = self.made[version]
        encoder = encoder_for(manifest, tensors, {self.encoder.digest: self.encoder}, device="cpu")
        classifier = Classifier.load(manifest, tensors, encoder)
        row = classifier.probabilities(classifier.embed([text]))[0]
        return dict(zip(manifest.labels, row.tolist(), strict=True))


@dataclass
class Running:
    """Inference as a process, and a client of it."""

    process: ServiceProcess
    client: httpx.Client

    def predict(self, *texts: str, user: str | None = None) -> list[dict[str, Any]]:
        """Predict; fails on anything but 200."""
        inputs = [{"text": text} | ({"user_id": user} if user else {}) for text in texts]
        response = self.client.post(f"/v1/loops/{LOOP}/predict", json={"inputs": inputs})
        assert response.status_code == 200, response.text
        found: list[dict[str, Any]] = response.json()["predictions"]
        return found

    def loop(self) -> dict[str, Any]:
        """What serves."""
        found: dict[str, Any] = self.client.get(f"/v1/loops/{LOOP}").json()
        return found

    def serves(self, version: str, *, timeout_s: float = 20.0) -> None:
        """Block until this version serves."""
        eventually(lambda: self.loop()["version"] == version, timeout_s=timeout_s, every_s=0.02)

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The log lines of one event."""
        lines = [json.loads(line) for line in self.process.log.splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]


@pytest.fixture
def inference_env(service_env: dict[str, str], tiny_base: Path, tmp_path: Path) -> dict[str, str]:
    """The settings of inference, with the loop on the tiny encoder."""
    folder = tmp_path / "loops"
    folder.mkdir()
    (folder / "loop.toml").write_text(tiny_bert.loop_file(LOOP, tiny_base))
    return service_env | {"RATCHET_LOOPS_DIR": str(folder)}


@pytest.fixture
def registry(inference_env: dict[str, str]) -> Iterator[Registry]:
    found = Registry.connect(inference_env["RATCHET_REDIS_URL"], Path(inference_env["RATCHET_ARTIFACTS_DIR"]))
    yield found
    found.close()


@pytest.fixture
def publisher(registry: Registry, tiny_encoder: "Encoder", tiny_base: Path) -> Publisher:
    return Publisher(registry, tiny_encoder, tiny_base)


@pytest.fixture
def serve(start: Callable[..., ServiceProcess], inference_env: dict[str, str]) -> Iterator[Callable[..., Running]]:
    """``serve()``: inference, ready; settings may be given."""
    clients: list[httpx.Client] = []

    def begin(**extra: str) -> Running:
        process = start("inference", inference_env | extra)
        clients.append(httpx.Client(base_url=process.url, headers=KEY, timeout=30))
        return Running(process, clients[-1])

    yield begin
    for client in clients:
        client.close()


@pytest.fixture
def predictions(servers: Any, topics: Any) -> Callable[[], list[Any]]:
    """Reads every prediction on the topic so far."""
    def read() -> list[Any]:
        from kafka import KafkaConsumer, TopicPartition

        from schemas import frames
        from schemas.predictions import Prediction

        consumer = KafkaConsumer(bootstrap_servers=servers.kafka, enable_auto_commit=False,
                                 auto_offset_reset="earliest", consumer_timeout_ms=2000)
        try:
            parts = [TopicPartition(topics.predictions, n)
                     for n in consumer.partitions_for_topic(topics.predictions)]
            consumer.assign(parts)
            ends = consumer.end_offsets(parts)
            decoder, found = frames.Decoder(Prediction), []
            while any(consumer.position(part) < ends[part] for part in parts):
                for records in consumer.poll(timeout_ms=500).values():
                    for record in records:
                        good, bad = decoder.decode(record.value, frames.content_type(record.headers))
                        assert bad == []
                        found += good
            return found
        finally:
            consumer.close()
    return read


@pytest.fixture
def replace() -> Callable[..., Any]:
    return msgspec.structs.replace
