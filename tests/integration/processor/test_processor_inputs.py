"""What comes in, however odd: it is stored, or it is a dead letter, and the records behind it are processed."""

import json
import re
import time
from collections import Counter

import msgspec
import psycopg

from schemas import frames
from schemas.dead import DeadLetter
from schemas.events import Event
from schemas.predictions import Prediction
from tests.support.services import eventually

NOW_MS = time.time_ns() // 1_000_000


def event(id="e1", name="Resolved", subject="s_1", time_ms=NOW_MS, **properties):
    return Event(id=id, project="app", kind="track", name=name, subject=subject, time_ms=time_ms, received_ms=NOW_MS,
                 source="segment", properties=properties)


def feedback(id, prediction, queue, *, time_ms=NOW_MS, received_ms=NOW_MS):
    return msgspec.structs.replace(event(id, prediction_id=prediction, queue=queue, time_ms=time_ms),
                                   received_ms=received_ms)


def prediction(id="pr_1", loop="alpha", time_ms=NOW_MS, **fields):
    return Prediction(id=id, loop=loop, version="v7", subject="s_1", time_ms=time_ms, label="a", scores={"a": 0.9},
                      input={"text": "where is my card"}, embedding=b"\x00\x01\xff", encoder="abc", **fields)


def example_of(tables, prediction_id):
    rows = tables.rows("""SELECT label, source, late, revision FROM examples WHERE prediction_id = %s
                          ORDER BY revision DESC LIMIT 1""", prediction_id)
    return rows[0] if rows else None


def test_feedback_before_its_prediction_waits_and_then_labels_it(processor_env, sender, tables, start):
    start("processor", processor_env)
    sender.send([feedback("e1", "pr_1", "cards")])
    eventually(lambda: tables.rows("SELECT state FROM joins") == [("waiting",)])
    sender.send([prediction("pr_1")])

    eventually(lambda: example_of(tables, "pr_1") == ("cards", "correction", False, 1))
    row = tables.rows("SELECT subject, version, predicted, input, embedding, encoder, seq FROM examples")
    assert row == [("s_1", "v7", "a", {"text": "where is my card"}, b"\x00\x01\xff", "abc", 1)]
    assert tables.rows("SELECT state, deadline IS NOT NULL FROM joins") == [("labelled", True)]


def test_late_feedback_revises_the_example_and_says_so(processor_env, sender, tables, start):
    start("processor", processor_env)
    # Beta's feedback is waited for for 30 minutes.
    made_ms = NOW_MS - 3_600_000
    sender.send([prediction("pr_1", loop="beta", time_ms=made_ms)])
    sender.send([feedback("e1", "pr_1", "cards", time_ms=made_ms + 1000, received_ms=made_ms + 2000)])
    eventually(lambda: example_of(tables, "pr_1") == ("cards", "correction", False, 1))
    sender.send([feedback("e2", "pr_1", "loans", time_ms=made_ms + 3_000_000)])
    eventually(lambda: example_of(tables, "pr_1") == ("loans", "correction", True, 2))
    # It happened in time, but reached the collector too late.
    sender.send([feedback("e3", "pr_1", "fees", time_ms=made_ms + 3_000_001, received_ms=NOW_MS)])
    eventually(lambda: example_of(tables, "pr_1") == ("fees", "correction", True, 3))
    assert tables.value("SELECT count(*) FROM feedback WHERE loop = 'beta' AND late") == 2


def test_a_prediction_without_feedback_matures_with_the_default_and_is_revised_by_late_feedback(
        processor_env, loops_dir, sender, tables, start):
    (loops_dir / "gamma.toml").write_text(
        'name = "gamma"\ndefault_label = "ignored"\n'
        '[feedback.click]\nevent = "Opened"\nvalue = "opened"\nwindow = "2s"\n')
    (loops_dir / "delta.toml").write_text(
        'name = "delta"\n[feedback.click]\nevent = "Opened"\nvalue = "opened"\nwindow = "1s"\n')
    worker = start("processor", processor_env)
    now_ms = time.time_ns() // 1_000_000
    sender.send([prediction(f"pr_{loop}", loop=loop, time_ms=now_ms) for loop in ("alpha", "gamma", "delta")])
    eventually(lambda: tables.rows("SELECT prediction_id, state FROM joins ORDER BY 1")
               == [("pr_alpha", "open"), ("pr_delta", "matured"), ("pr_gamma", "matured")])
    assert example_of(tables, "pr_gamma") == ("ignored", "default", False, 1)
    assert example_of(tables, "pr_delta") is None
    assert tables.value("SELECT (extract(epoch FROM labelled_at) * 1000)::bigint FROM examples") == now_ms + 2000

    # It happened in time, but came after the prediction had matured.
    for target in ("pr_gamma", "pr_delta"):
        opened = event(f"o_{target}", name="Opened", time_ms=now_ms + 500, prediction_id=target)
        sender.send([msgspec.structs.replace(opened, received_ms=now_ms + 5000)])
    eventually(lambda: example_of(tables, "pr_gamma") == ("opened", "click", True, 2))
    eventually(lambda: example_of(tables, "pr_delta") == ("opened", "click", True, 1))
    _, metrics = worker.get("/metrics")
    assert b"ratchet_processor_matured_total 2.0" in metrics
    assert b"ratchet_processor_defaulted_total 1.0" in metrics
    assert b"ratchet_processor_late_feedback_total 2.0" in metrics


