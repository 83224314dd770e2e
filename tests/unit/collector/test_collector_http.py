"""Keys, encodings, limits, errors and browsers: everything around the events themselves."""

import asyncio
import base64
import gzip
import json
import zlib

import brotli
import pytest
import zstandard

TRACK = {"userId": "user-123456", "event": "Item Clicked", "messageId": "m-1"}
PATHS = ["/v1/track", "/v1/batch", "/v1/import", "/v1/identify", "/v1/t", "/v1/b", "/batch/", "/batch", "/capture/",
         "/e/", "/i/v0/e/", "/i/v1/analytics/events", "/events", "/beacon/v1/batch"]
ERROR_NAMES = {"code", "message", "detail", "error", "msg"}


def basic(key):
    return "Basic " + base64.b64encode(f"{key}:".encode()).decode()


@pytest.mark.parametrize("headers", [
    {"authorization": basic("WK")}, {"authorization": "Bearer WK"}, {"x-write-key": "WK"}, {"x-api-key": "WK"}])
async def test_a_key_in_a_header_lets_in(collector, headers):
    answer = await collector.client.post("/v1/track", json=TRACK, headers=headers)
    assert answer.status_code == 200


@pytest.mark.parametrize("query", ["writeKey=WK", "writekey=WK", "access_token=WK"])
async def test_a_key_in_the_query_lets_in(collector, query):
    assert (await collector.client.post(f"/v1/track?{query}", json=TRACK)).status_code == 200


@pytest.mark.parametrize(("path", "body"), [
    ("/v1/track", TRACK | {"writeKey": "WK"}),
    ("/v1/batch", {"batch": [TRACK | {"type": "track"}], "writeKey": "WK"}),
    ("/batch/", {"batch": [{"event": "x", "distinct_id": "u"}], "api_key": "WK"}),
    ("/batch/", {"batch": [{"event": "x", "distinct_id": "u"}], "token": "WK"}),
    ("/capture/", {"event": "x", "distinct_id": "u", "api_key": "WK"}),
    ("/e/", [{"event": "x", "properties": {"token": "WK", "distinct_id": "u"}}]),
])
async def test_a_key_in_the_body_lets_in(collector, path, body):
    assert (await collector.client.post(path, json=body)).status_code == 200
    assert collector.events[0].project == "app"


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": "Basic !!"}])
async def test_no_key_or_a_wrong_one_is_401_and_stores_nothing(collector, path, headers):
    body = [] if path == "/events" else TRACK | {"batch": []}
    headers = headers | ({"content-type": "application/cloudevents-batch+json"} if path == "/events" else {})
    answer = await collector.client.post(path, content=json.dumps(body), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized")
    assert not collector.producer.parts


@pytest.mark.parametrize("path", PATHS)
async def test_every_error_is_a_json_object_with_all_the_names_that_clients_look_for(collector, path):
    for body in (b"", b"{", b"[1", b"\xff\xfe", b'"text"', b"17", b"null"):
        answer = await collector.post(path, body, content_type="application/json")
        assert 400 <= answer.status_code < 500
        assert set(answer.json()) >= ERROR_NAMES
        assert answer.json()["code"] != "internal"


async def test_an_unknown_path_and_a_wrong_method_are_json_errors_too(collector):
    assert (await collector.client.get("/nothing")).status_code == 404
    assert set((await collector.client.get("/nothing")).json()) >= ERROR_NAMES
    assert (await collector.client.get("/v1/batch")).status_code == 405
    assert set((await collector.client.get("/v1/batch")).json()) >= ERROR_NAMES


@pytest.mark.parametrize("path", ["/v1/batch/", "/v1/track/", "/events/"])
async def test_nothing_is_ever_redirected(collector, path):
    # Segment's Node SDK takes a redirect for success.
    assert (await collector.post(path, TRACK)).status_code == 404


@pytest.mark.parametrize(("encoding", "pack"), [
    ("gzip", gzip.compress), ("deflate", zlib.compress), ("zstd", zstandard.compress), ("br", brotli.compress),
    ("", gzip.compress), ("gzip, identity", gzip.compress), ("gzip", bytes)])
async def test_a_packed_body_is_unpacked_even_when_its_label_is_wrong(collector, encoding, pack):
    answer = await collector.post("/v1/track", pack(json.dumps(TRACK).encode()), content_encoding=encoding,
                                  content_type="application/x-www-form-urlencoded")
    assert answer.status_code == 200
    assert collector.events[0].name == "Item Clicked"


@pytest.mark.parametrize(("encoding", "pack"), [
    ("gzip", gzip.compress), ("deflate", zlib.compress), ("zstd", zstandard.compress), ("br", brotli.compress)])
async def test_a_small_body_that_unpacks_to_a_huge_one_is_413(collector, encoding, pack):
    bomb = pack(b'{"a":"' + b"x" * (30 << 20) + b'"}')
    answer = await collector.post("/v1/batch", bomb, content_encoding=encoding)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "zstd", "br"])
async def test_a_broken_packing_is_400(collector, encoding):
    answer = await collector.post("/v1/batch", b"\x00 not packed at all", content_encoding=encoding)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_compression")


