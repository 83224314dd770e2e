"""Brings an emptied Redis back from the artifact directory."""

from collections.abc import Mapping

import msgspec

from schemas.manifest import Manifest
from shared.logs import Log
from shared.registry import envelope
from shared.registry.artifacts import Artifacts, JournalLine
from shared.registry.entries import aliases_of
from shared.registry.journal import Journal
from shared.registry.store import RedisStore
from shared.registry.values import Aliases, Bounds, Corrupt, NotFound, Restored, number_of

_log = Log("ratchet.registry")
_PAGE = 500


class Restorer:
    """Writes tensors, manifests, counter and log, and the aliases last: nothing serves from a half-restored loop.

    As much as Redis keeps: the newest manifests with those that an alias names, and the newest log entries.
    """

    def __init__(self, store: RedisStore, artifacts: Artifacts, bounds: Bounds) -> None:
        self._store, self._artifacts, self._bounds = store, artifacts, bounds
        self._journal = Journal(store, artifacts)

    def restore(self, loop: str) -> Restored:
        """Restore one loop. What Redis has already is left as it is, unless an old copy of Redis came back.

        Replicas do not go back to an older epoch, so from an old copy's aliases nothing would ever be served again.
        """
        damaged: dict[str, str] = {}
        with self._artifacts.lock(loop, "publish"):
            known = self._store.is_known(loop)
            lines, bad = self._artifacts.journal(loop)
            state, written = self._store.aliases(loop), _state(lines)
            lost = not known or _epoch(state) < _epoch(written)
            state = written if lost else state
            manifests = self._manifests(loop, aliases_of(state).named(), damaged)
            weightless = {manifest.version for manifest in manifests if not self._has_weights(manifest)}
            n_blobs = self._blobs([m for m in manifests if m.version not in weightless], damaged)
            for manifest in manifests:
                self._store.put_manifest(loop, manifest.version, number_of(manifest.version), envelope.seal(manifest))
            self._store.put_collected(loop, weightless)
            with self._artifacts.lock(loop, "counter"):
                self._store.put_counter(loop, self._artifacts.counter(loop))
            if bad:
                damaged[f"{loop}/journal.jsonl"] = f"lines {', '.join(map(str, bad))} are damaged"
            n_entries = self._entries(loop, lines) if lost else 0
            if lost:
                self._store.put_aliases(loop, state)
                self._store.change(loop, "restore", actor="registry", reason="Redis had lost this loop",
                                   expect_epoch=None)
                self._journal.catch_up(loop)
        aliases = self._aliases(loop)
        for path, reason in damaged.items():
            _log.error("artifact_damaged", loop=loop, path=path, reason=reason)
        report = Restored(loop=loop, n_versions=len(manifests), n_blobs=n_blobs, n_entries=n_entries,
                          champion=aliases.champion, epoch=aliases.epoch, damaged=damaged)
        _log.info("registry_restored", loop=loop, n_versions=report.n_versions, n_blobs=n_blobs, n_entries=n_entries,
                  champion=report.champion, n_damaged=len(damaged))
        return report

    def _manifests(self, loop: str, named: set[str], damaged: dict[str, str]) -> list[Manifest]:
        found = []
        versions = self._artifacts.versions(loop)
        older, newest = versions[:-self._bounds.n_manifests], versions[-self._bounds.n_manifests:]
        if older:
            self._store.put_trimmed(loop, max(self._store.trimmed(loop), number_of(older[-1])))
        for version in [*(name for name in older if name in named), *newest]:
            try:
                found.append(self._artifacts.manifest(loop, version))
            except (Corrupt, NotFound) as exc:
                damaged[f"{loop}/manifests/{version}.json"] = str(exc)
        return found

    def _has_weights(self, manifest: Manifest) -> bool:
        return all(self._artifacts.blob_path(manifest.loop, ref.sha256).exists() or
                   self._store.has_blob(manifest.loop, ref) for ref in manifest.tensors.values())

    def _blobs(self, manifests: list[Manifest], damaged: dict[str, str]) -> int:
        n_written = 0
        refs = {(manifest.loop, ref): None for manifest in manifests for ref in manifest.tensors.values()}
        for loop, ref in refs:
            if self._store.has_blob(loop, ref):
                continue
            try:
                self._store.put_blob(loop, ref.sha256, self._artifacts.blob(loop, ref.sha256))
                n_written += 1
            except Corrupt as exc:
                damaged[f"{loop}/blobs/{ref.sha256}"] = str(exc)
        return n_written

    def _entries(self, loop: str, lines: list[JournalLine]) -> int:
        last = _order(self._store.last_id(loop))
        missing = [line for line in lines if _order(line.id) > last][-self._bounds.n_entries:]
        for start in range(0, len(missing), _PAGE):
            self._store.put_log(loop, missing[start:start + _PAGE])
        return len(missing)

    def _aliases(self, loop: str) -> Aliases:
        return aliases_of(self._store.aliases(loop))


def _state(lines: list[JournalLine]) -> dict[str, str]:
    """The aliases after the journal's last line, and the greatest epoch there ever was; 0 without any promotion."""
    text = next((line.entry["state"] for line in reversed(lines) if "state" in line.entry), "{}")
    epoch = max((_epoch(line.entry) for line in lines), default=0)
    return msgspec.json.decode(text, type=dict[str, str]) | {"epoch": str(max(epoch, 0))}


def _epoch(fields: Mapping[str, str]) -> int:
    """The epoch among a log entry's fields or in the aliases; -1 when it is damaged."""
    text = fields.get("epoch", "0")
    return int(text) if text.isascii() and text.isdigit() else -1


def _order(identity: str) -> tuple[int, int]:
    ms, _, n = identity.partition("-")
    return int(ms), int(n or 0)
