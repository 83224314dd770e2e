"""The command itself: what it refuses, and what it makes of a stack's status."""

import argparse
from pathlib import Path
from typing import Any

import pytest

from schemas.errors import Permanent
from services.demo import main, stack
from services.demo.arguments import add_arguments


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
    found = stack.find(None)
    assert found is not None
    assert (found.at.collector, found.at.infer_key) == ("http://collector:1", "i")
    assert found.stores.artifacts_dir == Path("/data/artifacts")
    assert found.champions == {"support-intents": "v3"}
    assert not found.ours


def test_a_stack_that_is_not_ready_is_not_played_on_and_says_why(monkeypatch):
    monkeypatch.setattr(stack, "_status", lambda _: status(ready=False))
    with pytest.raises(Permanent, match="trainer: postgres: away"):
        stack.find(None)


def test_a_loop_that_the_running_stack_does_not_have_is_refused_with_those_it_has(monkeypatch, capsys):
    monkeypatch.setattr(stack, "_status", lambda _: status())
    assert main.run(arguments("--loop", "other")) == 1
    assert "has no loop 'other'; it has support-intents" in capsys.readouterr().err
