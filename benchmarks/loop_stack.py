"""A stack of the benchmark's own: started as the demo starts one, asked what it says and costs, stopped, removed."""

import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import psutil

from services.demo import stack
from services.demo.product import Endpoints

ROOT = Path(__file__).resolve().parents[1]
LOOPS = ROOT / "examples" / "loops"
LOOP = "support-intents"
_SAMPLE = re.compile(r"^([a-zA-Z_:][\w:]*)(\{[^}]*\})? (\S+)$", re.MULTILINE)
_PORTS = ("KAFKA", "POSTGRES", "REDIS", "COLLECTOR", "INFERENCE", "PROCESSOR", "TRAINER")


@dataclass(frozen=True)
class Running:
    """A stack that is ready.

    Attributes:
        urls: Of every service and server, by name.
        pids: Likewise.
    """

    at: Endpoints
    stores: stack.Stores
    data_dir: Path
    urls: Mapping[str, str]
    pids: Mapping[str, int]

    def log(self, service: str) -> Iterator[dict[str, Any]]:
        """The lines that a service has logged."""
        for line in (self.data_dir / "logs" / f"{service}.log").read_bytes().splitlines():
            if line.startswith(b"{"):
                yield msgspec.json.decode(line)

    def scrape(self, service: str) -> dict[str, float]:
        """A service's metrics, each summed over its labels."""
        with urllib.request.urlopen(f"{self.urls[service].rstrip('/')}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        found: dict[str, float] = {}
        for name, _, value in _SAMPLE.findall(text):
            found[name] = found.get(name, 0.0) + float(value)
        return found

    def cpu_s(self) -> dict[str, float]:
        """CPU seconds of each service with its children, those that have ended included."""
        found = {}
        for name, tree in self._trees():
            times = [process.cpu_times() for process in tree]
            ended = times[0].children_user + times[0].children_system
            found[name] = sum(t.user + t.system for t in times) + ended
        return found

    def rss_bytes(self) -> dict[str, int]:
        """Memory that each service's processes have of their own; what they share is counted once."""
        return {name: sum(_own_bytes(process) for process in tree) for name, tree in self._trees()}

    def disk_bytes(self, pattern: str) -> int:
        """Bytes of the files below the data folder that match; those that vanish meanwhile count for nothing."""
        found = 0
        for path in self.data_dir.glob(pattern):
            with suppress(FileNotFoundError):
                found += path.stat().st_size if path.is_file() else 0
        return found

    def _trees(self) -> Iterator[tuple[str, list[psutil.Process]]]:
        for name, pid in self.pids.items():
            root = psutil.Process(pid)
            yield name, [root, *(child for child in root.children(recursive=True) if child.is_running())]


def _own_bytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().pss)
    except psutil.Error:
        return 0


@contextmanager
def running(say: Callable[[str], None], *, loops_dir: Path = LOOPS) -> Iterator[Running]:
    """Start a stack on free ports in a folder of its own, and stop and remove it at the end."""
    data_dir = stack.fresh_folder(time.strftime("bench-%Y%m%d-%H%M%S"))
    before = dict(os.environ)
    os.environ.update({f"RATCHET_{name}_PORT": "0" for name in _PORTS})
    try:
        began_s = time.monotonic()
        stack.start(data_dir, loops_dir, fresh=True, say=lambda line: None)
        told = _status(data_dir)
        say(f"a stack of its own is ready after {time.monotonic() - began_s:.0f} s")
        services, keys = told["services"], told["keys"]
        folder = Path(told["data_dir"])
        yield Running(
            Endpoints(services["collector"]["url"].rstrip("/"), services["inference"]["url"].rstrip("/"),
                      keys["collect"], keys["infer"]),
            stack.Stores(services["postgres"]["url"], services["redis"]["url"], folder / "artifacts"), folder,
            {name: service["url"] for name, service in services.items()},
            {name: service["pid"] for name, service in services.items()})
    finally:
        os.environ.clear()
        os.environ.update(before)
        if data_dir.exists():
            stack.stop(data_dir, remove=not before.get("RATCHET_BENCH_KEEP"))


def _status(data_dir: Path) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "services.cli.main", "status", "--json", "--data-dir", str(data_dir)],
                          check=True, capture_output=True)
    told: dict[str, Any] = msgspec.json.decode(done.stdout)
    return told
