"""``ratchet up|down|status``: the embedded stack."""

import argparse
import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from services.cli.grammar import add_data_dir, add_json, command

if TYPE_CHECKING:
    from services.cli.grammar import Commands

UP_MORE = """\
Real Kafka, Postgres and Redis from packages alone, then the collector, the processor, the trainer and inference,
each as its own process; what dies is started again. Ctrl-C or `ratchet down` stops all of it in order. The data
stays in the data folder and is there again at the next start.

Ports are settings: RATCHET_COLLECTOR_PORT (8080), RATCHET_INFERENCE_PORT (8081), RATCHET_PROCESSOR_PORT (8082),
RATCHET_TRAINER_PORT (8083), RATCHET_KAFKA_PORT (9092), RATCHET_POSTGRES_PORT (5432), RATCHET_REDIS_PORT (6379);
0 picks a free one. RATCHET_PROCESSOR_WORKERS (1) says how many processors run."""
UP_EXAMPLES = """\
  ratchet up
  ratchet up --loops my/loops --data-dir /var/lib/ratchet --detach
  RATCHET_COLLECTOR_PORT=9000 ratchet up"""
NOT_READY = 3


def add(commands: "Commands") -> None:
    """Declare the commands."""
    up = command(commands, "up", _up, about="start everything on this machine and keep it running", more=UP_MORE,
                 examples=UP_EXAMPLES)
    add_data_dir(up)
    up.add_argument("--loops", type=Path, metavar="DIR",
                    help="folder of the loop files (default: RATCHET_LOOPS_DIR, else examples/loops)")
    up.add_argument("--detach", action="store_true", help="return when all is ready, and leave it running")
    up.add_argument("--background", action="store_true", help=argparse.SUPPRESS)  # what --detach starts

    down = command(commands, "down", _down, about="stop what `ratchet up` started",
                   more="Services finish what they accepted first; the data stays.",
                   examples="  ratchet down\n  ratchet down --data-dir /var/lib/ratchet")
    add_data_dir(down)

    status = command(commands, "status", _status, about="show what runs, where, and which version of each loop serves",
                     more=f"The exit status is 0 when all is ready, else {NOT_READY}.",
                     examples="  ratchet status\n  ratchet status --json")
    add_data_dir(status)
    add_json(status)

    command(commands, "prepare", _prepare, about="make the topics and tables of any Kafka and Postgres",
            more="`ratchet up` does it by itself; elsewhere it runs once before the services, and after an upgrade.\n"
                 "RATCHET_KAFKA_BOOTSTRAP and RATCHET_POSTGRES_URL say where. What is there stays as it is.",
            examples="  RATCHET_POSTGRES_URL=postgresql://... RATCHET_KAFKA_BOOTSTRAP=kafka:9092 ratchet prepare")


def _prepare(arguments: argparse.Namespace) -> None:
    from services.stack import preparing
    from shared.settings import read

    preparing.run(read(preparing.Settings), print)


def _up(arguments: argparse.Namespace) -> int:
    from services.stack.operating import resolve_data_dir

    data_dir = resolve_data_dir(arguments.data_dir, os.environ)
    environ = dict(os.environ) | {"RATCHET_DATA_DIR": str(data_dir)}
    if arguments.loops:
        environ["RATCHET_LOOPS_DIR"] = str(arguments.loops.expanduser().resolve())
    # The detached one checks again, and what it says is shown here.
    _check_loops(environ, warn=not arguments.detach)
    return _detached(data_dir, environ) if arguments.detach else _attached(data_dir, environ, arguments.background)


def _check_loops(environ: dict[str, str], *, warn: bool) -> None:
    from services.cli.loops import warn_of_rollout
    from services.stack.settings import Settings
    from shared.loops import load
    from shared.settings import read

    # Before any server starts: a wrong loop file would stop every service a minute later.
    for loop in load(read(Settings, environ).loops_dir).values():
        if warn:
            warn_of_rollout(loop)


def _attached(data_dir: Path, environ: dict[str, str], background: bool) -> int:
    from services.stack.settings import Settings
    from services.stack.supervisor import Supervisor
    from shared.settings import read

    began_s = time.monotonic()

    def say(line: str) -> None:
        try:
            print(f"[{time.monotonic() - began_s:6.1f} s] {line}", flush=True)
        except OSError as exc:
            if exc.errno != errno.ENOSPC:  # when its log is on a full disk, the supervisor goes on unheard
                raise

    os.environ.update(environ)
    Supervisor(read(Settings, environ), say, lambda: None if background else _show_ready(data_dir)).run()
    return 0


