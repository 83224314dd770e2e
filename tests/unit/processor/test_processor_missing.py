"""Predictions that never came: what is said of them, and what the metrics show."""

import pytest
from prometheus_client import CollectorRegistry

from schemas.loops import parse
from services.processor.metrics import Metrics
from services.processor.orphans import Orphan, dead_letter
from shared.missing import Missing

LOOP = parse("""
name = "support"
[feedback.correction]
event = "Resolved"
prediction = "properties.answer.id"
label = "properties.queue"
""")
ORPHAN = Orphan("support", "correction", "app", "e1", "pr_1", 1_700_000_000_000, '{"queue": "a"}')


def test_the_dead_letter_of_an_orphan_says_what_which_one_and_what_now():
    letter = dead_letter(ORPHAN, LOOP)
    assert (letter.code, letter.path, letter.project, letter.origin) == (
        "orphaned", "properties.answer.id", "app", "app/e1")
    assert letter.message == (
        "feedback e1 (correction of support) names prediction pr_1, which had not come by 2023-11-14T22:13:20Z: it was "
        "lost before it was logged, or its id is none of ours; the feedback is kept, and labels the prediction should "
        "it still come")
    assert (letter.payload, letter.time_ms) == ('{"queue": "a"}', 1_700_000_000_000)


def test_an_orphan_has_one_dead_letter_per_kind_however_often_it_is_given_up():
    again, other = ORPHAN._replace(deadline_ms=ORPHAN.deadline_ms + 5), ORPHAN._replace(kind="x")
    assert dead_letter(ORPHAN, LOOP).id == dead_letter(again, LOOP).id != dead_letter(other, LOOP).id


@pytest.mark.parametrize("loop", [None, parse('name = "support"\n[feedback.other]\nevent = "X"\nvalue = "x"\n')])
def test_an_orphan_of_a_kind_that_is_declared_no_more_has_no_path(loop):
    assert dead_letter(ORPHAN, loop).path == ""


def test_a_declared_loop_that_misses_nothing_reads_0_and_so_does_one_that_misses_nothing_any_more():
    registry = CollectorRegistry()
    metrics = Metrics(registry, loops=["a"])

    def read(loop):
        return [registry.get_sample_value(f"ratchet_processor_{name}", {"loop": loop})
                for name in ("waiting_predictions", "waiting_oldest_seconds", "orphaned_predictions")]

    metrics.missing({"b": Missing(2, 1000, 3)}, now_ms=4500)
    assert (read("a"), read("b")) == ([0, 0, 0], [2, 3.5, 3])
    metrics.missing({}, now_ms=5000)
    assert read("b") == [0, 0, 0]
    # A clock that is behind the collector's makes no negative age.
    metrics.missing({"b": Missing(1, 9000, 0)}, now_ms=5000)
    assert read("b") == [1, 0, 0]
