"""Ratchet's own services as processes of a test."""

import http.client
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from services.stack.process import Child, Command
from shared.ports import HOST, free_port

ROOT = Path(__file__).resolve().parents[2]


T = TypeVar("T")


def eventually(check: Callable[[], T], *, timeout_s: float = 30.0, every_s: float = 0.05) -> T:
    """Poll until ``check()`` is truthy and return that value; an AssertionError in it counts as not yet.

    Raises:
        AssertionError: It was not so in time; the last result or error is named.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            result = check()
            if result:
                return result
            last: object = result
        except AssertionError as exc:
            last = exc
        if time.monotonic() > deadline:
            raise AssertionError(f"not so after {timeout_s:g} s; last: {last!r}")
        time.sleep(every_s)


@dataclass
class ServiceProcess:
    """One of Ratchet's services in its own process."""

    name: str
    port: int
    command: Command
    child: Child

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://{HOST}:{self.port}"

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.child.pid

    @property
    def log(self) -> str:
        """All that it has logged."""
        return self.command.log_file.read_text(errors="replace") if self.command.log_file.exists() else ""

    def get(self, path: str) -> tuple[int, bytes]:
        """GET a path; returns status and body."""
        connection = http.client.HTTPConnection(HOST, self.port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def ready(self) -> bool:
        """Whether it says it is ready."""
        try:
            return self.get("/health/ready")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def wait_ready(self, timeout_s: float = 90.0) -> None:
        """Block until it is ready; fails with the end of its log when it ends instead."""
        def check() -> bool:
            status = self.child.poll()
            if status is not None:
                raise RuntimeError(f"{self.name} ended with status {status}:\n{self.child.log_tail(40)}")
            return self.ready()

        try:
            eventually(check, timeout_s=timeout_s)
        except AssertionError as exc:
            raise AssertionError(f"{self.name} is not ready: {exc}; its log ends:\n{self.child.log_tail(40)}") from exc

    def kill(self) -> None:
        """SIGKILL it."""
        self.child.kill()

    def stop(self) -> bool:
        """SIGTERM it and wait; True when it ended by itself in time."""
        return self.child.stop()

    def start(self, *, wait: bool = True) -> None:
        """Start it again, with the same settings and port, appending to the same log."""
        self.child = Child(self.command)
        if wait:
            self.wait_ready()


def start_service(name: str, env: Mapping[str, str], folder: Path, *, wait: bool = True, label: str | None = None,
                  timeout_s: float = 90.0) -> ServiceProcess:
    """Start ``ratchet NAME`` with exactly these RATCHET_ variables, on a free port unless one is given.

    Args:
        label: Names the log file when a test runs several of one service.
    """
    variable = f"RATCHET_{name.upper()}_PORT"
    # Without its .pyc files torch takes 15 s to import instead of 6.
    inherited = {key: value for key, value in os.environ.items()
                 if not key.startswith("RATCHET_") and key != "PYTHONDONTWRITEBYTECODE"}
    settings = {variable: str(free_port()), "RATCHET_LOG_LEVEL": "INFO"} | dict(env)
    environment = inherited | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"} | settings
    command = Command(label or name, (sys.executable, "-m", "services.cli.main", name), environment, ROOT,
                      folder / f"{label or name}.log")
    process = ServiceProcess(name, int(settings[variable]), command, Child(command))
    if wait:
        try:
            process.wait_ready(timeout_s)
        except BaseException:
            process.kill()
            raise
    return process
