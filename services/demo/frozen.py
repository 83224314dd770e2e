"""The never-updated model: the version that answered after the first tenth, and its answers to all that followed."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from schemas.errors import RatchetError
from schemas.manifest import Manifest
from services.demo import accounts
from services.demo.messages import Message
from services.demo.metrics import NO_VERSION, Answer
from services.demo.stack import Stores
from services.demo.tally import Tally

if TYPE_CHECKING:
    from shared.models.text_classification import Classifier

_BATCH = 256


@dataclass(frozen=True)
class Frozen:
    """A version as it was, kept so that a later clean-up of old weights does not matter."""

    manifest: Manifest
    tensors: Mapping[str, Any]

    def load(self) -> "Classifier":
        """Return it ready to answer; takes seconds."""
        from shared.models.text_classification import Classifier, encoder_for

        return Classifier.load(self.manifest, self.tensors, encoder_for(self.manifest, self.tensors, {}))


class NeverUpdated:
    """Freezes one early version, and asks it at the end about every message that came after it.

    It is asked outside of the platform, with the same code that serves: no replica keeps a version of minutes ago
    loaded. Embeddings that the same encoder made when the message was served are used as they are.
    """

    def __init__(self, loop: str, stores: Stores, messages: Sequence[Message], tally: Tally) -> None:
        self._loop, self._stores, self._messages, self._tally = loop, stores, messages, tally
        self.fault = ""
        self._freezing: asyncio.Task[Frozen] | None = None

    def saw(self, answer: Answer) -> None:
        """Freeze the version that answers the first message after the first tenth of the stream."""
        if answer.index == self._tally.frozen_place:
            self._tally.static_version = answer.version
            if answer.version != NO_VERSION:
                self._freezing = asyncio.create_task(
                    asyncio.to_thread(_freeze, self._stores, self._loop, answer.version))

    async def ask(self) -> None:
        """Ask about every message from there on, and note whether it was right; a fault is kept, not raised."""
        places = range(self._tally.frozen_place, len(self._messages))
        try:
            if self._freezing is not None:
                frozen = await self._freezing
                asked = {answer.index: answer.prediction_id for answer in self._tally.answers}
                known = await asyncio.to_thread(accounts.embeddings, self._stores.postgres_url,
                                                [asked[p] for p in places if p in asked], frozen.manifest.encoder)
                model = await asyncio.to_thread(frozen.load)
                for start in range(0, len(places), _BATCH):
                    batch = places[start:start + _BATCH]
                    texts = [self._messages[place].text for place in batch]
                    vectors = [known.get(asked.get(place, "")) for place in batch]
                    labels = await asyncio.to_thread(labels_of, model, texts, vectors)
                    self._note(batch, labels)
            elif self._tally.static_version:
                self._note(places, [None] * len(places))
            else:
                self.fault = "the first message after the first tenth got no answer"
        except RatchetError as exc:
            self.fault = str(exc)

    def _note(self, places: Sequence[int], labels: Sequence[str | None]) -> None:
        for place, label in zip(places, labels, strict=True):
            self._tally.static_flags[place] = label == self._messages[place].label


def _freeze(stores: Stores, loop: str, version: str) -> Frozen:
    from shared.registry import Registry

    registry = Registry.connect(stores.redis_url, stores.artifacts_dir)
    try:
        manifest = registry.manifest(loop, version)
        return Frozen(manifest, registry.tensors(manifest))
    finally:
        registry.close()


def labels_of(model: "Classifier", texts: Sequence[str], vectors: Sequence[bytes | None]) -> list[str | None]:
    """What a version answers.

    Args:
        vectors: Each text's embedding by the version's own encoder, float32 little-endian, or None to make it now.
    """
    import numpy as np

    embedded = np.zeros((len(texts), model.encoder.dim), np.float32)
    unknown = [place for place, vector in enumerate(vectors) if vector is None]
    if unknown:
        embedded[unknown] = model.embed([texts[place] for place in unknown])
    for place, vector in enumerate(vectors):
        if vector is not None:
            embedded[place] = np.frombuffer(vector, "<f4")
    probabilities = model.probabilities(embedded)
    if not model.labels:
        return [None] * len(texts)
    return [model.labels[column] for column in probabilities.argmax(1)]
