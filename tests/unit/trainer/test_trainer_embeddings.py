"""Equal texts are embedded once, and the cache stays within its bound."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from services.trainer.embeddings import Embeddings


class Counting:
    """Stands for an encoder: a text's vector is its length."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def encode(self, texts: Sequence[str], *, max_tokens: int) -> np.ndarray:
        self.asked.append(list(texts))
        return np.array([[float(len(text))] for text in texts], np.float32)


def test_equal_texts_are_embedded_once() -> None:
    encoder: Any = Counting()
    embeddings = Embeddings(encoder, max_tokens=8)
    assert [float(v[0]) for v in embeddings.of(["a", "bbb", "a"])] == [1.0, 3.0, 1.0]
    assert [float(v[0]) for v in embeddings.of(["cc", "bbb"])] == [2.0, 3.0]
    assert encoder.asked == [["a", "bbb"], ["cc"]]
    assert embeddings.n_made == 3


def test_the_newest_are_kept_and_more_texts_than_fit_are_still_answered() -> None:
    encoder: Any = Counting()
    embeddings = Embeddings(encoder, max_tokens=8, most=2)
    assert len(embeddings.of(["a", "bb", "ccc"])) == 3
    embeddings.of(["bb", "ccc"])
    assert len(encoder.asked) == 1
    embeddings.of(["a"])
    assert encoder.asked[1:] == [["a"]]


def test_no_texts_ask_nothing() -> None:
    encoder: Any = Counting()
    assert Embeddings(encoder, max_tokens=8).of([]) == []
    assert encoder.asked == []
