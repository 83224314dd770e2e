"""What each protocol asks for beyond the golden payloads: times, ids, CloudEvents' modes, PostHog's forms."""

import base64
import gzip
import json
from datetime import UTC, datetime

import pytest

from services.collector import times
from tests.unit.collector.conftest import NOW_MS

TRACK = {"userId": "user-123456", "event": "Item Clicked", "messageId": "m-1"}
CAPTURE = {"event": "item clicked", "distinct_id": "user-123456", "uuid": "f97e5206-0000-4000-8000-000000000001"}
CE = {"ce-specversion": "1.0", "ce-type": "com.acme.click", "ce-source": "/web", "ce-id": "1"}


def test_a_clock_that_is_ten_minutes_behind_is_corrected():
    assert times.corrected_ms(NOW_MS - 600_000 - 1000, NOW_MS - 600_000, NOW_MS) == NOW_MS - 1000


def test_a_clock_that_is_ahead_puts_no_event_into_the_future():
    assert times.corrected_ms(NOW_MS + 600_000, None, NOW_MS) == NOW_MS
    assert times.corrected_ms(NOW_MS + 5000, NOW_MS, NOW_MS) == NOW_MS


@pytest.mark.parametrize("text", [
    "2026-11-22T14:09:48.331Z", "2026-11-22T14:09:48.331+00:00", "2026-11-22T15:09:48.331+01:00",
    "2026-11-22T14:09:48.331000+00:00", "2026-11-22 14:09:48.331", 1795356588331, 1795356588.331])
def test_times_are_read_in_every_form_that_clients_send(text):
    assert times.parse_ms(text, "timestamp") == 1795356588331


async def test_the_senders_own_time_is_kept_beside_the_corrected_one(collector):
    await collector.post("/v1/batch", {"sentAt": "2026-11-22T13:00:10Z", "batch": [
        TRACK | {"type": "track", "timestamp": "2026-11-22T13:00:00Z"}]})
    event = collector.events[0]
    assert (event.time_ms, event.received_ms, event.original_time) == (NOW_MS - 10_000, NOW_MS, "2026-11-22T13:00:00Z")


async def test_rudders_original_timestamp_outranks_the_timestamp(collector):
    await collector.post("/v1/track", TRACK | {"originalTimestamp": "2026-11-22T13:00:00Z",
                                               "timestamp": "2026-11-22T13:30:00Z", "sentAt": "2026-11-22T13:00:01Z"})
    assert collector.events[0].time_ms == NOW_MS - 1000


async def test_an_event_without_a_message_id_is_given_one(collector):
    answer = await collector.post("/v1/track", {"userId": "user-123456", "event": "x"})
    assert answer.json()["results"][0]["id"] == collector.events[0].id == "gen_0"


async def test_the_subject_is_the_same_for_a_number_and_its_text_and_differs_by_project(collector):
    for user in (1234567, "1234567", 1234567.0):
        await collector.post("/v1/track", TRACK | {"userId": user})
    await collector.client.post("/v1/track", json=TRACK | {"userId": "1234567"},
                                headers={"authorization": "Bearer WK2"})
    subjects = [event.subject for event in collector.events]
    assert subjects[0] == subjects[1] == subjects[2] != subjects[3]


async def test_a_group_keeps_its_group_id_and_an_alias_links_both_subjects(collector):
    await collector.post("/v1/group", {"userId": "user-123456", "groupId": "company-7"})
    await collector.post("/v1/alias", {"userId": "user-123456", "previousId": "anon-1234567"})
    group, alias = collector.events
    assert group.context["groupId"] == "company-7"
    assert alias.context["subjects"] == {"user": alias.subject,
                                         "previous": collector.privacy.subject("app", "anon-1234567")}


async def test_the_context_of_a_batch_is_that_of_each_call_and_is_hidden_once(collector):
    calls = [TRACK | {"type": "track", "messageId": str(n)} for n in range(3)]
    await collector.post("/v1/batch", {"batch": calls, "context": {"ip": "10.1.2.3", "traits": {"email": "a@b.example"},
                                                                   "app": "shop"}})
    contexts = [event.context for event in collector.events]
    assert contexts[0] == contexts[1] == contexts[2]
    assert contexts[0]["app"] == "shop"
    assert "10.1.2.3" not in collector.written
    assert "a@b.example" not in collector.written


