"""What ``ratchet up`` does about processes, with real servers and toy services."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.stack import operating, state
from services.stack.process import Identity
from shared.ports import free_port
from tests.support.servers import data_dir
from tests.support.services import ROOT, eventually

TOY = ROOT / "tests" / "support" / "toy_stack.py"
PORTS = ("KAFKA", "POSTGRES", "REDIS", "COLLECTOR", "INFERENCE", "PROCESSOR", "TRAINER")


class Stack:
    """One supervisor of toy services."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {key: value for key, value in os.environ.items() if not key.startswith("RATCHET_")} | {
            "RATCHET_DATA_DIR": str(folder), "RATCHET_LOOPS_DIR": str(ROOT / "examples" / "loops"),
            "PYTHONPATH": str(ROOT), **{f"RATCHET_{name}_PORT": "0" for name in PORTS}}
        self.out = folder.with_name(folder.name + ".out")
        self.supervisor: subprocess.Popen[bytes] | None = None

    def up(self, *, wait: bool = True, **more: str) -> subprocess.Popen[bytes]:
        with self.out.open("ab") as out:
            self.supervisor = subprocess.Popen([sys.executable, "-P", str(TOY)], env=self.env | more, stdout=out,
                                               stderr=out)
        if wait:
            eventually(self._ready, timeout_s=90)
        return self.supervisor

    def _ready(self) -> bool:
        assert self.supervisor is not None
        if self.supervisor.poll() is not None:
            raise RuntimeError(f"the supervisor ended: {self.said}")
        known = state.read(self.folder)
        return known is not None and known.phase == "ready" and known.supervisor.pid == self.supervisor.pid

    def down(self) -> None:
        if self.supervisor is not None:
            self.supervisor.send_signal(signal.SIGTERM)
            self.supervisor.wait(timeout=60)

    @property
    def said(self) -> str:
        return self.out.read_text()

    def process(self, name: str) -> Identity:
        known = state.read(self.folder)
        assert known is not None
        return known.processes[name].identity

    def status(self) -> dict[str, Any]:
        return operating.status(self.folder)


@pytest.fixture
def stack() -> Iterator[Stack]:
    with data_dir() as parent:
        (parent / "data").mkdir(mode=0o711)
        toy = Stack((parent / "data").resolve())
        try:
            yield toy
        finally:
            if toy.supervisor is not None and toy.supervisor.poll() is None:
                toy.down()
            state.end_orphans(toy.folder, {"postgres": signal.SIGINT})


def _is_gone(identity: Identity) -> Callable[[], bool]:
    return lambda: identity.find() is None


def test_everything_starts_and_whatever_is_killed_is_started_again_and_all_ends_with_the_supervisor(stack: Stack
                                                                                                   ) -> None:
    stack.up()
    found = stack.status()
    assert operating.is_ready(found)
    assert set(found["services"]) == {"redis", "postgres", "kafka", "collector", "processor", "trainer", "inference"}
    assert all(service["rss_bytes"] > 1_000_000 for service in found["services"].values())
    assert found["loops"] == {"support-intents": {
        "champion": None, "previous": None, "pinned": None, "waiting": 0, "oldest_waiting_s": None, "orphaned": 0,
        "predictions_lost": None}}

    for name in ("collector", "redis", "postgres", "kafka"):
        before = stack.process(name)
        before.find().kill()  # type: ignore[union-attr]
        eventually(lambda name=name, before=before: stack.process(name) != before, timeout_s=30)
    eventually(lambda: operating.is_ready(stack.status()), timeout_s=60)
    assert stack.status()["services"]["collector"]["restarts"] == 1
    assert "collector ended (killed by SIGKILL); starting it again" in stack.said

    all_of_them = [stack.process(name) for name in stack.status()["services"]]
    stack.down()
    assert stack.supervisor is not None
    assert stack.supervisor.returncode == 0
    assert [identity for identity in all_of_them if identity.find()] == []
    assert "collector drained" in (stack.folder / "logs" / "collector.log").read_text()
    assert stack.status()["services"] == {}


