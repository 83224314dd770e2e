"""Writes every answered prediction to Kafka, without any answer waiting for it."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

from schemas.errors import Transient
from schemas.predictions import Prediction
from shared.kafka import Record
from shared.logs import Log

_log = Log("ratchet.inference")
_RETRY_S = 0.25
_OVERHEAD_BYTES = 500


class Producer(Protocol):
    """The part of ``FrameProducer`` that the log needs."""

    def send_many(self, records: Sequence[Record], /) -> "Future[None]":
        """Send; the future fails with Transient."""

    def close(self, timeout_s: float, /) -> int:
        """Stop; returns how many items were not acknowledged."""


@dataclass(eq=False)
class _Batch:
    loop: str
    records: list[Record]
    n_bytes: int


class PredictionLog:
    """Bounded, and honest about what it could not keep: a prediction is either on Kafka, waiting, or counted as lost.

    What Kafka refuses or does not acknowledge is sent again until it is acknowledged; the same prediction may then
    arrive twice, which its id makes harmless.

    Args:
        max_bytes: Of predictions that Kafka has not acknowledged; beyond it new ones are lost.
        on_lost: Called with the loop's name and how many were lost, from any thread.
    """

    def __init__(self, producer: Producer, topic: str, *, max_bytes: int, on_lost: Callable[[str, int], None]) -> None:
        self._producer, self._topic, self._max_bytes, self._on_lost = producer, topic, max_bytes, on_lost
        self._lock = threading.Condition()
        self._open: dict[_Batch, None] = {}
        self._again: deque[_Batch] = deque()
        self._n_bytes = 0
        self._closed = False
        self._thread = threading.Thread(target=self._resend, name="prediction-log", daemon=True)
        self._thread.start()

    @property
    def n_bytes(self) -> int:
        """Bytes that Kafka has not acknowledged yet, roughly."""
        return self._n_bytes

    def write(self, loop: str, predictions: Sequence[Prediction]) -> None:
        """Log the predictions of one answer. Never blocks and never fails; what does not fit is counted as lost."""
        records: list[Record] = [(self._topic, prediction.subject or prediction.id, prediction)
                                 for prediction in predictions]
        batch = _Batch(loop, records, sum(map(_size, predictions)))
        with self._lock:
            fits = not self._closed and self._n_bytes + batch.n_bytes <= self._max_bytes
            if fits:
                self._n_bytes += batch.n_bytes
                self._open[batch] = None
        if fits:
            self._send(batch)
        else:
            self._on_lost(loop, len(records))

    def close(self, timeout_s: float) -> int:
        """Wait until everything is on Kafka, then stop; returns how many predictions were lost for lack of time."""
        with self._lock:
            self._lock.wait_for(lambda: not self._open, timeout_s)
            self._closed = True
            left = list(self._open)
            self._open.clear()
            self._again.clear()
            self._lock.notify_all()
        for batch in left:
            self._on_lost(batch.loop, len(batch.records))
        self._producer.close(0.5)
        n_lost = sum(len(batch.records) for batch in left)
        if n_lost:
            _log.error("predictions_lost", n=n_lost, reason=f"Kafka did not take them within {timeout_s} s of the end")
        return n_lost

    def _send(self, batch: _Batch) -> None:
        try:
            future = self._producer.send_many(batch.records)
        except Transient:
            self._put_back(batch)
            return
        future.add_done_callback(lambda done: self._answered(batch, done))

    def _answered(self, batch: _Batch, done: "Future[None]") -> None:
        if done.exception() is not None:
            self._put_back(batch)
            return
        with self._lock:
            if batch in self._open:
                del self._open[batch]
                self._n_bytes -= batch.n_bytes
                if not self._open:
                    self._lock.notify_all()

    def _put_back(self, batch: _Batch) -> None:
        with self._lock:
            if batch in self._open:
                self._again.append(batch)
                self._lock.notify_all()

    def _resend(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._again or self._closed)
                if self._closed:
                    return
            time.sleep(_RETRY_S)  # not at once: Kafka just refused them
            with self._lock:
                batches = list(self._again)
                self._again.clear()
            for batch in batches:
                self._send(batch)


def _size(prediction: Prediction) -> int:
    return len(prediction.embedding) * 4 // 3 + sum(len(str(value)) for value in prediction.input.values()) \
        + _OVERHEAD_BYTES
