"""What a running stack writes down, so that other commands find it and the next ``up`` finds its orphans."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec
import psutil

from schemas.errors import Permanent
from services.stack.process import Identity, end
from services.stack.vault import write_private

FILE = "stack.json"
LOCK = "stack.lock"
# In the environment of every process that a stack starts: the stack's data directory.
MARK = "RATCHET_STACK"
Phase = Literal["starting", "ready", "stopping", "stopped"]


class Running(msgspec.Struct, frozen=True):
    """One process of the stack."""

    pid: int
    created_s: float
    url: str
    kind: Literal["server", "service"]

    @property
    def identity(self) -> Identity:
        """Finds the process again."""
        return Identity(self.pid, self.created_s)


class State(msgspec.Struct, frozen=True, kw_only=True):
    """The stack as its supervisor last saw it.

    Attributes:
        environ: The RATCHET_ variables that its services run with; holds secrets.
        restarts: How often each process was started again since ``up``.
    """

    phase: Phase
    supervisor: Identity
    data_dir: str
    loops_dir: str
    processes: dict[str, Running] = {}
    environ: dict[str, str] = {}
    keys: dict[str, str] = {}
    restarts: dict[str, int] = {}


def read(data_dir: Path) -> State | None:
    """Return what was last written, or None when no stack ever ran here or the file is damaged."""
    try:
        return msgspec.json.decode((data_dir / FILE).read_bytes(), type=State)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def write(data_dir: Path, state: State) -> None:
    """Write the state in one step."""
    write_private(data_dir / FILE, msgspec.json.encode(state))


@contextlib.contextmanager
def exclusive(data_dir: Path) -> Iterator[None]:
    """Hold the data directory; the kernel lets go of it however we end.

    Raises:
        Permanent: Another supervisor holds it.
    """
    # Not inherited by the children (Python's default), or an orphan would hold it for ever.
    descriptor = os.open(data_dir / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            state = read(data_dir)
            who = f" (pid {state.supervisor.pid})" if state else ""
            raise Permanent(f"another `ratchet up`{who} runs on {data_dir}: `ratchet down --data-dir {data_dir}` stops "
                            f"it, or choose another directory with --data-dir") from exc
        yield
    finally:
        os.close(descriptor)


def is_held(data_dir: Path) -> bool:
    """Tell whether a supervisor holds the data directory."""
    try:
        with exclusive(data_dir):
            return False
    except Permanent:
        return True
    except FileNotFoundError:
        return False


def orphans(data_dir: Path) -> dict[str, psutil.Process]:
    """Return the living processes that a dead supervisor of this directory left behind, by name.

    A process counts only with proof: the pid and start time that were written down, or the mark in its environment
    (for one that was started just before its supervisor died).
    """
    found: dict[str, psutil.Process] = {}
    state = read(data_dir)
    for name, running in (state.processes if state else {}).items():
        process = running.identity.find()
        if process is not None:
            found[name] = process
    known = {process.pid for process in found.values()}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid not in known and process.environ().get(MARK) == str(data_dir):
                found[f"{process.name()} {process.pid}"] = process
    return found


def end_orphans(data_dir: Path, stop_signals: dict[str, int]) -> list[str]:
    """End what a dead supervisor left behind, services before servers.

    Args:
        stop_signals: By name, for those that want another than SIGTERM.

    Returns:
        Their names with pids.
    """
    state = read(data_dir)
    kinds = {name: running.kind for name, running in state.processes.items()} if state else {}
    left = orphans(data_dir)
    for name, process in sorted(left.items(), key=lambda item: kinds.get(item[0]) == "server"):
        if name in stop_signals:
            end(process, stop_signal=stop_signals[name])
        else:
            end(process)
    return [f"{name} (pid {process.pid})" for name, process in left.items()]
