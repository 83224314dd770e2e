"""The collector as a process: what it writes to a real Kafka, and how it starts."""

import gzip
import json
import subprocess
import sys

import httpx
import pytest

from schemas.dead import DeadLetter
from schemas.events import Event
from tests.support.services import ROOT
from tests.support.topics import read_items, read_records

KEY = {"authorization": "Bearer collect-key"}


@pytest.fixture
def env(service_env):
    # No test here is about outages, and a busy machine may make Kafka slower than 0.8 s.
    return service_env | {"RATCHET_COLLECTOR_ACK_TIMEOUT_S": "20"}


@pytest.fixture
def collector(env, start):
    return start("collector", env)


def test_good_events_and_dead_letters_reach_their_topics(servers, topics, collector):
    calls = [{"type": "track", "event": "Ticket Resolved", "userId": f"user-{n:06}", "messageId": f"m-{n}",
              "properties": {"queue": "card", "prediction_id": f"pr_{n}"}} for n in range(50)]
    body = gzip.compress(json.dumps({"batch": [*calls, {"type": "track", "userId": "user-000001"}]}).encode())

    answer = httpx.post(f"{collector.url}/v1/batch", content=body, headers={**KEY, "content-encoding": "gzip"})

    assert (answer.status_code, answer.json()["accepted"], answer.json()["rejected"]) == (200, 50, 1)
    events = read_items(servers.kafka, topics.events, Event)
    assert sorted(event.id for event in events) == sorted(call["messageId"] for call in calls)
    letter, = read_items(servers.kafka, topics.dead, DeadLetter)
    assert (letter.code, letter.path, letter.origin) == ("missing_field", "batch.50.event", "/v1/batch")
    raw = b"".join(value for topic in (topics.events, topics.dead)
                   for value, _, _ in read_records(servers.kafka, topic))
    assert b"user-0" not in raw
    # 50 events in at most one frame for each of the three partitions.
    assert len(read_records(servers.kafka, topics.events)) <= 3


def test_one_event_per_record_is_a_setting(servers, topics, env, start):
    collector = start("collector", env | {"RATCHET_COLLECTOR_ONE_PER_RECORD": "true"})
    calls = [{"type": "track", "event": "x", "userId": "user-000001", "messageId": f"m-{n}"} for n in range(5)]
    assert httpx.post(f"{collector.url}/v1/batch", json={"batch": calls}, headers=KEY).status_code == 200
    records = read_records(servers.kafka, topics.events)
    assert [json.loads(value)["id"] for value, _, _ in records] == [call["messageId"] for call in calls]
    assert {key for _, _, key in records} == {json.loads(records[0][0])["subject"].encode()}


def test_events_of_one_subject_stay_in_order_over_many_requests(servers, topics, collector):
    with httpx.Client(base_url=collector.url, headers=KEY) as client:
        for number in range(60):
            client.post("/v1/track", json={"event": "x", "userId": "user-000001", "messageId": f"{number:03}"})
    ids = [event.id for event in read_items(servers.kafka, topics.events, Event)]
    assert ids == sorted(ids)
    assert len(ids) == 60


def test_a_body_over_the_limit_is_answered_before_the_connection_is_closed(collector):
    answer = httpx.post(f"{collector.url}/v1/batch", content=b"x" * (6 << 20), headers=KEY, timeout=20)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_health_metrics_and_openapi_answer(collector):
    assert httpx.get(f"{collector.url}/health/live").json() == {"status": "live"}
    assert httpx.get(f"{collector.url}/health/ready").json() == {"status": "ready", "faults": {}}
    assert "ratchet_producer_items_total" in httpx.get(f"{collector.url}/metrics").text
    assert "/v1/batch" in httpx.get(f"{collector.url}/openapi.json").json()["paths"]


@pytest.mark.parametrize(("env", "words"), [
    ({"RATCHET_COLLECT_KEYS": ""}, "RATCHET_COLLECT_KEYS"),
    ({"RATCHET_PSEUDONYM_KEY": "short"}, "RATCHET_PSEUDONYM_KEY"),
    ({"RATCHET_PSEUDONYMISE_FIELDS": "email"}, "RATCHET_PSEUDONYMISE_FIELDS"),
    ({"RATCHET_COLLECTOR_PORT": "99999"}, "RATCHET_COLLECTOR_PORT"),
])
def test_a_wrong_setting_stops_it_with_one_line_that_names_the_variable(service_env, env, words):
    ended = _run(service_env | env)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert len(ended.stderr.strip().splitlines()) == 1


def test_a_taken_port_stops_it_with_one_line(service_env, collector):
    ended = _run(service_env | {"RATCHET_COLLECTOR_PORT": str(collector.port)})
    assert ended.returncode == 2
    assert f":{collector.port}" in ended.stderr
    assert "RATCHET_COLLECTOR_PORT" in ended.stderr


def test_a_dead_producer_thread_ends_the_process_and_says_why(service_env):
    # Only a new process has a new thread: as long as this one lived, every request would be answered with 503.
    ended = _run(service_env | {"RATCHET_COLLECTOR_PORT": "0"},
                 "from shared.kafka import FrameProducer; FrameProducer._turn = lambda self: 1 / 0; ")
    assert ended.returncode == 1
    assert '"event":"collector_must_restart"' in ended.stderr
    assert "producer's thread has ended" in ended.stderr
    assert "ZeroDivisionError" in ended.stderr


def _run(env, before=""):
    command = [sys.executable, "-c", f"{before}from services.collector.main import run; run()"]
    return subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
