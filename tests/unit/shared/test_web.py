"""Serving ends by a signal, or when the process cannot go on."""

import os
import signal
import threading

import pytest
from starlette.applications import Starlette

from schemas.errors import Permanent
from shared import web


def listening():
    return web.listen("127.0.0.1", 0, "PORT")


def test_a_process_that_cannot_go_on_stops_serving():
    faults = iter(["", "", "the thread has ended"])
    with pytest.raises(Permanent, match="the thread has ended"):
        web.serve(Starlette(), listening(), doom=lambda: next(faults, "the thread has ended"), look_every_s=0.01)


def test_a_process_without_fault_serves_until_a_signal():
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGTERM))
    # Only once it serves, and so handles the signal.
    web.serve(Starlette(), listening(), doom=lambda: "", look_every_s=0.01, on_start=[timer.start])
    timer.join()
