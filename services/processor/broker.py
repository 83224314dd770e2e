"""What the processor asks Kafka beside what Faust reads: extents, single offsets, the group's offsets.

Uses aiokafka, which is Faust's own client.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from schemas.errors import Transient
from services.processor.preflight import Extent
from services.processor.records import Partition

_TIMEOUT_S = 5.0


class Broker:
    """One client connection, opened when needed; for one event loop."""

    def __init__(self, bootstrap: str, topics: Sequence[str], group: str) -> None:
        self._bootstrap, self._topics, self._group = bootstrap, list(topics), group
        self._client: AIOKafkaConsumer | None = None

    async def extents(self) -> dict[Partition, Extent]:
        """Return what every partition of the topics holds.

        Raises:
            Transient: Kafka does not answer, or a topic does not exist (yet).
        """
        async with self._asking("which offsets there are"):
            if self._client is None:
                client = AIOKafkaConsumer(bootstrap_servers=self._bootstrap, request_timeout_ms=int(_TIMEOUT_S * 1000))
                await client.start()
                self._client = client
            known = await self._client.topics()
            missing = sorted(set(self._topics) - set(known))
            if missing:
                raise Transient(f"kafka at {self._bootstrap} has no topic {', '.join(missing)} yet")
            # Asks for the partitions' leaders; without it the client knows of topics only that they exist.
            self._client._client.set_topics(self._topics)
            await self._client._client.force_metadata_update()
            partitions = [TopicPartition(topic, part)
                          for topic in self._topics for part in self._client.partitions_for_topic(topic) or ()]
            first = await self._client.beginning_offsets(partitions)
            end = await self._client.end_offsets(partitions)
        return {(tp.topic, tp.partition): Extent(first[tp], end[tp]) for tp in partitions}

    async def next_existing(self, partition: Partition, offset: int) -> int:
        """Return the first offset at or after one that has a record; to be asked only when there is one.

        Raises:
            Transient: Kafka does not answer.
        """
        tp = TopicPartition(*partition)
        async with self._asking("for a record"), self._consumer() as consumer:
            consumer.assign([tp])
            consumer.seek(tp, offset)
            record = await consumer.getone(tp)
        return int(record.offset)

    async def committed(self, partitions: Iterable[Partition]) -> dict[Partition, int]:
        """Return the group's offsets; partitions that have none are left out.

        Raises:
            Transient: Kafka does not answer.
        """
        found = {}
        async with self._asking("for the group's offsets"), self._consumer(self._group) as consumer:
            with _quietly():
                for partition in partitions:
                    offset = await consumer.committed(TopicPartition(*partition))
                    if offset is not None:
                        found[partition] = offset
        return found

    async def commit(self, next_offsets: Mapping[Partition, int]) -> bool:
        """Set the group's offsets; False, and nothing is changed, while the group has members.

        Raises:
            Transient: Kafka does not answer.
        """
        offsets = {TopicPartition(*partition): offset for partition, offset in next_offsets.items()}
        async with self._asking("to set the group's offsets"), self._consumer(self._group) as consumer:
            consumer.assign(list(offsets))
            try:
                with _quietly():
                    await consumer.commit(offsets)
            except KafkaError as exc:
                # A member's commit carries its generation; one from outside is refused as long as there are members.
                if type(exc).__name__ in {"CommitFailedError", "UnknownMemberIdError", "IllegalGenerationError",
                                          "RebalanceInProgressError"}:
                    return False
                raise
        return True

    async def close(self) -> None:
        """Close the connection."""
        client, self._client = self._client, None
        if client is not None:
            await client.stop()

    @asynccontextmanager
    async def _asking(self, what: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                yield
        except (KafkaError, TimeoutError, OSError) as exc:
            await self.close()
            raise Transient(f"kafka at {self._bootstrap} does not answer when asked {what}: "
                            f"{str(exc) or type(exc).__name__}") from exc

    @asynccontextmanager
    async def _consumer(self, group: str | None = None) -> AsyncIterator[AIOKafkaConsumer]:
        consumer = AIOKafkaConsumer(bootstrap_servers=self._bootstrap, group_id=group, enable_auto_commit=False,
                                    auto_offset_reset="earliest", request_timeout_ms=int(_TIMEOUT_S * 1000))
        try:
            await consumer.start()
            yield consumer
        finally:
            await consumer.stop()


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep aiokafka from logging errors for what is an answer here: no coordinator yet, or a refused commit."""
    logger = logging.getLogger("aiokafka.consumer.group_coordinator")
    before = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(before)
