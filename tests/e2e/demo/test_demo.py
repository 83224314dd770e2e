"""`ratchet demo` as a newcomer runs it, on the small corpus: a stack of its own, a model that learns, a report."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PORTS = ("COLLECTOR", "INFERENCE", "PROCESSOR", "TRAINER", "KAFKA", "POSTGRES", "REDIS", "DEMO")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that Postgres, which does not run as root, can reach: not below pytest's."""
    with tempfile.TemporaryDirectory(prefix="ratchet-demo-", ignore_cleanup_errors=True) as name:
        yield Path(name)


@pytest.mark.timeout(420)
def test_the_demo_learns_the_small_inbox_live_and_accounts_for_every_event(folder: Path) -> None:
    environ = dict(os.environ) | {f"RATCHET_{name}_PORT": "0" for name in PORTS} | {
        "RATCHET_DATA_DIR": str(folder / "data"), "RATCHET_PSEUDONYM_KEY": "a-test-key-of-32-characters-1234"}
    data, test = ROOT / "examples" / "support-messages.csv", ROOT / "examples" / "support-messages-test.csv"
    done = subprocess.run(
        [sys.executable, "-m", "services.cli.main", "demo", "--data", str(data), "--test", str(test), "--rate", "15",
         "--report", str(folder / "demo.json")],
        cwd=ROOT, env=environ, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"

    report = json.loads((folder / "demo.json").read_text())
    assert report["events"] == {"accepted": 720, "stored": 720, "effects": 720}
    assert report["failed_requests"] == 0
    assert report["unanswered"] == 0
    assert report["swaps"] >= 10
    assert report["versions"] >= report["swaps"] - 1
    # Guessing among 20 queues gets 5 %; the recipe alone, without any loop, gets 0.66 and 0.80.
    assert report["prequential_accuracy"]["overall"] >= 0.5
    assert report["test_accuracy"] >= 0.74
    assert report["static"]["prequential_on_the_same"] > report["static_accuracy"] + 0.1
    times = report["loop_time"]
    assert times["measured"] + times["held_out"] == 720
    assert times["unlearned"] == times["unserved"] == 0
    assert report["loop_time_s"]["p50"] < 10
    assert report["decisions"][0]["rule"] == "first"

    assert "watch it learn: http://127.0.0.1:" in done.stdout
    assert (folder / "demo.html").read_text().startswith("<!doctype html>")
    assert not list((folder / "data").glob("demo-*")), "the demo removes the folder that it made"
