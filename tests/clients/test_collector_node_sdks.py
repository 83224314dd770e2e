"""The official Node SDKs, unchanged, with only the host set."""

import pytest

USER = "user-123456"
PATHS = {"segment": "/v1/batch", "rudder": "/v1/batch", "posthog": "/batch/", "cloudevents": "/events"}
SDKS = pytest.mark.parametrize("sdk", sorted(PATHS))


@SDKS
def test_an_event_arrives_and_names_no_person(collector, run_node, sdk):
    assert run_node(sdk, "one") == {"errors": []}

    event, = collector.events
    assert event.name == "Ticket Resolved"
    assert (event.properties["queue"], event.properties["price"]) == ("card", 9.9)
    assert event.source == {"cloudevents": "cloudevents"}.get(sdk, sdk)
    assert abs(event.time_ms - event.received_ms) < 10_000
    assert event.subject
    assert not collector.names(USER)
    assert {request["path"] for request in collector.requests} == {PATHS[sdk]}


@SDKS
def test_a_hundred_events_arrive_once_packed_where_the_sdk_packs(collector, run_node, sdk):
    assert run_node(sdk, "many") == {"errors": []}

    assert sorted(event.properties["n"] for event in collector.events) == list(range(100))
    packed = {request.get("content-encoding") for request in collector.requests}
    assert packed == ({"gzip"} if sdk in ("rudder", "posthog") else {None})


@SDKS
def test_after_two_503s_the_events_are_sent_again_and_arrive_once(collector, run_node, sdk):
    collector.producer.left = 2

    assert run_node(sdk, "one") == {"errors": []}

    assert collector.producer.refused == 2
    assert [event.name for event in collector.events] == ["Ticket Resolved"]


@SDKS
def test_a_bad_event_is_a_dead_letter_and_costs_no_good_one(collector, run_node, sdk):
    result = run_node(sdk, "bad")

    assert sorted(event.properties["n"] for event in collector.events) == [1, 2]
    letter, = collector.dead
    assert letter.code == "nul_character"
    assert not collector.names(USER)
    assert result["errors"] == (["nul_character"] if sdk == "cloudevents" else [])
