"""Ray Serve: its dynamic batching, in as many replicas as there are cores."""

import os
import signal
import sys
from pathlib import Path

from ray import serve
from starlette.requests import Request

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


@serve.deployment(num_replicas=int(os.environ["BENCH_WORKERS"]), max_ongoing_requests=64,
                  ray_actor_options={"num_cpus": 1})
class Support:
    """The deployment."""

    def __init__(self) -> None:
        """Load the model."""
        from encoder_model import Model

        self._model = Model()

    @serve.batch(max_batch_size=int(os.environ["BENCH_BATCH"]), batch_wait_timeout_s=float(os.environ["BENCH_WAIT_S"]))
    async def answer(self, texts: list[str]) -> list[dict[str, object]]:
        """Answer a batch."""
        return self._model.predict(texts)

    async def __call__(self, request: Request) -> dict[str, object]:
        """Answer a request."""
        return await self.answer((await request.json())["text"])


if __name__ == "__main__":
    import ray

    paths = os.pathsep.join([str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])])
    names = {name: value for name, value in os.environ.items() if name.startswith(("BENCH_", "OMP_"))}
    ray.init(num_cpus=int(os.environ["BENCH_WORKERS"]), include_dashboard=False, log_to_driver=False,
             object_store_memory=100 << 20, runtime_env={"env_vars": {**names, "PYTHONPATH": paths}})
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["BENCH_PORT"])})
    serve.run(Support.bind(), route_prefix="/")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    ray.shutdown()
