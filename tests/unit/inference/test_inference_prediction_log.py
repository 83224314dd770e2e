"""The prediction log: bounded, patient, and honest about losses."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import pytest

from schemas.errors import Transient
from schemas.predictions import Prediction
from services.inference.prediction_log import PredictionLog


def prediction(number: int, *, subject: str = "") -> Prediction:
    return Prediction(id=f"pr_{number}", loop="loop", version="v1", subject=subject, time_ms=1, input={"text": "hi"})


@dataclass
class FakeProducer:
    """Takes, refuses or leaves open what it is sent."""

    mode: str = "take"
    sent: list[tuple[str, str, str]] = field(default_factory=list)
    refused: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def send_many(self, records: Sequence[Any]) -> "Future[None]":
        with self.changed:
            self.changed.notify_all()
            if self.mode == "refuse":
                self.refused += 1
                raise Transient("full")
            future: Future[None] = Future()
            if self.mode == "fail":
                self.refused += 1
                future.set_exception(Transient("no acknowledgement"))
            elif self.mode == "take":
                self.sent += [(topic, key, item.id) for topic, key, item in records]
                future.set_result(None)
            return future

    def close(self, timeout_s: float) -> int:
        return 0

    def wait(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, 10)


@pytest.fixture
def lost() -> dict[str, int]:
    return {}


@pytest.fixture
def make(lost: dict[str, int]) -> Iterator[Callable[..., PredictionLog]]:
    made: list[PredictionLog] = []

    def build(producer: FakeProducer, max_bytes: int = 1 << 20) -> PredictionLog:
        made.append(PredictionLog(producer, "t", max_bytes=max_bytes,
                                  on_lost=lambda loop, n: lost.__setitem__(loop, lost.get(loop, 0) + n)))
        return made[-1]

    yield build
    for log in made:
        log.close(0)


def test_predictions_go_out_keyed_by_subject_or_by_their_own_id(make: Callable[..., PredictionLog]) -> None:
    producer = FakeProducer()
    log = make(producer)
    log.write("loop", [prediction(1, subject="s_1"), prediction(2)])
    assert producer.sent == [("t", "s_1", "pr_1"), ("t", "pr_2", "pr_2")]
    assert log.n_bytes == 0


@pytest.mark.parametrize("mode", ["refuse", "fail"])
def test_what_kafka_does_not_take_is_sent_again_until_it_does(make: Callable[..., PredictionLog], mode: str,
                                                             lost: dict[str, int]) -> None:
    producer = FakeProducer(mode)
    log = make(producer)
    log.write("loop", [prediction(1)])
    producer.wait(lambda: producer.refused >= 2)
    with producer.changed:
        producer.mode = "take"
    assert log.close(10) == 0
    assert [item for _, _, item in producer.sent] == ["pr_1"]
    assert lost == {}


def test_beyond_the_bound_predictions_are_lost_and_counted(make: Callable[..., PredictionLog],
                                                           lost: dict[str, int]) -> None:
    log = make(FakeProducer("leave open"), max_bytes=1200)
    for number in range(5):
        log.write("loop", [prediction(number)])
    assert log.n_bytes <= 1200
    assert lost == {"loop": 3}


def test_what_is_not_acknowledged_at_the_end_is_counted_as_lost(make: Callable[..., PredictionLog],
                                                                lost: dict[str, int]) -> None:
    log = make(FakeProducer("leave open"))
    log.write("loop", [prediction(1), prediction(2)])
    assert log.close(0.01) == 2
    log.write("loop", [prediction(3)])
    assert lost == {"loop": 3}
