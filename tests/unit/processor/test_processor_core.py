"""The pure parts of the processor."""

import json

import pytest

from schemas import frames
from schemas.errors import Invalid, Permanent
from schemas.events import Event
from schemas.loops import parse
from schemas.topics import Topics
from services.processor import cleaning, join
from services.processor.attribution import Attribution, Fact
from services.processor.fence import Gap, admit
from services.processor.intake import Intake
from services.processor.join import Current
from services.processor.maturity import Watermark
from services.processor.observing import Observer
from services.processor.preflight import Extent, plan
from services.processor.records import Record
from services.processor.rows import text_array, wire_time

TOPICS = Topics("t")
LOOP = parse("""
name = "support"
[feedback.correction]
event = "Resolved"
label = "properties.queue"
window = "7d"
[feedback.click]
event = "Clicked"
value = "clicked"
window = "1h"
[features.activity]
entity = "user"
[features.views]
entity = "item"
event = "Viewed"
key = "properties.item.id"
[features.paid]
entity = "user"
event = "Paid"
value = "properties.amount"
aggregates = ["last", "rate"]
[features.labels]
entity = "label"
""")


def event(name="Resolved", **fields):
    given = {"id": "e1", "project": "app", "kind": "track", "name": name, "subject": "s_1", "time_ms": 1000,
             "received_ms": 1000, "source": "segment", "properties": {}} | fields
    return Event(**given)


def fact(label="a", kind="correction", time_ms=1000, received_ms=1000, event_id="e1"):
    return Fact("support", kind, "app", event_id, "pr_1", label, "s_1", time_ms, received_ms)


def record(value, *, topic=TOPICS.events, offset=0, part=0, time_ms=5, kind=frames.SINGLE):
    return Record(topic, part, offset, time_ms, kind, value)


# --- attribution

def test_an_event_may_be_feedback_of_several_loops():
    other = parse('name = "other"\n[feedback.done]\nevent = "Resolved"\nvalue = "done"\n')
    facts, dead = Attribution({"support": LOOP, "other": other}).facts(
        event(properties={"prediction_id": "pr_1", "queue": "cards"}))
    assert [(f.loop, f.kind, f.label) for f in facts] == [("support", "correction", "cards"), ("other", "done", "done")]
    assert dead == []


def test_an_event_without_a_prediction_is_no_feedback_and_no_fault():
    assert Attribution({"support": LOOP}).facts(event(properties={"queue": "cards"})) == ([], [])


@pytest.mark.parametrize(("queue", "code"), [
    (None, "missing_label"), ("", "missing_label"), (7, "invalid_label"), (True, "invalid_label"),
    ({"a": 1}, "invalid_label"), ("x" * 257, "label_too_long")])
def test_feedback_with_a_wrong_label_is_a_dead_letter_that_names_the_path(queue, code):
    facts, dead = Attribution({"support": LOOP}).facts(event(properties={"prediction_id": "pr_1", "queue": queue}))
    assert facts == []
    assert [(d.code, d.path, d.stage) for d in dead] == [(code, "properties.queue", "processor")]


# --- join

def test_the_first_feedback_makes_the_first_revision():
    decision = join.decide("pr_1", 0, LOOP, fact("a"), None)
    assert (decision.action, decision.revision, decision.label, decision.source) == ("insert", 1, "a", "correction")


def test_another_label_makes_another_revision():
    decision = join.decide("pr_1", 0, LOOP, fact("b"), Current(1, "a", "correction", 500, False))
    assert (decision.action, decision.revision, decision.label) == ("insert", 2, "b")


def test_an_unchanged_decision_writes_nothing():
    assert join.decide("pr_1", 0, LOOP, fact("a"), Current(3, "a", "correction", 1000, False)) is None


def test_the_same_label_confirmed_later_only_amends_the_time():
    decision = join.decide("pr_1", 0, LOOP, fact("a", time_ms=2000), Current(1, "a", "correction", 1000, False))
    assert (decision.action, decision.revision, decision.labelled_ms) == ("amend", 1, 2000)


