"""BentoML: its adaptive batching, in as many worker processes as there are cores."""

import os
import sys
from pathlib import Path

import bentoml

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from encoder_model import Model


@bentoml.service(workers=int(os.environ["BENCH_WORKERS"]), traffic={"timeout": 60})
class Support:
    """The service."""

    def __init__(self) -> None:
        """Load the model."""
        self._model = Model()

    @bentoml.api(batchable=True, max_batch_size=int(os.environ["BENCH_BATCH"]), max_latency_ms=1000)
    def predict(self, texts: list[str]) -> list[dict]:  # type: ignore[type-arg]
        """Answer a batch."""
        return self._model.predict(texts)


if __name__ == "__main__":
    here = Path(__file__).resolve().parent
    bentoml_command = Path(sys.executable).parent / "bentoml"
    os.execv(bentoml_command, [str(bentoml_command), "serve", "server:Support", "--working-dir", str(here), "--host",
                               "127.0.0.1", "--port", os.environ["BENCH_PORT"]])
