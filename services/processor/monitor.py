"""Watches Kafka, Postgres and the worker's partitions: for readiness, for lag, and for what may mature."""

import time
from collections.abc import Callable, Mapping

from schemas.errors import Transient
from services.processor.broker import Broker
from services.processor.metrics import Metrics
from services.processor.records import Partition

_STALE_S = 5.0


class Monitor:
    """Knows what is wrong at the moment. Its values may be read from any thread.

    Attributes:
        lags: Records not yet stored of each partition that this worker reads, as of ``measured_ms``.
        measured_ms: When Kafka was last asked, ms since the epoch; 0 for never.
    """

    def __init__(self, broker: Broker, metrics: Metrics, assignment: Callable[[], set[Partition]],
                 fences: Callable[[], Mapping[Partition, int]]) -> None:
        self._broker, self._metrics, self._assignment, self._fences = broker, metrics, assignment, fences
        self._faults = {"kafka": "not asked yet", "postgres": "not asked yet", "partitions": "none assigned yet"}
        self._asked_s = 0.0
        self.lags: dict[Partition, int] = {}
        self.measured_ms = 0

    def faults(self) -> dict[str, str]:
        """Return what is not ready, by part."""
        faults = dict(self._faults)
        if "kafka" not in faults and time.monotonic() - self._asked_s > _STALE_S:
            faults["kafka"] = f"has not answered for {_STALE_S:g} s"
        return faults

    def note(self, part: str, fault: Exception | None) -> None:
        """Note that a part is as it should be, or why not."""
        # One assignment each, so that other threads see the old faults or the new ones.
        if fault is None:
            self._faults = {name: why for name, why in self._faults.items() if name != part}
        else:
            self._faults = self._faults | {part: str(fault)}

    async def look(self) -> None:
        """Ask Kafka once, and work out the lag."""
        asked_ms = time.time_ns() // 1_000_000
        try:
            extents = await self._broker.extents()
        except Transient as exc:
            self.note("kafka", exc)
            return
        self.note("kafka", None)
        self._asked_s = time.monotonic()
        mine, fences = self._assignment(), self._fences()
        self.note("partitions", None if mine else Transient("none assigned"))
        lags = {partition: max(0, extents[partition].end - fences.get(partition, extents[partition].first))
                for partition in mine if partition in extents}
        for partition in self.lags.keys() - lags.keys():
            self._metrics.lag_records.remove(*map(str, partition))
        for partition, lag in lags.items():
            self._metrics.lag_records.labels(*map(str, partition)).set(lag)
        self.lags, self.measured_ms = lags, asked_ms
