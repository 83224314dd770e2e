"""A frozen sentence encoder: texts in, unit vectors out."""

import copy
import hashlib
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from schemas.errors import Permanent
from schemas.manifest import BaseRef
from shared.models import weights
from shared.models.lora import merged
from shared.models.packed import PackedBert

# Names the recipe in every digest: change it whenever equal weights would give other vectors.
_RECIPE = "mean-l2-1"
# Rows in one padded forward pass. On a CPU the activations of a few rows stay in the cache, and rows of like length
# need little padding: 256 short messages on one core took 5.9 ms each in sixes, 15 ms in thirty-twos, 11 ms one by one.
_CPU_BATCH, _GPU_BATCH = 6, 256
# Tokens in one packed forward pass: 3.0 ms a message of 15 tokens from 100 tokens to 500, 4.7 ms alone.
_PACKED_TOKENS = 512


def choose_device(wanted: str = "auto") -> str:
    """Return ``cuda`` or ``cpu``: the wanted one, or for ``auto`` the GPU where there is one.

    Raises:
        Permanent: ``cuda`` is wanted and there is none, or the name is unknown.
    """
    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted not in ("cpu", "cuda") or (wanted == "cuda" and not torch.cuda.is_available()):
        raise Permanent(f"the device {wanted!r} is not here: RATCHET_DEVICE is auto, cpu, or cuda with a GPU")
    return wanted


def n_gpus() -> int:
    """How many GPUs there are."""
    return int(torch.cuda.device_count())


