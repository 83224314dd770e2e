"""What serves: immutable versions, and for each loop one reference to the line-up of the moment."""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from schemas.loops import Loop
from schemas.manifest import Manifest
from services.inference.stats import Stats
from shared.models.encoder import Encoder
from shared.models.text_classification import Classifier

Vectors = npt.NDArray[np.float32]
COLD = "v0"


@dataclass(frozen=True, eq=False)
class Served:
    """One version, ready to answer. A request keeps its reference to the end; nothing in it ever changes.

    Attributes:
        classifier: None for ``v0``, which knows no label and only embeds.
        manifest: None for ``v0``.
        tensors: Of the head, by name, so that the next version need not read those that it shares.
        digest: SHA-256 of the stored manifest; empty for ``v0``.
        stats: Counts what this version answered.
    """

    loop: str
    version: str
    encoder: Encoder
    max_tokens: int
    classifier: Classifier | None = None
    manifest: Manifest | None = None
    tensors: Mapping[str, npt.NDArray[Any]] = field(default_factory=dict)
    digest: str = ""
    stats: Stats = field(default_factory=Stats)

    @property
    def labels(self) -> Sequence[str]:
        """In the order of the scores."""
        return self.classifier.labels if self.classifier else ()

    @property
    def group(self) -> Hashable:
        """Versions with equal encoder and length limit may share a forward pass."""
        return id(self.encoder), self.max_tokens

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return (B, D) float32."""
        return self.encoder.encode(texts, max_tokens=self.max_tokens)

    def probabilities(self, embeddings: Vectors) -> Vectors:
        """Return (B, C) float32; C is 0 for ``v0``."""
        if self.classifier is None:
            return np.zeros((len(embeddings), 0), np.float32)
        return self.classifier.probabilities(embeddings)


@dataclass(frozen=True)
class Lineup:
    """Which versions of a loop can answer now.

    Attributes:
        current: Answers whoever names no version.
        loaded: All that can be named, ``current`` included, by version.
        epoch: Of the aliases that put it there.
    """

    current: Served
    loaded: Mapping[str, Served]
    epoch: int


@dataclass(eq=False)
class ServedLoop:
    """A loop and its line-up. The follower's thread replaces the line-up by one assignment; everyone else reads.

    Attributes:
        lineup: None until the first version, or ``v0``, is ready.
        degraded: Why it cannot follow the registry at the moment; empty when it can.
        refused: Versions that were not let in, with the reason.
        n_swaps: How often another version took over.
        n_lost: Predictions that were answered but could not be logged.
    """

    loop: Loop
    lineup: Lineup | None = None
    degraded: str = "starting"
    refused: Mapping[str, str] = field(default_factory=dict)
    n_swaps: int = 0
    n_lost: int = 0

    @property
    def name(self) -> str:
        """The loop's name, which is the model's name in the Open Inference Protocol."""
        return self.loop.name

    @property
    def field(self) -> str:
        """What the text is called in requests: the last part of its path in events."""
        return self.loop.input.text.rpartition(".")[2]
