"""The stack that the demo plays against: found, or started and stopped again, through the ``ratchet`` command."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.errors import Permanent, Transient
from services.demo.product import Endpoints
from shared import ports

_START_TIMEOUT_S = 900  # the first start downloads Kafka's jars
_COMMAND_TIMEOUT_S = 90
_NOT_OURS_TO_SAY = "running in the background"  # the demo stops its stack itself, or says how


@dataclass(frozen=True)
class Stores:
    """Where the stack keeps what it learned; read once, at the end of a run, for the accounts."""

    postgres_url: str
    redis_url: str
    artifacts_dir: Path


@dataclass(frozen=True)
class Stack:
    """A stack that is ready.

    Attributes:
        data_dir: Its data folder.
        ours: Whether the demo started it, and so stops it again.
        fresh: Whether its data folder was made for this run, and so goes with it.
        rss_bytes: Memory by service, as ``ratchet status`` tells it.
    """

    at: Endpoints
    stores: Stores
    data_dir: Path
    ours: bool
    fresh: bool
    champions: Mapping[str, str | None]
    rss_bytes: Mapping[str, int]


def find(data_dir: Path, *, ours: bool = False, fresh: bool = False) -> Stack | None:
    """Return the running stack of a data folder; None when none runs.

    Raises:
        Permanent: One runs and is not ready.
    """
    told = _status(data_dir)
    if told is None:
        return None
    services, keys = told["services"], told["keys"]
    faults = [f"{name}: {service.get('fault', 'not ready')}" for name, service in services.items()
              if not service["ready"]]
    if faults:
        raise Permanent(f"the stack in {told['data_dir']} is not ready: {'; '.join(faults)}")
    folder = Path(told["data_dir"])
    return Stack(
        at=Endpoints(services["collector"]["url"].rstrip("/"), services["inference"]["url"].rstrip("/"),
                     keys["collect"], keys["infer"]),
        stores=Stores(services["postgres"]["url"], services["redis"]["url"], folder / "artifacts"),
        data_dir=folder, ours=ours, fresh=fresh,
        champions={name: loop.get("champion") for name, loop in told["loops"].items()},
        rss_bytes={name: service["rss_bytes"] for name, service in services.items() if service.get("rss_bytes")},
    )


def start(data_dir: Path, loops_dir: Path, *, fresh: bool, say: Callable[[str], None]) -> Stack:
    """Start a stack and wait until it is ready; a port that is taken is replaced by a free one.

    Args:
        say: Called with each line that tells how the start goes.

    Raises:
        Permanent: It could not be started; it said why.
    """
    command = [*_ratchet(), "up", "--detach", "--data-dir", str(data_dir), "--loops", str(loops_dir)]
    moved = free_ports(os.environ)
    if moved:
        say("another stack or program has the usual ports: this one takes free ones")
    # Unbuffered, so that each line is shown when it is said.
    environ = {**os.environ, **moved, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environ) as up:
        late = threading.Timer(_START_TIMEOUT_S, up.kill)
        late.start()
        try:
            for line in up.stdout or ():
                if not line.startswith(_NOT_OURS_TO_SAY):
                    say(line.rstrip("\n"))
            status = up.wait()
        except BaseException:
            up.kill()
            raise
        finally:
            in_time = late.is_alive()
            late.cancel()
    if not in_time:
        raise Permanent(f"the stack was not ready after {_START_TIMEOUT_S} s; its logs are in {data_dir}")
    found = find(data_dir, ours=True, fresh=fresh) if status == 0 else None
    if found is None:
        raise Permanent(f"the stack could not be started (`ratchet up` ended with {status}); "
                        f"its logs are in {data_dir}")
    return found


def free_ports(environ: Mapping[str, str]) -> dict[str, str]:
    """The settings that give a stack free ports in place of those that are taken; empty when none is."""
    found = {}
    for part, usual in ports.USUAL.items():
        variable = ports.variable(part)
        asked = environ.get(variable, str(usual))
        if asked.isdecimal() and 0 < int(asked) < 65536 and not ports.is_free(int(asked)):
            found[variable] = "0"
    return found


def stop(data_dir: Path, *, remove: bool) -> None:
    """Stop the stack of a data folder, and remove the folder if asked.

    Raises:
        Transient: It did not stop; the folder is left.
    """
    try:
        done = subprocess.run([*_ratchet(), "down", "--data-dir", str(data_dir)], timeout=_COMMAND_TIMEOUT_S,
                              check=False, capture_output=True, text=True)
    except subprocess.TimeoutExpired as exc:
        raise Transient(f"the stack in {data_dir} did not stop; `ratchet down --data-dir {data_dir}` tries again"
                        ) from exc
    if done.returncode != 0:
        raise Transient(f"the stack in {data_dir} did not stop: {done.stderr.strip() or done.stdout.strip()}")
    if remove:
        shutil.rmtree(data_dir, ignore_errors=True)


def _status(data_dir: Path) -> dict[str, Any] | None:
    try:
        done = subprocess.run([*_ratchet(), "status", "--json", "--data-dir", str(data_dir)],
                              timeout=_COMMAND_TIMEOUT_S, check=False, capture_output=True, text=True)
        told = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        return None
    return told if isinstance(told, dict) and told.get("services") else None


def _ratchet() -> list[str]:
    return [sys.executable, "-m", "services.cli.main"]


def fresh_folder(now: str) -> Path:
    """A data folder for one run, beside the default one."""
    return Path(os.environ.get("RATCHET_DATA_DIR") or ".data").absolute() / f"demo-{now}"