class Encoder:
    """A frozen encoder with mean pooling and unit length. Immutable, and safe to use from several threads.

    Attributes:
        base: The pretrained weights it stands on.
        digest: Of the base, the adapter and the recipe; embeddings of equal digest may be mixed.
        tokenizer_digest: Of the tokenizer's files.
        dim: D, the length of an embedding.
        device: ``cpu`` or ``cuda``.
    """

    def __init__(self, model: Any, tokenizer: Any, found: weights.Weights, digest: str, device: str) -> None:
        self._model, self._tokenizer, self._found = model, tokenizer, found
        self._lock = threading.Lock()  # the fast tokenizer refuses concurrent use ("Already borrowed")
        self._packed: PackedBert | None = None
        self._packs = PackedBert.fits(model)
        self.base = BaseRef(found.id, found.sha256)
        self.digest, self.device = digest, device
        self.tokenizer_digest = found.tokenizer_sha256
        self.dim = int(model.config.hidden_size)

    @classmethod
    def load(cls, base: str, *, adapter: Mapping[str, np.ndarray] | None = None, device: str = "auto") -> "Encoder":
        """Load a base encoder, with an adapter merged into its weights when one is given.

        Args:
            base: ``minilm``, a local directory, or a Hugging Face id.
            adapter: Tensors named ``adapter.*`` (LoRA) or ``encoder.*`` (every weight, after a full fine-tune).
            device: ``auto``, ``cpu`` or ``cuda``.

        Raises:
            Permanent: The base cannot be read, or the adapter does not fit it.
            Transient: The base is on a hub that cannot be reached.
        """
        found = weights.find(base)
        transformers_logging.disable_progress_bar()
        chosen = choose_device(device)
        try:
            tokenizer = AutoTokenizer.from_pretrained(found.directory, local_files_only=True)
            model = AutoModel.from_pretrained(found.directory, local_files_only=True, use_safetensors=True,
                                              dtype=torch.float32)
        except (OSError, ValueError, RuntimeError, SafetensorError) as exc:
            raise Permanent(f"the base encoder {base!r} in {found.directory} cannot be loaded: {exc}") from exc
        model = model.to(chosen).eval().requires_grad_(False)
        plain = cls(model, tokenizer, found, _digest(found.sha256, {}), chosen)
        return plain.adapted(adapter) if adapter else plain

    def adapted(self, adapter: Mapping[str, np.ndarray]) -> "Encoder":
        """Return a new encoder: this one's base with an adapter merged in; unchanged weights are shared, not copied.

        Call it on the plain base only: an adapter is always relative to the base.

        Raises:
            Permanent: The adapter names weights that the base does not have, or has in another shape.
        """
        if not adapter:
            return self
        memo: dict[int, Any] = {id(t): t for t in (*self._model.parameters(), *self._model.buffers())}
        model = copy.deepcopy(self._model, memo)
        changed = merged({name: p.detach() for name, p in model.named_parameters()}, adapter)
        for name, value in changed.items():
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, torch.nn.Parameter(value.to(self.device), requires_grad=False))
        return Encoder(model, self._tokenizer, self._found, _digest(self.base.sha256, adapter), self.device)

    def encode(self, texts: Sequence[str], *, max_tokens: int) -> np.ndarray:
        """Return each text's embedding; texts are batched by length, which changes no answer beyond 1e-5.

        Args:
            max_tokens: Per-text cap, special tokens included; the tail is cut.

        Returns:
            (B, D) float32, rows of unit length, in the order of the texts.
        """
        out = np.empty((len(texts), self.dim), np.float32)
        rows = self.tokenize(texts, max_tokens=max_tokens)
        order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        with torch.inference_mode():
            packed = self._pack()
            for part in self._parts(order, rows):
                found = [rows[i] for i in part]
                vectors = packed.embed(found) if packed else pooled(self._model, *self.pad(found)).cpu()
                out[part] = vectors.numpy()
        return out

    def _pack(self) -> PackedBert | None:
        """The fast form of this encoder, where there is one; made on first use, since many encoders are never run."""
        if self._packs and self._packed is None:
            with self._lock:
                self._packed = self._packed or PackedBert(self._model)
        return self._packed

    def _parts(self, order: Sequence[int], rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """The rows' numbers, shortest first, in the pieces of one forward pass each."""
        size = _CPU_BATCH if self.device == "cpu" else _GPU_BATCH
        part: list[int] = []
        n_tokens = 0
        for i in order:
            full = n_tokens + len(rows[i]) > _PACKED_TOKENS if self._packs else len(part) == size
            if part and full:
                yield part
                part, n_tokens = [], 0
            part.append(i)
            n_tokens += len(rows[i])
        if part:
            yield part

    def tokenize(self, texts: Sequence[str], *, max_tokens: int) -> list[list[int]]:
        """Return each text's token ids, special tokens included, at most ``max_tokens`` each."""
        if not texts:
            return []
        with self._lock:
            found = self._tokenizer(list(texts), truncation=True, max_length=max_tokens, padding=False,
                                    return_attention_mask=False, return_token_type_ids=False)
        return [list(ids) for ids in found["input_ids"]]

    def pad(self, rows: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ids (B, T) int64 and mask (B, T) int64 on the encoder's device; T is the longest row."""
        width = max(len(row) for row in rows)
        ids = np.full((len(rows), width), self._tokenizer.pad_token_id or 0, np.int64)
        mask = np.zeros((len(rows), width), np.int64)
        for i, row in enumerate(rows):
            ids[i, :len(row)] = row
            mask[i, :len(row)] = 1
        return torch.from_numpy(ids).to(self.device), torch.from_numpy(mask).to(self.device)

    def trainable(self) -> Any:
        """Return a copy of the network whose weights may be changed: a ``transformers`` model in float32."""
        model = copy.deepcopy(self._model)
        return model.requires_grad_(True)

    @property
    def is_base(self) -> bool:
        """Whether this is the plain base, with no adapter merged in."""
        return self.digest == _digest(self.base.sha256, {})


def pooled(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of the last hidden layer over real tokens, scaled to unit length: (B, T) -> (B, D) float32."""
    hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state.float()
    weight = mask.unsqueeze(-1).float()
    return torch.nn.functional.normalize((hidden * weight).sum(1) / weight.sum(1).clamp(min=1.0), dim=-1)


def limit_threads(n: int) -> None:
    """Use at most ``n`` threads for this process's tensor work; called once, at start."""
    torch.set_num_threads(n)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _digest(base: str, adapter: Mapping[str, np.ndarray]) -> str:
    whole = hashlib.sha256(f"{_RECIPE}\0{base}\n".encode())
    for name in sorted(adapter):
        array = np.ascontiguousarray(adapter[name])
        whole.update(f"{name}\0{array.dtype}\0{array.shape}\n".encode())
        whole.update(array.tobytes())
    return whole.hexdigest()