async def test_an_unknown_encoding_is_415(collector):
    answer = await collector.post("/v1/batch", b"{}", content_encoding="lzma")
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported_encoding")


async def test_a_body_over_the_limit_is_413(collector):
    answer = await collector.post("/v1/batch", b'{"batch":[' + b" " * (5 << 20) + b"]}")
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


async def test_rudder_may_send_4_mb_and_posthog_5_mib(collector):
    calls = [TRACK | {"type": "track", "messageId": str(n), "properties": {"t": "x" * 30_000}} for n in range(130)]
    assert (await collector.post("/v1/batch", {"batch": calls})).json()["accepted"] == 130
    captures = [{"event": "x", "distinct_id": "user-123456", "properties": {"t": "x" * 800_000}} for _ in range(6)]
    assert (await collector.post("/batch/", {"batch": captures})).json()["accepted"] == 6


async def test_too_many_events_in_one_request_are_413(collector):
    answer = await collector.post("/v1/batch", {"batch": [{}] * 10_001})
    assert (answer.status_code, answer.json()["code"]) == (413, "too_many_events")
    assert not collector.producer.parts


async def test_an_empty_batch_is_200_and_stores_nothing(collector):
    answer = await collector.post("/v1/batch", {"batch": []})
    assert (answer.status_code, answer.json()["results"]) == (200, [])
    assert not collector.producer.parts


async def test_while_kafka_is_away_the_answer_is_503_with_retry_after_and_readiness_is_red(collector):
    collector.producer.away = "connection refused"
    answer = await collector.post("/v1/track", TRACK)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) >= 1
    ready = await collector.client.get("/health/ready")
    assert (ready.status_code, ready.json()["faults"]) == (503, {"kafka": "connection refused"})
    assert (await collector.client.get("/health/live")).status_code == 200


async def test_an_event_without_acknowledgement_is_503_and_not_200(collector):
    collector.producer.silent = True
    answer = await collector.post("/v1/batch", {"batch": [TRACK | {"type": "track"}]})
    assert answer.status_code == 503
    assert "retry-after" in answer.headers


async def test_beyond_the_bounds_on_what_is_under_way_the_answer_is_503(collector_with):
    async with collector_with(max_requests=0) as full:
        assert (await full.post("/v1/track", TRACK)).status_code == 503
    async with collector_with(max_request_bytes=10) as full:
        assert (await full.post("/v1/track", TRACK)).status_code == 503


async def test_requests_whose_bodies_never_come_take_no_room_from_others(collector_with):
    async with collector_with(max_request_bytes=5 << 20) as collector:
        silent = [asyncio.ensure_future(collector.client.post("/v1/track", content=never(), headers=headers))
                  for headers in ({"content-length": str(4 << 20)}, {}, {})]
        await asyncio.sleep(0)
        try:
            answers = [await collector.post("/v1/track", TRACK) for _ in range(3)]
            assert [answer.status_code for answer in answers] == [200] * 3
            assert not any(request.done() for request in silent)
        finally:
            for request in silent:
                request.cancel()


async def never():
    await asyncio.Event().wait()
    yield b""


async def test_bodies_that_outgrow_the_bound_while_they_come_are_503_and_give_their_room_back(collector_with):
    async def parts():
        for _ in range(3):
            yield b" " * 2000

    async with collector_with(max_request_bytes=5000) as collector:
        for _ in range(3):
            assert (await collector.post_parts("/v1/track", parts())).status_code == 503
        assert (await collector.post("/v1/track", TRACK)).status_code == 200


async def test_a_browser_may_send_from_any_page_with_any_header(collector):
    answer = await collector.client.options("/v1/t", headers={
        "origin": "https://shop.example", "access-control-request-method": "POST",
        "access-control-request-headers": "authorization,content-type,x-retry-count,anonymousid"})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "https://shop.example"
    assert answer.headers["access-control-allow-headers"] == "authorization,content-type,x-retry-count,anonymousid"
    sent = await collector.post("/v1/t", TRACK, origin="https://shop.example", content_type="text/plain")
    assert sent.headers["access-control-allow-origin"] == "https://shop.example"
    refused = await collector.client.post("/v1/t", json=TRACK, headers={"origin": "https://shop.example"})
    assert refused.headers["access-control-allow-origin"] == "https://shop.example"


async def test_a_web_hook_sender_is_allowed_to_send(collector):
    answer = await collector.client.options("/events", headers={
        "webhook-request-origin": "events.example", "webhook-request-rate": "120"})
    assert answer.status_code == 200
    assert (answer.headers["webhook-allowed-origin"], answer.headers["webhook-allowed-rate"]) == (
        "events.example", "120")


async def test_the_openapi_document_names_every_path_and_the_metrics_count(collector):
    paths = (await collector.client.get("/openapi.json")).json()["paths"]
    assert set(PATHS) <= set(paths)
    await collector.post("/v1/track", TRACK)
    assert 'ratchet_collector_events_total{outcome="accepted",protocol="segment"}' in (
        await collector.client.get("/metrics")).text


async def test_segments_browser_sdk_finds_its_settings(collector):
    answer = await collector.client.get("/v1/projects/WK/settings")
    assert answer.json()["integrations"]["Segment.io"]["apiKey"] == "WK"
