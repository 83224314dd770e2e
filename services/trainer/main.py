"""Builds the trainer from its settings, and runs it until it is told to stop."""

import os
import signal
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING

from schemas.errors import RatchetError
from schemas.loops import InvalidLoop, Loop
from services.trainer.settings import Settings
from shared import loops, settings
from shared.logs import Log, set_up
from shared.probe import Probe

if TYPE_CHECKING:
    from services.trainer.app import LoopTrainer

_log = Log("ratchet.trainer")


def run() -> None:
    """Learn every declared loop until SIGTERM or SIGINT; keeps its progress before it returns.

    A wrong setting or loop file prints one line and exits with status 2; harm done by going on ends it with 1.
    """
    try:
        chosen = settings.read(Settings)
        declared = loops.load(chosen.loops_dir)
    except (settings.InvalidSetting, InvalidLoop) as exc:
        print(f"ratchet trainer: {exc}", file=sys.stderr)
        raise SystemExit(2) from exc
    set_up(chosen.log_level)
    _log.info("starting", **settings.shown(chosen))
    stop = threading.Event()

    def told(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, told)
    signal.signal(signal.SIGINT, told)
    # Set before the first import of numpy and torch: they read it once. More threads than this would take the
    # processor from serving on the same machine.
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = str(chosen.n_threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    faults = {"models": "loading"}
    trainers: dict[str, LoopTrainer] = {}

    def readiness() -> dict[str, str]:
        return faults | {f"loop {name}": t.fault for name, t in trainers.items() if t.fault}

    probe = Probe(chosen.host, chosen.port, readiness)
    probe.start()
    try:
        trainers |= _build(chosen, declared)
        faults.clear()
        failed = _work(trainers, stop)
    except RatchetError as exc:
        _log.error("cannot_start", exc=exc, reason=str(exc))
        raise SystemExit(1) from exc
    finally:
        probe.stop()
    _log.info("stopped", pid=os.getpid())
    if failed:
        raise SystemExit(1)


def _build(chosen: Settings, declared: dict[str, Loop]) -> "dict[str, LoopTrainer]":
    from services.trainer.app import LoopTrainer, Options
    from services.trainer.finetune import FineTune
    from services.trainer.job import Folder
    from services.trainer.store import Store
    from shared.models.encoder import Encoder, choose_device, limit_threads, n_gpus
    from shared.registry import Registry

    limit_threads(chosen.n_threads)
    device = choose_device(chosen.device)
    n_processes = chosen.n_processes or (n_gpus() if device == "cuda" else 1)
    registry = Registry.connect(chosen.redis_url, chosen.artifacts_dir)
    bases: dict[str, Encoder] = {}
    built = {}
    for name, loop in declared.items():
        base = bases.get(loop.base) or bases.setdefault(loop.base, Encoder.load(loop.base, device=device))
        directory = chosen.artifacts_dir / name / "trainer"
        finetune = FineTune(Folder(directory / "finetune"), n_processes=n_processes,
                            environ={**os.environ, "RATCHET_DEVICE": device})
        built[name] = LoopTrainer(
            loop, base, store=Store(chosen.postgres_url, name, text_path=loop.input.text), registry=registry,
            finetune=finetune, encoders={base.digest: base},
            options=Options(directory, chosen.update_every_s, chosen.snapshot_every_s, chosen.keep_versions))
    return built


def _work(trainers: "dict[str, LoopTrainer]", stop: threading.Event) -> list[str]:
    """Run every loop in its own thread until told to stop, or until one fails for good; returns those that failed."""
    failed: list[str] = []

    def work(name: str, trainer: "LoopTrainer") -> None:
        try:
            trainer.run(stop)
        finally:
            # One loop that cannot go on ends the process: a supervisor starts it anew, and its readiness shows it.
            if not stop.is_set():
                failed.append(name)
                stop.set()

    threads = [threading.Thread(target=work, args=item, name=f"loop-{item[0]}") for item in trainers.items()]
    threading.excepthook = _log_uncaught
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return failed


def _log_uncaught(caught: threading.ExceptHookArgs) -> None:
    _log.error("loop_failed", exc=caught.exc_value, thread=caught.thread.name if caught.thread else None,
               reason=str(caught.exc_value))


if __name__ == "__main__":
    run()
