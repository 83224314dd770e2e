"""The benchmark harness takes turns, keeps what was measured, judges bars, and writes a page that stays one page."""

import argparse
import json
from pathlib import Path

import pytest

from benchmarks.harness import Bench, PeerUnavailable, page, peers, running
from services.cli.main import main


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench("sample", "How fast samples are.", rounds=2, plots=tmp_path / "plots")
    bench.figure("rate", "events/s", title="throughput")
    bench.figure("p99_ms", "ms", better="lower")
    return bench


def test_every_other_round_runs_in_reverse_and_ratios_are_taken_round_by_round(bench: Bench) -> None:
    order, rates = [], iter([100.0, 50.0, 20.0, 80.0])

    def contestant(name: str):
        return lambda: (order.append(name), {"rate": next(rates)})[1]

    bench.alternate({"ratchet": contestant("ratchet"), "peer": contestant("peer")})
    assert order == ["ratchet", "peer", "peer", "ratchet"]
    assert bench.result.ratios("rate", "ratchet", "peer") == [2.0, 4.0]


def test_a_peer_that_cannot_run_is_reported_with_the_reason_and_not_tried_again(bench: Bench) -> None:
    tries = []

    def absent() -> dict[str, float]:
        tries.append(1)
        raise PeerUnavailable("peer: needs a machine with wings")

    bench.alternate({"peer": absent, "ratchet": lambda: {"rate": 1.0}}, rounds=3)
    assert (len(tries), bench.result.skipped) == (1, {"peer": "peer: needs a machine with wings"})
    assert "needs a machine with wings" in page.section(bench.result)


def test_a_figure_that_was_not_declared_is_refused(bench: Bench) -> None:
    with pytest.raises(ValueError, match="returned latency"):
        bench.record("ratchet", {"latency": 1.0})


def test_bars_say_met_missed_and_not_measured(bench: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for ours, theirs in ((90.0, 100.0), (95.0, 100.0)):
        bench.record("ratchet", {"rate": ours})
        bench.record("peer", {"rate": theirs})
    bench.bar("rate", at_least=90)
    bench.bar("rate", at_least=1.0, against="peer")
    bench.bar("p99_ms", at_most=25)
    bench.finish(tmp_path / "result.json")
    printed = capsys.readouterr().out
    assert "ratchet: throughput ≥ 90 events/s: met, 92.5" in printed
    assert "ratchet: throughput / peer ≥ 1: MISSED, 0.925" in printed
    assert "p99 ms ≤ 25 ms: not measured" in printed
    assert json.loads((tmp_path / "result.json").read_text())["samples"]["peer"] == {"rate": [100.0, 100.0]}
    with pytest.raises(ValueError, match="one of at_least and at_most"):
        bench.bar("rate")


def test_a_section_of_the_page_is_replaced_and_the_rest_left_alone(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "benchmarks.md"
    path.write_text("# Benchmarks\n\nWords of ours.\n\n<!-- sample -->\nold\n<!-- /sample -->\n\nMore words.\n")
    bench.record("ratchet", {"rate": 12_345.0})
    bench.plot_bars("rate")
    page.update(path, bench.result)
    once = path.read_text()
    page.update(path, bench.result)
    assert path.read_text() == once
    assert "old" not in once
    assert once.startswith("# Benchmarks\n\nWords of ours.")
    assert once.endswith("More words.\n")
    assert "| **ratchet** | 12,345 |" in once
    assert (tmp_path / "plots" / "sample-rate.svg").read_text().startswith("<?xml")


def test_benchmarks_are_listed_and_an_unknown_one_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed and summary for name, summary in running.summaries().items())
    assert main(["bench", "speed"]) == 1
    assert "there is no benchmark speed; there are:" in capsys.readouterr().err


def test_every_benchmark_says_what_it_measures_and_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in running.summaries():
        with pytest.raises(SystemExit) as stopped:
            main(["bench", name, "--help"])
        assert stopped.value.code == 0
        assert "--rounds" in capsys.readouterr().out


def test_every_peer_is_pinned_by_hashes_and_names_no_address() -> None:
    for pins in peers.PEERS.glob("*/requirements.txt"):
        text = pins.read_text()
        assert "--hash=sha256:" in text
        assert "://" not in text.replace("# via", "")


def test_common_options_are_parsed_with_those_of_the_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "probing.py").write_text('"""Probes."""\n')
    seen = {}

    class Module:
        __doc__ = "Probes."
        ROUNDS = 7

        @staticmethod
        def arguments(parser: argparse.ArgumentParser) -> None:
            parser.add_argument("--deep", action="store_true")

        @staticmethod
        def run(options: argparse.Namespace, bench: Bench) -> None:
            seen.update(vars(options), rounds=bench.rounds)

    monkeypatch.setattr(running, "summaries", lambda: {"probing": "Probes."})
    monkeypatch.setattr(running.importlib, "import_module", lambda name: Module)
    running.run("probing", ["--deep", "--json", str(tmp_path / "out" / "r.json")])
    assert (seen["deep"], seen["rounds"]) == (True, 7)
    assert json.loads((tmp_path / "out" / "r.json").read_text())["name"] == "probing"
