"""Maturity: until when all feedback has been seen, so that predictions may mature; pure."""

from collections.abc import Iterable, Mapping

from services.processor.records import Partition, Record


class Watermark:
    """The moment up to which this worker has seen what arrived in its partitions.

    After a pause, feedback is waiting in Kafka while the clock has run on: maturing by the clock would give defaults to
    predictions whose feedback is about to be read, and the trainer would learn from them. So a partition that lags
    holds the watermark at its last record's time; one that is read to its end does not hold it. Partitions of other
    workers are not waited for: a default that was too early is revised when the feedback comes.
    """

    def __init__(self) -> None:
        self._last_ms: dict[Partition, int] = {}

    def saw(self, records: Iterable[Record]) -> None:
        """Note records whose effects are stored."""
        for record in records:
            self._last_ms[record.partition] = max(record.time_ms, self._last_ms.get(record.partition, 0))

    def until(self, now_ms: int, lags: Mapping[Partition, int]) -> int | None:
        """Return the moment, in ms since the epoch, or None while a lagging partition has given nothing yet.

        Args:
            lags: Records not yet done, of each partition that this worker reads.
        """
        if not lags:
            return None
        behind = [self._last_ms.get(partition) for partition, lag in lags.items() if lag > 0]
        known = [time for time in behind if time is not None]
        if len(known) < len(behind):
            return None
        return min([now_ms, *known])
