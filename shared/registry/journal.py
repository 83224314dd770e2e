"""Keeps the artifact directory's journal equal to the log in Redis."""

from shared.registry.artifacts import Artifacts
from shared.registry.store import RedisStore

_PAGE = 500


class Journal:
    """Copies log entries that the journal lacks: those of this process, and those of one that died before it could."""

    def __init__(self, store: RedisStore, artifacts: Artifacts) -> None:
        self._store, self._artifacts = store, artifacts

    def catch_up(self, loop: str) -> None:
        """Append what is missing; returns when it is on disk."""
        with self._artifacts.lock(loop, "journal"):
            while missing := self._store.log(loop, self._artifacts.last_id(loop), _PAGE):
                self._artifacts.append(loop, missing)
