"""The champion that candidates are compared with: what is kept of the ones before it."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from services.trainer.champion import Champions
from services.trainer.core import Scorer, Unseen


@dataclass
class Named:
    """Stands for a manifest, an example, an encoder and the two places that they come from."""

    encoder: str = ""
    text: str = "text"
    max_tokens: int = 8

    def manifest(self, loop: str, version: str) -> "Named":
        return Named(encoder=version)

    def before(self, keys: list[str], *, upto: int) -> dict[str, "Named"]:
        return {key: Named() for key in keys}

    def encode(self, texts: list[str], *, max_tokens: int) -> np.ndarray:
        return np.ones((len(texts), 2), np.float32)


def test_only_the_encoders_of_base_present_and_last_champion_are_kept() -> None:
    encoders: dict[str, Any] = {"base": Named()}
    everything: Any = Named()
    champions = Champions(everything, everything, "loop", encoders)
    unseen = Unseen(("k",), ("a",), np.ones((1, 2), np.float32))
    for champion, present in [("g1", "g2"), ("g2", "g3"), ("g3", "g4")]:
        encoders |= {champion: Named(), present: Named()}
        scorer = Scorer(champion, champion, np.ones((2, 2), np.float32), np.ones((2, 1), np.float32), ("a",), 1)
        champions.right(scorer, unseen, encoder=present)
    assert set(encoders) == {"base", "g3", "g4"}
