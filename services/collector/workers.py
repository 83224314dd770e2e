"""Runs several collector processes on one port, starts again one that dies, and ends them all together."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import FrameType

from prometheus_client import CollectorRegistry, generate_latest, multiprocess

from shared.logs import Log
from shared.restarts import Pauses

_log = Log(__name__)

_FIRST_PAUSE_S, _MAX_PAUSE_S = 0.1, 5.0
_LOOK_EVERY_S = 0.1
_WRONG_SETTING = 2
_SUPERVISOR, _METRICS = "RATCHET_COLLECTOR_SUPERVISOR", "PROMETHEUS_MULTIPROC_DIR"


@dataclass
class _Worker:
    """One process in its turn; ``due_s`` is when it is started again, None while it runs."""

    process: subprocess.Popen[bytes]
    started_s: float
    pauses: Pauses = field(default_factory=lambda: Pauses(_FIRST_PAUSE_S, _MAX_PAUSE_S))
    due_s: float | None = None


def supervise(argv: Sequence[str], environ: Mapping[str, str], n_workers: int, *, stop_s: float) -> int:
    """Run workers until SIGTERM or SIGINT, then let them finish; blocks, and is called in the main thread.

    Args:
        argv: Starts one worker.
        environ: Its environment, to which is added how it finds its siblings.
        stop_s: How long they may take to end before they are killed.

    Returns:
        The exit status: 0; 1 when a worker had to be killed or lost something; 2 when a setting is wrong.
    """
    stop = threading.Event()

    def ask(number: int, frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    with tempfile.TemporaryDirectory(prefix="ratchet-collector-") as folder:
        environ = {**environ, _SUPERVISOR: str(os.getpid()), _METRICS: folder}
        workers = [_Worker(_start(argv, environ), time.monotonic()) for _ in range(n_workers)]
        while not stop.wait(_LOOK_EVERY_S):
            for worker in workers:
                if _look(worker, folder) == _WRONG_SETTING:
                    stop.set()
                if worker.due_s is not None and time.monotonic() >= worker.due_s and not stop.is_set():
                    worker.process, worker.started_s, worker.due_s = _start(argv, environ), time.monotonic(), None
        return _end([worker.process for worker in workers], stop_s)


def supervisor_fault(supervisor_pid: int) -> str:
    """Why a worker must end: the process that would start it again is gone. Empty while it is there, or when 0."""
    return "its supervisor has ended" if supervisor_pid not in (0, os.getppid()) else ""


def metrics() -> bytes:
    """Return the page of metrics: of this process, or the sums over all workers, those that have ended included."""
    if _METRICS not in os.environ:
        return generate_latest()
    registry = CollectorRegistry()
    multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry)


def _start(argv: Sequence[str], environ: Mapping[str, str]) -> "subprocess.Popen[bytes]":
    # A group of its own: Ctrl-C at a terminal would reach it twice, and the second signal means at once.
    return subprocess.Popen(argv, env=environ, stdin=subprocess.DEVNULL, process_group=0)


def _look(worker: _Worker, folder: str) -> int | None:
    """Return the exit status the first time a worker is seen dead, and plan its restart; None otherwise."""
    if worker.due_s is not None or (status := worker.process.poll()) is None:
        return None
    now_s = time.monotonic()
    pause_s = worker.pauses.after(now_s - worker.started_s)
    _log.error("collector_worker_ended", pid=worker.process.pid, status=status, again_in_s=pause_s)
    multiprocess.mark_process_dead(worker.process.pid, folder)  # type: ignore[no-untyped-call]
    worker.due_s = now_s + pause_s
    return status


def _end(processes: Sequence["subprocess.Popen[bytes]"], stop_s: float) -> int:
    for process in processes:
        process.terminate()  # does nothing to one that has ended
    deadline_s = time.monotonic() + stop_s
    statuses = []
    for process in processes:
        try:
            statuses.append(process.wait(max(0.0, deadline_s - time.monotonic())))
        except subprocess.TimeoutExpired:
            process.kill()
            statuses.append(process.wait())
    _log.info("collector_workers_stopped", statuses=statuses)
    # One that was still starting knew no better than to die of the signal; it had taken nothing.
    return _WRONG_SETTING if _WRONG_SETTING in statuses else int(not set(statuses) <= {0, -signal.SIGTERM})


def command() -> list[str]:
    """Return the command line that started this process, by which it starts its workers."""
    return [sys.executable, *sys.orig_argv[1:]]
