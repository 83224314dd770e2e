"""What every producer does, the remembered one and the real one alike."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from schemas.events import Event
from shared.kafka import FrameProducer
from tests.support.producers import FakeProducer
from tests.support.services import eventually
from tests.support.topics import read_items


@dataclass
class Rig:
    """A producer, its topics, and how to see what it wrote."""

    producer: Any
    events: str
    dead: str
    written: Callable[[], list[Event]]


@pytest.fixture(params=["fake", "real", "real-one-per-record"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    """Each producer in turn."""
    if request.param == "fake":
        producer = FakeProducer(["events", "dead"])
        yield Rig(producer, "events", "dead", lambda: [item for topic, _, item in producer.records
                                                       if topic == "events"])
        return
    servers, topics = request.getfixturevalue("servers"), request.getfixturevalue("topics")
    real = FrameProducer(servers.kafka, (topics.events, topics.dead), client_id="contract", ack_timeout_s=20,
                         one_per_record=request.param.endswith("record"))
    try:
        eventually(real.healthy)
        yield Rig(real, topics.events, topics.dead, lambda: read_items(servers.kafka, topics.events, Event))
    finally:
        assert real.close() == 0


def event(number: int, subject: str = "s_1") -> Event:
    return Event(id=f"e{number}", project="app", kind="track", name="n", subject=subject, time_ms=number,
                 received_ms=number, source="segment", properties={"text": "é\n" * number})


def test_what_was_acknowledged_is_written_once(rig):
    sent = [event(number, f"s_{number % 7}") for number in range(60)]

    for future in [rig.producer.send_many([(rig.events, item.subject, item)]) for item in sent[:20]]:
        assert future.result(10) is None
    rig.producer.send_many([(rig.events, item.subject, item) for item in sent[20:]]).result(10)

    assert sorted(rig.written(), key=lambda item: item.time_ms) == sent


def test_items_of_one_subject_keep_their_order(rig):
    futures = [rig.producer.send_many([(rig.events, "s_1", event(number))]) for number in range(50)]
    for future in futures:
        future.result(10)

    assert [item.time_ms for item in rig.written()] == list(range(50))


def test_sending_nothing_is_acknowledged(rig):
    assert rig.producer.send_many([]).result(1) is None


def test_a_topic_that_was_not_named_is_refused(rig):
    with pytest.raises(ValueError, match="not named"):
        rig.producer.send_many([(f"t{uuid.uuid4().hex}", "k", event(1))])


def test_a_healthy_producer_has_no_fault(rig):
    assert rig.producer.fault() == ""
