"""A Kafka producer for frames: bounded in memory, honest within a second, and repaired when it is stuck."""

import threading
import time
from collections import deque
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from typing import Any

from kafka import KafkaProducer
from kafka.errors import KafkaError
from kafka.net.compat import KafkaNetClient

from schemas import frames
from schemas.dead import DeadLetter
from schemas.errors import Transient
from schemas.events import Event
from schemas.predictions import Prediction
from shared.kafka import metrics
from shared.kafka.grouping import Frame, Part, Ticket, Told, group
from shared.kafka.watch import Watch
from shared.logs import Log

_log = Log(__name__)

Record = tuple[str, str, Event | Prediction | DeadLetter]
"""What is sent: topic, key (the subject, or an id when there is no subject) and item."""

# Below the broker's message.max.bytes (1,048,588): a batch of two frames is never refused as too large.
_MAX_BATCH_BYTES = 900_000
_MAX_REQUEST_BYTES = 8 << 20
# How long kafka-python itself keeps trying. Longer than the caller waits, so that a broker that only stalls gets the
# events anyway; the client's repetition has the same id and is dropped downstream.
_MIN_DELIVERY_S = 10.0
_REQUEST_S = 5.0
_STUCK_S = 2.0


class FrameProducer:
    """Sends items to Kafka as frames and resolves a future once all in-sync replicas have them.

    Idempotence is off: with it kafka-python stops for good after a broker was silent for longer than its delivery
    time-out. One request in flight keeps the order; an item that arrives twice has one id and is dropped downstream.
    kafka-python has no bound on its memory, so this class counts the bytes itself.

    Args:
        bootstrap: ``host:port``, several separated by commas.
        topics: Every topic that will be sent to.
        max_bytes_in_flight: Bytes of encoded items accepted and not yet acknowledged; beyond it sending is refused.
        ack_timeout_s: After this long without acknowledgement the caller is told so.
        linger_s: How long items are gathered before they go out as frames.
        one_per_record: One item per record instead of frames, for consumers that know no frames; 4 times slower.
        fail_fast: Refuse at once while Kafka is away. False keeps items, within the bound, until it comes back.
    """

    def __init__(self, bootstrap: str, topics: Collection[str], *, client_id: str,
                 max_bytes_in_flight: int = 64 << 20, ack_timeout_s: float = 0.8, linger_s: float = 0.003,
                 max_frame_bytes: int = 256 << 10, one_per_record: bool = False, fail_fast: bool = True) -> None:
        self._bootstrap, self._topics, self._client_id = bootstrap, frozenset(topics), client_id
        self._max_bytes, self._ack_timeout_s, self._linger_s = max_bytes_in_flight, ack_timeout_s, linger_s
        self._max_frame_bytes, self._one_per_record, self._fail_fast = max_frame_bytes, one_per_record, fail_fast
        self._delivery_s = max(_MIN_DELIVERY_S, ack_timeout_s)
        self._lock = threading.Lock()
        self._queue: deque[Ticket] = deque()
        self._open: dict[Ticket, None] = {}
        self._outstanding: dict[int, Frame] = {}
        self._n_bytes = 0
        self._stalled = False
        self._last_ack_s = float("-inf")
        self._closing = False
        self._stop = False
        self._wake = threading.Event()
        self._idle = threading.Condition(self._lock)
        self._producer: KafkaProducer | None = None
        self._watch = Watch(bootstrap, topics, client_id=client_id)
        self._thread = threading.Thread(target=self._run, name=f"{client_id}-frames", daemon=True)
        self._watch.start()
        self._thread.start()

    def send(self, topic: str, key: str, item: Event | Prediction | DeadLetter) -> Future[None]:
        """Send one item; as ``send_many`` with a list of one."""
        return self.send_many([(topic, key, item)])

    def send_many(self, records: Sequence[Record]) -> Future[None]:
        """Encode items and send them, as ``send_encoded``.

        Returns:
            A future that resolves when every item is on all in-sync replicas, or fails with Transient. It cannot be
            cancelled.
        """
        future: Future[None] = Future()
        future.set_running_or_notify_cancel()

        def told(error: Transient | None) -> None:
            if error is None:
                future.set_result(None)
            else:
                future.set_exception(error)

        self.send_encoded([(topic, key, frames.encode_one(item)) for topic, key, item in records], told)
        return future

    def send_encoded(self, parts: Sequence[Part], told: Told) -> None:
        """Send items that are acknowledged together. Never blocks.

        Args:
            parts: Each as ``frames.encode_one`` writes it.
            told: Called once, in any thread: with None when every item is on all in-sync replicas, else with what is
                wrong; then some of the items may still arrive. It must not block nor raise.

        Raises:
            Transient: Refused, nothing was taken: too many bytes in flight, closing, or Kafka is away (``fail_fast``).
        """
        if unknown := {topic for topic, _, _ in parts} - self._topics:
            raise ValueError(f"the topics {unknown} were not named when the producer was made")
        n_bytes = sum([len(data) for _, _, data in parts])
        if not parts:
            told(None)
            return
        ticket = Ticket(parts, n_bytes, time.monotonic() + self._ack_timeout_s, told)
        if self._fail_fast and (fault := self.fault()):
            raise Transient(f"Kafka is away: {fault}")
        with self._lock:
            if self._closing:
                raise Transient("the producer is closing")
            if self._n_bytes + n_bytes > self._max_bytes:
                raise Transient(f"{self._n_bytes} bytes wait for Kafka; {n_bytes} more exceed {self._max_bytes}")
            self._n_bytes += n_bytes
            self._open[ticket] = None
            self._queue.append(ticket)
        if not self._wake.is_set():
            self._wake.set()

    def fault(self) -> str:
        """Return why items cannot be written now; empty when they can. Never blocks."""
        if not self._thread.is_alive():
            return "the producer's thread has ended"
        if self._producer is None:
            return self._watch.fault or "not connected to Kafka yet"
        if self._stalled and self._outstanding:
            return f"Kafka acknowledged nothing for {self._ack_timeout_s} s"
        # Acknowledgements outrank the watch: a question can be late when this process is short of CPU.
        if self._watch.fault and self._last_ack_s < self._watch.asked_s:
            return self._watch.fault
        return ""

    def healthy(self) -> bool:
        """Return whether items can be written now. Never blocks."""
        return not self.fault()

    def alive(self) -> bool:
        """Return whether the producer's own thread runs; without it only a restart of the process helps."""
        return self._thread.is_alive()

    @property
    def n_bytes_in_flight(self) -> int:
        """Bytes accepted and not yet acknowledged or given up."""
        return self._n_bytes

    def flush(self, timeout_s: float) -> bool:
        """Block until everything sent so far has its answer; returns whether that happened in time."""
        with self._idle:
            return self._idle.wait_for(lambda: not self._open, timeout_s)

    def close(self, timeout_s: float = 5.0) -> int:
        """Refuse new items, wait for those under way, and stop.

        Returns:
            How many items were not acknowledged in time: they may be lost.
        """
        with self._lock:
            self._closing = True
        self.flush(timeout_s)
        with self._lock:
            lost = sum(len(ticket.parts) for ticket in self._open)
        self._stop = True
        self._wake.set()
        self._thread.join(5.0)
        self._watch.stop()
        return lost

    def _run(self) -> None:
        try:
            while not self._stop:
                self._turn()
        finally:
            # Also when a bug ends this thread: no caller may wait for an answer that nobody gives.
            if self._producer is not None:
                self._abandon(self._producer, "the producer was closed")
            with self._lock:
                self._closing = True
            for ticket in list(self._open):
                self._give_up(ticket, "the producer was closed")

    def _turn(self) -> None:
        if not self._queue:
            self._wake.wait(0.05)
        self._wake.clear()
        self._expire()
        if self._producer is None and not self._connect():
            return
        self._replace_if_stuck()
        if self._queue and self._producer is not None:
            if self._linger_s > 0:
                time.sleep(self._linger_s)
            self._hand_over(self._producer)

    def _hand_over(self, producer: KafkaProducer) -> None:
        tickets = []
        with self._lock:
            while self._queue:
                ticket = self._queue.popleft()
                if ticket.resolved:
                    self._n_bytes -= ticket.n_bytes
                else:
                    tickets.append(ticket)
        try:
            grouped = group(tickets, lambda topic: len(producer.partitions_for(topic)),
                            max_frame_bytes=self._max_frame_bytes, one_per_record=self._one_per_record)
        except (KafkaError, OSError) as exc:
            for ticket in tickets:
                with self._lock:
                    self._n_bytes -= ticket.n_bytes
                self._give_up(ticket, f"Kafka does not tell its partitions: {exc}")
            return
        for frame in grouped:
            frame.sent_s = time.monotonic()
            with self._lock:
                self._outstanding[id(frame)] = frame
            kind, value = ((frames.SINGLE, frame.parts[0]) if self._one_per_record
                           else (frames.FRAME, frames.join(frame.parts)))
            try:
                sent = producer.send(frame.topic, value, partition=frame.partition,
                                     key=frame.key.encode("utf-8", "surrogatepass") if frame.key else None,
                                     headers=[(frames.HEADER, kind.encode())])
            except (KafkaError, ValueError, OSError) as exc:
                self._finish(frame, exc)
                continue
            sent.add_callback(lambda _, frame=frame: self._finish(frame, None))
            sent.add_errback(lambda exc, frame=frame: self._finish(frame, exc))

    def _finish(self, frame: Frame, exc: BaseException | None) -> None:
        """A frame has its answer, or is given up. Called once or more from any thread; only the first counts."""
        done = []
        now_s = time.monotonic()
        with self._idle:
            if self._outstanding.pop(id(frame), None) is None:
                return
            self._n_bytes -= frame.n_bytes
            if exc is None:
                self._last_ack_s = now_s
                self._stalled = False
            for ticket in frame.tickets:
                if (exc is not None or ticket.acknowledge()) and ticket in self._open:
                    del self._open[ticket]
                    done.append(ticket)
            if not self._open:
                self._idle.notify_all()
        error = Transient(f"Kafka did not take the frame for {frame.topic}/{frame.partition}: {exc}") if exc else None
        for ticket in done:
            ticket.resolve(error)
        metrics.frames.labels(frame.topic, "failed" if exc else "acknowledged").inc()
        metrics.items.labels(frame.topic, "failed" if exc else "acknowledged").inc(len(frame.parts))
        metrics.ack_s.observe(now_s - frame.sent_s)

    def _expire(self) -> None:
        """Tell the callers whose time is over."""
        metrics.bytes_in_flight.labels(self._client_id).set(self._n_bytes)
        now_s = time.monotonic()
        while True:
            with self._lock:
                ticket = next(iter(self._open), None)
                if ticket is None or ticket.deadline_s > now_s:
                    break
                self._stalled = True
            self._give_up(ticket, f"no acknowledgement within {self._ack_timeout_s} s")
        with self._lock:
            # What was never handed to kafka-python is dropped; the rest stays counted until kafka-python lets go of it.
            while self._queue and self._queue[0].resolved:
                self._n_bytes -= self._queue.popleft().n_bytes

    def _give_up(self, ticket: Ticket, why: str) -> None:
        with self._idle:
            if ticket not in self._open:
                return  # it was told meanwhile
            del self._open[ticket]
            if not self._open:
                self._idle.notify_all()
        ticket.resolve(Transient(f"Kafka is away: {why}"))

    def _connect(self) -> bool:
        opened: list[KafkaNetClient] = []

        def open_net(**config: Any) -> KafkaNetClient:
            opened.append(KafkaNetClient(**config))
            return opened[-1]

        if self._watch.fault:
            # Asking costs a second each time while the broker is away; the watch does that already.
            self._wake.wait(0.02)
            return False
        try:
            producer = KafkaProducer(
                bootstrap_servers=self._bootstrap.split(","), client_id=self._client_id, kafka_client=open_net,
                acks="all", enable_idempotence=False, max_in_flight_requests_per_connection=1,
                compression_type="snappy", linger_ms=0, batch_size=_MAX_BATCH_BYTES,
                max_request_size=_MAX_REQUEST_BYTES, request_timeout_ms=int(_REQUEST_S * 1000),
                delivery_timeout_ms=int(self._delivery_s * 1000), retry_backoff_ms=50, reconnect_backoff_ms=50,
                reconnect_backoff_max_ms=200, max_block_ms=500, bootstrap_timeout_ms=500, metadata_max_age_ms=30_000,
                allow_auto_create_topics=False, metrics_enabled=False)
        except (KafkaError, OSError) as exc:
            for net in opened:
                net.close()
            _log.warning("kafka_producer_not_made", fault=str(exc))
            return False
        try:
            # Now, so that the first item does not wait 150 ms for it.
            for topic in self._topics:
                producer.partitions_for(topic)
        except (KafkaError, OSError) as exc:
            self._abandon(producer, f"the producer does not know its topics: {exc}")
            return False
        self._producer = producer
        return True

    def _replace_if_stuck(self) -> None:
        """The watchdog: kafka-python must have answered by now; if it has not, it never will."""
        with self._lock:
            oldest = next(iter(self._outstanding.values()), None)
        if oldest is None or time.monotonic() - oldest.sent_s < self._delivery_s + _STUCK_S:
            return
        _log.error("kafka_producer_replaced", outstanding=len(self._outstanding), waited_s=self._delivery_s + _STUCK_S)
        metrics.replaced.inc()
        stuck, self._producer = self._producer, None
        if stuck is not None:
            self._abandon(stuck, "the producer was stuck and is replaced")

    def _abandon(self, producer: KafkaProducer, why: str) -> None:
        # close(0) alone raises on unsent batches before it stops the sender thread, which then runs for ever.
        producer._sender.force_close()
        producer._sender.join(2.0)
        try:
            producer.close(timeout=0)
        except KafkaError as exc:
            _log.warning("kafka_producer_not_closed", fault=str(exc))
        with self._lock:
            left = list(self._outstanding.values())
        for frame in left:
            self._finish(frame, Transient(why))
