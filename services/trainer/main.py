"""Builds the trainer from its settings, and runs it until it is told to stop."""

import os
import signal
import sys
import threading
from collections.abc import Mapping
from types import FrameType
from typing import TYPE_CHECKING

from schemas.errors import Permanent, RatchetError
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

    A wrong setting or loop file, or a taken port, prints one line and exits with status 2. A loop that cannot go on
    is named by the readiness and leaves the others to their work; when none is left, it exits with 1.
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

    try:
        probe = Probe(chosen.at.host, chosen.at.port, "RATCHET_TRAINER_PORT", readiness)
    except Permanent as exc:
        print(f"ratchet trainer: {exc}", file=sys.stderr)
        raise SystemExit(2) from exc
    probe.start()
    try:
        trainers |= _build(chosen, declared)
        faults.clear()
        all_failed = _work(trainers, stop)
    except RatchetError as exc:
        _log.error("cannot_start", exc=exc, reason=str(exc))
        raise SystemExit(1) from exc
    finally:
        probe.stop()
    _log.info("stopped", pid=os.getpid())
    if all_failed:
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
    registry = Registry.connect(chosen.registry.redis_url, chosen.registry.artifacts_dir)
    bases: dict[str, Encoder] = {}
    built = {}
    for name, loop in declared.items():
        base = bases.get(loop.base) or bases.setdefault(loop.base, Encoder.load(loop.base, device=device))
        directory = chosen.registry.artifacts_dir / name / "trainer"
        finetune = FineTune(Folder(directory / "finetune"), n_processes=n_processes,
                            environ={**os.environ, "RATCHET_DEVICE": device})
        built[name] = LoopTrainer(
            loop, base, store=Store(chosen.postgres.url, name, text_path=loop.input.text), registry=registry,
            finetune=finetune, encoders={base.digest: base},
            options=Options(directory, chosen.update_every_s, chosen.snapshot_every_s, chosen.keep_versions))
    return built


def _work(trainers: "Mapping[str, LoopTrainer]", stop: threading.Event) -> bool:
    """Run every loop in its own thread until told to stop, or until all failed for good; returns whether all did."""
    failed: list[str] = []

    def work(name: str, trainer: "LoopTrainer") -> None:
        try:
            trainer.run(stop)
        except Exception as exc:  # noqa: BLE001 - whatever one loop dies of, the others go on, and readiness shows it
            trainer.fault = f"stopped: {exc}"
            _log.error("loop_failed", exc=exc, loop=name, reason=str(exc))
            failed.append(name)
            if len(failed) == len(trainers):  # a supervisor starts the process anew
                stop.set()

    threads = [threading.Thread(target=work, args=item, name=f"loop-{item[0]}") for item in trainers.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(failed) == len(trainers)


if __name__ == "__main__":
    run()
