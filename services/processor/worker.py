"""The worker: what runs side by side in one process, from the preflight to the drain."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from schemas.errors import Transient
from schemas.loops import Loop
from schemas.topics import Topics
from services.processor import app as faust_app
from services.processor import preflight
from services.processor.broker import Broker
from services.processor.metrics import Metrics
from services.processor.monitor import Monitor
from services.processor.naming import Name
from services.processor.pipeline import Die, Pipeline
from services.processor.preparing import Preparer
from services.processor.settings import Settings
from services.processor.sink import Sink
from services.processor.storing import Storer
from shared.logs import Log

T = TypeVar("T")
_LOOK_EVERY_S = 1.0
_PREFLIGHT_EVERY_S = 0.2
_MATURE_AT_ONCE = 1000
_COUNT_EVERY_S = 5.0
_DRAIN_S, _LEAVE_S = 15.0, 3.0
_log = Log(__name__)


class Worker:
    """One worker of the group.

    Args:
        die: Ends the process at once.
    """

    def __init__(self, settings: Settings, loops: Mapping[str, Loop], metrics: Metrics, die: Die) -> None:
        self._settings, self._metrics, self._die = settings, metrics, die
        topics = Topics(settings.kafka.topic_prefix)
        preparer = Preparer(topics, loops)
        self._sink = Sink(settings.postgres.url, loops, preparer)
        self._maturing_sink = Sink(settings.postgres.url, loops, preparer)
        self._maturing = ThreadPoolExecutor(1, "mature")
        self._naming = ThreadPoolExecutor(1, "name")
        # Installations that share a Kafka share neither topics nor group.
        group = f"{settings.kafka.topic_prefix}-processor"
        self._name = Name(settings.postgres.url, group, settings.instance)
        self._broker = Broker(settings.kafka.bootstrap, topics.all, group)
        storer = Storer(self._sink, preparer, patience_s=settings.patience_s, clock=time.monotonic, sleep=time.sleep,
                        on_retry=self._retrying)
        self._pipeline = Pipeline(preparer, storer, self._broker, metrics, max_records=settings.max_records,
                                  max_bytes=settings.max_bytes, linger_s=settings.linger_s,
                                  accept_loss=settings.accept_loss, die=die)
        self._app = faust_app.build(
            bootstrap=settings.kafka.bootstrap, topics=topics, group=group, instance=settings.instance,
            session_timeout_s=settings.session_timeout_s, take=self._pipeline.take)
        self._started = False
        self._monitor = Monitor(self._broker, metrics, self._assignment, lambda: self._pipeline.next_offsets)

    def faults(self) -> dict[str, str]:
        """Return what is not ready, by part; from any thread."""
        return self._monitor.faults()

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set, then finish the batch that is under way.

        Raises:
            Permanent: Kafka's records do not fit what Postgres says has been done.
        """
        if not await self._preflight(stop):
            return
        tasks = [asyncio.create_task(work) for work in (self._pipeline.run(), self._look(), self._mature())]
        self._started = True
        starting = asyncio.create_task(self._app.start())
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([*tasks, starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        while not stop.is_set():
            failed = next((task for task in [*tasks, starting] if task.done() and task.exception()), None)
            if failed:
                self._die("a part of the worker failed", failed.exception())
            if fault := faust_app.fault(self._app):
                self._die("faust failed", fault)
            await asyncio.wait([*tasks, stopping], timeout=_LOOK_EVERY_S, return_when=asyncio.FIRST_COMPLETED)
        await self._leave(tasks, starting)

    async def _preflight(self, stop: asyncio.Event) -> bool:
        """Wait for Kafka and Postgres, and make the group go on where Postgres says; False when stopped meanwhile."""
        said = ""
        while not stop.is_set():
            try:
                taken = await self._hold_name()
                if not taken and await self._aligned():
                    return True
                reason = str(taken or "the group is ahead of Postgres and still has members")
            except Transient as exc:
                reason = str(exc)
            if reason != said:
                _log.warning("preflight_waits", reason=reason)
                said = reason
            await _any([stop.wait()], timeout_s=_PREFLIGHT_EVERY_S)
        return False

    async def _hold_name(self) -> Transient | None:
        """Return None while this worker has its name, else what to say."""
        held = await asyncio.get_running_loop().run_in_executor(self._naming, self._name.hold)
        taken = None if held else Transient(f"another worker runs under the name {self._settings.instance}; give each "
                                            "its own RATCHET_PROCESSOR_INSTANCE")
        self._monitor.note("name", taken)
        return taken

    async def _aligned(self) -> bool:
        await self._monitor.look()
        extents = await self._broker.extents()
        # Before the fences: a batch that others commit in between moves the fence first and the group's offset after.
        committed = await self._broker.committed(extents)
        try:
            fences = await self._pipeline.in_store_thread(self._sink.fences)
            plan = preflight.plan(fences, extents, accept_loss=self._settings.accept_loss)
            for loss in plan.losses:
                _log.warning("loss_accepted", partition=loss.partition, reason=loss.message)
            await self._pipeline.in_store_thread(lambda: self._sink.set_fences(fences, plan.new))
        except Transient as exc:
            self._monitor.note("postgres", exc)
            raise
        self._monitor.note("postgres", None)
        self._pipeline.next_offsets |= plan.next_offsets
        if await self._broker.commit(plan.next_offsets):
            _log.info("preflight_done", next_offsets={f"{t}/{p}": o for (t, p), o in plan.next_offsets.items()})
            return True
        # Others are at work and the group's offsets cannot be set. What it holds will do unless it is too far ahead.
        return all(offset <= plan.next_offsets.get(partition, offset) for partition, offset in committed.items())

    async def _look(self) -> None:
        while True:
            await self._monitor.look()
            try:
                # Held by a session, so a restart of Postgres frees it for whoever asks first.
                if taken := await self._hold_name():
                    self._die("its name was taken", taken)
                # Other workers move the fences of partitions that are then given to this one.
                self._pipeline.next_offsets |= await self._pipeline.in_store_thread(self._sink.fences)
                self._monitor.note("postgres", None)
            except Transient as exc:
                self._monitor.note("postgres", exc)
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _mature(self) -> None:
        count_s = 0.0
        while True:
            until_ms = self._pipeline.watermark.until(self._monitor.measured_ms, self._monitor.lags)
            try:
                if until_ms is not None:
                    await self._mature_until(until_ms)
                if (began_s := time.monotonic()) >= count_s:
                    missing = await self._in_maturing_thread(self._maturing_sink.missing)
                    self._metrics.missing(missing, time.time_ns() // 1_000_000)
                    # A million missing predictions take 0.6 s to count: that may cost a fiftieth of the time, no more.
                    count_s = time.monotonic() + max(_COUNT_EVERY_S, 50 * (time.monotonic() - began_s))
            except Transient as exc:
                _log.warning("maturing_waits", reason=str(exc))
            await asyncio.sleep(self._settings.mature_every_s)

    async def _mature_until(self, until_ms: int) -> None:
        """Do what the passing of time asks for: mature predictions, and give up those that never came."""
        n_done = _MATURE_AT_ONCE
        while n_done == _MATURE_AT_ONCE:
            n_done, n_defaulted = await self._in_maturing_thread(
                lambda: self._maturing_sink.mature(until_ms, limit=_MATURE_AT_ONCE))
            self._metrics.matured.inc(n_done)
            self._metrics.defaulted.inc(n_defaulted)
        n_done = _MATURE_AT_ONCE
        while n_done == _MATURE_AT_ONCE:
            n_done, n_dead = await self._in_maturing_thread(
                lambda: self._maturing_sink.orphan(until_ms, limit=_MATURE_AT_ONCE))
            self._metrics.dead_letters.inc(n_dead)
            if n_done:
                _log.warning("feedback_orphaned", n_predictions=n_done, n_dead_letters=n_dead)

    async def _in_maturing_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._maturing, work)

    async def _leave(self, tasks: list[asyncio.Task[None]], starting: asyncio.Task[None]) -> None:
        _log.info("processor_draining")
        self._pipeline.drain()
        await _any([asyncio.shield(tasks[0])], timeout_s=_DRAIN_S)
        for task in (*tasks, starting):
            task.cancel()
        # The group's offsets are a hint, so leaving in order is worth seconds and no more.
        await _any([self._app.stop()], timeout_s=_LEAVE_S)
        await self._broker.close()
        self._sink.close()
        self._maturing_sink.close()
        self._name.release()

    def _retrying(self, exc: Transient) -> None:
        self._metrics.retries.inc()
        self._monitor.note("postgres", exc)

    def _assignment(self) -> set[tuple[str, int]]:
        return faust_app.assignment(self._app) if self._started else set()


async def _any(work: list[Awaitable[object]], *, timeout_s: float) -> None:
    """Wait for any of these, at most so long; what is not done is cancelled, and errors are left unread."""
    tasks = [asyncio.ensure_future(part) for part in work]
    done, pending = await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    for task in done:
        if not task.cancelled() and task.exception():
            _log.warning("leaving_failed", reason=str(task.exception()))
