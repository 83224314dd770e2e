"""LitServe: its own batching, as its documentation has it."""

import os
import sys
from pathlib import Path
from typing import Any

import litserve

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from encoder_model import Model


class Api(litserve.LitAPI):
    """One worker process, which answers batches."""

    def setup(self, device: str) -> None:
        """Load the model."""
        self.model = Model()

    def decode_request(self, request: dict[str, str], **_: Any) -> str:
        """The text of a request."""
        return request["text"]

    def predict(self, x: list[str], **_: Any) -> list[dict[str, object]]:
        """Answer a batch."""
        return self.model.predict(x)

    def encode_response(self, output: dict[str, object], **_: Any) -> dict[str, object]:
        """The answer, as it is."""
        return output


if __name__ == "__main__":
    api = Api(max_batch_size=int(os.environ["BENCH_BATCH"]), batch_timeout=float(os.environ["BENCH_WAIT_S"]))
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=int(os.environ["BENCH_WORKERS"]))
    server.run(host="127.0.0.1", port=int(os.environ["BENCH_PORT"]), generate_client_file=False, log_level="error")