def test_processes_of_a_killed_supervisor_are_ended_by_the_next_up_and_the_data_is_still_there(stack: Stack) -> None:
    import psycopg

    stack.up()
    url = stack.status()["services"]["postgres"]["url"]
    with psycopg.connect(url) as connection:
        connection.execute("INSERT INTO loop_counters VALUES ('kept', 7)")
        connection.execute("""INSERT INTO joins (prediction_id, loop, state, deadline, waiting_since) VALUES
                              ('pr_1', 'support-intents', 'waiting', now(), now() - interval '90 s'),
                              ('pr_2', 'support-intents', 'orphaned', now(), now() - interval '9 h')""")
    missed = stack.status()["loops"]["support-intents"]
    assert (missed["waiting"], missed["orphaned"], missed["predictions_lost"]) == (1, 1, None)
    assert 90 <= missed["oldest_waiting_s"] < 150
    orphans = [stack.process(name) for name in stack.status()["services"]]
    assert stack.supervisor is not None
    stack.supervisor.kill()
    stack.supervisor.wait(timeout=10)
    assert all(identity.find() for identity in orphans)
    assert stack.status()["services"] == {}
    assert stack.status()["left_behind"]["kafka"] == orphans[2].pid

    stack.up()
    assert [identity for identity in orphans if identity.find()] == []
    assert "left behind by a supervisor that was killed" in stack.said
    with psycopg.connect(stack.status()["services"]["postgres"]["url"]) as connection:
        assert connection.execute("SELECT next_seq FROM loop_counters WHERE loop = 'kept'").fetchone() == (7,)
    assert set(operating.status(stack.folder)["keys"]) == {"collect", "infer", "operate"}

    stack.supervisor.kill()
    stack.supervisor.wait(timeout=10)
    said: list[str] = []
    assert operating.down(stack.folder, said.append)
    assert len(said) == 7
    assert not operating.down(stack.folder, said.append)


def test_a_disk_that_takes_nothing_costs_no_process_its_supervisor(stack: Stack) -> None:
    stack.up()
    before = {name: stack.process(name) for name in ("collector", "kafka")}
    # Folders in the place of files cannot be written over, like a full disk, and even by root.
    blocked = [stack.folder / state.FILE, stack.folder / "kafka" / "server.properties"]
    for file in blocked:
        file.unlink()
        file.mkdir()
    for identity in before.values():
        identity.find().kill()  # type: ignore[union-attr]
    eventually(lambda: "kafka cannot be started: Is a directory; trying again" in stack.said, timeout_s=30)
    eventually(lambda: "stack.json cannot be written: Is a directory" in stack.said, timeout_s=30)

    for file in blocked:
        file.rmdir()
    eventually(lambda: stack.status()["services"] and operating.is_ready(stack.status()), timeout_s=90)
    assert all(stack.process(name) != identity for name, identity in before.items())


def test_a_second_up_on_the_same_folder_is_refused_and_harms_nothing(stack: Stack) -> None:
    first = stack.up()
    second = stack.up(wait=False)
    assert second.wait(timeout=30) == 1
    assert f"another `ratchet up` (pid {first.pid}) runs on {stack.folder}" in stack.said
    stack.supervisor = first
    assert operating.is_ready(stack.status())


def test_a_taken_port_is_named_with_its_variable_and_holder_before_anything_starts(stack: Stack) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        supervisor = stack.up(wait=False, RATCHET_TRAINER_PORT=str(port), RATCHET_REDIS_PORT=str(free_port()))
        assert supervisor.wait(timeout=30) == 1
    holder_name = psutil.Process().name()
    assert f"port {port} is taken by {holder_name}, pid {os.getpid()}; set RATCHET_TRAINER_PORT" in stack.said
    assert not (stack.folder / "redis").exists()


def test_a_wrong_setting_of_a_service_ends_the_start_with_its_own_words(stack: Stack) -> None:
    supervisor = stack.up(wait=False, TOY_TRAINER="wrong-setting")
    assert supervisor.wait(timeout=90) == 1
    assert "failed: trainer does not start: RATCHET_TOY is wrong: no toy is this big" in stack.said
    assert state.orphans(stack.folder) == {}


def test_ctrl_c_ends_downloads_that_do_not_get_on(stack: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        proxy = f"http://127.0.0.1:{silent.getsockname()[1]}"
        supervisor = stack.up(wait=False, RATCHET_CACHE_DIR=str(stack.folder.with_name("cache")),
                              HTTPS_PROXY=proxy, https_proxy=proxy, NO_PROXY="", no_proxy="")
        silent.settimeout(60)
        connection, _ = silent.accept()
        with connection:
            supervisor.send_signal(signal.SIGINT)
            assert supervisor.wait(timeout=30) == 0
    assert "stopped; the data is kept" in stack.said


def test_a_redis_that_came_back_empty_is_restored_from_the_artifacts(stack: Stack) -> None:
    (stack.folder / "artifacts" / "support-intents").mkdir(parents=True)
    (stack.folder / "artifacts" / "support-intents" / "journal").write_text("")
    stack.up()
    assert f"restored {stack.folder / 'artifacts'}" in stack.said
