"""Starts everything, keeps it running, and stops it in order: what ``ratchet up`` does."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import TypeVar

from schemas.errors import Permanent, Transient
from services.stack import logfiles, plan, ports, preparing, state, vault
from services.stack.plan import FRONT_DOORS, Plan, Service
from services.stack.process import Identity, Say, Server, Stopped, identity_of
from services.stack.redis import Redis
from services.stack.settings import Settings
from services.stack.units import Unit, why
from shared.settings import read

T = TypeVar("T")
TICK_S = 0.1
LOGS_EVERY_S = 5.0
TELL_AFTER_S, TELL_EVERY_S = 5.0, 10.0  # who is still awaited while all starts
WRONG_SETTING = 2  # the exit status of a service whose settings or loop files are wrong


class Supervisor:
    """Runs one stack until it is asked to stop.

    Args:
        say: Shows a line to the person who waits.
        ready: Called once when all is ready.
        program: Runs a service, or another command, when its name is added.
    """

    def __init__(self, settings: Settings, say: Say, ready: Callable[[], None] = lambda: None,
                 program: tuple[str, ...] = (sys.executable, "-m", "services.cli.main")) -> None:
        self._settings, self._say, self._ready, self._program = settings, say, ready, program
        self._data_dir = settings.data_dir.resolve()
        self._units: dict[str, Unit] = {}
        self._plan: Plan | None = None
        self._phase: state.Phase = "starting"
        self._restore_due = False
        self._unwritten = False
        self._stop = threading.Event()

    def run(self) -> None:
        """Start all, say when ready, watch, and stop all when SIGINT or SIGTERM comes.

        Raises:
            Permanent: A port is taken, the directory is in use, or something cannot start; nothing is left running.
            Transient: Something was not ready in time, or could not be fetched; nothing is left running.
        """
        logfiles.make_folder(self._data_dir / "logs")
        with state.exclusive(self._data_dir), self._signals():
            for name in state.end_orphans(self._data_dir, {"postgres": signal.SIGINT}):
                self._say(f"ended {name}, left behind by a supervisor that was killed")
            ports.require_free(self._settings.ports())
            self._plan = plan.make(self._settings, vault.load_or_make(self._data_dir), dict(os.environ),
                                   self._program)
            try:
                self._start(self._plan)
                self._watch(self._plan)
            except Stopped:
                self._say("stopping")
            finally:
                self._stop_all()

    # Starting

    def _start(self, todo: Plan) -> None:
        self._write()
        _in_parallel(lambda server: server.prepare(self._say, self._stop), todo.servers)
        self._check_stop()
        deadline = time.monotonic() + self._settings.start_timeout_s
        for server in todo.servers:
            self._launch(server)
        self._wait(todo.servers, deadline)
        self._make_ready(todo)
        for service in todo.services:
            self._launch(service)
        self._wait(todo.services, deadline)
        self._phase = "ready"
        self._write()
        self._say("all is ready")
        self._ready()

    def _launch(self, what: Server | Service) -> None:
        unit = self._units.setdefault(what.name, Unit(what))
        unit.start(time.monotonic())
        self._write()

    def _wait(self, which: tuple[Server, ...] | tuple[Service, ...], deadline_s: float) -> None:
        began_s = time.monotonic()
        waiting = {what.name: what for what in which}
        tell_at_s = began_s + TELL_AFTER_S
        while waiting:
            self._check_stop()
            faults: dict[str, str] = {}
            for name, what in list(waiting.items()):
                fault = what.fault()
                if fault is None:
                    del waiting[name]
                    self._say(f"{name} is ready after {time.monotonic() - began_s:.1f} s")
                elif time.monotonic() > deadline_s:
                    raise Transient(f"{name} is not ready after {self._settings.start_timeout_s:.0f} s: {fault}; "
                                    f"see {what.command().log_file}")
                else:
                    faults[name] = fault
                self._tend(self._units[name], starting=True)
            if faults and time.monotonic() > tell_at_s:
                self._say("waiting for " + ", ".join(f"{name} ({fault})" for name, fault in faults.items()))
                tell_at_s = time.monotonic() + TELL_EVERY_S
            self._stop.wait(TICK_S)

    def _make_ready(self, todo: Plan) -> None:
        preparing.run(read(preparing.Settings, dict(os.environ) | dict(todo.environ)), self._say)
        self._restore_if_empty(todo)

    def _restore_if_empty(self, todo: Plan) -> None:
        redis = next(server for server in todo.servers if isinstance(server, Redis))
        if redis.n_keys() or not any(todo.artifacts_dir.glob("*/*")):
            return
        environ = dict(todo.services[0].environ)
        done = subprocess.run([*self._program, "registry", "restore"], env=environ,
                              capture_output=True, text=True, check=False, cwd=todo.logs_dir)
        if done.returncode != 0:
            self._say(f"Redis is empty, and the registry could not be restored: {done.stderr.strip()}")
        elif done.stdout.strip():
            self._say(f"Redis was empty; restored the registry: {done.stdout.strip()}")

    # Watching

    def _watch(self, todo: Plan) -> None:
        logs_due_s = 0.0
        while not self._stop.wait(TICK_S):
            for unit in self._units.values():
                self._tend(unit)
            if self._restore_due and self._units["redis"].what.fault() is None:
                self._restore_due = False
                self._restore_if_empty(todo)
            if time.monotonic() > logs_due_s:
                self._keep_house(todo)
                logs_due_s = time.monotonic() + LOGS_EVERY_S
        raise Stopped

    def _keep_house(self, todo: Plan) -> None:
        with contextlib.suppress(OSError):  # a full disk: the logs are bounded once there is room again
            logfiles.bound(todo.logs_dir)
        if self._unwritten:
            self._write()

    def _tend(self, unit: Unit, *, starting: bool = False) -> None:
        now_s = time.monotonic()
        status = unit.died(now_s)
        if status is not None and unit.child is not None:
            if starting and status == WRONG_SETTING:
                raise Permanent(f"{unit.name} does not start: {unit.child.log_tail(3)}")
            self._say(f"{unit.name} ended ({why(status, lambda n: signal.Signals(n).name)}); starting it again in "
                      f"{unit.pause_s(now_s):.1f} s; see {unit.child.command.log_file}")
        try:
            restarted = unit.restart_if_due(now_s)
        except OSError as exc:
            self._say(f"{unit.name} cannot be started: {exc.strerror or exc}; trying again in "
                      f"{unit.pause_s(now_s):.1f} s")
            return
        if restarted:
            self._write()
            self._restore_due |= isinstance(unit.what, Redis)

    # Stopping

    def _stop_all(self) -> None:
        self._phase = "stopping"
        self._write()
        servers = [unit for unit in self._units.values() if not isinstance(unit.what, Service)]
        doors = [unit for unit in self._units.values() if unit.name in FRONT_DOORS]
        workers = [unit for unit in self._units.values() if unit not in servers and unit not in doors]
        for group in (doors, workers, servers):
            _in_parallel(self._stop_one, group)
        self._phase = "stopped"
        self._units.clear()
        self._write()
        self._say("stopped; the data is kept in " + str(self._data_dir))

    def _stop_one(self, unit: Unit) -> None:
        if unit.child is not None and not unit.child.stop():
            self._say(f"{unit.name} did not stop in time and was killed")

    # The rest

    def _write(self) -> None:
        todo = self._plan
        running = {
            name: state.Running(unit.child.identity.pid, unit.child.identity.created_s, plan.url_of(unit.what),
                                "service" if isinstance(unit.what, Service) else "server")
            for name, unit in self._units.items() if unit.child is not None
        }
        now = state.State(
            phase=self._phase, supervisor=_me(), data_dir=str(self._data_dir),
            loops_dir=str(todo.loops_dir if todo else self._settings.loops_dir), processes=running,
            environ=dict(todo.environ) if todo else {}, keys=dict(todo.keys) if todo else {},
            restarts={name: unit.n_restarts for name, unit in self._units.items()})
        try:
            state.write(self._data_dir, now)
        except OSError as exc:
            if self._phase == "starting" and not running:
                raise
            # A full disk must not cost the processes their supervisor.
            self._say(f"{state.FILE} cannot be written: {exc.strerror or exc}; `ratchet status` may be out of date")
            self._unwritten = True
        else:
            self._unwritten = False

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Stopped

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        def ask(number: int, frame: FrameType | None) -> None:
            self._stop.set()

        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _in_parallel(work: Callable[[T], None], items: Sequence[T]) -> None:
    if items:
        with ThreadPoolExecutor(len(items)) as pool:
            list(pool.map(work, items))


def _me() -> Identity:
    return identity_of(os.getpid())