def test_feedback_after_a_default_revises_it_even_with_the_same_label():
    decision = join.decide("pr_1", 0, LOOP, fact("a"), Current(1, "a", "default", 900, False))
    assert (decision.action, decision.revision, decision.source) == ("insert", 2, "correction")


@pytest.mark.parametrize(("kind", "time_ms", "received_ms", "late"), [
    ("click", 3_600_000, 3_600_000, False), ("click", 3_600_001, 3_600_001, True), ("click", 10, 3_600_001, True),
    ("correction", 3_600_001, 3_600_001, False), ("correction", 10, 604_800_001, True)])
def test_feedback_is_late_after_its_own_kinds_window(kind, time_ms, received_ms, late):
    assert join.is_late(fact(kind=kind, time_ms=time_ms, received_ms=received_ms), 0, LOOP) is late


def test_ties_in_time_are_broken_by_the_events_identity():
    assert max([fact("a", event_id="e2"), fact("b", event_id="e1")], key=lambda f: f.order).label == "a"


def test_a_prediction_matures_at_the_longest_window_with_the_loops_default():
    assert join.deadline_ms(1000, LOOP) == 1000 + 7 * 86_400_000
    assert join.mature("pr_1", "support", 5, LOOP) is None
    loop = parse('name = "x"\ndefault_label = "no"\n[feedback.c]\nevent = "C"\nvalue = "yes"\nwindow = "500ms"\n')
    decision = join.mature("pr_1", "x", join.deadline_ms(1000, loop), loop)
    assert (decision.label, decision.source, decision.labelled_ms, decision.revision) == ("no", "default", 1500, 1)


# --- features

def observe(given, facts=()):
    return {(o.entity, o.key, o.feature, o.number, o.text)
            for o in Observer({"support": LOOP}).observations(given, facts)}


def test_an_event_is_observed_for_its_user_and_its_item():
    assert observe(event("Viewed", properties={"item": {"id": 7}})) == {
        ("user", "s_1", "activity", None, None), ("item", "7", "views", None, None)}


@pytest.mark.parametrize(("amount", "value"), [(3, (3.0, None)), (2.5, (2.5, None)), (True, (1.0, None)),
                                               ("much", (None, "much")), (10**400, (None, str(10**400)))])
def test_a_value_is_a_number_or_a_text(amount, value):
    assert ("user", "s_1", "paid", *value) in observe(event("Paid", properties={"amount": amount}))


@pytest.mark.parametrize("amount", [None, [1], {"a": 1}])
def test_an_event_without_the_value_is_not_observed_for_it(amount):
    assert {o[2] for o in observe(event("Paid", properties={"amount": amount}))} == {"activity"}


def test_an_event_without_user_or_item_is_observed_for_neither():
    long = "i" * 300
    assert observe(event("Viewed", subject="", properties={"item": {"id": long}})) == set()


def test_two_kinds_with_the_same_label_are_one_observation_of_it():
    facts = [fact("a", kind="correction"), fact("a", kind="click")]
    assert [o for o in observe(event(), facts) if o[0] == "label"] == [("label", "a", "labels", None, None)]


# --- fence

def offsets(*numbers, part=0):
    return [record(b"", offset=number, part=part) for number in numbers]


def test_the_fence_drops_what_was_done_and_moves_over_the_rest():
    admitted = admit(offsets(3, 4, 5, 6), {(TOPICS.events, 0): 5}, {})
    assert [r.offset for r in admitted.records] == [5, 6]
    assert admitted.next_offsets == {(TOPICS.events, 0): 7}
    assert admitted.n_dropped == 2


def test_records_that_are_delivered_again_within_a_batch_are_done_once():
    admitted = admit(offsets(5, 6, 4, 5, 6, 7), {(TOPICS.events, 0): 5}, {})
    assert [r.offset for r in admitted.records] == [5, 6, 7]


@pytest.mark.parametrize("numbers", [(6,), (5, 7)])
def test_a_missing_record_is_a_gap(numbers):
    with pytest.raises(Gap) as caught:
        admit(offsets(*numbers), {(TOPICS.events, 0): 5}, {})
    assert (caught.value.fence, caught.value.offset) == (numbers[-1] - 1, numbers[-1])


