"""Triton, as nvidia-pytriton carries it: its dynamic batching, over its own HTTP protocol."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from encoder_model import Model


def infer_of(model: Model) -> Any:
    """The function that Triton calls with a batch."""
    @batch
    def infer(text: np.ndarray) -> dict[str, np.ndarray]:
        found = model.predict([row[0].decode() for row in text])
        return {"label": np.array([[str(one["label"]).encode()] for one in found], np.bytes_),
                "scores": np.array([list(one["scores"].values()) for one in found], np.float32)}
    return infer


if __name__ == "__main__":
    n_batch, n_workers = int(os.environ["BENCH_BATCH"]), int(os.environ["BENCH_WORKERS"])
    config = TritonConfig(http_address="127.0.0.1", http_port=int(os.environ["BENCH_PORT"]), allow_grpc=False,
                          allow_metrics=False, log_verbose=0, http_thread_count=8)
    with Triton(config=config) as triton:
        made = Model()
        triton.bind(model_name="support", infer_func=[infer_of(made) for _ in range(n_workers)],
                    inputs=[Tensor(name="text", dtype=bytes, shape=(1,))],
                    outputs=[Tensor(name="label", dtype=bytes, shape=(1,)),
                             Tensor(name="scores", dtype=np.float32, shape=(len(made.labels),))],
                    config=ModelConfig(max_batch_size=n_batch, batcher=DynamicBatcher(max_queue_delay_microseconds=0)))
        triton.serve()
