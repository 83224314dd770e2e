"""The operator's commands against a real registry."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import redis

from schemas.manifest import BaseRef, GateDecision, Golden, Interval, Manifest, SeqRange
from services.cli.main import main
from shared.registry import Registry
from shared.registry.blobs import ref

LOOP = "support-intents"


@pytest.fixture
def registry(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """A registry with v1, then v2 promoted, that the commands find through the environment."""
    monkeypatch.setenv("RATCHET_REDIS_URL", redis_url)
    monkeypatch.setenv("RATCHET_ARTIFACTS_DIR", str(tmp_path / "artifacts"))
    (tmp_path / "loops").mkdir()
    (tmp_path / "loops" / "declared.toml").write_text(
        'name = "declared"\n[feedback.f]\nevent = "T"\nlabel = "properties.q"\n')
    monkeypatch.setenv("RATCHET_LOOPS_DIR", str(tmp_path / "loops"))
    opened = Registry.connect(redis_url, tmp_path / "artifacts")
    for number in (1, 2):
        version = opened.next_version(LOOP)
        tensors = {"head.weight": np.full((4, 2), number, np.float32)}
        opened.publish(Manifest(
            loop=LOOP, version=version, task="text-classification", generation=0, method="analytic",
            metrics={"prequential_accuracy": Interval(0.821, 0.796, 0.844, 1000)},
            created_ms=1_700_000_000_000, parent=f"v{number - 1}" if number > 1 else None,
            base=BaseRef(id="tiny", sha256="0" * 64), encoder="e" * 64, tokenizer="t" * 64, max_tokens=16,
            tensors={name: ref(array) for name, array in tensors.items()}, labels=["card", "refund"],
            examples=[SeqRange(first=1, last=10 * number)], n_examples=10 * number, seed=17, code_version="test",
            gate=GateDecision(verdict="accepted", rule="non-inferior", metric="accuracy", confidence=0.95,
                              reason="no worse on 40 examples", difference=Interval(0.01, -0.01, 0.03, 40)),
            golden=Golden(texts=[], scores=[], tolerance=1e-4)), tensors)
        opened.promote(LOOP, version, actor="trainer", reason="passed the gate")
    yield opened
    opened.close()


@pytest.fixture
def ratchet(registry: Registry, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs one command; returns status, output and errors."""
    def run(*arguments: str) -> tuple[int, str, str]:
        status = main(arguments)
        return status, *capsys.readouterr()
    return run


def test_versions_are_listed_newest_first_with_what_they_serve_as(ratchet: Callable[..., tuple[int, str, str]]) -> None:
    status, out, _ = ratchet("versions", LOOP, "--json")
    listed = json.loads(out)
    assert status == 0
    assert [(v["version"], v["aliases"], v["n_examples"]) for v in listed["versions"]] == [
        ("v2", ["champion"], 20), ("v1", ["previous"], 10)]
    assert listed["aliases"]["champion"] == "v2"


