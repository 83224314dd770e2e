"""Follows a loop's registry log in a thread of its own, and puts the champion in charge.

The alias pointer is the truth and is read again after every wait, reconnect and restart; the log only wakes the
thread early. A version is loaded and checked here, beside the one that serves; the switch is one assignment.
"""

import threading
import time
from collections.abc import Callable, Iterable

from schemas.errors import Invalid, Permanent, Transient
from services.inference import metrics
from services.inference.loading import Loader
from services.inference.serving import COLD, Lineup, Served, ServedLoop
from shared.logs import Log
from shared.registry import Aliases, Registry

_log = Log("ratchet.inference")
_BLOCK_MS = 500
_HEARTBEAT_S = 2.0
# A version that was refused is tried again now and then: its bytes may have been restored meanwhile.
_RETRY_REFUSED_S = 30.0
# Besides the current and the previous version; they cost a head each, since only those that share an encoder stay.
_KEPT_OLDER = 2


class Follower:
    """Keeps one loop's line-up equal to its aliases.

    Args:
        replica: This process's name in the registry.
        in_use: Returns every version that any loop of this process serves, for the encoders' sake.
    """

    def __init__(self, served: ServedLoop, registry: Registry, loader: Loader, *, replica: str,
                 in_use: Callable[[], Iterable[Served]]) -> None:
        self._served, self._registry, self._loader = served, registry, loader
        self._replica, self._in_use = replica, in_use
        self._name = served.name
        self._stop = threading.Event()
        self._refused: dict[str, tuple[int, float]] = {}
        self._last_id: str | None = None
        self._behind = ""
        self._heartbeat_due_s = 0.0
        self._thread = threading.Thread(target=self._run, name=f"follow-{self._name}", daemon=True)

    def start(self) -> None:
        """Start following; returns at once."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; waits for a load under way, 5 s at most."""
        self._stop.set()
        self._thread.join(5.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                if self._last_id is None:
                    self._registry.ensure(self._name)
                    self._last_id = self._registry.last_entry_id(self._name)
                self.look()
                self._set_degraded(self._behind)
                entries = self._registry.follow(self._name, self._last_id, block_ms=_BLOCK_MS)
                if entries:
                    self._last_id = entries[-1].id
            except Transient as exc:
                self._set_degraded(str(exc))
                self._stop.wait(0.2)
            except Exception as exc:  # noqa: BLE001 - this thread must outlive any fault, or nothing swaps again
                if str(exc) != self._served.degraded:
                    _log.error("follow_failed", exc=exc, loop=self._name)
                self._set_degraded(str(exc) or repr(exc))
                self._stop.wait(1.0)

    def look(self) -> None:
        """Read the aliases once and do what they say.

        Raises:
            Transient: Redis is away.
            Permanent: Not even the loop's base encoder can be loaded.
        """
        aliases = self._registry.aliases(self._name)
        lineup = self._served.lineup
        if lineup is not None and aliases.epoch < lineup.epoch:
            # Redis was emptied, or an old copy of it came back. What serves is newer: keep it.
            self._behind = (f"the registry is at epoch {aliases.epoch}, behind {lineup.epoch} that is served: "
                            "restore it with `ratchet registry restore`")
        else:
            self._behind = ""
            self._follow(aliases, lineup)
        self._beat()

    def _follow(self, aliases: Aliases, lineup: Lineup | None) -> None:
        if aliases.champion is None:
            if lineup is None:
                self._switch(self._loader.cold(self._served.loop), aliases)
            return
        if lineup is None or lineup.current.version != aliases.champion:
            found = self._get(aliases.champion, aliases.epoch)
            if found is not None:
                self._switch(found, aliases)
            elif lineup is None:
                self._fall_back(aliases)
        lineup = self._served.lineup
        if lineup is None or (lineup.epoch == aliases.epoch and self._has_previous(lineup, aliases)):
            return
        current = lineup.current.version == aliases.champion
        if aliases.previous is not None and current:
            previous = self._get(aliases.previous, aliases.epoch)
            if previous is not None:
                self._served.lineup = Lineup(lineup.current, {**lineup.loaded, previous.version: previous},
                                             aliases.epoch)
                return
        if current:
            self._served.lineup = Lineup(lineup.current, lineup.loaded, aliases.epoch)

    def _has_previous(self, lineup: Lineup, aliases: Aliases) -> bool:
        return aliases.previous is None or aliases.previous in lineup.loaded or aliases.previous in self._refused

    def _fall_back(self, aliases: Aliases) -> None:
        """The champion was refused and nothing serves yet: the previous one, or at worst ``v0``."""
        previous = self._get(aliases.previous, aliases.epoch) if aliases.previous else None
        self._switch(previous or self._loader.cold(self._served.loop), aliases)

    def _get(self, version: str, epoch: int) -> Served | None:
        """The version, loaded now unless it is already; None when it is refused."""
        lineup = self._served.lineup
        if lineup is not None and version in lineup.loaded:
            return lineup.loaded[version]
        tried_epoch, retry_s = self._refused.get(version, (-1, 0.0))
        if tried_epoch == epoch and time.monotonic() < retry_s:
            return None
        started_s = time.monotonic()
        try:
            found = self._loader.load(self._served.loop, version, beside=lineup.loaded.values() if lineup else ())
        except (Permanent, Invalid) as exc:
            self._refuse(version, epoch, exc)
            return None
        self._refused.pop(version, None)
        self._served.refused = {name: why for name, why in self._served.refused.items() if name != version}
        metrics.load_s.labels(self._name).observe(time.monotonic() - started_s)
        return found

    def _refuse(self, version: str, epoch: int, exc: Permanent | Invalid) -> None:
        first = version not in self._refused
        self._refused[version] = epoch, time.monotonic() + _RETRY_REFUSED_S
        while len(self._refused) > 100:
            del self._refused[next(iter(self._refused))]
        self._served.refused = {name: why for name, why in self._served.refused.items()
                                if name in self._refused} | {version: str(exc)}
        serving = self._served.lineup.current.version if self._served.lineup else None
        _log.error("version_refused", loop=self._name, version=version, serving=serving, reason=str(exc))
        if first:
            metrics.refused.labels(self._name).inc()
            self._registry.record(self._name, "refused", actor=self._replica, reason=str(exc), version=version,
                                  fields={"serving": serving or ""})

    def _switch(self, new: Served, aliases: Aliases) -> None:
        old = self._served.lineup
        loaded = {new.version: new}
        if old is not None:
            loaded |= _kept(old, new, aliases)
        self._served.lineup = Lineup(new, loaded, aliases.epoch)
        self._announce(old, new, aliases)
        self._heartbeat_due_s = 0.0
        self._loader.prune(self._in_use())

    def _announce(self, old: Lineup | None, new: Served, aliases: Aliases) -> None:
        if old is not None:
            self._served.n_swaps += 1
            metrics.swaps.labels(self._name).inc()
            metrics.serving_info.remove(self._name, old.current.version)
        metrics.serving_info.labels(self._name, new.version).set(1)
        metrics.serving_version.labels(self._name).set(int(new.version[1:]))
        metrics.epoch.labels(self._name).set(aliases.epoch)
        age_ms = time.time_ns() // 1_000_000 - new.manifest.created_ms if new.manifest else None
        _log.info("version_swapped", loop=self._name, version=new.version, before=old.current.version if old else None,
                  epoch=aliases.epoch, age_ms=age_ms)

    def _beat(self) -> None:
        lineup = self._served.lineup
        if lineup is None or lineup.current.version == COLD or time.monotonic() < self._heartbeat_due_s:
            return
        self._heartbeat_due_s = time.monotonic() + _HEARTBEAT_S
        self._registry.heartbeat(self._name, self._replica, lineup.current.version, lineup.current.digest,
                                 lineup.epoch)

    def _set_degraded(self, why: str) -> None:
        if why and why != self._served.degraded:
            _log.warning("registry_not_followed", loop=self._name, reason=why)
        self._served.degraded = why
        metrics.registry_up.labels(self._name).set(0 if why else 1)


def _kept(old: Lineup, new: Served, aliases: Aliases) -> dict[str, Served]:
    """What stays loaded beside a new version: the previous one for a rollback, and a few that cost little."""
    others = [served for version, served in old.loaded.items() if version != new.version]
    previous = [served for served in others if served.version in (old.current.version, aliases.previous)]
    encoders = {new.encoder.digest} | {served.encoder.digest for served in previous}
    older = [served for served in others if served not in previous and served.encoder.digest in encoders
             and served.version != COLD]
    newest = sorted(older, key=lambda served: int(served.version[1:]), reverse=True)[:_KEPT_OLDER]
    return {served.version: served for served in [*previous, *newest]}
