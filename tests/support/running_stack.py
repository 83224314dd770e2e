"""The whole embedded stack under test, driven by the ``ratchet`` command as a person would."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import psycopg

from services.stack import operating
from tests.support.app import App
from tests.support.services import ROOT, eventually

PORTS = ("KAFKA", "POSTGRES", "REDIS", "COLLECTOR", "INFERENCE", "PROCESSOR", "TRAINER")


@dataclass
class RunningStack:
    """One ``ratchet up --detach`` on free ports."""

    data_dir: Path
    loops_dir: Path

    @property
    def env(self) -> dict[str, str]:
        """Our environment without settings of a stack, and every port free."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("RATCHET_")}
        return inherited | {f"RATCHET_{name}_PORT": "0" for name in PORTS}

    def ratchet(self, *arguments: str, check: bool = True, timeout_s: float = 300) -> str:
        """Run one command; returns its output."""
        done = subprocess.run([sys.executable, "-m", "services.cli.main", *arguments, "--data-dir", str(self.data_dir)],
                              env=self.env, cwd=ROOT, capture_output=True, text=True, check=False, timeout=timeout_s)
        if check and done.returncode != 0:
            raise AssertionError(f"ratchet {' '.join(arguments)} ended with {done.returncode}:\n{done.stdout[-3000:]}\n"
                                 f"{done.stderr[-3000:]}\n{self.logs()}")
        return done.stdout

    def up(self) -> str:
        """Start it and wait until all is ready."""
        return self.ratchet("up", "--detach", "--loops", str(self.loops_dir))

    def down(self) -> None:
        """Stop it."""
        self.ratchet("down")

    def status(self) -> dict[str, Any]:
        """What ``ratchet status --json`` says, without a process for each look."""
        return operating.status(self.data_dir)

    def told_status(self) -> dict[str, Any]:
        """What ``ratchet status --json`` says."""
        told: dict[str, Any] = json.loads(self.ratchet("status", "--json"))
        return told

    def app(self) -> App:
        """A product app that knows the front doors and their keys."""
        told = self.status()
        return App(told["services"]["collector"]["url"], told["services"]["inference"]["url"],
                   told["keys"]["collect"], told["keys"]["infer"])

    def kill(self, name: str) -> None:
        """SIGKILL one process with its children; the supervisor is to start it again."""
        process = psutil.Process(self.status()["services"][name]["pid"])
        for member in [process, *process.children(recursive=True)]:
            member.send_signal(signal.SIGKILL)

    @contextmanager
    def frozen(self, *names: str) -> Iterator[None]:
        """Let processes stand still (SIGSTOP); their supervisor takes them for alive."""
        found = [psutil.Process(self.status()["services"][name]["pid"]) for name in names]
        for process in found:
            process.suspend()
        try:
            yield
        finally:
            for process in found:
                process.resume()

    def wait_ready(self, timeout_s: float = 120) -> None:
        """Block until all of it is ready."""
        def ready() -> bool:
            told = self.status()
            faults = {name: s.get("fault") for name, s in told["services"].items() if not s["ready"]}
            assert not faults, faults
            return told["phase"] == "ready"

        eventually(ready, timeout_s=timeout_s, every_s=0.5)

    def count(self, query: str) -> int:
        """Run a query that returns one number against the stack's Postgres."""
        url = self.status()["services"]["postgres"]["url"]
        with psycopg.connect(url) as connection:
            row = connection.execute(query).fetchone()  # type: ignore[arg-type]
        assert row is not None
        return int(row[0])

    def ids(self, query: str) -> set[str]:
        """Run a query that returns one column of text."""
        url = self.status()["services"]["postgres"]["url"]
        with psycopg.connect(url) as connection:
            return {str(row[0]) for row in connection.execute(query).fetchall()}  # type: ignore[arg-type]

    def logs(self, n_lines: int = 15) -> str:
        """The end of every log, for a failure's message."""
        return "\n".join(f"== {file.name}\n" + "\n".join(file.read_text(errors="replace").splitlines()[-n_lines:])
                         for file in sorted((self.data_dir / "logs").glob("*.log")))
