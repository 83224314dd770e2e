"""Processes of a test's own in milliseconds: forked from a server process that has imported torch once."""

import multiprocessing
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from typing import Any

_context = multiprocessing.get_context("forkserver")


def start(work: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """Run a module's function in a process; it ends with this one. ``exitcode`` says how it ended."""
    # Only the first call decides what the server imports; it lives as long as the test session.
    _context.set_forkserver_preload(["services.trainer.app", "services.trainer.tuning"])
    process = _context.Process(target=work, args=arguments, daemon=True)
    process.start()
    return process
