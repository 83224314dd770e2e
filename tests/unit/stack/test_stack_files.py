"""Secrets, logs, state and pins of the embedded stack: what happens the second time, and when a file is damaged."""

import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from schemas.errors import Permanent, Transient
from services.stack import jars, logfiles, operating, plan, state, vault
from services.stack.process import Identity, Stopped, finish, identity_of, wait_gone
from services.stack.settings import Settings
from services.stack.supervisor import Supervisor
from services.stack.units import FIRST_PAUSE_S, MAX_PAUSE_S, Unit
from shared.settings import read


def test_secrets_are_made_once_and_only_their_owner_reads_them(tmp_path: Path) -> None:
    first = vault.load_or_make(tmp_path)
    assert vault.load_or_make(tmp_path) == first
    assert stat.S_IMODE((tmp_path / vault.FILE).stat().st_mode) == 0o600
    assert len(first.pseudonym_key) >= 16


def test_two_stacks_share_no_secret(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    a, b = vault.load_or_make(tmp_path / "a"), vault.load_or_make(tmp_path / "b")
    assert not {getattr(a, f) for f in a.__struct_fields__} & {getattr(b, f) for f in b.__struct_fields__}


def test_a_damaged_secrets_file_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / vault.FILE).write_text("{")
    with pytest.raises(Permanent, match="bring it back from a backup"):
        vault.load_or_make(tmp_path)
    assert (tmp_path / vault.FILE).read_text() == "{"


def test_only_the_owner_reads_logs_even_where_the_folder_was_made_wider_before(tmp_path: Path) -> None:
    logs = tmp_path / "data" / "logs"
    for _ in range(2):
        logfiles.make_folder(logs)
        assert stat.S_IMODE(logs.stat().st_mode) == 0o700
        logs.chmod(0o755)


def test_a_log_that_grew_too_big_is_cut_while_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "collector.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * 2000)
        assert logfiles.bound(tmp_path, max_bytes=1000) == ["collector.log"]
        writer.write(b"after")
    assert log.read_bytes() == b"after"
    assert (tmp_path / "collector.log.1").stat().st_size == 2000
    assert logfiles.bound(tmp_path, max_bytes=1000) == []


def test_a_pid_that_was_given_to_another_process_is_not_taken_for_ours() -> None:
    me = identity_of(os.getpid())
    assert me.find() is not None
    assert Identity(me.pid, me.created_s - 60).find() is None


def test_a_process_that_ended_and_was_never_reaped_counts_as_ended() -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    try:
        assert wait_gone([psutil.Process(child.pid)], timeout_s=10)
        assert identity_of(child.pid).find() is None
    finally:
        child.wait()


def test_a_second_supervisor_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    state.write(tmp_path, state.State(phase="ready", supervisor=identity_of(os.getpid()), data_dir="", loops_dir=""))
    with state.exclusive(tmp_path):
        assert state.is_held(tmp_path)
        with pytest.raises(Permanent, match=rf"another `ratchet up` \(pid {os.getpid()}\)"), state.exclusive(tmp_path):
            pass
    assert not state.is_held(tmp_path)


def test_operator_commands_find_the_registry_in_the_environment_first_and_else_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(Permanent, match="RATCHET_REDIS_URL and RATCHET_ARTIFACTS_DIR"):
        operating.registry_address(tmp_path, {})
    state.write(tmp_path, state.State(
        phase="ready", supervisor=identity_of(os.getpid()), data_dir="", loops_dir="",
        environ={"RATCHET_REDIS_URL": "redis://stack", "RATCHET_ARTIFACTS_DIR": "/stack"}))
    assert operating.registry_address(tmp_path, {}) == ("redis://stack", Path("/stack"))
    assert operating.registry_address(tmp_path, {"RATCHET_REDIS_URL": "redis://mine"})[0] == "redis://mine"


