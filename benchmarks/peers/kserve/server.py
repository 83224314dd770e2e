"""KServe's Python server: it batches only on Kubernetes, by a sidecar, so each request is a pass, in worker threads."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kserve

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from encoder_model import Model


class Support(kserve.Model):
    """The model; passes run in threads, so that the event loop stays free."""

    def __init__(self) -> None:
        """Load it."""
        super().__init__("support")
        self._model = Model()
        self._pool = ThreadPoolExecutor(int(os.environ["BENCH_WORKERS"]))
        self.ready = True

    async def predict(self, payload: dict[str, list[str]], headers: object = None, response_headers: object = None
                      ) -> dict[str, object]:
        """Answer the instances of one request."""
        import asyncio

        found = await asyncio.get_running_loop().run_in_executor(self._pool, self._model.predict, payload["instances"])
        return {"predictions": found}


if __name__ == "__main__":
    kserve.ModelServer(http_port=int(os.environ["BENCH_PORT"]), enable_grpc=False, workers=1,
                       access_log_format=None).start([Support()])
