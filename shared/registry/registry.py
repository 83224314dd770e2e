"""The registry: which versions exist, which one serves, and everything that was ever decided about it."""

import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from schemas.errors import Transient
from schemas.manifest import Manifest
from shared.logs import Log
from shared.registry import blobs, envelope
from shared.registry.artifacts import Artifacts
from shared.registry.collecting import Collector
from shared.registry.entries import aliases_of, entry_of
from shared.registry.journal import Journal
from shared.registry.restoring import Restorer
from shared.registry.store import RedisStore
from shared.registry.values import (
    Aliases,
    Bounds,
    Conflict,
    Corrupt,
    LogEntry,
    NotFound,
    Replica,
    Restored,
    number_of,
    refuse,
)

_log = Log("ratchet.registry")
# Redis emptied between a restore and the write after it, so many times in a row, is no accident.
_RESTORES = 3
_FORGET_REPLICA_MS = 10 * 60 * 1000


class Registry:
    """Versions, tensors, aliases and the log of every loop; safe to use from many threads and processes.

    Weights go to the artifact directory first, then to Redis in chunks, then the manifest makes them a version: a
    crash at any point leaves nothing half visible. Every change of an alias is one Lua script that also writes the
    log, and is in the artifact directory's journal before the call returns. A loop whose Redis was emptied is
    restored before it is changed.

    Raises (from every method, besides its own):
        Transient: Redis is away or busy, or the artifact directory cannot be written.
    """

    def __init__(self, store: RedisStore, artifacts: Artifacts, *, now_ms: Callable[[], int] | None = None,
                 bounds: Bounds | None = None) -> None:
        bounds = bounds or Bounds()
        self._store, self._artifacts = store, artifacts
        self._journal = Journal(store, artifacts)
        self._restorer = Restorer(store, artifacts, bounds)
        self._collector = Collector(store, artifacts, bounds, manifest=self.manifest, held=self._held)
        self._now_ms = now_ms or (lambda: time.time_ns() // 1_000_000)

    @classmethod
    def connect(cls, redis_url: str, artifacts_dir: Path, *, bounds: Bounds | None = None) -> "Registry":
        """Build a registry; connects at the first use."""
        return cls(RedisStore(redis_url), Artifacts(artifacts_dir), bounds=bounds)

    def close(self) -> None:
        """Close the connections to Redis."""
        self._store.close()

    def ping(self) -> None:
        """Return if Redis answers."""
        self._store.ping()

    # Versions

    def next_version(self, loop: str) -> str:
        """Reserve the next version name of a loop; it is never handed out again, not even after a restore."""
        with self._artifacts.lock(loop, "counter"):
            number = self._store.reserve(loop)
            floor = self._artifacts.counter(loop)
            if number is None or number <= floor:
                number = floor + 1
                self._store.put_counter(loop, number)
            self._artifacts.put_counter(loop, number)
        return f"v{number}"

    def publish(self, manifest: Manifest, tensors: Mapping[str, np.ndarray], *, actor: str = "trainer",
                reason: str = "") -> None:
        """Store a version; it serves nowhere before it is promoted. Idempotent.

        Args:
            tensors: By name, exactly those of the manifest. One that is stored already is not looked at again.

        Raises:
            Corrupt: A tensor is not the one that the manifest refers to.
            Conflict: Another manifest was published under this version's name.
        """
        loop, number = manifest.loop, number_of(manifest.version)
        blobs.compare(manifest, tensors)
        verdict = self._unless_lost(loop, lambda: self._publish(manifest, number, tensors, actor, reason))
        if verdict == "other":
            raise Conflict(f"loop {loop} has another version {manifest.version} already; take a new name")
        self._journal.catch_up(loop)

    def _publish(self, manifest: Manifest, number: int, tensors: Mapping[str, np.ndarray], actor: str,
                 reason: str) -> str:
        loop = manifest.loop
        with self._artifacts.lock(loop, "publish"):
            has_history = self._artifacts.has_history(loop)
            no_file = {name: ref for name, ref in manifest.tensors.items()
                       if not self._artifacts.has_blob(loop, ref.sha256, ref.n_bytes)}
            no_copy = {name: ref for name, ref in manifest.tensors.items() if not self._store.has_blob(loop, ref)}
            # Nothing else is packed and hashed: a generation's versions share a projection of 4.6 MB, 9 ms each time.
            packed = {name: blobs.pack_for(manifest, name, tensors[name]) for name in no_file | no_copy}
            for name, ref in no_file.items():
                self._artifacts.put_blob(loop, ref.sha256, packed[name])
            for name, ref in no_copy.items():
                self._store.put_blob(loop, ref.sha256, packed[name])
            stored = self._store.manifest(loop, manifest.version)
            sealed = envelope.seal(manifest)
            if stored is None:
                self._artifacts.put_manifest(manifest)
            return self._store.publish(loop, manifest.version, number, sealed, actor, reason or manifest.gate.reason,
                                       has_history=has_history)

    def _unless_lost(self, loop: str, write: Callable[[], str]) -> str:
        """Write and return the verdict; restore and write again when Redis was emptied just before."""
        for _ in range(_RESTORES):
            self.ensure(loop)
            verdict = write()
            if verdict != "lost":
                return verdict
        raise Transient(f"Redis loses the loop {loop} again and again; nothing was written")

    def manifest(self, loop: str, version: str) -> Manifest:
        """Read a version's manifest, checked; from the artifact directory when Redis has a damaged one or dropped it.

        Raises:
            NotFound: There is no such version.
            Corrupt: Both copies are damaged.
        """
        number = number_of(version)
        stored = self._store.manifest(loop, version)
        if stored is not None:
            try:
                return envelope.open_(stored, f"Redis, loop {loop} version {version}")
            except Corrupt as exc:
                _log.warning("registry_copy_damaged", loop=loop, version=version, what="manifest", reason=str(exc))
                return self._artifacts.manifest(loop, version)
        # Above the trimmed ones, a manifest that only the directory has is of a publish that was killed: no version.
        if not self._store.is_known(loop) or number <= self._store.trimmed(loop):
            return self._artifacts.manifest(loop, version)
        raise NotFound(f"loop {loop} has no version {version}")

    def versions(self, loop: str, *, limit: int = 50) -> list[Manifest]:
        """Read the newest versions' manifests, newest first; damaged ones are left out, with a log line.

        Those that Redis has: the newest ``Bounds.n_manifests``, and older ones that something names.
        """
        found = []
        for version in self._store.versions(loop, limit):
            try:
                found.append(self.manifest(loop, version))
            except (Corrupt, NotFound) as exc:
                _log.error("registry_manifest_unreadable", loop=loop, version=version, reason=str(exc))
        return found

    def tensors(self, manifest: Manifest, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
        """Read a version's tensors, every digest checked; a damaged copy in Redis is replaced by the durable one.

        Args:
            names: Which; None for all.

        Raises:
            Corrupt: A tensor is damaged or missing in both places. None is returned.
            NotFound: The manifest has no tensor of such a name.
        """
        wanted = list(manifest.tensors) if names is None else list(names)
        unknown = [name for name in wanted if name not in manifest.tensors]
        if unknown:
            raise NotFound(f"loop {manifest.loop} version {manifest.version} has no tensor {', '.join(unknown)}")
        refs = {manifest.tensors[name].sha256: manifest.tensors[name] for name in wanted}
        by_digest = {}
        for ref, blob in self._store.blobs(manifest.loop, list(refs.values())):
            try:
                checked = blobs.check(blob, ref.sha256, "Redis")
            except Corrupt as exc:
                _log.warning("registry_copy_damaged", loop=manifest.loop, version=manifest.version,
                             what=ref.sha256, reason=str(exc))
                checked = self._artifacts.blob(manifest.loop, ref.sha256)
            by_digest[ref.sha256] = blobs.unpack(checked, ref)
        return {name: by_digest[manifest.tensors[name].sha256] for name in wanted}

    # Aliases

    def aliases(self, loop: str) -> Aliases:
        """Which version plays which part; all None, epoch 0, for a loop that Redis does not know."""
        return aliases_of(self._store.aliases(loop))

    def promote(self, loop: str, version: str, *, actor: str, reason: str, expect_epoch: int | None = None,
                force: bool = False) -> Aliases:
        """Make a version the champion. Does nothing when it is already.

        Args:
            expect_epoch: Refuse when the aliases have moved on from this epoch; None: promote whatever they are.
            force: Promote though the loop is pinned; the pin moves along.

        Raises:
            Conflict: The loop is pinned, or the epoch is another.
            NotFound: There is no such version, or its weights were collected.
        """
        return self._change(loop, "promote", version=version, actor=actor, reason=reason, expect_epoch=expect_epoch,
                            force=force)

    def rollback(self, loop: str, *, actor: str, reason: str) -> Aliases:
        """Make the champion before this one the champion again, and pin it there. A second one steps further back.

        Raises:
            Conflict: There is no champion before this one whose weights still exist.
        """
        return self._change(loop, "rollback", actor=actor, reason=reason)

    def pin(self, loop: str, version: str | None = None, *, actor: str, reason: str) -> Aliases:
        """Hold a version as champion until it is unpinned; None holds the champion.

        Raises:
            Conflict: None was given and there is no champion.
            NotFound: There is no such version, or its weights were collected.
        """
        return self._change(loop, "pin", version=version or "", actor=actor, reason=reason)

    def unpin(self, loop: str, *, actor: str, reason: str) -> Aliases:
        """Let the champion move again. Does nothing when nothing is pinned."""
        return self._change(loop, "unpin", actor=actor, reason=reason)

    def assign(self, loop: str, alias: str, version: str | None, *, actor: str, reason: str) -> Aliases:
        """Set the ``canary`` or ``shadow`` alias; None clears it.

        Raises:
            NotFound: There is no such version, or its weights were collected.
        """
        if alias not in ("canary", "shadow"):
            raise NotFound(f"{alias!r} cannot be assigned: only canary and shadow can")
        return self._change(loop, alias, version=version or "", actor=actor, reason=reason, extra={"alias": alias})

    def _change(self, loop: str, action: str, *, actor: str, reason: str, version: str = "",
                expect_epoch: int | None = None, force: bool = False, extra: Mapping[str, Any] | None = None,
                recorded: str = "") -> Aliases:
        detail, state = "", dict[str, str]()

        def write() -> str:
            nonlocal detail, state
            verdict, detail, state = self._store.change(
                loop, action, version=version, actor=actor, reason=reason, expect_epoch=expect_epoch, force=force,
                extra=msgspec.json.encode({k: _as_text(v) for k, v in extra.items()}).decode() if extra else "",
                recorded=recorded, has_history=self._artifacts.has_history(loop))
            return verdict

        verdict = self._unless_lost(loop, write)
        if verdict == "done":
            self._journal.catch_up(loop)
        if verdict == "unknown" and number_of(version) <= self._store.trimmed(loop) and \
                self._artifacts.has_manifest(loop, version):
            verdict = "collected"
        refuse(verdict, detail, loop, version)
        return aliases_of(state)

    # The log

    def record(self, loop: str, action: str, *, actor: str, reason: str, version: str | None = None,
               fields: Mapping[str, Any] | None = None) -> None:
        """Write down something that changed no alias, for example a rejected candidate with its numbers."""
        self._change(loop, "record", version=version or "", actor=actor, reason=reason, extra=fields, recorded=action)

    def log(self, loop: str, *, after: str = "0-0", limit: int = 1000) -> list[LogEntry]:
        """Read log entries after an id, oldest first; Redis keeps the newest ``Bounds.n_entries``."""
        return [entry_of(line) for line in self._store.log(loop, after, limit)]

    def newest(self, loop: str, *, limit: int = 1000) -> list[LogEntry]:
        """Read the newest log entries, oldest first."""
        return [entry_of(line) for line in self._store.newest_log(loop, limit)]

    def last_entry_id(self, loop: str) -> str:
        """The id of the newest log entry, from which to follow; ``0-0`` when there is none."""
        return self._store.last_id(loop)

    def follow(self, loop: str, after: str, *, block_ms: int) -> list[LogEntry]:
        """Wait for log entries after an id, up to ``block_ms`` (at most 2,000); empty when none came."""
        return [entry_of(line) for line in self._store.follow(loop, after, block_ms)]

    # Replicas

    def heartbeat(self, loop: str, replica: str, version: str, digest: str, epoch: int) -> None:
        """Say what a replica serves, so that its weights are not collected."""
        state = Replica(name=replica, version=version, digest=digest, epoch=epoch, seen_ms=self._now_ms())
        self._store.put_replica(loop, replica, msgspec.json.encode(state))

    def replicas(self, loop: str) -> list[Replica]:
        """The replicas that were heard of in the last ten minutes; older ones are forgotten."""
        found = []
        for name, state in self._store.replicas(loop).items():
            try:
                replica = msgspec.json.decode(state, type=Replica)
            except msgspec.DecodeError:
                replica = None
            if replica is None or replica.seen_ms < self._now_ms() - _FORGET_REPLICA_MS:
                self._store.drop_replica(loop, name)
            else:
                found.append(replica)
        return sorted(found, key=lambda replica: replica.name)

    # Upkeep

    def knows(self, loop: str) -> bool:
        """Whether Redis or the artifact directory has anything of the loop; writes nothing."""
        return self._store.is_known(loop) or self._artifacts.has_history(loop)

    def ensure(self, loop: str) -> None:
        """Restore the loop if Redis was emptied since it was last written; costs one round trip else."""
        if not self._store.is_known(loop) and self._artifacts.has_history(loop):
            self._restorer.restore(loop)

    def restore(self, loop: str | None = None) -> list[Restored]:
        """Bring back what Redis lost from the artifact directory: manifests, tensors, aliases, log, version counter.

        Idempotent, and harmless to a Redis that lost nothing.

        Args:
            loop: Which; None for every loop of the directory.

        Raises:
            NotFound: Neither Redis nor the directory has anything of that loop.
        """
        if loop is not None and not self.knows(loop):
            raise NotFound(f"there is nothing to restore of the loop {loop}: neither Redis nor the artifact directory "
                           "knows it")
        restored = []
        for name in self._artifacts.loops() if loop is None else [loop]:
            if self._store.is_known(name):
                self._journal.catch_up(name)
            restored.append(self._restorer.restore(name))
        return restored

    def collect(self, loop: str, *, keep: int) -> int:
        """Delete the weights of old versions from Redis and from the artifact directory; manifests stay.

        The newest ``keep`` versions keep theirs, and so does every version that an alias or a replica names. What is
        beyond ``Bounds`` then leaves Redis, and later the artifact directory.

        Returns:
            How many versions lost their weights.
        """
        with self._artifacts.lock(loop, "publish"):
            n_collected = self._collector.collect(loop, keep=keep)
            self._collector.trim(loop)
        return n_collected

    def _held(self, loop: str) -> set[str]:
        return self.aliases(loop).named() | {replica.version for replica in self.replicas(loop)}


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
