"""What other commands do with a stack that runs: find it, look at it, stop it."""

import contextlib
import http.client
import json
import signal
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from schemas.errors import Permanent, RatchetError, Transient
from services.stack import plan, state
from services.stack.kafka import Kafka
from services.stack.postgres import Postgres
from services.stack.process import Say, Server, wait_gone
from services.stack.redis import Redis
from services.stack.state import Running, State

DEFAULT_DATA_DIR = Path(".data")
DOWN_TIMEOUT_S = 90.0


def resolve_data_dir(named: Path | None, environ: Mapping[str, str]) -> Path:
    """Return the data directory that a command means: the named one, RATCHET_DATA_DIR, or ``.data``."""
    return (named or Path(environ.get("RATCHET_DATA_DIR") or DEFAULT_DATA_DIR)).expanduser().resolve()


def registry_address(data_dir: Path | None, environ: Mapping[str, str]) -> tuple[str, Path]:
    """Return the registry's Redis URL and artifact directory; the environment goes before the running stack.

    Raises:
        Permanent: Neither says it.
    """
    folder = resolve_data_dir(data_dir, environ)
    known = state.read(folder)
    found = (known.environ if known and known.phase != "stopped" else {}) | {
        key: environ[key] for key in ("RATCHET_REDIS_URL", "RATCHET_ARTIFACTS_DIR") if environ.get(key)}
    missing = [key for key in ("RATCHET_REDIS_URL", "RATCHET_ARTIFACTS_DIR") if key not in found]
    if missing:
        raise Permanent(f"no stack runs on {folder}: start one with `ratchet up`, name its folder with --data-dir, or "
                        f"set {' and '.join(missing)}")
    return found["RATCHET_REDIS_URL"], Path(found["RATCHET_ARTIFACTS_DIR"])


def running_state(data_dir: Path) -> State | None:
    """Return the state of the stack that runs on a directory, or None when its supervisor is not alive."""
    known = state.read(data_dir)
    return known if known is not None and known.supervisor.find() is not None and known.phase != "stopped" else None


def status(data_dir: Path) -> dict[str, Any]:
    """Return what runs, where, whether it is ready, and each loop's champion; ``services`` is empty when nothing does.

    ``left_behind`` names the processes, with their pids, that a killed supervisor left running.
    ``rss_bytes`` counts a process with its children; what Postgres's processes share counts once.
    """
    known = running_state(data_dir)
    found: dict[str, Any] = {"data_dir": str(data_dir), "phase": known.phase if known else "stopped", "services": {},
                             "keys": {}, "loops": {}}
    if known is None:
        left = state.orphans(data_dir) if data_dir.is_dir() else {}
        return found | ({"left_behind": {name: process.pid for name, process in left.items()}} if left else {})
    with ThreadPoolExecutor(8) as pool:
        services = dict(zip(known.processes, pool.map(lambda item: _look(*item), known.processes.items()), strict=True))
    for name, service in services.items():
        service["restarts"] = known.restarts.get(name, 0)
    return found | {"services": services, "keys": known.keys, "loops": _loops(known)}


def is_ready(found: dict[str, Any]) -> bool:
    """Tell whether all of a status is ready."""
    return found["phase"] == "ready" and all(service["ready"] for service in found["services"].values())


def down(data_dir: Path, say: Say) -> bool:
    """Stop the stack of a directory and what a dead supervisor left there; False when nothing ran.

    Raises:
        Transient: It did not stop in time.
    """
    known = running_state(data_dir)
    if known is not None:
        supervisor = known.supervisor.find()
        if supervisor is not None:
            say(f"stopping the stack on {data_dir} (pid {supervisor.pid})")
            supervisor.send_signal(signal.SIGTERM)
            if not wait_gone([supervisor], timeout_s=DOWN_TIMEOUT_S):
                raise Transient(f"the supervisor (pid {supervisor.pid}) has not stopped after {DOWN_TIMEOUT_S:.0f} s; "
                                f"see {data_dir}/logs")
    ended = state.end_orphans(data_dir, {"postgres": signal.SIGINT}) if data_dir.is_dir() else []
    for name in ended:
        say(f"ended {name}, left behind by a supervisor that was killed")
    return known is not None or bool(ended)


