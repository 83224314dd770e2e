"""One child process: its command, its log, its proof of identity, and its end."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil

from schemas.errors import Permanent, Transient

Say = Callable[[str], None]
POLL_S = 0.02
STOP_POLL_S = 0.1
NEVER = threading.Event()  # the stop event of those who are not asked to stop


class Stopped(Exception):
    """A signal asked the stack to stop."""


@dataclass(frozen=True)
class Command:
    """How to start and end one process.

    Attributes:
        name: Shown to people, and the log file's stem.
        env: The whole environment of the process, not an addition to ours.
        log_file: Standard output and error are appended here.
        owner: The (uid, gid) to run as, or None for our own.
        stop_signal: Asks for an orderly end.
        stop_timeout_s: After this the process group is killed.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: Path
    log_file: Path
    owner: tuple[int, int] | None = None
    stop_signal: int = signal.SIGTERM
    stop_timeout_s: float = 20.0


class Server(Protocol):
    """A database or broker that the embedded stack runs."""

    name: str
    port: int

    def prepare(self, say: Say, stop: threading.Event = NEVER) -> None:
        """Make everything that must exist before the first start. Idempotent; may take seconds, or minutes to fetch.

        Raises:
            Stopped: ``stop`` was set before it was done; the next call starts anew.
        """

    def command(self) -> Command:
        """Return how to start it now; asked again at every restart."""

    def fault(self) -> str | None:
        """Return why it does not answer yet, or None when it does. Takes at most about a second."""


@dataclass(frozen=True)
class Identity:
    """A process as it can be found again: a pid alone may have been given to another process since.

    Attributes:
        created_s: Start of the process in seconds since the epoch, as the kernel tells it.
    """

    pid: int
    created_s: float

    def find(self) -> psutil.Process | None:
        """Return the process while it lives and is the same one, else None."""
        try:
            process = psutil.Process(self.pid)
            # The kernel counts ticks from boot; stepping the clock between two readings moves the result.
            same = abs(process.create_time() - self.created_s) < 1.0
            return process if same and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.NoSuchProcess:
            return None


def finish(argv: Sequence[str], stop: threading.Event, *, stdin: str = "", cwd: Path,
           env: Mapping[str, str] | None = None, owner: tuple[int, int] | None = None) -> tuple[int, str]:
    """Run a program to its end.

    Args:
        env: Its whole environment; None for ours.
        owner: The (uid, gid) to run as, or None for our own.

    Returns:
        Its exit status, and what it said on standard error, or else on standard output.

    Raises:
        Stopped: ``stop`` was set first; the program was killed.
    """
    uid, gid = owner or (None, None)
    # A session of its own: a Ctrl-C at the terminal reaches only us, and all that it started can be killed.
    with subprocess.Popen(argv, text=True, env=env, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, start_new_session=True, user=uid, group=gid,
                          extra_groups=[] if owner else None) as process:
        left: str | None = stdin
        while True:
            try:
                out, err = process.communicate(left, timeout=STOP_POLL_S)
                return process.returncode, err or out
            except subprocess.TimeoutExpired:
                left = None
            if stop.is_set():
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
                raise Stopped


def identity_of(pid: int) -> Identity:
    """Return the identity of a living process.

    Raises:
        psutil.NoSuchProcess: There is none with this pid.
    """
    return Identity(pid, psutil.Process(pid).create_time())


def end(process: psutil.Process, *, stop_signal: int = signal.SIGTERM, timeout_s: float = 20.0) -> bool:
    """End a process and its descendants, in an orderly way while there is time.

    Returns:
        Whether it ended by itself; False when it had to be killed.
    """
    with contextlib.suppress(psutil.NoSuchProcess):
        family = [process, *process.children(recursive=True)]
        process.send_signal(stop_signal)
        if wait_gone([process], timeout_s=timeout_s):
            _kill(family[1:])
            return True
        _kill([*family, *_children(process)])
        return False
    return True


def wait_gone(processes: Sequence[psutil.Process], *, timeout_s: float) -> bool:
    """Block until all of them have ended; False when one has not in time.

    A zombie has ended: an orphan stays one for ever where process 1 does not reap, as in many containers.
    """
    deadline = time.monotonic() + timeout_s
    while any(_lives(process) for process in processes):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _children(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return list(process.children(recursive=True))
    return []


def _kill(family: list[psutil.Process]) -> None:
    for member in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    wait_gone(family, timeout_s=10)


class Child:
    """A running child process."""

    def __init__(self, command: Command) -> None:
        """Start it in its own session, so that a Ctrl-C at the terminal reaches only us.

        Raises:
            Permanent: The program cannot be started at all.
        """
        self.command = command
        command.log_file.parent.mkdir(parents=True, exist_ok=True)
        uid, gid = command.owner or (None, None)
        # O_APPEND: the log is cut while the child writes on (see logfiles.py); it then goes on at the new end.
        with command.log_file.open("ab") as log:
            try:
                self._popen = subprocess.Popen(
                    command.argv, env=dict(command.env), cwd=command.cwd, stdin=subprocess.DEVNULL, stdout=log,
                    stderr=log, start_new_session=True, user=uid, group=gid,
                    extra_groups=[] if command.owner else None)
            except OSError as exc:
                raise Permanent(f"{command.name} cannot be started: {exc}") from exc
        try:
            self.identity = identity_of(self._popen.pid)
        except psutil.NoSuchProcess:  # already gone and reaped: poll() tells how
            self.identity = Identity(self._popen.pid, 0.0)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""
        return self._popen.poll()

    def stop(self) -> bool:
        """End it in an orderly way; True when that worked in time."""
        clean = True
        if self.poll() is None:
            process = self.identity.find()
            if process is not None:
                clean = end(process, stop_signal=self.command.stop_signal, timeout_s=self.command.stop_timeout_s)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(timeout=10)
        return clean

    def kill(self) -> None:
        """End it and its descendants at once, as a crash would."""
        process = self.identity.find()
        if process is not None:
            _kill([process, *_children(process)])
        self._popen.wait(timeout=10)

    def log_tail(self, n_lines: int = 15) -> str:
        """Return the last lines of its log, for an error message."""
        try:
            with self.command.log_file.open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - 16384))
                return "\n".join(log.read().decode(errors="replace").splitlines()[-n_lines:])
        except OSError:
            return ""


def wait_ready(server: Server, child: Child, *, timeout_s: float) -> None:
    """Block until the server answers.

    Raises:
        Transient: It did not answer in time; the last fault is named.
        Permanent: It ended instead; its last log lines are in the message.
    """
    deadline = time.monotonic() + timeout_s
    while (fault := server.fault()) is not None:
        status = child.poll()
        if status is not None:
            raise Permanent(f"{server.name} ended with status {status} before it was ready; the end of "
                            f"{child.command.log_file}:\n{child.log_tail()}")
        if time.monotonic() > deadline:
            raise Transient(f"{server.name} is not ready after {timeout_s:.0f} s: {fault}; see "
                            f"{child.command.log_file}")
        time.sleep(POLL_S)
