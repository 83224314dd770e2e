"""A version's manifest: what it is made of, what it learned from, and why it may serve."""

from typing import Literal

import msgspec

Method = Literal["seed", "analytic", "lora", "full"]
Verdict = Literal["accepted", "rejected"]


class TensorRef(msgspec.Struct, frozen=True):
    """One stored tensor: a safetensors blob that holds one tensor, addressed by the SHA-256 of its bytes."""

    sha256: str
    dtype: str
    shape: tuple[int, ...]
    n_bytes: int


class Interval(msgspec.Struct, frozen=True):
    """A measured figure with its confidence interval, and on how many examples it was measured."""

    value: float
    low: float
    high: float
    n: int


class SeqRange(msgspec.Struct, frozen=True):
    """Examples by their sequence number within the loop, both ends included."""

    first: int
    last: int


class LabelCheck(msgspec.Struct, frozen=True):
    """How one known label fares: recall of champion and candidate on examples neither trained on."""

    label: str
    n: int
    champion: float
    candidate: float
    ok: bool


class GateDecision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a candidate was let through or not, with the numbers.

    Attributes:
        verdict: accepted or rejected.
        rule: ``first`` (no champion yet), ``non-inferior`` (analytic), ``superior`` (fine-tune).
        metric: The loop's gate metric, for example ``accuracy``.
        champion, candidate: The metric on the same examples, which neither has trained on.
        difference: Candidate minus champion, paired, with its interval at ``confidence``.
        labels: The forgetting check for each label that had examples.
        reason: One sentence a person can read.
    """

    verdict: Verdict
    rule: Literal["first", "non-inferior", "superior"]
    metric: str
    confidence: float
    reason: str
    champion: Interval | None = None
    candidate: Interval | None = None
    difference: Interval | None = None
    labels: list[LabelCheck] = []


class Golden(msgspec.Struct, frozen=True):
    """Inputs with the scores that the trainer got; a replica must get the same before it serves."""

    texts: list[str]
    scores: list[list[float]]
    tolerance: float


class BaseRef(msgspec.Struct, frozen=True):
    """The pretrained encoder that a version stands on: its id and the digest of its weights."""

    id: str
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything needed to serve a version, to explain it, and to build it again.

    Attributes:
        version: ``v`` and a number that grows within the loop; never used twice.
        generation: The encoder state it belongs to; 0 is the base encoder as downloaded.
        parent: The version it grew from; None for the first.
        encoder: Digest of the encoder with its adapters; embeddings of equal digest may be reused.
        tensors: By name. ``head.weight`` (M, C) float32, ``projection.weight`` (D, M) float32, ``adapter.*``.
        labels: In the order of the head's columns.
        examples: The ranges of examples it learned from, its whole ancestry included.
        metrics: By name, for example ``prequential_accuracy``.
        settings: Every number that shaped it (ridge, temperature, learning rate, replay, ...).
    """

    loop: str
    version: str
    task: str
    generation: int
    method: Method
    created_ms: int
    parent: str | None
    base: BaseRef
    encoder: str
    tokenizer: str
    max_tokens: int
    tensors: dict[str, TensorRef]
    labels: list[str]
    examples: list[SeqRange]
    n_examples: int
    seed: int
    code_version: str
    gate: GateDecision
    golden: Golden
    metrics: dict[str, Interval] = {}
    settings: dict[str, float | str] = {}


_encoder = msgspec.json.Encoder(order="deterministic")
_decoder = msgspec.json.Decoder(Manifest)


def encode(manifest: Manifest) -> bytes:
    """Return the canonical JSON of a manifest: equal manifests give equal bytes."""
    return _encoder.encode(manifest)


def decode(data: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        msgspec.DecodeError: The bytes are not a manifest.
    """
    return _decoder.decode(data)