def test_a_terminal_of_80_columns_shows_every_figure_of_the_versions(ratchet: Callable[..., tuple[int, str, str]],
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert ratchet("pin", LOOP, "--reason", "audit")[0] == 0
    out = ratchet("versions", LOOP)[1]
    heading, champion, pinned, previous = out.splitlines()
    assert "…" not in out
    assert heading.split() == ["version", "as", "method", "examples", "labels", "accuracy", "gate", "made"]
    assert champion.split()[:8] == ["v2", "champion,", "analytic", "20", "2", "82.1%", "n=1000", "accepted"]
    assert pinned.split() == ["pinned"]
    assert previous.split()[:2] == ["v1", "previous"]
    assert all(len(line) <= 80 for line in out.splitlines())


def test_a_declared_loop_without_versions_is_no_error(ratchet: Callable[..., tuple[int, str, str]]) -> None:
    assert ratchet("versions", "declared")[:2] == (
        0, "no version yet: the first one is published as soon as there is feedback to learn from\n")


@pytest.mark.parametrize("command", [("versions",), ("show", "v1"), ("promote", "v1", "--reason", "r"),
                                     ("rollback", "--reason", "r"), ("pin", "--reason", "r"),
                                     ("unpin", "--reason", "r"), ("registry", "restore", "--loop")])
def test_a_loop_that_nobody_knows_is_refused_and_leaves_no_trace(
        command: tuple[str, ...], registry: Registry, tmp_path: Path,
        ratchet: Callable[..., tuple[int, str, str]]) -> None:
    words = (*command, "typo") if command[0] == "registry" else (command[0], "typo", *command[1:])
    status, out, err = ratchet(*words)
    assert (status, out) == (1, "")
    assert err.startswith("ratchet: ")
    assert "loop typo" in err
    assert not registry.knows("typo")
    assert not (tmp_path / "artifacts" / "typo").exists()


def test_show_knows_a_new_version_however_long_the_log_is(registry: Registry, redis_url: str,
                                                          ratchet: Callable[..., tuple[int, str, str]]) -> None:
    with redis.Redis.from_url(redis_url) as client:
        pipe = client.pipeline(transaction=False)
        entries = client.xrange(f"{{ratchet:{LOOP}}}:log")
        client.delete(f"{{ratchet:{LOOP}}}:log")
        for i in range(10_000):
            pipe.xadd(f"{{ratchet:{LOOP}}}:log", {"action": "rejected", "version": ""}, id=f"1-{i + 1}")
        for identity, fields in entries:
            pipe.xadd(f"{{ratchet:{LOOP}}}:log", fields, id=identity)
        pipe.execute()
    shown = json.loads(ratchet("show", LOOP, "v2", "--json")[1])
    assert [entry["action"] for entry in shown["log"]] == ["published", "promoted"]


def test_show_tells_what_a_version_is_and_why_it_serves(ratchet: Callable[..., tuple[int, str, str]]) -> None:
    status, out, _ = ratchet("show", LOOP, "champion")
    assert status == 0
    assert out.count("no worse on 40 examples") == 1
    for fact in ("v2", "champion", "sequence 1-20 (20 learned; ", "card, refund", "no worse on 40 examples",
                 "+1.0 points, between -1.0", "82.1%, between 79.6%", "promoted by trainer: passed the gate"):
        assert fact in out
    shown = json.loads(ratchet("show", LOOP, "v1", "--json")[1])
    assert shown["manifest"]["version"] == "v1"
    assert shown["aliases"] == ["previous"]
    assert [entry["action"] for entry in shown["log"]] == ["published", "promoted"]


@pytest.mark.parametrize("version", ["v99", "nonsense"])
def test_a_version_that_is_not_there_is_refused_by_name(version: str, ratchet: Callable[..., tuple[int, str, str]]
                                                        ) -> None:
    for command in (("show", LOOP, version), ("promote", LOOP, version, "--reason", "r")):
        status, out, err = ratchet(*command)
        assert (status, out) == (1, "")
        assert err.startswith("ratchet: ")
        assert version in err


def test_rollback_holds_until_unpin_and_each_step_keeps_who_and_why(
        registry: Registry, ratchet: Callable[..., tuple[int, str, str]]) -> None:
    assert ratchet("rollback", LOOP, "--reason", "worse since noon")[1] == (
        f"{LOOP}: rolled back from v2 to v1 and pinned there; `ratchet unpin` lets the loop go on\n")
    status, _, err = ratchet("promote", LOOP, "v2", "--reason", "impatient")
    assert status == 1
    assert "pinned to v1" in err
    assert "--force" in err
    assert "unpinned; champion stays v1" in ratchet("unpin", LOOP, "--reason", "looked at it")[1]
    assert "promoted v2; champion was v1" in ratchet("promote", LOOP, "v2", "--reason", "it was the network")[1]
    assert "pinned v2" in ratchet("pin", LOOP, "--reason", "audit")[1]
    forced = ratchet("promote", LOOP, "v1", "--force", "--reason", "really")[1]
    assert "promoted v1; champion was v2; pinned v1" in forced
    told = [(entry.actor.partition(":")[0], entry.reason) for entry in registry.log(LOOP)][-5:]
    assert told == [("cli", "worse since noon"), ("cli", "looked at it"), ("cli", "it was the network"),
                    ("cli", "audit"), ("cli", "really")]


def test_restore_brings_back_what_an_emptied_redis_lost(registry: Registry, redis_url: str,
                                                        ratchet: Callable[..., tuple[int, str, str]]) -> None:
    before = registry.aliases(LOOP)
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
    status, out, _ = ratchet("registry", "restore")
    assert status == 0
    assert f"{LOOP}: 2 versions, champion v2, epoch" in out
    assert "wrote 2 tensors and 4 log entries" in out
    after = registry.aliases(LOOP)
    assert (after.champion, after.previous) == (before.champion, before.previous)
    assert after.epoch > before.epoch  # replicas that kept the old one take the restored aliases
    status, out, _ = ratchet("registry", "restore", "--loop", LOOP)
    assert status == 0
    assert "wrote 0 tensors and 0 log entries" in out
