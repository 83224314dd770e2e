"""The producer while its broker is killed, frozen and back again."""

import os
import signal
import threading
import uuid

import pytest

from schemas.errors import Transient
from schemas.events import Event
from shared.kafka import FrameProducer, create_topics, wait_for_kafka
from tests.support import servers as real
from tests.support.services import eventually
from tests.support.topics import read_items, read_records

# An answer is due after 0.8 s, and gets time for a machine that has other things to do, a broker's start among them.
SOON_S = 10.0


@pytest.fixture(scope="module")
def broker():
    with real.embedded(names=("kafka",)) as running:
        yield running


@pytest.fixture
def topic(broker):
    name = f"t{uuid.uuid4().hex[:8]}.events"
    create_topics(bootstrap(broker), [name], partitions=3)
    return name


@pytest.fixture
def producer(broker, topic):
    made = FrameProducer(bootstrap(broker), [topic], client_id="outages")
    eventually(made.healthy)
    yield made
    made.close(1.0)


def bootstrap(broker):
    return broker.parts["kafka"].bootstrap


def event(number, text=""):
    return Event(id=f"e{number}", project="app", kind="track", name="n", subject=f"s_{number % 9}", time_ms=number,
                 received_ms=number, source="segment", properties={"text": text})


def send_until(producer, topic, stop, acknowledged, unanswered):
    number = 0
    while not stop.is_set():
        number += 1
        try:
            producer.send(topic, f"s_{number % 9}", event(number)).result(SOON_S)
            acknowledged.append(f"e{number}")
        except Transient:
            stop.wait(0.01)
        except TimeoutError:
            unanswered.append(f"e{number}")


def test_through_a_killed_and_a_frozen_broker_nothing_acknowledged_is_lost_and_every_answer_comes_soon(
        broker, topic, producer):
    stop, acknowledged, unanswered = threading.Event(), [], []
    thread = threading.Thread(target=send_until, args=(producer, topic, stop, acknowledged, unanswered))
    thread.start()
    try:
        eventually(lambda: len(acknowledged) > 20)
        broker.kill("kafka")
        eventually(lambda: not producer.healthy(), timeout_s=SOON_S)
        with pytest.raises(Transient, match="away"):
            producer.send(topic, "s_1", event(0)).result(SOON_S)
        broker.start("kafka")
        eventually(producer.healthy)
        before = len(acknowledged)
        eventually(lambda: len(acknowledged) > before + 20)
        pid = broker.children["kafka"].pid
        os.kill(pid, signal.SIGSTOP)
        try:
            eventually(lambda: not producer.healthy(), timeout_s=SOON_S)
        finally:
            os.kill(pid, signal.SIGCONT)
        eventually(producer.healthy)
        before = len(acknowledged)
        eventually(lambda: len(acknowledged) > before + 20)
    finally:
        stop.set()
        thread.join(15)

    stored = [item.id for item in read_items(bootstrap(broker), topic, Event)]
    assert set(acknowledged) <= set(stored)
    assert unanswered == []


def test_the_bytes_in_flight_are_bounded_and_freed_again(broker, topic):
    producer = FrameProducer(bootstrap(broker), [topic], client_id="bounded", max_bytes_in_flight=1 << 20,
                             ack_timeout_s=20, fail_fast=False)
    eventually(producer.healthy)
    pid = broker.children["kafka"].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        futures, refusal = fill(producer, topic)
        assert "exceed" in str(refusal)
        assert producer.n_bytes_in_flight <= 1 << 20
    finally:
        os.kill(pid, signal.SIGCONT)
    for future in futures:
        future.result(30)
    assert producer.n_bytes_in_flight == 0
    assert producer.close() == 0


def fill(producer, topic):
    futures = []
    try:
        while True:
            futures.append(producer.send(topic, "s_1", event(len(futures), "x" * 1000)))
    except Transient as exc:
        return futures, exc


def test_without_fail_fast_items_wait_for_a_broker_that_comes_back(broker, topic):
    producer = FrameProducer(bootstrap(broker), [topic], client_id="patient", ack_timeout_s=60, fail_fast=False)
    eventually(producer.healthy)
    broker.kill("kafka")
    futures = [producer.send(topic, f"s_{number}", event(number)) for number in range(50)]
    broker.start("kafka")
    for future in futures:
        future.result(30)
    assert producer.close() == 0
    assert len({item.id for item in read_items(bootstrap(broker), topic, Event)}) == 50


def test_closing_says_how_many_items_may_be_lost(broker, topic):
    producer = FrameProducer(bootstrap(broker), [topic], client_id="closing", ack_timeout_s=60, fail_fast=False)
    eventually(producer.healthy)
    pid = broker.children["kafka"].pid
    os.kill(pid, signal.SIGSTOP)
    try:
        future = producer.send_many([(topic, "s_1", event(number)) for number in range(7)])
        assert producer.close(0.3) == 7
        assert isinstance(future.exception(5), Transient)
    finally:
        os.kill(pid, signal.SIGCONT)
    with pytest.raises(Transient):
        producer.send(topic, "s_1", event(1))


def test_a_producer_may_be_made_before_its_broker_and_a_missing_topic_is_named(broker, topic):
    producer = FrameProducer("127.0.0.1:1", [topic], client_id="early")
    with pytest.raises(Transient, match="away"):
        producer.send(topic, "s_1", event(1))
    producer.close(0.1)
    producer = FrameProducer(bootstrap(broker), ["no.such.topic"], client_id="lost")
    eventually(lambda: "no.such.topic" in producer.fault())
    producer.close(0.1)


def test_a_stuck_producer_is_replaced(broker, topic, producer, monkeypatch):
    monkeypatch.setattr("shared.kafka.producer._STUCK_S", -9.5)  # 0.5 s after sending instead of 12 s
    inner = producer._producer
    monkeypatch.setattr(inner, "send", lambda *_, **__: _Never())
    with pytest.raises(Transient):
        producer.send(topic, "s_1", event(1)).result(3)
    eventually(lambda: producer._producer is not inner and producer.healthy(), timeout_s=10)
    producer.send(topic, "s_1", event(2)).result(3)
    assert producer.n_bytes_in_flight == 0


class _Never:
    def add_callback(self, _):
        return self

    def add_errback(self, _):
        return self


def test_topics_are_made_once_and_waiting_for_kafka_ends(broker):
    names = [f"t{uuid.uuid4().hex[:8]}.{part}" for part in ("events", "dead")]
    assert sorted(create_topics(bootstrap(broker), names, partitions=2, retention_ms=3_600_000)) == sorted(names)
    assert create_topics(bootstrap(broker), names, partitions=5) == []
    wait_for_kafka(bootstrap(broker), 30)
    with pytest.raises(Transient, match="does not answer"):
        wait_for_kafka("127.0.0.1:1", 0.5)
    with pytest.raises(Transient):
        create_topics("127.0.0.1:1", names, partitions=1, timeout_s=0.3)


def test_one_event_per_record_is_keyed_and_readable_without_frames(broker, topic):
    producer = FrameProducer(bootstrap(broker), [topic], client_id="single", one_per_record=True)
    eventually(producer.healthy)
    producer.send_many([(topic, f"s_{number}", event(number)) for number in range(5)]).result(SOON_S)
    producer.close()
    records = read_records(bootstrap(broker), topic)
    assert sorted(key for _, _, key in records) == [b"s_0", b"s_1", b"s_2", b"s_3", b"s_4"]
    assert {content for _, content, _ in records} == {"application/json"}
