"""Hands a request's events to Kafka and waits for the acknowledgement; bounds what is under way."""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Protocol

from schemas import frames
from schemas.errors import Transient
from schemas.topics import Topics
from services.collector import metrics
from services.collector.intake import Intake
from shared.kafka import Part


class Producer(Protocol):
    """What the collector needs of a Kafka producer; ``FrameProducer`` is one."""

    def send_encoded(self, parts: Sequence[Part], told: Callable[[Transient | None], None]) -> None:
        """Send encoded items that are acknowledged together; raises Transient when they are refused."""

    def fault(self) -> str:
        """Why nothing can be sent now; empty when it can."""


class Gateway:
    """The way to Kafka.

    Args:
        max_requests: Requests under way at once.
        max_request_bytes: Bytes of their bodies at once, as far as they have come.
    """

    def __init__(self, producer: Producer, topics: Topics, *, max_requests: int, max_request_bytes: int) -> None:
        self._producer, self._topics = producer, topics
        self._max_requests, self._max_bytes = max_requests, max_request_bytes
        self._n_requests = 0
        self._n_bytes = 0
        self._arrived: deque[tuple[asyncio.Future[None], Transient | None]] = deque()
        self._called = False

    @contextmanager
    def admitted(self, announced_bytes: int) -> Iterator[Callable[[int], None]]:
        """Let a request in.

        Args:
            announced_bytes: Size of its body as announced. There must be room for it, but only what has come is
                counted: clients that announce much and send nothing would keep everybody else out.

        Yields:
            What counts bytes of the body as they come; raises Transient when they are too many.

        Raises:
            Transient: Too many requests or bytes are under way, or Kafka is away: then its body is not even read.
        """
        if fault := self._producer.fault():
            raise Transient(f"Kafka is away: {fault}")
        if self._n_requests >= self._max_requests:
            raise Transient(f"{self._n_requests} requests are under way")
        kept_bytes = 0

        def reserve(n_bytes: int) -> None:
            nonlocal kept_bytes
            if self._n_bytes + n_bytes > self._max_bytes:
                raise Transient(f"{self._n_bytes} bytes are being received")
            kept_bytes += n_bytes
            self._n_bytes += n_bytes

        if self._n_bytes + announced_bytes > self._max_bytes:
            raise Transient(f"{self._n_bytes} bytes are being received")
        self._n_requests += 1
        metrics.in_flight.set(self._n_requests)
        try:
            yield reserve
        finally:
            self._n_requests -= 1
            self._n_bytes -= kept_bytes
            metrics.in_flight.set(self._n_requests)

    def send(self, intake: Intake) -> asyncio.Future[None]:
        """Write events and dead letters; called in the event loop.

        Returns:
            A future that resolves once all of them are acknowledged; with Transient it fails when they are not, and
            the client must send the request again.

        Raises:
            Transient: Nothing was taken.
        """
        topic = self._topics.events
        parts: list[Part] = [(topic, event.subject or event.id, data)
                             for event, data in zip(intake.events, intake.encoded, strict=True)]
        parts += [(self._topics.dead, letter.id, frames.encode_one(letter)) for letter in intake.dead]
        loop = asyncio.get_running_loop()
        answer = loop.create_future()
        self._producer.send_encoded(parts, lambda fault: self._arrive(loop, answer, fault))
        return answer

    def _arrive(self, loop: asyncio.AbstractEventLoop, answer: asyncio.Future[None], fault: Transient | None) -> None:
        """Bring an answer to the event loop; called in the producer's threads."""
        self._arrived.append((answer, fault))
        # One acknowledgement by Kafka answers many requests, and the loop is woken once for all of them.
        if not self._called:
            self._called = True
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._called = False
        while self._arrived:
            answer, fault = self._arrived.popleft()
            if answer.done():
                continue  # its client went away
            if fault is None:
                answer.set_result(None)
            else:
                answer.set_exception(fault)

    def fault(self) -> str:
        """Why nothing can be stored now; empty when it can."""
        return self._producer.fault()
