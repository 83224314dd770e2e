"""Requests per second and latency of one text classifier behind Ratchet and six model servers, at 1, 8 and 32 callers.

Everyone serves the same encoder and head by the same code (MiniLM with packed weights, 77 labels), text in and label
with all scores out, over HTTP and JSON, with as many single-threaded forward passes at a time as there are cores.
Ratchet also checks a key and logs every prediction to a real Kafka. *ceiling* is the model alone in a loop, without a
server: at the best of several batch sizes for ``rps_32``, with one text for the others. Needs
``../shared/data/banking77``.
"""

import argparse
import os
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count

import numpy as np
import torch

from benchmarks import inference_peers
from benchmarks.harness import Bench, PeerUnavailable
from benchmarks.inference_load import drive
from benchmarks.inference_service import Stack, model, stack, texts
from shared.models.encoder import limit_threads
from shared.models.text_classification import HEAD, PROJECTION, decode

CONNECTIONS = (1, 8, 32)
BATCH, WAIT_S = 32, 0.002
_BEST_OF = (8, 16, 32)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what may be chosen."""
    parser.add_argument("--seconds", type=float, default=1.5, help="of each load (default: %(default)s)")
    parser.add_argument("--peers", default=",".join(inference_peers.NAMES), help="comma separated; may be empty")


def run(options: argparse.Namespace, bench: Bench) -> None:
    """Measure everyone in turn."""
    for n in CONNECTIONS:
        bench.figure(f"rps_{n}", "requests/s", title=f"requests/s, {n} connections")
        bench.figure(f"p50_{n}", "ms", better="lower", title=f"median, {n} connections")
        bench.figure(f"p99_{n}", "ms", better="lower", title=f"p99, {n} connections")
    bench.figure("added", "ms", better="lower", title="added to the model's own latency, 1 connection")
    n_workers = len(os.sched_getaffinity(0))
    asked = texts()
    peers: dict[str, inference_peers.Running] = {}
    with stack() as ours, ExitStack() as things:
        service = ours.start(RATCHET_INFERENCE_THREADS=str(n_workers))
        replica = inference_peers.Running("ratchet", ours.endpoint(service), service.pid)
        replica.halt()
        for name in filter(None, options.peers.split(",")):
            try:
                peers[name] = inference_peers.start(bench, name, model=model(), folder=ours.folder, workers=n_workers,
                                                    batch=BATCH, wait_s=WAIT_S)
            except PeerUnavailable as exc:
                bench.skip(name, str(exc))
                continue
            things.callback(peers[name].end)
            peers[name].halt()
        things.callback(replica.go_on)
        bare = _Bare(ours, asked)

        def measured(peer: inference_peers.Running) -> dict[str, float]:
            peer.go_on()
            found: dict[str, float] = {}
            for n in CONNECTIONS:
                load = drive(peer.endpoint, asked, connections=n, seconds=options.seconds)
                if load.n_failed:
                    bench.note(f"{peer.name}: {load.n_failed} requests failed at {n} connections")
                found |= load.figures(n)
            peer.halt()
            return found

        def measured_ours() -> dict[str, float]:
            alone_ms = bare.alone_ms(options.seconds / 2)
            found = measured(replica)
            return found | {"added": found["p50_1"] - min(alone_ms, bare.alone_ms(options.seconds / 2))}

        contestants: dict[str, Callable[[], dict[str, float]]] = {"ratchet": measured_ours}
        contestants |= {name: (lambda peer=peer: measured(peer)) for name, peer in peers.items()}
        bench.alternate(contestants | {"ceiling": lambda: bare.figures(options.seconds, n_workers)})
    for n in CONNECTIONS:
        for name in inference_peers.PYTHON:
            bench.bar(f"rps_{n}", at_least=1.0, against=name)
        bench.plot_bars(f"rps_{n}")
    bench.bar("rps_32", at_least=0.85, against="ceiling")
    bench.bar("added", at_most=2.0)


class _Bare:
    """The model in a loop of this process."""

    def __init__(self, ours: Stack, asked: list[str]) -> None:
        self._encoder, self._asked = ours.encoder, asked
        self._projection, self._head = ours.tensors[PROJECTION], ours.tensors[HEAD]
        limit_threads(1)

    def alone_ms(self, seconds: float) -> float:
        """The median for one text at a time."""
        took_s: list[float] = []
        end_s = time.perf_counter() + seconds
        for i in count():
            begin_s = time.perf_counter()
            if begin_s > end_s:
                return float(np.median(took_s)) * 1e3
            self._predict(i, 1)
            took_s.append(time.perf_counter() - begin_s)
        raise AssertionError

    def figures(self, seconds: float, n_workers: int) -> dict[str, float]:
        """The ceilings: one text at a time, and the most texts a second."""
        alone_ms = self.alone_ms(seconds)
        return {"rps_1": 1e3 / alone_ms, "p50_1": alone_ms,
                "rps_32": max(self._rate(seconds, size, n_workers) for size in _BEST_OF)}

    def _rate(self, seconds: float, size: int, n_workers: int) -> float:
        done = [0] * n_workers
        begin_s = time.perf_counter()

        def work(number: int) -> None:
            at = number * 997
            while time.perf_counter() < begin_s + seconds:
                self._predict(at, size)
                done[number] += size
                at += size

        threads = [threading.Thread(target=work, args=(number,)) for number in range(n_workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(done) / (time.perf_counter() - begin_s)

    def _predict(self, at: int, size: int) -> None:
        start = at % (len(self._asked) - size)
        with torch.inference_mode():
            decode(self._encoder.encode(self._asked[start:start + size], max_tokens=128), self._projection, self._head,
                   0.1)
