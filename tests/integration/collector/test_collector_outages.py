"""An event that was answered with success is in Kafka, whatever is killed."""

import json
import os
import signal
from http.client import HTTPConnection

import psutil

from schemas.events import Event
from tests.support.services import eventually
from tests.support.topics import read_items

# An answer is due after 1 s, and gets time for a machine that has other things to do, a broker's start among them.
SOON_S = 10.0


def post(port, body):
    """Send a body; fails when no answer comes soon."""
    connection = HTTPConnection("127.0.0.1", port, timeout=SOON_S)
    connection.request("POST", "/v1/batch", json.dumps(body))
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response, answer


ONE = {"writeKey": "collect-key", "batch": [{"type": "track", "event": "x", "userId": "user-123456"}]}


def stored_ids(broker, topics):
    return [event.id for event in read_items(broker.bootstrap, topics.events, Event)]


def test_every_answered_event_is_in_kafka_after_five_sigkills_of_the_collector(broker, own_topics, collectors, ledgers):
    process = collectors()
    ledger = ledgers(process.port, batch=5).start(6)
    for _ in range(5):
        before = len(ledger.answered)
        eventually(lambda before=before: len(ledger.answered) > before + 100)
        process.kill()
        process.start()
    eventually(lambda: ledger.statuses.get(200, 0) > 50)
    ledger.stop()

    ids = stored_ids(broker, own_topics)
    assert len(ledger.answered) > 500
    assert set(ledger.answered) <= set(ids)
    assert ledger.statuses.get(500, 0) == 0


def test_a_killed_kafka_means_503_soon_and_red_readiness_and_nothing_accepted_is_lost(
        broker, own_topics, collectors, ledgers):
    process = collectors()
    ledger = ledgers(process.port).start(4)
    eventually(lambda: len(ledger.answered) > 50)

    broker.kill()
    eventually(lambda: not process.ready(), timeout_s=SOON_S)
    response, answer = post(process.port, ONE)
    assert (response.status, answer["code"]) == (503, "unavailable")
    assert int(response.headers["retry-after"]) >= 1
    assert process.get("/health/live")[0] == 200

    broker.start()
    eventually(process.ready)
    before = len(ledger.answered)
    eventually(lambda: len(ledger.answered) > before + 50)
    ledger.stop()

    assert set(ledger.answered) <= set(stored_ids(broker, own_topics))
    assert set(ledger.statuses) <= {200, 503}  # 0 would be a client that got no answer soon
    assert None not in ledger.retry_after


def test_a_frozen_kafka_means_503_and_bounded_memory_and_the_collector_recovers(
        broker, own_topics, collectors, ledgers):
    process = collectors(RATCHET_COLLECTOR_MAX_BYTES_IN_FLIGHT=str(2 << 20))
    ledger = ledgers(process.port, batch=100).start(8)
    eventually(lambda: len(ledger.answered) > 2000)
    rss_before = psutil.Process(process.pid).memory_info().rss
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        eventually(lambda: not process.ready(), timeout_s=SOON_S)
        refused = ledger.statuses.get(503, 0)
        eventually(lambda: ledger.statuses.get(503, 0) > refused + 300)
        assert psutil.Process(process.pid).memory_info().rss < rss_before + (60 << 20)
    finally:
        os.kill(broker.pid, signal.SIGCONT)
    eventually(process.ready)
    before = len(ledger.answered)
    eventually(lambda: len(ledger.answered) > before + 500)
    ledger.stop()

    assert set(ledger.answered) <= set(stored_ids(broker, own_topics))
    assert set(ledger.statuses) <= {200, 503}


def test_sigterm_answers_what_is_under_way_and_ends_cleanly(broker, own_topics, collectors, ledgers):
    process = collectors()
    ledger = ledgers(process.port).start(4)
    eventually(lambda: len(ledger.answered) > 100)

    assert process.stop()

    ledger.stop()
    assert process.child.poll() == 0
    assert '"collector_stopped","unacknowledged":0' in process.log.replace(" ", "")
    assert set(ledger.answered) <= set(stored_ids(broker, own_topics))
    assert set(ledger.statuses) <= {200, 0}


def test_a_collector_starts_while_kafka_is_away_and_becomes_ready_when_it_comes(broker, own_topics, collectors):
    broker.kill()
    try:
        process = start_unready(collectors)
        response, _ = post(process.port, ONE)
        assert response.status == 503
    finally:
        broker.start()
    eventually(process.ready)
    response, answer = post(process.port, ONE)
    assert (response.status, answer["accepted"]) == (200, 1)


def start_unready(collectors):
    process = collectors(wait=False)
    eventually(lambda: alive(process))
    assert not process.ready()
    return process


def alive(process):
    try:
        return process.get("/health/live")[0] == 200
    except OSError:
        return False
