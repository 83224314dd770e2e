"""Keeps the learner's sums: a snapshot file now and then, written beside the work, and the progress that names it."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec

from schemas.errors import Transient
from services.trainer.core import Learner
from services.trainer.reading import Shape
from services.trainer.snapshots import Snapshots
from services.trainer.store import Progress, Store


class Keeper:
    """Snapshots of one loop. A snapshot counts once the progress in Postgres names it; older ones are then deleted."""

    def __init__(self, directory: Path, store: Store, *, now_ms: Callable[[], int]) -> None:
        self._snapshots, self._store, self._now_ms = Snapshots(directory), store, now_ms
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="snapshot")
        self._writing: Future[str] | None = None
        self._written = Progress()
        self._cursor = 0
        self._last_ms = now_ms()

    def load(self, progress: Progress, fingerprint: str, shape: Shape) -> Learner | None:
        """The learner that progress names; None when there is none, or when it does not fit the loop any more."""
        held = self._snapshots.load(progress.snapshot, fingerprint=fingerprint) if progress.snapshot else None
        self._last_ms = self._now_ms()
        if held is None:
            return None
        self._written = progress
        self._cursor = progress.cursor
        return shape.restored(*held)

    def tend(self, learner: Learner, fingerprint: str, progress: Progress, *, every_s: float) -> None:
        """Start a snapshot when one is due, and put it in force once it is written; never waits for the disk.

        Raises:
            Transient: The last one could not be written; the work goes on without it, and the next one is due later.
        """
        if self._writing is not None and self._writing.done():
            self._put_in_force(self._written_now(self._writing), progress)
        if self._writing is None and learner.cursor > self._cursor and self._now_ms() - self._last_ms >= every_s * 1000:
            self._begin(learner, fingerprint)

    def finish(self, learner: Learner, fingerprint: str, progress: Progress) -> None:
        """Write a snapshot and put it in force before returning."""
        if self._writing is not None:
            self._put_in_force(self._written_now(self._writing), progress)
        if learner.cursor > self._cursor or progress.encoder != self._written.encoder:
            self._put_in_force(self._written_now(self._begin(learner, fingerprint)), progress)
        else:
            self.note(progress)

    def forgotten(self) -> None:
        """The sums changed though the cursor did not: what is on disk is out of date."""
        self._cursor = -1

    def note(self, progress: Progress) -> None:
        """Keep what changed beside the sums."""
        self._written = msgspec.structs.replace(progress, snapshot=self._written.snapshot,
                                                cursor=self._written.cursor)
        self._store.save(self._written)

    def _begin(self, learner: Learner, fingerprint: str) -> Future[str]:
        tensors, state = learner.state()
        self._cursor, self._last_ms = learner.cursor, self._now_ms()
        self._writing = self._pool.submit(self._snapshots.save, tensors, state, fingerprint=fingerprint)
        return self._writing

    def _written_now(self, writing: Future[str]) -> str:
        """The digest of what was written; after a failure the next snapshot is tried when it is due."""
        try:
            return writing.result()
        except Transient:
            self._writing, self._cursor = None, self._written.cursor
            raise

    def _put_in_force(self, digest: str, progress: Progress) -> None:
        written = msgspec.structs.replace(progress, snapshot=digest, cursor=self._cursor)
        self._store.save(written)
        self._snapshots.keep(digest)
        self._written, self._writing = written, None
