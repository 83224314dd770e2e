"""compose/: the whole platform in containers, once through the loop, and down again."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.ports import free_port
from tests.support.absent import skip_absent, skip_broken
from tests.support.app import App
from tests.support.servers import docker_fault
from tests.support.services import ROOT, eventually

pytestmark = pytest.mark.timeout(1500)
UP_S = 1200


def say(line: str) -> None:
    """Print past pytest's capture: building the images takes a minute or two."""
    print(f"[compose] {line}", file=sys.__stderr__, flush=True)


class Compose:
    """One project of compose/compose.yaml, with secrets and ports of its own."""

    def __init__(self, folder: Path) -> None:
        self.keys = {name: secrets.token_hex(12) for name in ("collect", "infer", "operate")}
        self.ports = {name: free_port() for name in ("RATCHET_COLLECTOR_PORT", "RATCHET_INFERENCE_PORT",
                                                     "PROMETHEUS_PORT")}
        values = {
            "POSTGRES_PASSWORD": secrets.token_hex(12), "REDIS_PASSWORD": secrets.token_hex(12),
            "RATCHET_PSEUDONYM_KEY": secrets.token_hex(24), "RATCHET_COLLECT_KEYS": f"app:{self.keys['collect']}",
            "RATCHET_INFER_KEYS": f"app:{self.keys['infer']}", "RATCHET_OPERATE_KEYS": f"op:{self.keys['operate']}",
            "RATCHET_IMAGES": "ratchet-test", **{name: str(port) for name, port in self.ports.items()}}
        self._env_file = folder / "env"
        self._env_file.write_text("".join(f"{key}={value}\n" for key, value in values.items()))
        self._project = f"ratchettest{secrets.token_hex(4)}"

    def run(self, *arguments: str, timeout_s: float = UP_S, check: bool = True) -> str:
        """Run docker compose; returns its output."""
        argv = ["docker", "compose", "--progress", "plain", "--env-file", str(self._env_file), "-p", self._project,
                "-f", str(ROOT / "compose" / "compose.yaml"), *arguments]
        # An operator's own settings would go before the file's.
        env = {key: value for key, value in os.environ.items() if not key.startswith(("RATCHET_", "POSTGRES_"))}
        done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, check=False, env=env)
        if check and done.returncode != 0:
            raise AssertionError(f"docker compose {' '.join(arguments)} ended with {done.returncode}:\n"
                                 f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        return done.stdout

    def containers(self) -> dict[str, dict[str, Any]]:
        """Each container, by service."""
        lines = self.run("ps", "--all", "--format", "json").splitlines()
        return {told["Service"]: told for told in map(json.loads, lines)}

    def logs(self) -> str:
        """The end of every log."""
        return self.run("logs", "--no-color", "--tail", "25", check=False)


@pytest.fixture(scope="module")
def compose(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """The platform up and healthy in containers; skips where there is no engine."""
    fault = docker_fault()
    if fault is None and subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode:
        fault = "docker compose is not installed"
    if fault is None and shutil.disk_usage("/").free < 20e9:
        fault = "the images need 20 GB of free disk"
    if fault:
        say(f"not run: {fault}")
        # CI brings an engine and its images where there is such a folder (.ci/run); elsewhere they may be missing.
        (skip_broken if (ROOT.parent / "shared" / "images").is_dir() else skip_absent)(fault)
    project = Compose(tmp_path_factory.mktemp("compose"))
    try:
        began_s = time.monotonic()
        project.run("build")
        say(f"images built after {time.monotonic() - began_s:.0f} s")
        try:
            project.run("--profile", "metrics", "up", "--detach", "--no-build")
        except AssertionError as exc:
            raise AssertionError(f"{exc}\n{project.logs()}") from exc
        _wait_healthy(project)
        say(f"all healthy after {time.monotonic() - began_s:.0f} s")
        yield project
    finally:
        project.run("--profile", "metrics", "down", "--volumes", "--timeout", "30", check=False)


def _wait_healthy(project: Compose) -> None:
    def healthy() -> bool:
        told = project.containers()
        assert told["prepare"]["State"] == "exited", told["prepare"]["Status"]
        assert told["prepare"]["ExitCode"] == 0, project.logs()
        ill = {name: c["Status"] for name, c in told.items() if name != "prepare" and c.get("Health") != "healthy"}
        assert not ill, ill
        return True

    try:
        eventually(healthy, timeout_s=300, every_s=1)
    except AssertionError as exc:
        raise AssertionError(f"{exc}\n{project.logs()}") from exc


def _get(url: str) -> dict[str, Any]:
    with urllib.request.urlopen(url, timeout=10) as response:
        told: dict[str, Any] = json.load(response)
    return told


def test_an_event_becomes_a_version_that_learned_it(compose: Compose) -> None:
    app = App(f"http://127.0.0.1:{compose.ports['RATCHET_COLLECTOR_PORT']}",
              f"http://127.0.0.1:{compose.ports['RATCHET_INFERENCE_PORT']}",
              compose.keys["collect"], compose.keys["infer"])
    first = app.predict("Where is my parcel right now?", "user-0")
    assert (first.label, first.version) == (None, "v0")
    # Several users: a few subjects are held out and never learned from.
    for number in range(8):
        for text, label in (("Where is my parcel right now?", "track_order"),
                            ("Please cancel my order", "cancel_order")):
            answer = app.predict(text, f"user-{number}")
            app.resolve(answer, label, f"user-{number}")

    def learned() -> bool:
        parcel, cancel = app.predict("where is my parcel", "user-1"), app.predict("cancel the order please", "user-1")
        return (parcel.label, cancel.label) == ("track_order", "cancel_order") and parcel.version != "v0"

    try:
        eventually(learned, timeout_s=60, every_s=0.2)
    except AssertionError as exc:
        raise AssertionError(f"{exc}\n{compose.logs()}") from exc


def test_services_run_without_root_and_without_writing_to_their_image(compose: Compose) -> None:
    for service in ("collector", "processor", "trainer", "inference"):
        told = compose.run("exec", "-T", service, "sh", "-c", "id -u; touch /app/x 2>&1 || true")
        uid, _, refused = told.partition("\n")
        assert int(uid) == 10001, service
        assert "Read-only file system" in refused, service


def test_prometheus_scrapes_every_service_and_understands_every_query_of_the_dashboard(compose: Compose) -> None:
    prometheus = f"http://127.0.0.1:{compose.ports['PROMETHEUS_PORT']}"

    def all_up() -> bool:
        targets = _get(f"{prometheus}/api/v1/targets")["data"]["activeTargets"]
        assert {target["labels"]["service"] for target in targets if target["health"] == "up"} == {
            "collector", "processor", "trainer", "inference"}, [target["lastError"] for target in targets]
        return True

    eventually(all_up, timeout_s=30, every_s=0.5)
    dashboard = json.loads((ROOT / "compose" / "grafana" / "dashboards" / "ratchet.json").read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            query = urllib.parse.urlencode({"query": target["expr"]})
            assert _get(f"{prometheus}/api/v1/format_query?{query}")["status"] == "success", target["expr"]


def test_a_service_that_dies_is_started_again(compose: Compose) -> None:
    before = compose.run("exec", "-T", "processor", "cat", "/proc/1/stat").split()[21]
    compose.run("exec", "-T", "processor", "python", "-c", "import os, signal; os.kill(1, signal.SIGTERM)")

    def again() -> bool:
        done = compose.run("exec", "-T", "processor", "cat", "/proc/1/stat", check=False).split()
        return len(done) > 21 and done[21] != before

    eventually(again, timeout_s=60, every_s=0.5)
    _wait_healthy(compose)
