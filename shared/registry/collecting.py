"""Lets go of old versions' weights, and of what Redis need not keep."""

from collections.abc import Callable, Set

from schemas.manifest import Manifest
from shared.registry.artifacts import Artifacts
from shared.registry.journal import Journal
from shared.registry.store import RedisStore
from shared.registry.values import Bounds, number_of


class Collector:
    """Collects under the loop's lock for publishing, which its caller holds.

    Args:
        manifest: Reads the manifest of a loop's version.
        held: Reads which versions of a loop keep everything, whatever their age.
    """

    def __init__(self, store: RedisStore, artifacts: Artifacts, bounds: Bounds, *,
                 manifest: Callable[[str, str], Manifest], held: Callable[[str], Set[str]]) -> None:
        self._store, self._artifacts, self._bounds = store, artifacts, bounds
        self._manifest, self._held = manifest, held
        self._journal = Journal(store, artifacts)

    def collect(self, loop: str, *, keep: int) -> int:
        """Delete weights that nothing needs from both places; returns how many versions lost theirs.

        Args:
            keep: How many of the newest versions keep their weights.
        """
        gone = self._store.collected(loop)
        names = [name for name in self._store.versions(loop, -1) if name not in gone]
        held = self._held(loop)
        old = [name for name in names[max(keep, 0):] if name not in held]
        if not old:
            return 0
        manifests = {name: self._manifest(loop, name) for name in names}
        # Marked in one script with the aliases: from here on nobody can promote them.
        marked = set(self._store.mark_collected(loop, old))
        needed = {ref.sha256 for name in names if name not in marked for ref in manifests[name].tensors.values()}
        for ref in {ref for name in marked for ref in manifests[name].tensors.values()}:
            if ref.sha256 not in needed:
                self._store.drop_blob(loop, ref)
                self._artifacts.drop_blob(loop, ref.sha256)
        return len(marked)

    def trim(self, loop: str) -> None:
        """Drop manifests and log entries beyond the bounds: from Redis, and the oldest manifests from the directory."""
        gone, held = self._store.collected(loop), self._held(loop)
        old = [name for name in self._store.versions(loop, -1)[self._bounds.n_manifests:]
               if name in gone and name not in held and self._artifacts.has_manifest(loop, name)]
        if old:
            self._store.drop_versions(loop, old, upto=max(self._store.trimmed(loop), *map(number_of, old)))
        older = self._artifacts.versions(loop)[:-self._bounds.n_archived]
        for name in set(older) - set(self._store.versions(loop, -1)) - held:
            self._artifacts.drop_manifest(loop, name)
        self._journal.catch_up(loop)
        self._store.trim_log(loop, self._bounds.n_entries)
