"""What waits inside a stack under load: sampled twice a second, so that a queue that grows without bound shows."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

from benchmarks.loop_stack import LOOP, Running
from shared import postgres
from shared.registry import Registry

_EVERY_S = 0.5
_SERVICES = ("collector", "processor", "trainer", "inference")
# service, metric: what it is called here. The bounds are those of the services' settings.
QUEUES = {
    ("collector", "ratchet_producer_bytes_in_flight"): "collector: bytes on the way to Kafka (of 64 MiB)",
    ("processor", "ratchet_processor_lag_records"): "processor: records not yet stored (Kafka's retention)",
    ("inference", "ratchet_inference_waiting_texts"): "inference: texts that wait (of 512)",
    ("inference", "ratchet_predictions_log_bytes"): "inference: bytes of unlogged predictions (of 64 MiB)",
}


@dataclass
class Queues:
    """What was seen.

    Attributes:
        most: The greatest value of each queue.
        rss_mb: Memory of each service, at first and at most.
        cpu_s: What each service and server used meanwhile.
    """

    most: dict[str, float] = field(default_factory=dict)
    rss_mb: dict[str, tuple[float, float]] = field(default_factory=dict)
    cpu_s: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    def cores(self) -> dict[str, float]:
        """CPU by service in cores, the busiest first."""
        used = {name: cpu_s / self.seconds for name, cpu_s in self.cpu_s.items()}
        return dict(sorted(used.items(), key=lambda item: -item[1]))


@contextmanager
def watch(stack: Running) -> Iterator[Queues]:
    """Watch a stack while the block runs."""
    found, over = Queues(), threading.Event()
    began_s, before = time.monotonic(), stack.cpu_s()
    thread = threading.Thread(target=_sample, args=(stack, found, over), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.seconds = time.monotonic() - began_s
        found.cpu_s = {name: used - before[name] for name, used in stack.cpu_s().items()}
        over.set()
        thread.join(15)


def _sample(stack: Running, found: Queues, over: threading.Event) -> None:
    while not over.is_set():
        for service in _SERVICES:
            try:
                metrics = stack.scrape(service)
            except OSError:
                continue  # too busy to answer: the next look will tell
            for (owner, metric), title in QUEUES.items():
                if owner == service and metric in metrics:
                    found.most[title] = max(found.most.get(title, 0.0), metrics[metric])
            now_mb = psutil.Process(stack.pids[service]).memory_info().rss / 1e6
            first, most = found.rss_mb.get(service, (now_mb, 0.0))
            found.rss_mb[service] = first, max(most, now_mb)
        over.wait(_EVERY_S)


def caught_up_s(stack: Running, n_feedback: int, *, timeout_s: float) -> float | None:
    """Wait until all feedback so far is an example and a version that learned the last of them serves.

    Args:
        n_feedback: How many were accepted since the stack began.

    Returns:
        How long that took; None when it did not happen in time.
    """
    began_s = time.monotonic()
    registry = Registry.connect(stack.stores.redis_url, stack.stores.artifacts_dir)
    try:
        with postgres.connect(stack.stores.postgres_url, name="ratchet-bench", autocommit=True) as connection:
            while time.monotonic() < began_s + timeout_s:
                row = connection.execute("SELECT coalesce(max(seq), 0) FROM labels WHERE loop = %s",
                                         (LOOP,)).fetchone()
                champion = registry.aliases(LOOP).champion
                if row and row[0] >= n_feedback and champion and \
                        registry.manifest(LOOP, champion).examples[-1].last >= n_feedback:
                    return time.monotonic() - began_s
                time.sleep(0.05)
    finally:
        registry.close()
    return None
