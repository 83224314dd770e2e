"""The command itself: what it refuses, and what it makes of a stack's status."""

import argparse
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import Permanent
from services.demo import main, stack
from services.demo.arguments import add_arguments
from shared import ports


def arguments(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(argv)


def status(*, ready: bool = True) -> dict[str, Any]:
    names = ("redis", "postgres", "kafka", "collector", "processor", "trainer", "inference")
    return {
        "data_dir": "/data", "phase": "ready", "keys": {"collect": "c", "infer": "i", "operate": "o"},
        "services": {name: {"url": f"http://{name}:1/", "ready": ready or name != "trainer", "rss_bytes": 7,
                            **({} if ready or name != "trainer" else {"fault": "postgres: away"})} for name in names},
        "loops": {"support-intents": {"champion": "v3"}},
    }


def test_a_file_that_is_not_there_is_refused_before_anything_starts(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(stack, "find", lambda *_: pytest.fail("no stack may be looked for"))
    assert main.run(arguments("--data", str(tmp_path / "none.csv"))) == 2
    assert "none.csv cannot be read" in capsys.readouterr().err


def test_a_report_that_cannot_be_written_is_refused_before_anything_starts(tmp_path: Path, capsys, monkeypatch):
    monkeypatch.setattr(stack, "start", lambda *_, **__: pytest.fail("no stack may be started"))
    (tmp_path / "file").touch()
    assert main.run(arguments("--report", str(tmp_path / "file" / "report.json"))) == 2
    assert "report.json cannot be written" in capsys.readouterr().err
    assert main.run(arguments("--report", str(tmp_path))) == 2


def test_a_wrong_port_is_refused_with_the_variables_name(capsys, monkeypatch):
    monkeypatch.setenv("RATCHET_DEMO_PORT", "99999")
    assert main.run(arguments()) == 2
    assert "RATCHET_DEMO_PORT" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [("--rate", "0"), ("--rate", "x"), ("--limit", "0")])
def test_a_wrong_number_is_refused(argv: tuple[str, str], capsys):
    with pytest.raises(SystemExit):
        arguments(*argv)
    assert argv[0] in capsys.readouterr().err


def test_a_running_stack_is_found_with_its_addresses_keys_and_stores(monkeypatch):
    monkeypatch.setattr(stack, "_status", lambda _: status())
    found = stack.find(Path("/data"))
    assert found is not None
    assert (found.at.collector, found.at.infer_key) == ("http://collector:1", "i")
    assert found.stores.artifacts_dir == Path("/data/artifacts")
    assert found.champions == {"support-intents": "v3"}
    assert not found.ours


def test_a_stack_that_is_not_ready_is_not_played_on_and_says_why(monkeypatch):
    monkeypatch.setattr(stack, "_status", lambda _: status(ready=False))
    with pytest.raises(Permanent, match="trainer: postgres: away"):
        stack.find(Path("/data"))


def test_a_loop_that_the_running_stack_does_not_have_is_refused_with_those_it_has(monkeypatch, capsys):
    monkeypatch.setattr(stack, "_status", lambda _: status())
    assert main.run(arguments("--loop", "other", "--data-dir", "/data")) == 1
    assert "has no loop 'other'; it has support-intents" in capsys.readouterr().err


def test_a_stack_that_runs_already_is_not_taught_the_demos_messages(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("RATCHET_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(stack, "_status", lambda _: pytest.fail("no running stack may be looked for"))
    monkeypatch.setattr(stack, "stop", lambda *_, **__: None)
    started: list[Path] = []

    def start(folder: Path, *_: object, **__: object) -> stack.Stack:
        started.append(folder)
        raise Permanent("far enough")

    monkeypatch.setattr(stack, "start", start)
    assert main.run(arguments()) == 1
    assert [folder.parent for folder in started] == [tmp_path]
    assert started[0].name.startswith("demo-")


def test_only_ports_that_are_taken_are_replaced_by_free_ones():
    with socket.socket() as taken, socket.socket() as free:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        free.bind(("127.0.0.1", 0))
        was_free = free.getsockname()[1]
        free.close()
        unset = dict.fromkeys(map(ports.variable, ports.USUAL), "0")
        asked = unset | {"RATCHET_KAFKA_PORT": str(taken.getsockname()[1]), "RATCHET_REDIS_PORT": str(was_free)}
        assert stack.free_ports(asked) == {"RATCHET_KAFKA_PORT": "0"}


def test_the_start_is_told_line_by_line_without_the_advice_that_is_not_for_the_demo(monkeypatch, tmp_path: Path):
    lines = "print('kafka is ready'); print('running in the background (pid 7); `ratchet down` stops it')"
    monkeypatch.setattr(stack, "_ratchet", lambda: [sys.executable, "-c", lines])
    monkeypatch.setattr(stack, "_status", lambda _: status())
    monkeypatch.setattr(stack, "free_ports", lambda _: {})
    said: list[str] = []
    assert stack.start(tmp_path, tmp_path, fresh=True, say=said.append).ours
    assert said == ["kafka is ready"]
