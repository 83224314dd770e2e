"""Features as of any moment equal a brute-force count over the events before it, whatever order they came in."""

import random

import psycopg
import pytest

from schemas.events import Event
from schemas.loops import parse
from services.processor.preparing import Preparer
from services.processor.sink import Sink
from shared.features import features_as_of
from tests.support.stored_streams import BASE_MS, TOPICS, records

LOOP = parse("""
name = "shop"
[feedback.sale]
event = "Bought"
label = "properties.what"
[features.activity]
entity = "user"
windows = ["10s", "1m"]
[features.spent]
entity = "user"
event = "Bought"
value = "properties.amount"
aggregates = ["count", "rate", "recency", "last"]
windows = ["30s", "5m"]
[features.mood]
entity = "user"
value = "properties.mood"
aggregates = ["last"]
[features.views]
entity = "item"
event = "Viewed"
key = "properties.item"
windows = ["1m"]
[features.sales]
entity = "label"
windows = ["1m"]
""")


def make_events(rng, n):
    made = []
    for number in range(n):
        name = rng.choice(["Viewed", "Bought", "Talked"])
        properties = {"Viewed": {"item": f"i{rng.randrange(3)}"},
                      "Bought": {"amount": rng.randrange(100) / 4, "what": rng.choice("xyz"),
                                 "prediction_id": f"p{number}"},
                      "Talked": {"mood": rng.choice(["good", "bad"])}}[name]
        time_ms = BASE_MS + rng.randrange(400) * 500
        made.append(Event(id=f"e{number:04}", project="app", kind="track", name=name, subject=f"s{rng.randrange(3)}",
                          time_ms=time_ms, received_ms=time_ms, source="segment", properties=properties))
    return made


def observed(events, entity, key, feature):
    """Time, tie-breaker and value of what counts for one feature, oldest first."""
    found = []
    for e in events:
        p = e.properties
        applies = {"activity": e.subject == key, "spent": e.subject == key and e.name == "Bought",
                   "mood": e.subject == key and "mood" in p, "views": p.get("item") == key,
                   "sales": p.get("what") == key}
        if applies[feature]:
            value = {"spent": p.get("amount"), "mood": p.get("mood")}.get(feature)
            found.append((e.time_ms, f"app/{e.id}", value))
    return sorted(found, key=lambda o: o[:2])


def brute_force(events, entity, key, at_ms):
    want = {}
    for name, feature in LOOP.features.items():
        if feature.entity != entity:
            continue
        before = [o for o in observed(events, entity, key, name) if o[0] < at_ms]
        for window in feature.windows:
            inside = [o for o in before if o[0] >= at_ms - round(window * 1000)]
            if "count" in feature.aggregates:
                want[name, "count", float(window)] = float(len(inside))
            if "rate" in feature.aggregates:
                if before and isinstance(before[-1][2], float):
                    values = [o[2] for o in inside]
                    want[name, "rate", float(window)] = sum(values) / len(values) if values else None
                else:
                    want[name, "rate", float(window)] = len(inside) / window
        if "recency" in feature.aggregates:
            want[name, "recency", None] = (at_ms - before[-1][0]) / 1000 if before else None
        if "last" in feature.aggregates:
            want[name, "last", None] = before[-1][2] if before else None
    return want


@pytest.mark.parametrize("seed", [1, 2])
def test_features_as_of_any_moment_equal_brute_force(postgres_url, seed):
    rng = random.Random(seed)
    events = make_events(rng, 600)
    preparer = Preparer(TOPICS, {"shop": LOOP})
    sink = Sink(postgres_url, {"shop": LOOP}, preparer)
    stream = records(events + rng.sample(events, 50))
    for start in range(0, len(stream), 100):
        sink.store(stream[start: start + 100], preparer.prepare(stream[start: start + 100]))
    sink.close()

    keys = [("user", "s0"), ("user", "s1"), ("user", "nobody"), ("item", "i0"), ("item", "i2"), ("item", "nothing"),
            ("label", "x"), ("label", "never")]
    # Moments of events, right after them, before all and after all.
    moments = [BASE_MS, BASE_MS + 10**6] + [e.time_ms + rng.choice([0, 1]) for e in rng.sample(events, 12)]
    with psycopg.connect(postgres_url) as connection:
        for entity, key in keys:
            for at_ms in moments:
                got = features_as_of(connection, LOOP, entity, key, at_ms)
                want = brute_force(events, entity, key, at_ms)
                assert {(f.feature, f.aggregate, f.window_s): f.value for f in got} == pytest.approx(want), (key, at_ms)


def test_an_event_does_not_see_itself(postgres_url):
    preparer = Preparer(TOPICS, {"shop": LOOP})
    sink = Sink(postgres_url, {"shop": LOOP}, preparer)
    batch = records([Event(id="e1", project="app", kind="track", name="Viewed", subject="s0", time_ms=BASE_MS,
                           received_ms=BASE_MS, source="segment", properties={"item": "i0"})])
    sink.store(batch, preparer.prepare(batch))
    sink.close()
    with psycopg.connect(postgres_url) as connection:
        as_of = {at: {(f.feature, f.aggregate, f.window_s): f.value
                      for f in features_as_of(connection, LOOP, "item", "i0", at)} for at in (BASE_MS, BASE_MS + 1)}
    assert as_of[BASE_MS]["views", "count", 60.0] == 0
    assert as_of[BASE_MS + 1]["views", "count", 60.0] == 1
    assert as_of[BASE_MS + 1]["views", "recency", None] == 0.001
