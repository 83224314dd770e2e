"""No input makes the collector answer 500, or lose a good event for a bad one."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.events import Event
from schemas.frames import Decoder, encode_one

PATHS = ["/v1/track", "/v1/batch", "/v1/alias", "/batch/", "/e/", "/i/v1/analytics/events"]
CONTENT = {"/events": "application/cloudevents+json"}
GOOD = {"type": "track", "event": "x", "userId": "user-123456", "distinct_id": "user-123456", "messageId": "good",
        "uuid": "good"}
names = st.sampled_from(["type", "event", "userId", "anonymousId", "messageId", "properties", "traits", "context",
                         "timestamp", "sentAt", "batch", "distinct_id", "uuid", "$set", "options", "offset", "time",
                         "specversion", "id", "source", "data", "data_base64", "writeKey", "groupId", "previousId",
                         "name", "sent_at", "api_key", "channel", "library", "traits"]) | st.text(max_size=4)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
    | st.sampled_from(["track", "group", "alias", "identify", "1.0", "\0", "\ud800", "2026-11-22T14:09:48Z", 10**400,
                       -(2**63) - 1, "9999-99-99", "0001-01-01T00:00:00+23:59", "x" * 2000]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=5), max_leaves=12)
_fixture = settings(max_examples=120,
                    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def readable(collector):
    decoder = Decoder(Event)
    for event in collector.events:
        text = encode_one(event)
        assert decoder.decode(text) == ([event], [])
        assert "\\u0000" not in text.decode()
        assert 0 <= event.time_ms <= event.received_ms
        assert event.id


@_fixture
@given(path=st.sampled_from([*PATHS, "/events"]), value=values)
async def test_any_json_is_answered_with_200_or_a_clear_4xx(collector, path, value):
    collector.producer.parts.clear()
    answer = await collector.post(path, json.dumps(value).encode(), content_type=CONTENT.get(path, "application/json"))
    assert answer.status_code == 200 or 400 <= answer.status_code < 500, answer.text
    assert isinstance(answer.json(), dict)
    readable(collector)


@_fixture
@given(path=st.sampled_from(["/v1/batch", "/batch/", "/i/v1/analytics/events"]), bad=st.lists(values, max_size=3))
async def test_any_event_beside_a_good_one_leaves_the_good_one_alone(collector, path, bad):
    collector.producer.parts.clear()
    answer = await collector.post(path, json.dumps({"batch": [*bad, GOOD, *bad]}).encode())
    assert answer.status_code == 200, answer.text
    assert "good" in [event.id for event in collector.events]
    assert len(collector.events) + len(collector.dead) == 2 * len(bad) + 1
    readable(collector)


@_fixture
@given(path=st.sampled_from([*PATHS, "/events"]), body=st.binary(max_size=200),
       encoding=st.sampled_from(["", "gzip", "deflate", "zstd", "br", "x"]))
async def test_any_bytes_are_answered_with_a_clear_4xx(collector, path, body, encoding):
    answer = await collector.post(path, body, content_encoding=encoding,
                                  content_type=CONTENT.get(path, "application/json"))
    assert answer.status_code == 200 or 400 <= answer.status_code < 500, answer.text
    assert isinstance(answer.json(), dict)


@pytest.mark.parametrize("path", [*PATHS, "/events"])
@pytest.mark.parametrize("body", [
    b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"batch":[' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"]}",
    b'{"userId":' + b"9" * 100_000 + b"}", b'{"userId":"u","event":"x","properties":{"n":1e99999}}',
    b'{"userId":"u","event":"x","properties":{"n":' + b"9" * 5000 + b"}}",
    b'{"a":"\xff"}', b'{"batch":[{"a":"\xff"}]}', b"\xef\xbb\xbf{}", b'{"userId":"\x00"}', b'{"batch":{}}',
    b'{"batch":null}', b'{"batch":"x"}', b'{"batch":[null,1,"x",[],true]}',
], ids=lambda body: repr(body[:24]))
async def test_ill_formed_bodies_are_never_a_500(collector, path, body):
    answer = await collector.post(path, body, content_type=CONTENT.get(path, "application/json"))
    assert answer.status_code == 200 or 400 <= answer.status_code < 500, answer.text
    assert not collector.events
    readable(collector)


async def test_a_million_keys_are_refused_clearly(collector):
    many = json.dumps({"batch": [{**GOOD, "properties": {f"k{n}": n for n in range(1_000_000)}}]}).encode()
    answer = await collector.post("/batch/", many)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    fewer = {"batch": [{**GOOD, "properties": {f"k{n}": n for n in range(50_000)}}, GOOD]}
    answer = await collector.post("/batch/", fewer)
    assert (answer.status_code, answer.json()["results"][0]["code"]) == (200, "too_many_fields")
    assert len(collector.events) == 1


@pytest.mark.parametrize(("context", "n_events", "code"), [
    ('{"a":"\\ud800"}', 1, "lone_surrogate"), ('{"a":"\\u0000"}', 1, "nul_character"), ('{"a":NaN}', 1, "not_a_number"),
    ('{"a":' + "[" * 500 + "]" * 500 + "}", 1, "too_deep"), ('{"a":"' + "x" * 40_000 + '"}', 1, "too_large"),
    ('{"a":"' + "x" * 20_000 + '"}', 1000, "too_large"),
])
async def test_a_batchs_context_obeys_the_rules_of_its_events(collector, context, n_events, code):
    events = ",".join([json.dumps(GOOD)] * n_events)
    answer = await collector.post("/v1/batch", f'{{"batch":[{events}],"context":{context}}}'.encode())
    assert (answer.status_code, answer.json()["code"]) == (413 if code == "too_large" else 400, code)
    assert answer.json()["path"].startswith("context")
    assert not collector.events


@pytest.mark.parametrize("call", [
    {"userId": "u", "event": "x", "messageId": "\N{GRINNING FACE}" * 129},
    {"userId": "abcdef", "event": "x", "messageId": "abcdef" * 80},
    {"specversion": "1.0", "type": "x", "source": "s" * 300, "id": "i" * 300},
])
async def test_an_id_that_cannot_be_stored_is_refused_and_not_dropped_later(collector, call):
    path = "/events" if "source" in call else "/v1/track"
    answer = await collector.post(path, json.dumps(call).encode(), content_type="application/cloudevents+json")
    assert (answer.status_code, answer.json()["code"], len(collector.dead)) == (400, "too_long", 1)
    assert not collector.events
