"""The task text-classification: encoder, random features and head, served as one immutable classifier."""

from collections.abc import Mapping, MutableMapping, Sequence

import numpy as np
import numpy.typing as npt

from schemas.errors import Permanent
from schemas.manifest import Golden, Manifest
from shared.models.analytic import DEFAULT_TEMPERATURE, features
from shared.models.encoder import Encoder
from shared.models.lora import is_adapter

PROJECTION, HEAD = "projection.weight", "head.weight"
Vectors = npt.NDArray[np.float32]


def decode(embeddings: Vectors, projection: Vectors, head: Vectors, temperature: float) -> Vectors:
    """Return class probabilities.

    Args:
        embeddings: (B, D) float32; projection (D, M); head (M, C).
        temperature: Divides the scores before the softmax, above 0.

    Returns:
        (B, C) float32, rows sum to 1; C may be 0, then there is nothing to sum.
    """
    if head.shape[1] == 0:
        return np.zeros((len(embeddings), 0), np.float32)
    logits = (features(embeddings, projection) @ head) / np.float32(temperature)
    logits -= logits.max(axis=1, keepdims=True, initial=-np.inf)
    weights = np.exp(logits)
    probs: Vectors = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return probs


class Classifier:
    """What a replica serves. Immutable: predicting changes nothing, and a new version is a new object.

    Attributes:
        version: The manifest's version.
        labels: In the order of the probabilities' columns.
        encoder: Turns texts into embeddings.
        max_tokens: Longer texts are cut, in tokens.
    """

    def __init__(self, manifest: Manifest, encoder: Encoder, projection: Vectors, head: Vectors,
                 temperature: float) -> None:
        self.version, self.labels, self.max_tokens = manifest.version, tuple(manifest.labels), manifest.max_tokens
        self.encoder = encoder
        self._projection, self._head, self._temperature = projection, head, temperature

    @classmethod
    def load(cls, manifest: Manifest, tensors: Mapping[str, np.ndarray], encoder: Encoder) -> "Classifier":
        """Put a version together.

        Args:
            tensors: At least ``projection.weight`` (D, M) and ``head.weight`` (M, C) float32.
            encoder: The manifest's, with its adapter; see ``encoder_for``.

        Raises:
            Permanent: The parts do not fit each other or are not finite.
        """
        if encoder.digest != manifest.encoder:
            raise Permanent(f"{manifest.loop} {manifest.version} needs the encoder {manifest.encoder[:12]}, "
                            f"not {encoder.digest[:12]}")
        try:
            projection, head = tensors[PROJECTION], tensors[HEAD]
            temperature = float(manifest.settings.get("temperature", DEFAULT_TEMPERATURE))
        except (KeyError, ValueError) as exc:
            raise Permanent(f"{manifest.loop} {manifest.version} lacks a tensor or has a wrong setting: {exc}") from exc
        expected = (encoder.dim, head.shape[0]), (projection.shape[1], len(manifest.labels))
        if (projection.shape, head.shape) != expected:
            raise Permanent(f"{manifest.loop} {manifest.version}: projection {projection.shape} and head {head.shape} "
                            f"do not fit an encoder of {encoder.dim} and {len(manifest.labels)} labels")
        if not (np.isfinite(projection).all() and np.isfinite(head).all() and temperature > 0):
            raise Permanent(f"{manifest.loop} {manifest.version}: projection, head or temperature is not finite")
        return cls(manifest, encoder, projection.astype(np.float32), head.astype(np.float32), temperature)

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return the texts' embeddings (B, D) float32."""
        return self.encoder.encode(texts, max_tokens=self.max_tokens)

    def probabilities(self, embeddings: Vectors) -> Vectors:
        """Return (B, C) float32, rows sum to 1; C is 0 while no label is known."""
        return decode(embeddings, self._projection, self._head, self._temperature)

    def check_golden(self, golden: Golden, *, embeddings: Vectors | None = None) -> None:
        """Compare this version's scores with those that the trainer got.

        Args:
            embeddings: Of the golden texts by this very encoder, when they are at hand; None computes them.

        Raises:
            Permanent: A score differs by more than the golden tolerance.
        """
        if not golden.texts:
            return
        got = self.probabilities(self.embed(golden.texts) if embeddings is None else embeddings)
        wanted = np.asarray(golden.scores, np.float32).reshape(len(golden.texts), -1)
        worst = float(np.abs(got - wanted).max(initial=0.0)) if got.shape == wanted.shape else float("inf")
        if not worst <= golden.tolerance:
            raise Permanent(f"{self.version} scores its golden texts differently than the trainer did: worst "
                            f"difference {worst:.2g}, allowed {golden.tolerance:.2g}")


def encoder_for(manifest: Manifest, tensors: Mapping[str, np.ndarray], cache: MutableMapping[str, Encoder], *,
                device: str = "auto") -> Encoder:
    """Return the encoder that a version needs, from the cache when it is there.

    Versions of one generation share one encoder; all generations share the base's unchanged weights.

    Args:
        tensors: The version's ``adapter.*`` or ``encoder.*`` tensors; others are not looked at. Not needed when the
            encoder is cached.
        cache: By digest; the base and the new encoder are put in. The caller removes what it no longer serves.

    Raises:
        Permanent: The base here is not the one that the version was trained on, or the adapter does not fit.
        Transient: The base is on a hub that cannot be reached.
    """
    if manifest.encoder in cache:
        return cache[manifest.encoder]
    base = next((e for e in list(cache.values()) if e.base == manifest.base and e.is_base), None)
    if base is None:
        base = Encoder.load(manifest.base.id, device=device)
    if base.base.sha256 != manifest.base.sha256:
        raise Permanent(f"{manifest.loop} {manifest.version} stands on the base {manifest.base.id} with digest "
                        f"{manifest.base.sha256[:12]}; here it is {base.base.sha256[:12]}")
    if base.tokenizer_digest != manifest.tokenizer:
        raise Permanent(f"{manifest.loop} {manifest.version} needs another tokenizer than {manifest.base.id} has here")
    encoder = base.adapted({name: array for name, array in tensors.items() if is_adapter(name)})
    if encoder.digest != manifest.encoder:
        raise Permanent(f"{manifest.loop} {manifest.version} needs the encoder {manifest.encoder[:12]}; base and "
                        f"adapter give {encoder.digest[:12]}")
    cache[base.digest] = base
    cache[encoder.digest] = encoder
    return encoder