def gauges(worker, loop):
    """Predictions waited for, the oldest's age in seconds, and predictions given up, as the worker's metrics say."""
    text = worker.get("/metrics")[1].decode()
    return tuple(float(re.search(rf'^ratchet_processor_{name}{{loop="{loop}"}} (\S+)$', text, re.MULTILINE)[1])
                 for name in ("waiting_predictions", "waiting_oldest_seconds", "orphaned_predictions"))


def test_feedback_on_a_prediction_that_never_came_shows_is_orphaned_and_still_joins_should_it_come(
        processor_env, loops_dir, sender, tables, start):
    (loops_dir / "gamma.toml").write_text(
        'name = "gamma"\n[feedback.click]\nevent = "Opened"\nvalue = "opened"\nwindow = "8s"\n')
    worker = start("processor", processor_env)
    now_ms = time.time_ns() // 1_000_000
    opened = event("o1", name="Opened", time_ms=now_ms, prediction_id="pr_1")
    sender.send([msgspec.structs.replace(opened, received_ms=now_ms)])
    eventually(lambda: gauges(worker, "gamma")[0] == 1)
    n_waiting, age_s, n_orphaned = gauges(worker, "gamma")
    assert (n_waiting, n_orphaned) == (1, 0)
    assert 0 <= age_s < 8
    assert gauges(worker, "alpha") == (0, 0, 0)

    eventually(lambda: gauges(worker, "gamma") == (0, 0, 1))
    assert time.time_ns() // 1_000_000 >= now_ms + 8000
    (code, path, message), = tables.rows("SELECT code, path, message FROM dead_letters")
    assert (code, path) == ("orphaned", "properties.prediction_id")
    assert message.startswith("feedback o1 (click of gamma) names prediction pr_1, which had not come by ")
    worker.kill()
    worker.start()
    eventually(lambda: gauges(worker, "gamma") == (0, 0, 1))

    sender.send([prediction("pr_1", loop="gamma", time_ms=now_ms)])
    eventually(lambda: example_of(tables, "pr_1") == ("opened", "click", False, 1))
    eventually(lambda: gauges(worker, "gamma") == (0, 0, 0))
    assert tables.value("SELECT count(*) FROM dead_letters") == 1


