"""Stores batches whatever happens: retries, gaps, and records that cannot be stored. Runs in the sink's thread."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from schemas.dead import DeadLetter
from schemas.errors import Invalid, Transient
from services.processor.preparing import Batch, Preparer
from services.processor.records import Contents, Record, dead_letter
from services.processor.sink import Holes, Sink, Stored
from shared.logs import Log

T = TypeVar("T")
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.05, 2.0
_log = Log(__name__)


class Storer:
    """Stores batches through one sink.

    Args:
        patience_s: How long Postgres may be away before a batch is given up.
        clock: Seconds that only grow.
        sleep: Waits so many seconds.
        on_retry: Told the reason before each further attempt.
    """

    def __init__(self, sink: Sink, preparer: Preparer, *, patience_s: float, clock: Callable[[], float],
                 sleep: Callable[[float], None], on_retry: Callable[[Transient], None]) -> None:
        self._sink, self._preparer, self._patience_s = sink, preparer, patience_s
        self._clock, self._sleep, self._on_retry = clock, sleep, on_retry

    def store(self, records: Sequence[Record], batch: Batch, holes: Holes) -> list[Stored]:
        """Store a batch; blocks until it is committed. What Postgres refuses to store becomes a dead letter.

        Returns:
            What each transaction did: one, unless something had to be singled out.

        Raises:
            Gap: Records are missing; see ``fence.admit``. The part of the batch before them may be stored.
            Transient: Postgres was away for longer than ``patience_s``.
            Permanent: A statement or the schema is wrong.
        """
        try:
            return [self._patiently(lambda: self._sink.store(records, batch, holes=holes))]
        except Invalid as fault:
            if len(records) > 1:
                _log.warning("batch_split", n_records=len(records), reason=str(fault))
                middle = len(records) // 2
                return [stored for part in (records[:middle], records[middle:])
                        for stored in self.store(part, self._preparer.prepare(part), holes)]
        return [self._store_alone(records[0], holes)]

    def _store_alone(self, record: Record, holes: Holes) -> Stored:
        """Store one record, with a dead letter in place of each item that cannot be stored."""
        contents = self._preparer.read([record])
        good = Contents(dead=[])
        for index, event in enumerate(contents.events):
            letter = self._rehearse(Contents(events=[event]), record, f"event.{index}", event.body)
            good.dead.append(letter) if letter else good.events.append(event)
        for index, answer in enumerate(contents.predictions):
            letter = self._rehearse(Contents(predictions=[answer]), record, f"prediction.{index}", answer.input)
            good.dead.append(letter) if letter else good.predictions.append(answer)
        for index, dead in enumerate(contents.dead):
            letter = self._rehearse(Contents(dead=[dead]), record, f"dead.{index}", dead.message.encode())
            good.dead.append(letter or dead)
        batch = self._preparer.batch(good)
        return self._patiently(lambda: self._sink.store([record], batch, holes=holes))

    def _rehearse(self, contents: Contents, record: Record, index: str, payload: bytes) -> DeadLetter | None:
        try:
            self._patiently(lambda: self._sink.rehearse(self._preparer.batch(contents)))
        except Invalid as fault:
            _log.warning("item_unstorable", origin=record.origin, item=index, reason=str(fault))
            return dead_letter(record, index, fault, payload.decode(errors="replace"))
        return None

    def _patiently(self, attempt: Callable[[], T]) -> T:
        ends, wait_s = self._clock() + self._patience_s, _FIRST_WAIT_S
        while True:
            try:
                return attempt()
            except Transient as exc:
                if self._clock() >= ends:
                    raise
                self._on_retry(exc)
                _log.warning("postgres_retry", reason=str(exc), wait_s=wait_s)
            self._sleep(wait_s)
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S)
