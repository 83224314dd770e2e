"""The way of a record through the process: gathered, prepared, stored, acknowledged; or the process ends.

Two threads beside the event loop: one prepares a batch while the other stores the one before. Nothing is acknowledged
before its transaction is committed, and an error is never raised into Faust, which would acknowledge what it was given
(500 of 10,000 events were lost that way): it ends the process, and the next one goes on at the fence.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import NoReturn, TypeVar

from schemas.errors import Permanent, RatchetError, Transient
from services.processor.broker import Broker
from services.processor.fence import Gap
from services.processor.maturity import Watermark
from services.processor.metrics import Metrics
from services.processor.preflight import ACCEPT_LOSS, Loss
from services.processor.preparing import Batch, Preparer
from services.processor.records import Partition, Record
from services.processor.sink import Stored
from services.processor.storing import Storer
from shared.logs import Log

Die = Callable[[str, BaseException | None], NoReturn]
T = TypeVar("T")
_log = Log(__name__)


@dataclass(frozen=True, slots=True)
class Delivery:
    """A record with the way to acknowledge it."""

    record: Record
    acknowledge: Callable[[], Awaitable[object]]


class Pipeline:
    """Takes deliveries from one event loop.

    Args:
        max_records, max_bytes: In one transaction, and as much again waits in line. One record may be larger.
        linger_s: How long a record that comes to an idle worker waits for others.
        accept_loss: Step over records that retention removed.
        die: Ends the process.
    """

    def __init__(self, preparer: Preparer, storer: Storer, broker: Broker, metrics: Metrics, *, max_records: int,
                 max_bytes: int, linger_s: float, accept_loss: bool, die: Die) -> None:
        self._preparer, self._storer, self._broker, self._metrics = preparer, storer, broker, metrics
        self._max_records, self._max_bytes, self._linger_s = max_records, max_bytes, linger_s
        self._accept_loss, self._die = accept_loss, die
        self._line: deque[Delivery] = deque()
        self._line_bytes = 0
        self._arrived, self._room, self._draining = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._room.set()
        self._preparing = ThreadPoolExecutor(1, "prepare")
        self._storing = ThreadPoolExecutor(1, "store")
        self.watermark = Watermark()
        self.next_offsets: dict[Partition, int] = {}

    async def take(self, delivery: Delivery) -> None:
        """Put a record in line; waits while the line is full, and for ever once draining."""
        self._line.append(delivery)
        self._line_bytes += len(delivery.record.value)
        self._arrived.set()
        full = len(self._line) >= self._max_records or self._line_bytes >= self._max_bytes
        if full or self._draining.is_set():
            self._room.clear()
            await self._room.wait()

    async def run(self) -> None:
        """Store what comes, until drained. When a batch cannot be stored the process ends."""
        storing: asyncio.Task[None] | None = None
        while await self._something():
            if storing is None or storing.done():
                await asyncio.sleep(self._linger_s)
            deliveries = self._next()
            records = [delivery.record for delivery in deliveries]
            batch = await self._in(self._preparing, partial(self._preparer.prepare, records))
            if storing:
                await storing
            storing = asyncio.create_task(self._store(deliveries, records, batch))
            storing.add_done_callback(self._stored)
        if storing:
            await storing

    def drain(self) -> None:
        """Take no more; ``run`` ends with the batch that is under way. What is in line is read again later."""
        self._draining.set()
        self._arrived.set()

    async def in_store_thread(self, work: Callable[[], T]) -> T:
        """Do something in the sink's thread, between two batches."""
        return await self._in(self._storing, work)

    def _next(self) -> list[Delivery]:
        """Take as much from the line as one transaction may hold."""
        deliveries: list[Delivery] = []
        n_bytes = 0
        while self._line and len(deliveries) < self._max_records and n_bytes < self._max_bytes:
            deliveries.append(self._line.popleft())
            n_bytes += len(deliveries[-1].record.value)
        self._line_bytes -= n_bytes
        if not self._line:
            self._arrived.clear()
        if not self._draining.is_set():
            self._room.set()
        return deliveries

    async def _something(self) -> bool:
        await self._arrived.wait()
        return not self._draining.is_set()

    async def _store(self, deliveries: Sequence[Delivery], records: Sequence[Record], batch: Batch) -> None:
        holes: dict[tuple[Partition, int], int] = {}
        while True:
            try:
                for stored in await self._in(self._storing, lambda: self._storer.store(records, batch, holes)):
                    self._note(stored)
                break
            except Gap as gap:
                holes[gap.partition, gap.fence] = await self._hole(gap)
            except Transient as exc:
                self._die("postgres was away for too long", exc)
            except RatchetError as exc:
                self._die("a batch cannot be stored", exc)
        self.watermark.saw(records)
        for delivery in deliveries:
            await delivery.acknowledge()

    def _stored(self, storing: asyncio.Task[None]) -> None:
        # Not left for the next batch to find: hours may pass until one comes, and this one would wait as long.
        if not storing.cancelled() and (fault := storing.exception()):
            self._die("a batch cannot be stored", fault)

    def _note(self, stored: Stored) -> None:
        self.next_offsets |= stored.next_offsets
        self._metrics.stored(stored)

    async def _hole(self, gap: Gap) -> int:
        """Ask the broker what is between the fence and the record that came, and return that record's offset."""
        try:
            existing = await self._broker.next_existing(gap.partition, gap.fence)
            extent = (await self._broker.extents())[gap.partition]
        except RatchetError as exc:
            self._die(f"{gap}, and kafka cannot be asked why", exc)
        if existing < gap.offset:
            self._die(f"{gap}, but {existing} exists: records were skipped; they are read again after a restart", gap)
        if extent.first > gap.fence:
            loss = Loss(gap.partition, gap.fence, extent)
            if not self._accept_loss:
                self._die("records are lost", Permanent(f"{loss.message}. Start once with {ACCEPT_LOSS}=true to go on"))
            _log.warning("loss_accepted", partition=gap.partition, reason=loss.message)
        else:
            _log.info("offsets_without_records", partition=gap.partition, first=gap.fence, last=gap.offset - 1)
        return gap.offset

    async def _in(self, executor: ThreadPoolExecutor, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(executor, work)