def test_poison_becomes_dead_letters_and_stops_nothing(processor_env, sender, topics, tables, start):
    good = {"project": "app", "kind": "track", "name": "Resolved", "subject": "s_1", "time_ms": NOW_MS,
            "received_ms": NOW_MS, "source": "segment"}
    frame = [good | {"id": "f1"}, {"id": "broken"}, good | {"id": "f2", "time_ms": "soon"}, good | {"id": "f3"}]
    sender.raw(topics.events, b"\xff\x00 not json")
    sender.raw(topics.events, b"")
    sender.raw(topics.events, None)
    sender.raw(topics.events, b"[" * 200_000, kind=frames.FRAME)
    sender.raw(topics.events, json.dumps(frame).encode(), kind=frames.FRAME)
    for odd in [{"id": "x" * 5000},
                {"id": "n1", "name": "a\x00b", "properties": {"k\x00": ["v\x00"]}},
                {"id": "t1", "time_ms": 9_223_372_036_854_775_807},
                {"id": "t2", "time_ms": -10**17, "received_ms": 10**30},
                {"id": "s1", "name": "\ud800"},
                {"id": "j1", "properties": {"n": float("nan")}},
                {"id": "j2", "properties": {"big": 10**300, "deep": nested(400)}}]:
        sender.raw(topics.events, json.dumps(good | odd).encode())
    sender.raw(topics.predictions, json.dumps({"id": "pr_1"}).encode())
    sender.raw(topics.predictions, json.dumps(
        {"id": "pr_2", "loop": "alpha", "version": "v1", "subject": "", "time_ms": NOW_MS, "input": {},
         "propensity": 1e300}).encode())
    sender.raw(topics.predictions, json.dumps(
        {"id": "pr_3", "loop": "nobody-declared-this", "version": "v1\x00", "subject": "", "time_ms": 10**18,
         "input": {"text": "\x00"}}).encode())
    for number, value in enumerate([{}, {"queue": ""}, {"queue": None}, {"queue": 7}, {"queue": "x" * 300},
                                    {"queue": ["a"]}, {"queue": "a", "prediction_id": 12},
                                    {"queue": "a", "prediction_id": "p" * 3000}]):
        sender.raw(topics.events, frames.encode_one(event(f"w{number}", **({"prediction_id": "pr_3"} | value))))
    sender.raw(topics.events, frames.encode_one(event("last", prediction_id="pr_4", queue="q" * 256)))
    sender.flush()
    start("processor", processor_env)

    eventually(lambda: tables.value("SELECT count(*) FROM events WHERE id = 'last'") == 1)
    # Topics are read side by side.
    eventually(lambda: tables.value("SELECT count(*) FROM predictions") == 1)
    stored = {row[0] for row in tables.rows("SELECT id FROM events")}
    assert stored == {"f1", "f3", "n1", "t1", "t2", "j2", "last"} | {f"w{number}" for number in range(8)}
    assert tables.rows("SELECT name, body->'properties' FROM events WHERE id = 'n1'") == [
        ("a\ufffdb", {"k\ufffd": ["v\ufffd"]})]
    years = tables.rows("SELECT extract(year FROM event_time)::int FROM events WHERE id IN ('t1', 't2') ORDER BY id")
    assert years == [(9999,), (1,)]
    codes = [row[0] for row in tables.rows("SELECT code FROM dead_letters WHERE stage = 'processor'")]
    # Each loop with such feedback complains for itself: alpha and beta.
    assert Counter(codes) == {"undecodable": 9, "too_long": 1 + 2, "invalid": 1, "missing_label": 6, "invalid_label": 4,
                              "label_too_long": 2, "invalid_prediction": 2}


def nested(depth):
    value = "bottom"
    for _ in range(depth):
        value = [value]
    return value


def test_the_collectors_dead_letters_are_stored_once(processor_env, sender, topics, tables, start):
    letter = DeadLetter(id="dl_1", stage="collector", code="missing_field", message="no\x00event", time_ms=NOW_MS,
                        path="batch.0.event", project="app", payload="{}", origin="/v1/batch")
    for _ in range(2):
        sender.raw(topics.dead, frames.encode([letter]), kind=frames.FRAME)
    sender.flush()
    start("processor", processor_env)
    eventually(lambda: tables.value("SELECT next_offset FROM offsets WHERE topic = %s AND part = 0", topics.dead) == 2)
    assert tables.rows("SELECT id, stage, code, path, message, project, origin, payload FROM dead_letters") == [
        ("dl_1", "collector", "missing_field", "batch.0.event", "no\ufffdevent", "app", "/v1/batch", "{}")]


def test_a_value_that_only_postgres_refuses_is_singled_out(processor_env, sender, topics, tables, start):
    # The narrow column stands for anything that our own rules do not foresee.
    with psycopg.connect(tables.url, autocommit=True) as connection:
        connection.execute("ALTER TABLE events ALTER COLUMN name TYPE varchar(20)")
    items = [event(f"g{number}", name="Viewed") for number in range(30)]
    items[17] = event("long", name="n" * 21)
    sender.send(items, frame=5)
    start("processor", processor_env)
    eventually(lambda: tables.value("SELECT count(*) FROM events") == 29)
    eventually(lambda: tables.value("SELECT count(*) FROM dead_letters") == 1)
    assert tables.rows("SELECT code, stage FROM dead_letters") == [("unstorable", "processor")]


def test_a_trainer_is_notified_of_new_examples(processor_env, sender, tables, start):
    start("processor", processor_env)
    with psycopg.connect(tables.url, autocommit=True) as connection:
        connection.execute("LISTEN ratchet_examples")
        sender.send([prediction("pr_1"), feedback("e1", "pr_1", "cards")])
        notified = list(connection.notifies(timeout=20, stop_after=1))
    assert [(n.channel, n.payload) for n in notified] == [("ratchet_examples", "alpha")]
    assert example_of(tables, "pr_1") == ("cards", "correction", False, 1)