@pytest.mark.parametrize("headers", [{"content-type": "text/plain"}, {}, {"content-type": "application/json"}])
async def test_posthog_bodies_are_read_whatever_they_are_called(collector, headers):
    gzipped = gzip.compress(json.dumps({"api_key": "WK", "batch": [CAPTURE]}).encode())
    answer = await collector.client.post("/e/?ip=1&compression=gzip-js&_=1795356599000", content=gzipped,
                                         headers=headers)
    assert (answer.status_code, answer.json()["accepted"]) == (200, 1)


@pytest.mark.parametrize(("path", "sent_ms", "time_ms"), [
    ("/e/", NOW_MS - 600_000, NOW_MS - 1000), ("/e/", NOW_MS + 600_000, NOW_MS - 1_201_000),
    ("/e/", 1, NOW_MS - 601_000), ("/e/", NOW_MS // 1000, NOW_MS - 601_000), ("/e/", NOW_MS * 1000, NOW_MS - 601_000),
    ("/v1/track", NOW_MS - 600_000, NOW_MS - 601_000), ("/events", NOW_MS - 600_000, NOW_MS - 601_000),
])
async def test_only_posthogs_query_says_when_a_request_left_and_only_in_plausible_ms(collector, path, sent_ms, time_ms):
    happened = datetime.fromtimestamp((NOW_MS - 601_000) / 1000, UTC).isoformat()
    body = {**TRACK, **CAPTURE, "timestamp": happened, "time": happened, "specversion": "1.0", "type": "t", "id": "1",
            "source": "/w"}
    answer = await collector.post(f"{path}?_={sent_ms}", body, content_type="application/cloudevents+json")
    assert answer.status_code == 200
    assert collector.events[0].time_ms == time_ms


async def test_a_posthog_beacon_is_a_form_with_base64_in_it(collector):
    data = base64.b64encode(json.dumps({"api_key": "WK", **CAPTURE}).encode()).decode().replace("+", "%2B")
    answer = await collector.client.post("/e/", content=f"data={data}".encode(),
                                         headers={"content-type": "application/x-www-form-urlencoded"})
    assert answer.status_code == 200
    assert collector.events[0].id == CAPTURE["uuid"]


async def test_posthogs_second_generation_gets_a_result_for_each_uuid(collector):
    bad = {"uuid": "f97e5206-0000-4000-8000-00000000000b", "distinct_id": "user-123456"}
    answer = await collector.post("/i/v1/analytics/events", {"created_at": "2026-11-22T14:09:48Z", "batch": [
        CAPTURE | {"timestamp": "2026-11-22T13:00:00Z", "options": {}}, bad]},
        posthog_request_timestamp="2026-11-22T13:00:10Z")
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert results[CAPTURE["uuid"]] == {"result": "ok"}
    assert results[bad["uuid"]]["result"] == "drop"
    assert "event" in results[bad["uuid"]]["details"]
    assert collector.events[0].time_ms == NOW_MS - 10_000


async def test_posthogs_set_becomes_traits_and_its_alias_a_subject(collector):
    await collector.post("/capture/", CAPTURE | {"event": "$identify", "$set": {"plan": "pro"},
                                                 "properties": {"$set_once": {"first": 1}}})
    await collector.post("/capture/", CAPTURE | {"event": "$create_alias", "properties": {
        "distinct_id": "user-123456", "alias": "other-id-99"}})
    identify, alias = collector.events
    assert identify.traits == {"plan": "pro", "first": 1}
    assert alias.context["subjects"]["previous"] == collector.privacy.subject("app", "other-id-99")
    assert "other-id-99" not in collector.written


async def test_a_binary_cloudevent_is_read_from_its_headers(collector):
    answer = await collector.client.post("/events", content=b'{"item_id":"sku-1","user_id":"user-123456"}', headers={
        **CE, "ce-time": "2026-11-22T14:09:48.331Z", "ce-subject": "sku-1", "ce-myext": "Euro%20%E2%82%AC",
        "content-type": "application/json", "authorization": "Bearer WK"})
    assert answer.status_code == 200
    event = collector.events[0]
    assert (event.id, event.kind, event.name) == ("/web 1", "cloudevent", "com.acme.click")
    assert event.time_ms == 1795356588331
    assert event.context["myext"] == "Euro €"
    assert event.context["subject"] == "sku-1"
    assert event.subject == event.properties["user_id"] == collector.privacy.subject("app", "user-123456")


@pytest.mark.parametrize(("content_type", "body", "properties"), [
    ("text/plain", b"hello", {"data": "hello"}), ("application/octet-stream", b"\x00\x01", {"data_base64": "AAE="}),
    ("application/json", b"[1,2]", {"data": [1, 2]}), ("", b"", {}),
    ("application/vnd.acme+json", b'{"a":1}', {"a": 1}),
])
async def test_binary_mode_takes_any_data(collector, content_type, body, properties):
    headers = {**CE, "authorization": "Bearer WK"} | ({"content-type": content_type} if content_type else {})
    assert (await collector.client.post("/events", content=body, headers=headers)).status_code == 200
    assert collector.events[0].properties == properties


@pytest.mark.parametrize(("header", "value", "code"), [
    ("ce-myext", "%C0%A0", "invalid_utf8"), ("ce-datacontenttype", "text/plain", "unexpected_field"),
    ("ce-specversion", "0.3", "unsupported_version"), ("ce-id", "", "missing_field"), ("ce-type", "", "missing_field"),
    ("ce-source", "", "missing_field"), ("ce-time", "noon", "invalid_timestamp"), ("ce-id", "%00", "nul_character")])
async def test_a_wrong_attribute_in_binary_mode_is_400(collector, header, value, code):
    answer = await collector.client.post("/events", content=b"{}", headers={
        **CE, header: value, "content-type": "application/json", "authorization": "Bearer WK"})
    assert (answer.status_code, answer.json()["code"]) == (400, code)
    assert not collector.events


async def test_the_content_type_and_not_the_headers_decide_the_mode(collector):
    body = {"specversion": "1.0", "id": "2", "type": "inner", "source": "/inner"}
    await collector.client.post("/events", content=json.dumps(body), headers={
        **CE, "content-type": "application/cloudevents+json; charset=utf-8", "authorization": "Bearer WK"})
    assert collector.events[0].name == "inner"


@pytest.mark.parametrize("id_", ["evt-user-123456", "42", "\udc80"])
async def test_a_refused_cloudevent_is_answered_with_its_own_id(collector, id_):
    bad = {"specversion": "1.0", "id": id_, "type": "t", "source": "/w /x", "userid": "user-123456"}
    answer = await collector.post("/events", json.dumps([bad]).encode(),
                                  content_type="application/cloudevents-batch+json")
    result, = answer.json()["results"]
    assert (result["status"], result["id"]) == ("rejected", id_.encode("utf-8", "backslashreplace").decode())
    assert "user-123456" not in collector.written


async def test_a_refused_calls_message_id_is_answered_as_it_was_sent(collector):
    answer = await collector.post("/v1/batch", {"batch": [{"type": "track", "userId": "user-123456",
                                                           "messageId": "m-user-123456"}]})
    assert answer.json()["results"][0]["id"] == "m-user-123456"
    assert "user-123456" not in collector.written


@pytest.mark.parametrize("content_type", ["application/cloudevents+xml", "application/json", "text/plain"])
async def test_what_is_no_cloudevent_is_415(collector, content_type):
    answer = await collector.post("/events", b"{}", content_type=content_type)
    assert answer.status_code == 415


async def test_quoted_header_values_lose_their_quotes(collector):
    await collector.client.post("/events", content=b"{}", headers={
        **CE, "ce-myext": '"a \\"b\\""', "content-type": "application/json", "authorization": "Bearer WK"})
    assert collector.events[0].context["myext"] == 'a "b"'
