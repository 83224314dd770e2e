"""Turns a candidate that passed the gate into a version: manifest, tensors, golden scores, promotion."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata

import numpy as np

from schemas.loops import Loop
from schemas.manifest import GateDecision, Golden, Interval, Manifest, Method, SeqRange, TensorRef
from services.trainer.core import Scorer
from shared.logs import Log
from shared.models.encoder import Encoder
from shared.models.text_classification import HEAD, PROJECTION, decode
from shared.registry import Conflict, Registry, blobs

_log = Log("ratchet.trainer")

# Written for this purpose and never a user's words: they stay in every manifest for ever.
GOLDEN_TEXTS = (
    "hello",
    "I was charged twice for the same order, please give me my money back",
    "Größe passt nicht, 交換できますか?",
    "the app closes by itself when I open the settings " * 12,
)
# Replicas differ from the trainer by processor, GPU and batch: measured below 1e-5 on one machine; wrong weights
# differ by tenths.
GOLDEN_TOLERANCE = 2e-3


@dataclass(frozen=True)
class Generation:
    """An encoder state: the base with an adapter merged in.

    Attributes:
        number: 0 is the base.
        adapter: Its tensors, relative to the base; empty for the base.
        settings: What the fine-tune was made with, for the manifest.
    """

    number: int
    encoder: Encoder
    adapter: Mapping[str, np.ndarray] = field(default_factory=dict)
    settings: Mapping[str, float | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Candidate:
    """A head that passed the gate, with what its manifest says about it."""

    generation: Generation
    scorer: Scorer
    method: Method
    temperature: float
    decision: GateDecision
    n_examples: int
    ridge: float
    parent: str | None
    metrics: Mapping[str, Interval]


class Publisher:
    """Publishes one loop's versions and promotes them."""

    def __init__(self, registry: Registry, loop: Loop) -> None:
        self._registry, self._loop = registry, loop
        self._golden: tuple[str, np.ndarray] = ("", np.zeros(0))
        self._refs: tuple[str, dict[str, TensorRef]] = ("", {})

    def publish(self, candidate: Candidate, version: str, *, now_ms: int) -> Manifest:
        """Store the candidate under a reserved version name; it does not serve yet."""
        scorer, generation = candidate.scorer, candidate.generation
        tensors = {**generation.adapter, PROJECTION: scorer.projection, HEAD: np.ascontiguousarray(scorer.head)}
        training = self._loop.training
        manifest = Manifest(
            loop=self._loop.name, version=version, task=self._loop.task, generation=generation.number,
            method=candidate.method, created_ms=now_ms, parent=candidate.parent, base=generation.encoder.base,
            encoder=generation.encoder.digest, tokenizer=generation.encoder.tokenizer_digest,
            max_tokens=self._loop.max_tokens, tensors=self._references(generation, tensors),
            labels=list(scorer.labels), examples=[SeqRange(1, scorer.cut)], n_examples=candidate.n_examples,
            seed=training.seed, code_version=_code_version(), gate=candidate.decision,
            golden=self._golden_scores(candidate), metrics=dict(candidate.metrics),
            settings={**generation.settings, "temperature": candidate.temperature, "ridge": candidate.ridge,
                      "projection": float(training.projection), "holdout": training.holdout})
        self._registry.publish(manifest, tensors, reason=candidate.decision.reason)
        return manifest

    def promote(self, version: str, *, epoch: int, reason: str) -> bool:
        """Make a version the champion unless an operator moved the aliases meanwhile; returns whether it is."""
        try:
            self._registry.promote(self._loop.name, version, actor="trainer", reason=reason, expect_epoch=epoch)
        except Conflict as exc:
            _log.info("promotion_refused", loop=self._loop.name, version=version, reason=str(exc))
            return False
        return True

    def _references(self, generation: Generation, tensors: Mapping[str, np.ndarray]) -> dict[str, TensorRef]:
        """The tensors' references; those that a generation's versions share are computed once."""
        digest, shared = self._refs
        if digest != generation.encoder.digest:
            shared = {name: blobs.ref(array) for name, array in tensors.items() if name != HEAD}
            self._refs = (generation.encoder.digest, shared)
        return {**shared, HEAD: blobs.ref(tensors[HEAD])}

    def _golden_scores(self, candidate: Candidate) -> Golden:
        encoder = candidate.generation.encoder
        if self._golden[0] != encoder.digest:
            self._golden = (encoder.digest, encoder.encode(GOLDEN_TEXTS, max_tokens=self._loop.max_tokens))
        probs = decode(self._golden[1], candidate.scorer.projection, candidate.scorer.head, candidate.temperature)
        return Golden(list(GOLDEN_TEXTS), np.round(probs.astype(float), 5).tolist(), GOLDEN_TOLERANCE)


def _code_version() -> str:
    try:
        return metadata.version("ratchet")
    except metadata.PackageNotFoundError:
        return "0"
