"""The Faust application: reads the topics as raw bytes and hands every record to the pipeline."""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from typing import Any

import faust
from faust.app.base import BootStrategy
from faust.exceptions import ConsumerNotStarted

from schemas.frames import content_type
from schemas.topics import Topics
from services.processor.pipeline import Delivery
from services.processor.records import Partition, Record

Take = Callable[[Delivery], Awaitable[None]]


class _OnlyConsume(BootStrategy):  # type: ignore[misc]
    """No web server and no producer: the settings that should turn them off do not."""

    enable_web = False
    enable_kafka_producer = False


class _App(faust.App):  # type: ignore[misc]
    BootStrategy = _OnlyConsume
    logger = logging.getLogger("faust.app")

    def _create_directories(self) -> None:
        """Make none: there are no tables to keep in them."""


def build(*, bootstrap: str, topics: Topics, group: str, instance: str, session_timeout_s: float, take: Take) -> _App:
    """Return the application, not yet started.

    Args:
        instance: This worker's name as a static member of the group.
        take: Called with every record, one after the other; nothing is acknowledged unless it does so.
    """
    app = _App(
        group,
        broker=[f"kafka://{address.strip()}" for address in bootstrap.split(",")],
        autodiscover=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        consumer_auto_offset_reset="earliest",
        # A static member that dies and comes back has its partitions in 2 s; a dynamic one waits for its own old
        # session to end first, up to a minute.
        consumer_group_instance_id=instance,
        broker_session_timeout=session_timeout_s,
        broker_heartbeat_interval=min(3.0, session_timeout_s / 3),
        broker_commit_interval=1.0,
        stream_wait_empty=False,
        # Records may be frames of a megabyte; Faust's 4,096 of them would not fit the memory.
        stream_buffer_maxsize=32,
        # The fence makes acknowledgements a hint, so nobody has to wait for them when partitions move.
        stream_recovery_delay=0.0,
    )
    source = app.topic(*topics.all, key_type=bytes, value_type=bytes, key_serializer="raw", value_serializer="raw")

    @app.agent(source, name="intake")  # type: ignore[untyped-decorator]
    async def intake(stream: Any) -> None:
        # Faust acknowledges what an agent was given even when the agent fails, unless it never acknowledges at all.
        manual = stream.noack()
        async for event in manual.events():
            await take(Delivery(_record(event.message), partial(manual.ack, event)))

    return app


def assignment(app: _App) -> set[Partition]:
    """Return the partitions that this worker reads at the moment; none while Faust's consumer is still starting."""
    try:
        return {(tp.topic, tp.partition) for tp in app.consumer.assignment()}
    except ConsumerNotStarted:
        return set()


def fault(app: _App) -> BaseException | None:
    """Return what ended a part of Faust for good, or None.

    aiokafka's membership in the group is a task of its own. When it fails, nobody is told and nothing is read again.
    """
    if app.crashed:
        return app.crash_reason or RuntimeError("faust gave no reason")
    thread = getattr(app.consumer, "_thread", None)
    coordinator = getattr(getattr(thread, "_consumer", None), "_coordinator", None)
    membership = getattr(coordinator, "_coordination_task", None)
    if membership is None or not membership.done() or membership.cancelled():
        return None
    reason: BaseException | None = membership.exception()
    return reason


def _record(message: Any) -> Record:
    headers: Iterable[tuple[str, bytes]] | Mapping[str, bytes] | None = message.headers
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    return Record(message.topic, message.partition, message.offset, round((message.timestamp or 0) * 1000),
                  content_type(pairs), message.value or b"")