def test_a_hole_that_the_broker_confirmed_is_stepped_over():
    admitted = admit(offsets(5, 9), {(TOPICS.events, 0): 5}, {((TOPICS.events, 0), 6): 9})
    assert admitted.next_offsets == {(TOPICS.events, 0): 10}


def test_a_batch_of_done_records_moves_nothing():
    assert admit(offsets(1, 2), {(TOPICS.events, 0): 5}, {}).next_offsets == {}


# --- preflight

P = (TOPICS.events, 0)


def test_a_partition_that_was_never_read_starts_at_its_first_record():
    made = plan({}, {P: Extent(40, 90)}, accept_loss=False)
    assert (made.new, made.next_offsets) == ({P: 40}, {P: 40})


def test_the_group_goes_on_where_postgres_says():
    made = plan({P: 50}, {P: Extent(40, 90)}, accept_loss=False)
    assert (made.new, made.next_offsets) == ({}, {P: 50})


@pytest.mark.parametrize(("extent", "words"), [(Extent(60, 90), "offsets 50 to 59 were removed by retention"),
                                               (Extent(0, 3), "made again under its old name")])
def test_records_that_do_not_fit_stop_it_and_name_the_way_on(extent, words):
    with pytest.raises(Permanent, match=words) as caught:
        plan({P: 50}, {P: extent}, accept_loss=False)
    assert "RATCHET_PROCESSOR_ACCEPT_LOSS=true" in str(caught.value)
    assert plan({P: 50}, {P: extent}, accept_loss=True).new == {P: extent.first}


# --- watermark

def test_nothing_matures_before_a_lagging_partition_has_given_anything():
    watermark = Watermark()
    assert watermark.until(1000, {}) is None
    assert watermark.until(1000, {P: 3}) is None
    assert watermark.until(1000, {P: 0}) == 1000


def test_a_lagging_partition_holds_the_watermark_at_its_last_record():
    watermark = Watermark()
    watermark.saw([record(b"", time_ms=400), record(b"", time_ms=300)])
    assert watermark.until(1000, {P: 5, (TOPICS.events, 1): 0}) == 400
    assert watermark.until(1000, {P: 0, (TOPICS.events, 1): 0}) == 1000


# --- intake and cleaning

def test_an_item_that_is_read_twice_has_the_same_dead_letter():
    first, second = (Intake(TOPICS).read([record(b"nonsense", offset=9)]).dead for _ in range(2))
    assert first == second
    assert (first[0].origin, first[0].payload, first[0].code) == (f"{TOPICS.events}/0/9", "nonsense", "undecodable")


def test_one_bad_item_of_a_frame_costs_only_itself():
    good = json.loads(frames.encode_one(event()))
    value = json.dumps([good, {"id": 1}, good | {"id": "e2"}]).encode()
    contents = Intake(TOPICS).read([record(value, kind=frames.FRAME)])
    assert [a.event.id for a in contents.events] == ["e1", "e2"]
    assert len(contents.dead) == 1


def test_text_is_brought_within_what_postgres_can_hold():
    assert cleaning.text("a\x00b\ud800c") == "a\ufffdb\ufffdc"
    assert cleaning.tree({"k\x00": ["\x00", 1, None]}) == {"k\ufffd": ["\ufffd", 1, None]}
    assert cleaning.time_ms(10**30) == cleaning.MAX_TIME_MS
    assert cleaning.time_ms(-(10**30)) == cleaning.MIN_TIME_MS
    assert len(cleaning.cut("ä" * 40_000).encode()) <= cleaning.MAX_PAYLOAD_BYTES


def test_an_id_is_measured_in_bytes():
    cleaning.require("ä" * 256, "id", 512)
    with pytest.raises(Invalid, match="514 bytes"):
        cleaning.require("ä" * 257, "id", 512)


def test_an_array_literal_escapes_what_has_to_be():
    assert text_array([]) == "{}"
    assert text_array(["a", "b c"]) == '{"a","b c"}'
    assert text_array(['q"', "b\\", '","']) == '{"q\\"","b\\\\","\\",\\""}'


def test_wire_time_counts_microseconds_from_2000():
    assert wire_time(946_684_800_001) == 1000
