"""Swaps under load: failed requests, the slowest answer, memory over many swaps, and how soon three replicas serve.

Eight connections ask all the time. *new* is a fine-tune of every weight (91 MB to load), *in place* another head of the
same encoder, *corrupt* and *truncated* have a damaged head, *half-way* fails when most of it is loaded, *rollback* goes
back to the champion before. Latencies of a swap are those of the answers between the promotion and the end of the swap
(or the refusal), compared with the p99 of the seconds before, and with the slowest answer of those seconds.
"""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil

from benchmarks.harness import Bench
from benchmarks.inference_load import Endpoint, drive
from benchmarks.inference_service import LOOP, Stack, stack, texts
from shared.models.lora import FULL
from tests.support.services import ServiceProcess, eventually

ROUNDS = 3
CASES = ("new", "in place", "corrupt", "truncated", "half-way", "rollback")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare what may be chosen."""
    parser.add_argument("--seconds", type=float, default=3.0,
                        help="of steady load before a swap (default: %(default)s)")
    parser.add_argument("--swaps", type=int, default=60, help="whose memory is measured (default: %(default)s)")
    parser.add_argument("--publishes", type=int, default=20, help="timed to three replicas (default: %(default)s)")


def run(options: argparse.Namespace, bench: Bench) -> None:
    """Measure the six swaps, then the rest."""
    bench.figure("failed", "requests", better="lower", title="failed")
    bench.figure("answered", "requests", title="answered")
    bench.figure("swap_s", "s", better="lower", title="from promotion to serving, or to refusal")
    bench.figure("steady_p99", "ms", better="lower", title="steady p99")
    bench.figure("slowest", "ms", better="lower", title="slowest answer of the swap")
    bench.figure("slowest_ratio", "", better="lower", title="slowest of the swap / steady p99")
    bench.figure("steady_ratio", "", better="lower", title="slowest before / steady p99")
    bench.figure("memory_mb", "MB", better="lower", title="memory gained over the swaps")
    bench.figure("spread_ms", "ms", better="lower", title="from publishing to three replicas serving, p95")
    bench.figure("shipped_mb", "MB", better="lower", title="shipped for a new head")
    bench.figure("copy_mb", "MB", better="lower", title="a full copy")
    asked = texts()
    with stack() as ours:
        replica = ours.start()
        cases = _Cases(ours, replica)
        bench.alternate({case: (lambda case=case: _measure(cases, case, asked, options.seconds)) for case in CASES})
        bench.record("ratchet", _shipped(ours))
        bench.record("ratchet", {"memory_mb": _memory(ours, replica, options.swaps)})
        bench.note(f"memory is measured over {options.swaps} swaps, after 20 others")
        bench.record("ratchet", {"spread_ms": _spread_ms(ours, options.publishes)})
    for case in CASES:
        bench.bar("failed", contestant=case, at_most=0)
        bench.bar("slowest_ratio", contestant=case, at_most=2.0)
    bench.bar("spread_ms", at_most=500)
    bench.bar("memory_mb", at_most=20)
    bench.plot_bars("slowest_ratio")


class _Cases:
    """What each case promotes; every call publishes versions of its own."""

    def __init__(self, ours: Stack, replica: ServiceProcess) -> None:
        self._ours, self._replica = ours, replica
        self._seed = 1000

    def prepare(self, case: str) -> Callable[[], None]:
        """Publish what the case needs; the returned function does the swap, and returns when it is over."""
        ours, self._seed = self._ours, self._seed + 1
        if case == "rollback":
            before, after = (ours.publish(seed=self._seed * 2 + i).version for i in range(2))
            for version in (before, after):
                ours.promote(version)
                self._serves(version)
            return lambda: self._roll_back(before)
        adapter = self._fine_tune() if case in ("new", "half-way") else None
        broken = "encoder.encoder.layer.5.output.dense.weight" if case == "half-way" else ""
        manifest = ours.publish(seed=self._seed, adapter=adapter, broken=broken)
        if case == "corrupt":
            ours.damage(manifest, lambda data: data[:-3] + bytes([data[-3] ^ 4]) + data[-2:])
        if case == "truncated":
            ours.damage(manifest, lambda data: data[:-64])
        wait = self._serves if case in ("new", "in place") else self._refuses
        return lambda: (ours.promote(manifest.version), wait(manifest.version))[1]

    def end(self) -> None:
        """Go back to a version that serves, so that the next case starts clean."""
        self._ours.registry.unpin(LOOP, actor="benchmark", reason="the next case")
        version = self._ours.publish(seed=self._seed * 3).version
        self._ours.promote(version)
        self._serves(version)

    def endpoint(self) -> Endpoint:
        """Where to ask."""
        return self._ours.endpoint(self._replica)

    def _fine_tune(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(self._seed)
        return {f"{FULL}{name}": np.asarray(value) + rng.normal(scale=1e-4, size=tuple(value.shape)).astype(np.float32)
                for name, value in ((name, value.detach().numpy())
                                    for name, value in self._ours.encoder.trainable().named_parameters())
                if not name.startswith("pooler")}

    def _roll_back(self, to: str) -> None:
        self._ours.registry.rollback(LOOP, actor="benchmark", reason="a benchmark")
        self._serves(to)

    def _serves(self, version: str) -> None:
        eventually(lambda: self._ours.shown(self._replica)["version"] == version, timeout_s=60, every_s=0.02)

    def _refuses(self, version: str) -> None:
        eventually(lambda: version in self._ours.shown(self._replica)["refused"], timeout_s=60, every_s=0.02)


def _measure(cases: _Cases, case: str, asked: list[str], seconds: float) -> dict[str, float]:
    swap = cases.prepare(case)
    with ThreadPoolExecutor(1) as pool:
        # The load goes on for longer than any swap takes here; what comes after the swap is not looked at.
        loading = pool.submit(drive, cases.endpoint(), asked, connections=8, seconds=2 * seconds + 2)
        time.sleep(0.5 + seconds)
        begin_s = time.perf_counter()
        swap()
        end_s = time.perf_counter()
        load = loading.result()
    cases.end()
    at_s, took_ms = np.array(load.at_s), np.array(load.latency_s) * 1e3
    steady = took_ms[at_s < begin_s]
    during = took_ms[(at_s >= begin_s) & (at_s <= end_s + 0.2)]
    p99 = float(np.percentile(steady, 99))
    return {"failed": load.n_failed, "answered": len(took_ms), "swap_s": end_s - begin_s, "steady_p99": p99,
            "slowest": float(during.max(initial=0)), "slowest_ratio": float(during.max(initial=0)) / p99,
            "steady_ratio": float(steady.max()) / p99}


def _shipped(ours: Stack) -> dict[str, float]:
    """What a new head adds to the store, and what an image of the whole model would."""
    before, after = ours.publish(seed=1).tensors, ours.publish(seed=2).tensors
    old = {ref.sha256 for ref in before.values()}
    encoder = sum(value.numel() * 4 for value in ours.encoder.trainable().parameters())
    return {"shipped_mb": sum(ref.n_bytes for ref in after.values() if ref.sha256 not in old) / 1e6,
            "copy_mb": (encoder + sum(ref.n_bytes for ref in after.values())) / 1e6}


def _memory(ours: Stack, replica: ServiceProcess, n_swaps: int) -> float:
    """MB gained by the process over so many swaps of the head."""
    process, before = psutil.Process(replica.pid), 0
    for number in range(20 + n_swaps):
        if number == 20:
            before = process.memory_info().rss
        version = ours.publish(seed=5000 + number).version
        ours.promote(version)
        eventually(lambda version=version: ours.shown(replica)["version"] == version, every_s=0.01)
        if number % 25 == 24:
            ours.registry.collect(LOOP, keep=5)
    return (process.memory_info().rss - before) / 1e6


def _spread_ms(ours: Stack, n_publishes: int) -> float:
    """The p95 of the time from the start of publishing to the last of three replicas serving."""
    while len(ours.replicas) < 3:
        ours.start()
    took_ms = []
    with ThreadPoolExecutor(3) as pool:
        for number in range(n_publishes):
            begin_s = time.perf_counter()
            version = ours.publish(seed=9000 + number).version
            ours.promote(version)
            list(pool.map(lambda replica, version=version: eventually(
                lambda: ours.shown(replica)["version"] == version, every_s=0.005), ours.replicas))
            took_ms.append((time.perf_counter() - begin_s) * 1e3)
            time.sleep(0.1)
    return float(np.percentile(took_ms, 95))
