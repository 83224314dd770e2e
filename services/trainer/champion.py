"""The version that a candidate is compared with."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from schemas.manifest import Manifest
from services.trainer.core import Scorer, Unseen
from services.trainer.embeddings import Embeddings
from services.trainer.store import Store
from shared.models.encoder import Encoder
from shared.models.text_classification import HEAD, PROJECTION, encoder_for
from shared.registry import Registry

# A champion of another encoder needs the texts embedded again, at 10 ms each: on so many of the newest.
_REEMBEDDED = 200


class Champions:
    """Loads the versions of one loop that candidates are compared with; keeps the last one.

    Attributes:
        encoders: By digest: those it was given, and those of the present generation and the last champion.
    """

    def __init__(self, registry: Registry, store: Store, loop: str, encoders: dict[str, Encoder]) -> None:
        self._registry, self._store, self._loop, self.encoders = registry, store, loop, encoders
        self._last: Scorer | None = None
        # While the champion is of another encoder, every update compares on much the same texts.
        self._embeddings: tuple[Encoder, int, Embeddings] | None = None
        self._bases = set(encoders)

    def of(self, version: str) -> Scorer:
        """Return a version's head.

        Raises:
            NotFound, Corrupt: It cannot be read.
        """
        if self._last is None or self._last.version != version:
            manifest = self._registry.manifest(self._loop, version)
            tensors = self._registry.tensors(manifest, [PROJECTION, HEAD])
            self._last = Scorer(version, manifest.encoder, tensors[PROJECTION], tensors[HEAD],
                                tuple(manifest.labels), manifest.examples[-1].last if manifest.examples else 0)
        return self._last

    def keep(self, version: str, scorer: Scorer) -> None:
        """Remember the version that was just promoted, so that it need not be read back."""
        self._last = Scorer(version, scorer.encoder, scorer.projection, scorer.head, scorer.labels, scorer.cut)

    def right(self, champion: Scorer, unseen: Unseen, *, encoder: str) -> tuple[npt.NDArray[np.bool_], Sequence[int]]:
        """Where the champion is right, and on which of the unseen examples that was measured.

        Args:
            encoder: Digest of the encoder of ``unseen``'s embeddings.
        """
        if champion.encoder == encoder:
            return champion.right(champion.measure(unseen), unseen.labels), range(len(unseen.labels))
        manifest = self._registry.manifest(self._loop, champion.version or "")
        keys = unseen.keys[-_REEMBEDDED:]
        rows = self._store.before(keys, upto=2**62)
        chosen = [i for i in range(len(unseen.keys) - len(keys), len(unseen.keys))
                  if unseen.keys[i] in rows and rows[unseen.keys[i]].text]
        if not chosen:
            return np.zeros(0, bool), []
        vectors = np.stack(self._embeddings_of(manifest).of([rows[unseen.keys[i]].text for i in chosen]))
        self._forget(besides={encoder, manifest.encoder})
        return champion.right(champion.scores(vectors), [unseen.labels[i] for i in chosen]), chosen

    def _embeddings_of(self, manifest: Manifest) -> Embeddings:
        made = self._encoder(manifest)
        if self._embeddings is None or self._embeddings[0] is not made or self._embeddings[1] != manifest.max_tokens:
            self._embeddings = (made, manifest.max_tokens, Embeddings(made, max_tokens=manifest.max_tokens, most=1000))
        return self._embeddings[2]

    def _forget(self, *, besides: set[str]) -> None:
        """Let go of the encoders of champions past: each holds a whole generation's weights."""
        for digest in set(self.encoders) - self._bases - besides:
            del self.encoders[digest]

    def _encoder(self, manifest: Manifest) -> Encoder:
        if manifest.encoder in self.encoders:
            return self.encoders[manifest.encoder]
        names = [name for name in manifest.tensors if name not in (PROJECTION, HEAD)]
        return encoder_for(manifest, self._registry.tensors(manifest, names), self.encoders)
