"""MLServer: its adaptive batching, in as many worker processes as there are cores."""

import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from mlserver import MLModel
from mlserver.codecs import StringCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Support(MLModel):
    """The runtime."""

    async def load(self) -> bool:
        """Load the model."""
        from encoder_model import Model

        self._model = Model()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer a batch: V2 has strings, so scores go as JSON."""
        found = self._model.predict(StringCodec.decode_input(payload.inputs[0]))
        return InferenceResponse(model_name=self.name, outputs=[
            StringCodec.encode_output("label", [str(one["label"]) for one in found]),
            StringCodec.encode_output("scores", [json.dumps(one["scores"]) for one in found])])


if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp(prefix="ratchet-bench-mlserver-"))
    n_workers = int(os.environ["BENCH_WORKERS"])
    (folder / "settings.json").write_text(json.dumps({
        "host": "127.0.0.1", "http_port": int(os.environ["BENCH_PORT"]), "grpc_port": int(os.environ["BENCH_PORT_2"]),
        "metrics_port": int(os.environ["BENCH_PORT_3"]), "parallel_workers": n_workers, "debug": False}))
    (folder / "model-settings.json").write_text(json.dumps({
        "name": "support", "implementation": "server.Support", "max_batch_size": int(os.environ["BENCH_BATCH"]),
        "max_batch_time": max(float(os.environ["BENCH_WAIT_S"]), 0.001)}))
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
    command = Path(sys.executable).parent / "mlserver"
    os.execv(command, [str(command), "start", str(folder)])
