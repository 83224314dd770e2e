"""The packed forward pass: the numbers of transformers' own."""

from typing import Any

import numpy as np
import pytest
import torch

from shared.models.encoder import Encoder, pooled
from shared.models.packed import PackedBert

LENGTHS = [[1], [7, 7, 7], [5, 12, 3], [64, 2], [20, 1, 33, 33], [40, 24], [64, 64, 1]]


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_a_packed_pass_gives_what_the_padded_one_gives(tiny: Encoder, lengths: list[int]) -> None:
    rng = np.random.default_rng(sum(lengths))
    rows = [rng.integers(1, tiny._model.config.vocab_size, n).tolist() for n in lengths]
    with torch.inference_mode():
        packed = PackedBert(tiny._model).embed(rows)
        expected = pooled(tiny._model, *tiny.pad(rows))
    np.testing.assert_allclose(packed.numpy(), expected.numpy(), atol=2e-6)


def test_the_packaged_encoder_is_packed_on_a_cpu_and_agrees_with_its_plain_form() -> None:
    encoder = Encoder.load("minilm", device="cpu")
    assert PackedBert.fits(encoder._model)
    texts = ["hello", "where is my card? " * 20, "Größe passt nicht, 交換できますか?", ""]
    with torch.inference_mode():
        expected = pooled(encoder._model, *encoder.pad(encoder.tokenize(texts, max_tokens=128)))
    np.testing.assert_allclose(encoder.encode(texts, max_tokens=128), expected.numpy(), atol=2e-6)


def test_what_packing_does_not_know_is_left_to_transformers(tiny: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        config: Any = tiny._model.config
        device = torch.device("cpu")

    assert not PackedBert.fits(Other())
    texts = ["card", "please help me with my loan"]
    expected = tiny.encode(texts, max_tokens=32)
    monkeypatch.setattr(PackedBert, "fits", staticmethod(lambda model: False))
    plain = Encoder.load(tiny.base.id, device="cpu")
    assert plain.digest == tiny.digest
    np.testing.assert_allclose(plain.encode(texts, max_tokens=32), expected, atol=2e-6)
