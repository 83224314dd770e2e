"""The trainer's process: one loop that fails for good does not take the others along."""

import threading

from schemas.errors import Permanent
from services.trainer.main import _work


class FakeTrainer:
    """A loop that works until told to stop, or fails at once."""

    def __init__(self, error: Exception | None = None, *, waits_for: "FakeTrainer | None" = None) -> None:
        self.fault, self._error, self._waits_for = "", error, waits_for
        self.n_rounds = 0

    def run(self, stop: threading.Event) -> None:
        if self._error is not None:
            raise self._error
        end = 200
        while not stop.is_set() and self.n_rounds < end:
            self.n_rounds += 1
            if self._waits_for is not None and self._waits_for.fault:
                self.n_rounds, end = 1000, 0
            stop.wait(0.02)


def test_a_loop_that_fails_for_good_is_named_and_the_others_go_on() -> None:
    faulty = FakeTrainer(Permanent("the sums are damaged"))
    sound = FakeTrainer(waits_for=faulty)
    stop = threading.Event()
    assert not _work({"a": faulty, "b": sound}, stop)  # type: ignore[dict-item]
    assert not stop.is_set()
    assert faulty.fault == "stopped: the sums are damaged"
    assert (sound.fault, sound.n_rounds) == ("", 1000)


def test_the_process_ends_when_no_loop_is_left() -> None:
    stop = threading.Event()
    assert _work({"a": FakeTrainer(Permanent("no")), "b": FakeTrainer(ValueError("nor this"))},  # type: ignore[dict-item]
                 stop)
    assert stop.is_set()
