"""The report of a run."""

import dataclasses
import io
import json
from html.parser import HTMLParser

import pytest
from rich.console import Console

from services.demo import page, report
from services.demo.charts import Line, Mark, accuracy, bars
from services.demo.live import marks, message
from services.demo.metrics import Answer
from services.demo.screen import Screen, line, panel, report_table
from services.demo.tally import Tally
from tests.support.demo_runs import Clock, a_run, manifest

PROMISED = {"prequential_accuracy", "static_accuracy", "test_accuracy", "loop_time_s", "versions", "swaps",
            "failed_requests", "events"}
VOID = {"meta", "line", "circle", "rect", "path", "br"}


class Tags(HTMLParser):
    """Notes the tags, and that each one that opens closes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def test_the_report_has_the_promised_keys():
    found = report.build(*a_run())
    assert found.keys() >= PROMISED
    assert found["prequential_accuracy"].keys() >= {"overall", "last_2000"}
    assert found["loop_time_s"].keys() == {"p50", "p95"}
    assert found["events"] == {"accepted": 2000, "stored": 2000, "effects": 2000}
    json.dumps(found)


def test_learning_beats_the_version_that_never_updated_on_the_same_messages():
    found = report.build(*a_run())
    assert found["static"]["messages"] == 1800
    assert found["static"]["prequential_on_the_same"] > found["static_accuracy"] + 0.1


def test_messages_before_the_first_label_count_as_wrong():
    tally, played, accounts = a_run(200)
    found = report.build(tally, played, accounts)
    n_right = sum(answer.correct for answer in tally.answers)
    assert found["prequential_accuracy"]["overall"] == n_right / 200
    assert found["version_list"][0]["version"] == "v0"


def test_a_message_without_any_answer_counts_as_wrong():
    tally, played, accounts = a_run(200)
    missing = [a for a in tally.answers if a.index != 199]
    n_right = sum(a.correct for a in missing)
    tally.answers[:] = missing
    tally.not_answered()
    assert report.build(tally, played, accounts)["prequential_accuracy"]["overall"] == n_right / 200


def test_loop_times_are_those_of_the_versions_that_learned_each_feedback():
    found = report.build(*a_run())
    # Versions come every 40 messages and learn with a lag of 45, at 50 messages a second.
    assert 0.8 < found["loop_time_s"]["p50"] < 1.9
    assert sum(found["loop_time"]["histogram"]["counts"]) == found["loop_time"]["measured"]


def test_answers_to_probes_after_the_stream_complete_the_loop_times():
    tally, played, accounts = a_run()
    last = manifest("v999", 2000)
    accounts = dataclasses.replace(accounts, manifests=[*accounts.manifests, last])
    before = report.build(tally, played, accounts)["loop_time"]
    probe = Answer(0, tally.answers[-1].answered_s + 0.9, "pr_probe", "v999", "a", "a")
    after = report.build(tally, dataclasses.replace(played, probes=[probe]), accounts)["loop_time"]
    assert before["unserved"] > 0
    assert after["unserved"] == 0
    assert after["measured"] == 2000


def test_a_run_as_promised_has_no_fault():
    assert report.verdict(report.build(*a_run())) == []


@pytest.mark.parametrize(("change", "sentence"), [
    ({"failed_requests": 3, "failures": {"collect 503": 3}}, "3 requests were not answered"),
    ({"events": {"accepted": 10, "stored": 9, "effects": 10}}, "are not equal"),
    ({"drain": {"complete": False, "seconds": 90}}, "not everything was stored"),
])
def test_what_is_not_as_promised_is_said(change: dict[str, object], sentence: str):
    found = report.build(*a_run(200)) | change
    assert any(sentence in fault for fault in report.verdict(found))
    assert "Not as promised" in page.render(found, report.verdict(found))


def test_a_never_updated_version_that_could_not_be_asked_gives_no_figure():
    tally, played, accounts = a_run(200)
    found = report.build(tally, dataclasses.replace(played, frozen_fault="gone"), accounts)
    assert found["static_accuracy"] is None
    assert report.verdict(found)


def test_the_page_is_well_formed_escapes_its_texts_and_loads_nothing_from_outside():
    found = report.build(*a_run())
    html = page.render(found, [])
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    assert tags.seen.count("svg") == 4
    assert "&lt;forgot&gt;" in html
    assert "http://" not in html
    assert "https://" not in html


def test_an_empty_run_still_gives_a_report():
    _, played, accounts = a_run(30)
    empty = Tally(30, Clock())
    played = dataclasses.replace(played, test_flags=[], test_versions=[], stream_s=0.0)
    accounts = dataclasses.replace(accounts, stored=0, feedback=0, effects=0, seqs={}, manifests=[], runs=[])
    found = report.build(empty, played, accounts)
    assert found["prequential_accuracy"]["overall"] is None
    assert "–" in page.render(found, [])
    assert report_table(found).row_count > 5
    assert message(empty, over=True, end="")["over"]


def test_the_first_version_of_each_fine_tuned_generation_is_marked():
    found = marks({"v1": 10, "v2": 20, "v3": 30, "v4": 40}, {"v1": 0, "v2": 0, "v3": 1, "v4": 1})
    assert [mark.label for mark in found] == ["", "", "fine-tune 1", ""]


def test_charts_stay_inside_their_frame():
    picture = accuracy([Line("x", "live", [(0, 0.0), (99, 1.0)])], [Mark(50, "fine-tune 1")], 100)
    assert "<svg" in picture
    assert "-" not in picture.split('class="line live" d="')[1].split('"')[0]
    assert "<rect" in bars([1, 0, 3], [0.0, 1.0, 2.0, 3.0], "t", [("p95", 99.0)])


def test_the_screen_shows_the_run():
    tally, _, _ = a_run(500)
    now = tally.snapshot()
    assert "500/500 messages" in line(now)
    assert panel(now).title is not None
    assert now.recent is not None
    assert now.recent > 0.5
    assert now.failed == 0


@pytest.mark.parametrize("told_first", [True, False])
def test_the_estimate_of_the_loop_time_allows_for_the_held_out_share(told_first: bool):
    clock = Clock()
    tally = Tally(100, clock, held_out_share=0.5)
    for index in range(100):
        clock.now_s = float(index)
        tally.accepted(f"pr_{index}", f"ev_{index}")
    clock.now_s = 102.0
    if told_first:
        tally.learned("v1", 50)
    tally.answered(Answer(0, 102.0, "pr_0", "v1", "a", "a"), 0.01, 0.0)
    tally.learned("v1", 50)
    assert tally.loop_estimates_s == [3.0]


def test_the_live_page_ends_with_the_figures_of_the_report():
    tally, played, accounts = a_run()
    assert "(about)" in message(tally, over=False, end="")["texts"]["loop-name"]
    found = report.build(tally, played, accounts)
    tally.final = report.final(found)
    texts = message(tally, over=True, end="")["texts"]
    assert texts["loop"] == page.seconds(found["loop_time_s"]["p50"])
    assert "(about)" not in texts["loop-name"]
    assert texts["recent"] == page.percent(report.lately(found)[0])
    assert "50 a second" in texts["rate"]


@pytest.mark.parametrize(("n_messages", "n_recent"), [(200, 40), (2000, 400), (2500, 2000)])
def test_accuracy_at_the_end_names_over_how_many_messages_it_is(n_messages: int, n_recent: int):
    found = report.build(*a_run(n_messages))
    assert report.lately(found)[1] == n_recent
    assert f"right, of the last {n_recent:,}" in page.render(found, [])


def test_a_rate_that_was_not_reached_is_said_with_one_that_would_be():
    found = report.build(*a_run(200))
    assert report.too_slow(found) == ""
    found["rate"] |= {"achieved": 34.2, "slip_max_s": 12.0}
    assert report.too_slow(found) == "this machine was too slow for 50/s; try --rate 31"
    assert "34.2 of 50 messages asked a second" in page.render(found, [])


def test_a_loop_that_had_learned_before_is_not_said_to_start_from_nothing():
    tally, played, accounts = a_run(200)
    assert "from no labels on" in page.render(report.build(tally, played, accounts), [])
    found = report.build(tally, dataclasses.replace(played, started_with="v12"), accounts)
    assert "starting with v12" in page.render(found, [])
    now = Tally(200, Clock(), started_with="v12").snapshot()
    assert (now.version, now.versions) == ("v12", 0)


def test_where_there_is_no_terminal_a_line_is_printed_only_when_something_changed():
    clock, out = Clock(), io.StringIO()
    tally, screen = Tally(200, clock), Screen(Console(file=out))
    for now_s in (0.0, 10.0, 20.0):
        clock.now_s = now_s
        screen.show(tally.snapshot())
    assert len(out.getvalue().splitlines()) == 1
    tally.not_answered()
    screen.show(tally.snapshot())
    assert "1/200 messages" in out.getvalue().splitlines()[1]