def await_ready(data_dir: Path, supervisor: psutil.Popen, log_file: Path, offset: int, say: Say) -> int | None:
    """Show a detached supervisor's log until it is ready; returns None then, or its exit status when it ended."""
    while True:
        # Looked at before the log, so that the last lines of one that ended are shown.
        status_now = supervisor.poll()
        known = state.read(data_dir)
        with contextlib.suppress(FileNotFoundError), log_file.open("rb") as stream:
            stream.seek(offset)
            data = stream.read()
            complete = data[:data.rfind(b"\n") + 1]
            offset += len(complete)
            for line in complete.decode(errors="replace").splitlines():
                say(line)
        if status_now is not None:
            return int(status_now)
        if known is not None and known.phase == "ready" and known.supervisor.pid == supervisor.pid:
            return None
        time.sleep(0.1)


def _look(name: str, running: Running) -> dict[str, Any]:
    process = running.identity.find()
    fault = "its process is gone" if process is None else _fault(name, running)
    return {"url": running.url, "ready": fault is None, "pid": running.pid, "rss_bytes": _rss_bytes(process),
            "kind": running.kind} | ({"fault": fault} if fault else {})


def _fault(name: str, running: Running) -> str | None:
    if running.kind == "service":
        return plan.health_fault(urlsplit(running.url).port or 0)
    url = urlsplit(running.url if "//" in running.url else f"//{running.url}")
    nowhere = Path("/nonexistent")
    servers: dict[str, Server] = {
        "kafka": Kafka(nowhere, url.port or 0, nowhere),
        "postgres": Postgres(nowhere, url.port or 0, url.password or "", nowhere),
        "redis": Redis(nowhere, url.port or 0, url.password or "", nowhere),
    }
    return servers[name].fault()


def _rss_bytes(process: psutil.Process | None) -> int:
    if process is None:
        return 0
    total = 0
    with contextlib.suppress(psutil.Error):
        total = int(process.memory_info().rss)
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                memory = child.memory_info()
                total += max(0, memory.rss - getattr(memory, "shared", 0))
    return total


def _loops(known: State) -> dict[str, dict[str, Any]]:
    from shared.loops import load

    try:
        names = list(load(Path(known.loops_dir)))
    except RatchetError:
        return {}
    champions, missing, lost = _champions(known, names), _missing(known, names), _lost(known)
    return {name: champions[name] | missing[name] | {"predictions_lost": lost.get(name)} for name in names}


def _champions(known: State, names: list[str]) -> dict[str, dict[str, str | None]]:
    from shared.registry import Registry

    found: dict[str, dict[str, str | None]] = {name: {"champion": None} for name in names}
    # Redis is away: the rest of the status still says so.
    with contextlib.suppress(RatchetError, KeyError):
        registry = Registry.connect(known.environ["RATCHET_REDIS_URL"], Path(known.environ["RATCHET_ARTIFACTS_DIR"]))
        with contextlib.closing(registry):
            for name in names:
                with contextlib.suppress(RatchetError):
                    aliases = registry.aliases(name)
                    found[name] = {"champion": aliases.champion, "previous": aliases.previous,
                                   "pinned": aliases.pinned}
    return found


def _missing(known: State, names: list[str]) -> dict[str, dict[str, float | None]]:
    """Return the predictions that feedback names and that are not stored; None for all of it while Postgres is away."""
    from shared.missing import Missing, missing_predictions
    from shared.postgres import connect

    try:
        with connect(known.environ["RATCHET_POSTGRES_URL"], name="ratchet-status", autocommit=True) as connection:
            missing = missing_predictions(connection)
    except (RatchetError, KeyError):
        return {name: {"waiting": None, "oldest_waiting_s": None, "orphaned": None} for name in names}
    now_ms = time.time_ns() // 1_000_000
    return {name: {"waiting": loop.n_waiting, "oldest_waiting_s": loop.age_s(now_ms), "orphaned": loop.n_orphaned}
            for name in names for loop in [missing.get(name, Missing())]}


def _lost(known: State) -> dict[str, int]:
    """Return how many predictions of each loop inference has dropped from its log since it started; {} while away."""
    if "inference" not in known.processes:
        return {}
    connection = http.client.HTTPConnection(urlsplit(known.processes["inference"].url).netloc, timeout=2)
    try:
        connection.request("GET", "/v1/loops", headers={"Authorization": f"Bearer {known.keys.get('infer', '')}"})
        return {loop["name"]: loop["predictions_lost"] for loop in json.loads(connection.getresponse().read())}
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return {}
    finally:
        connection.close()