def _detached(data_dir: Path, environ: dict[str, str]) -> int:
    import psutil

    from schemas.errors import Permanent
    from services.stack import logfiles, state
    from services.stack.operating import await_ready

    log_file = data_dir / "logs" / "supervisor.log"
    logfiles.make_folder(log_file.parent)
    if state.is_held(data_dir):
        with state.exclusive(data_dir):  # raises the error that says who holds it
            raise Permanent(f"another `ratchet up` on {data_dir} stopped just now; try again")
    offset = log_file.stat().st_size if log_file.exists() else 0
    with log_file.open("ab") as log:
        supervisor = psutil.Popen(
            [sys.executable, "-m", "services.cli.main", "up", "--background", "--data-dir", str(data_dir)],
            env=environ | {"PYTHONUNBUFFERED": "1"}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            start_new_session=True)
    try:
        status = await_ready(data_dir, supervisor, log_file, offset, print)
    except KeyboardInterrupt:
        supervisor.terminate()
        supervisor.wait(timeout=90)
        raise
    if status is None:
        _show_ready(data_dir)
        print(f"running in the background (pid {supervisor.pid}); `ratchet down` stops it")
        return 0
    return status or 1


def _down(arguments: argparse.Namespace) -> int:
    from services.stack import operating

    data_dir = operating.resolve_data_dir(arguments.data_dir, os.environ)
    if operating.down(data_dir, print):
        print("stopped")
    else:
        print(f"nothing runs on {data_dir}")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from services.stack import operating

    found = operating.status(operating.resolve_data_dir(arguments.data_dir, os.environ))
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        _show(found)
    return 0 if operating.is_ready(found) else NOT_READY


def _show_ready(data_dir: Path) -> None:
    from services.stack import operating

    found = operating.status(data_dir)
    _show(found)
    print(f"\ntry:  curl -u {found['keys']['collect']}: {found['services']['collector']['url']}/v1/track "
          "-H 'content-type: application/json' -d '{\"userId\": \"u1\", \"event\": \"Hello\"}'", flush=True)


def _show(found: dict[str, Any]) -> None:
    if left := found.get("left_behind"):
        names = ", ".join(f"{name} (pid {pid})" for name, pid in left.items())
        print(f"the supervisor of {found['data_dir']} was killed and left running: {names}\n"
              "`ratchet up` ends them and starts anew; `ratchet down` ends them")
        return
    if not found["services"]:
        print(f"nothing runs on {found['data_dir']}; `ratchet up` starts it")
        return
    width = max(len(name) for name in found["services"])
    for name, service in found["services"].items():
        url = service["url"]
        if "@" in url:  # a password stays off the screen; --json has it
            scheme, _, rest = url.partition("://")
            url = f"{scheme}://***@{rest.rpartition('@')[2]}"
        again = f", restarted {service['restarts']} times" if service["restarts"] else ""
        state = "ready" if service["ready"] else f"NOT READY: {service['fault']}"
        rss = f"{service['rss_bytes'] / 1e6:6.0f} MB"
        print(f"{name:<{width}}  {url:<44} pid {service['pid']:<8} {rss}  {state}{again}")
    for kind, key in found["keys"].items():
        print(f"{kind + ' key':<{width + 4}}  {key}")
    for loop, aliases in found["loops"].items():
        pinned = f", pinned to {aliases['pinned']}" if aliases.get("pinned") else ""
        print(f"loop {loop}: champion {aliases['champion'] or 'none yet'}{pinned}")
        for line in _missing(aliases):
            print(f"  {line}")
    sys.stdout.flush()


def _missing(loop: dict[str, Any]) -> list[str]:
    """Say which predictions of a loop are missing, if any."""
    said = []
    if loop.get("waiting"):
        oldest = _span(loop["oldest_waiting_s"])
        said.append(f"feedback waits for {loop['waiting']} predictions, the oldest for {oldest}")
    if loop.get("orphaned"):
        said.append(f"{loop['orphaned']} predictions never came: `dead_letters` with the code 'orphaned' says which")
    if loop.get("predictions_lost"):
        said.append(f"inference has dropped {loop['predictions_lost']} predictions from its log since it started")
    return said


def _span(seconds: float) -> str:
    for unit, size_s in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size_s:
            return f"{seconds / size_s:.0f} {unit}"
    return f"{seconds:.0f} s"