def test_restarts_wait_longer_each_time_and_soon_again_after_a_steady_while(tmp_path: Path,
                                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    class Dead:
        command = None

        def __init__(self, command: object) -> None:
            pass

        def poll(self) -> int:
            return 1

    monkeypatch.setattr("services.stack.units.Child", Dead)
    what = plan.Service("toy", ("true",), 1, {}, tmp_path / "toy.log")
    unit, now_s, pauses = Unit(what), 0.0, []
    unit.start(now_s)
    for _ in range(8):
        assert unit.died(now_s) == 1
        assert unit.died(now_s) is None
        pauses.append(round(unit.pause_s(now_s), 6))
        assert not unit.restart_if_due(now_s + pauses[-1] / 2)
        now_s += pauses[-1]
        assert unit.restart_if_due(now_s)
    assert pauses[0] == pytest.approx(FIRST_PAUSE_S)
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(MAX_PAUSE_S)
    assert unit.n_restarts == 8
    now_s += 60
    assert unit.died(now_s) == 1
    assert unit.pause_s(now_s) == pytest.approx(FIRST_PAUSE_S)


def test_every_service_gets_the_addresses_and_only_several_processors_get_other_ports(tmp_path: Path) -> None:
    settings = read(Settings, {"RATCHET_DATA_DIR": str(tmp_path), "RATCHET_PROCESSOR_WORKERS": "3",
                               "RATCHET_COLLECT_KEYS": "shop:mine"})
    made = plan.make(settings, vault.load_or_make(tmp_path), {"RATCHET_DEVICE": "cpu", "PYTHONDONTWRITEBYTECODE": "1"})
    assert [s.name for s in made.services] == ["collector", "processor", "processor-2", "processor-3", "trainer",
                                               "inference"]
    assert len({s.port for s in made.services}) == 6
    assert len({s.environ["RATCHET_PROCESSOR_INSTANCE"] for s in made.services[1:4]}) == 3
    assert made.keys["collect"] == "mine"
    for service in made.services:
        assert service.environ["RATCHET_DEVICE"] == "cpu"
        assert service.environ["RATCHET_KAFKA_BOOTSTRAP"] == "127.0.0.1:9092"
        assert "PYTHONDONTWRITEBYTECODE" not in service.environ


def test_the_pins_name_one_broker_version_throughout_and_a_log_back_end() -> None:
    pinned = jars.pins()
    assert {jar.version for jar in pinned if jar.group == "org.apache.kafka"} == {jars.KAFKA_VERSION}
    assert {jar.version for jar in pinned if jar.group == "org.apache.logging.log4j"} == {jars.LOG4J_VERSION}
    assert len({jar.file_name for jar in pinned}) == len(pinned)
    assert all(len(jar.sha256) == 64 for jar in pinned)


def test_a_damaged_jar_is_fetched_again_and_one_that_is_not_the_pinned_one_is_refused(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jar = jars.Jar("g", "a", "1", 3, "b5d4045c3f466fa91fe2cc6abe79232a1a57cdf104f7a26e716e0a1e2789df78")  # b"ABC"
    monkeypatch.setattr(jars, "pins", lambda: [jar])
    folder = tmp_path / f"kafka-{jars.KAFKA_VERSION}"
    fetched: list[str] = []

    def fetch(wanted: jars.Jar, into: Path) -> None:
        fetched.append(wanted.file_name)
        (into / wanted.file_name).write_bytes(b"ABC")

    monkeypatch.setattr(jars, "_fetch", fetch)
    assert jars.classpath(print, tmp_path) == str(folder / "a-1.jar")
    jars.classpath(print, tmp_path)
    assert fetched == ["a-1.jar"]
    (folder / "a-1.jar").write_bytes(b"ABX")
    jars.classpath(print, tmp_path)
    assert fetched == ["a-1.jar", "a-1.jar"]


def test_fetching_ends_at_once_when_asked_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jars, "pins", lambda: [jars.Jar("g", f"a{n}", "1", 3, "0") for n in range(20)])
    stop, over, n_begun = threading.Event(), threading.Event(), 0

    def fetch(wanted: jars.Jar, into: Path) -> None:
        nonlocal n_begun
        n_begun += 1
        stop.set()
        over.wait(60)

    monkeypatch.setattr(jars, "_fetch", fetch)
    with pytest.raises(Stopped):
        jars.classpath(print, tmp_path, stop)
    over.set()
    assert n_begun <= jars.N_DOWNLOADS


def test_what_a_fetch_that_was_cut_off_left_is_swept_up_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jars, "pins", lambda: [jars.Jar("g", "a", "1", 3, "0")])
    monkeypatch.setattr(jars, "_fetch", lambda *_: None)
    folder = tmp_path / f"kafka-{jars.KAFKA_VERSION}"
    for name, age_s in ((".fetch-old", 7200), (".fetch-new", 60)):
        (folder / name).mkdir(parents=True)
        os.utime(folder / name, (time.time() - age_s,) * 2)
    jars.classpath(print, tmp_path)
    assert [left.name for left in folder.iterdir()] == [".fetch-new"]


def test_a_program_under_way_is_killed_with_all_it_started_when_asked_to_stop(tmp_path: Path) -> None:
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    with pytest.raises(Stopped):
        # Unless its child is killed too, the pipe stays open and this would last as long as it.
        finish(["sh", "-c", "sleep 60 & wait"], stop, cwd=tmp_path)
    assert finish(["sh", "-c", "cat; exit 3"], threading.Event(), stdin="said", cwd=tmp_path) == (3, "said")


@pytest.mark.parametrize(("served", "error", "says"), [
    (b"ABX", Permanent, "it was not used"),
    (None, Transient, "could not be fetched"),
])
def test_a_fetched_jar_is_used_only_when_it_is_the_pinned_one(
        served: bytes | None, error: type[Exception], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:
    jar = jars.Jar("g", "a", "1", 3, "b5d4045c3f466fa91fe2cc6abe79232a1a57cdf104f7a26e716e0a1e2789df78")

    class Context:
        def __init__(self, *, repo_cache: Path, timeout: int) -> None:
            self._file = repo_cache / "a-1.jar"

        def project(self, group: str, artifact: str) -> "Context":
            return self

        def at_version(self, version: str) -> "Context":
            return self

        def artifact(self) -> "Context":
            return self

        def resolve(self) -> Path:
            if served is None:
                raise RuntimeError("no such artifact")
            self._file.write_bytes(served)
            return self._file

    monkeypatch.setattr("jgo.maven.MavenContext", Context)
    with pytest.raises(error, match=says):
        jars._fetch(jar, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_long_start_says_who_is_awaited_and_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.stack.supervisor.TELL_AFTER_S", 0.0)
    said: list[str] = []
    slow = plan.Service("trainer", ("true",), 1, {}, tmp_path / "trainer.log")
    faults = iter(["models: loading", "models: loading", "models: loading", None])
    monkeypatch.setattr(plan.Service, "fault", lambda _: next(faults))
    starting = Supervisor(read(Settings, {"RATCHET_DATA_DIR": str(tmp_path)}), said.append)
    starting._units["trainer"] = Unit(slow)
    starting._wait((slow,), time.monotonic() + 60)
    assert said[0] == "waiting for trainer (models: loading)"
    assert [line.split(" after ")[0] for line in said[1:]] == ["trainer is ready"]
