"""Runs the processor."""

import asyncio
import gc
import logging
import os
import signal
import sys
from typing import NoReturn

import uvloop

from schemas.errors import Permanent
from schemas.loops import InvalidLoop
from services.processor.metrics import Metrics
from services.processor.settings import Settings
from services.processor.worker import Worker
from shared import logs, loops, settings
from shared.probe import Probe

_log = logs.Log(__name__)


def run() -> None:
    """Run until SIGTERM or SIGINT, then finish the batch that is under way and return.

    Exits with 2 when a setting or a loop file is wrong, with 1 when going on would lose or double something.
    """
    try:
        config = settings.read(Settings)
        declared = loops.load(config.loops_dir)
    except (Permanent, InvalidLoop) as exc:
        print(f"ratchet processor: {exc}", file=sys.stderr)
        sys.exit(2)
    logs.set_up(config.log_level)
    # A batch is hundreds of thousands of small objects and no cycles: looking for some took a tenth of the time.
    gc.freeze()
    gc.set_threshold(200_000, 20, 50)
    worker = Worker(config, declared, Metrics(loops=declared), _die)
    try:
        probe = Probe(config.at.host, config.at.port, "RATCHET_PROCESSOR_PORT", worker.faults)
    except Permanent as exc:
        print(f"ratchet processor: {exc}", file=sys.stderr)
        sys.exit(2)
    probe.start()
    _log.info("processor_started", loops=sorted(declared), **settings.shown(config))
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(worker))
    except Permanent as exc:
        _die("it cannot go on", exc)
    finally:
        probe.stop()
    _log.info("processor_stopped")


async def _serve(worker: Worker) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await worker.run(stop)


def _die(reason: str, exc: BaseException | None) -> NoReturn:
    """End the process at once, without a chance for anything to acknowledge or commit what is not done."""
    _log.error("processor_died", exc=exc, reason=reason, error=str(exc) if exc else "")
    logging.shutdown()
    os._exit(1)


if __name__ == "__main__":
    run()
