"""The model that every peer of the inference benchmark serves: Ratchet's own encoder and head, from its own code."""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("HF_HUB_OFFLINE", "1")


class Model:
    """Text in, label and scores out, as a dictionary each."""

    def __init__(self) -> None:
        """Load it; ``BENCH_MODEL`` names the folder of the head, ``BENCH_THREADS`` the threads of a forward pass."""
        from safetensors.numpy import load_file

        from shared.models.encoder import Encoder, limit_threads
        from shared.models.text_classification import HEAD, PROJECTION

        limit_threads(int(os.environ["BENCH_THREADS"]))
        folder = Path(os.environ["BENCH_MODEL"])
        tensors = load_file(folder / "head.safetensors")
        self._projection, self._head = tensors[PROJECTION], tensors[HEAD]
        self.labels: list[str] = json.loads((folder / "labels.json").read_text())
        self._encoder = Encoder.load("minilm", device="cpu")
        self.predict(["warm up"])

    def predict(self, texts: Sequence[str]) -> list[dict[str, object]]:
        """Answer a batch."""
        from shared.models.text_classification import decode

        probs = decode(self._encoder.encode(texts, max_tokens=128), self._projection, self._head, 0.1)
        return [{"label": self.labels[int(row.argmax())],
                 "scores": {label: round(prob, 6) for label, prob in zip(self.labels, row.tolist(), strict=True)}}
                for row in probs]
