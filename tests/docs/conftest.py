"""A whole stack for the README's commands."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.absent import skip_absent, skip_broken

ROOT = Path(__file__).resolve().parents[2]
PORTS = ("COLLECTOR", "INFERENCE", "PROCESSOR", "TRAINER", "KAFKA", "POSTGRES", "REDIS")


class Terminal:
    """One shell session in a folder of its own, in which commands run as a newcomer would type them.

    What a command exports is there for the next one. Ports are free ones, so the README's fixed ones are replaced.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environ = dict(os.environ) | {f"RATCHET_{name}_PORT": "0" for name in PORTS} | {
            # With a key of its own, now and then one of the three users would be held out and teach nothing.
            "RATCHET_PSEUDONYM_KEY": "a-test-key-of-32-characters-1234",
            "RATCHET_DATA_DIR": str(folder / "data"), "RATCHET_LOOPS_DIR": str(ROOT / "examples" / "loops"),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        (folder / ".venv" / "bin").mkdir(parents=True)
        (folder / ".venv" / "bin" / "activate").write_text("# the real one is on the PATH already\n")

    def run(self, command: str, *, timeout_s: float = 120) -> str:
        """Run a command; returns what it printed, and fails when it fails."""
        keep = "python -c 'import json, os; json.dump(dict(os.environ), open(\"environ.json\", \"w\"))'"
        script = f"set -euo pipefail\n{self.located(command)}\n{keep}\n"
        done = subprocess.run(["bash", "-c", script], cwd=self.folder, env=self.environ, capture_output=True, text=True,
                              timeout=timeout_s, check=False)
        assert done.returncode == 0, f"{command}\nended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
        self.environ = json.loads((self.folder / "environ.json").read_text())
        return done.stdout

    def located(self, text: str) -> str:
        """The text with the README's addresses replaced by those of this stack, and variables kept for the next."""
        status = self.status()
        for name, port in (("collector", 8080), ("inference", 8081)):
            if status.get("services"):
                text = text.replace(f"http://127.0.0.1:{port}", status["services"][name]["url"].rstrip("/"))
        # A plain shell variable would be gone with its shell; in one terminal it stays.
        return "set -a\n" + text

    def status(self) -> dict[str, Any]:
        """What `ratchet status --json` says."""
        done = subprocess.run([sys.executable, "-m", "services.cli.main", "status", "--json"], cwd=ROOT,
                              env=self.environ, capture_output=True, text=True, timeout=60, check=False)
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    """A terminal; whatever stack it leaves running is stopped."""
    # Not pytest's own folder: another session of pytest closes it to other users, and Postgres does not run as root.
    with tempfile.TemporaryDirectory(prefix="ratchet-readme-", ignore_cleanup_errors=True) as folder:
        found = Terminal(Path(folder))
        yield found
        subprocess.run([sys.executable, "-m", "services.cli.main", "down"], cwd=ROOT, env=found.environ, timeout=120,
                       check=False, capture_output=True)


@pytest.fixture(scope="session")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Segment's Node SDK installed."""
    if shutil.which("npm") is None:
        skip_absent("no npm on this machine: the README's JavaScript cannot be run")
    folder = tmp_path_factory.mktemp("node")
    (folder / "package.json").write_text('{"private": true, "type": "module"}')
    done = subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "@segment/analytics-node"],
                          cwd=folder, capture_output=True, text=True, timeout=150, check=False)
    if done.returncode != 0:
        skip_broken(f"npm cannot install @segment/analytics-node here: {done.stderr[-300:]}")
    return folder / "node_modules"
