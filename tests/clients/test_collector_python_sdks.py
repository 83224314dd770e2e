"""The official Python SDKs, unchanged, with only the host set."""

import http.client
import json
import logging
from datetime import UTC, datetime
from urllib.parse import urlsplit

import pytest

KEY = "collect-key"
USER = "user-123456"
NUL = {"text": "a\0b"}


class Sdk:
    """One SDK: how to track an event, and how to send what waits."""

    def __init__(self, url, gzip):
        self.errors = []

    def on_error(self, error, *_):
        self.errors.append(error)


class Segment(Sdk):
    source, path, default_gzip = "segment", "/v1/batch", False

    def __init__(self, url, gzip):
        super().__init__(url, gzip)
        from segment.analytics.client import Client

        self.client = Client(KEY, host=url, gzip=gzip, on_error=self.on_error, max_retries=3, upload_interval=0.1)

    def track(self, event, properties):
        self.client.track(USER, event, properties)

    def everything(self):
        self.client.identify(USER, {"email": "ada@example.com", "plan": "pro"})
        self.client.page(USER, "shop", "home", {"path": "/"})
        self.client.screen(USER, "shop", "main")
        self.client.group(USER, "company-7", {"size": 3})
        self.client.alias("anon-1234567", USER)
        return ["alias", "group", "identify", "page", "screen", "track"]

    def finish(self):
        self.client.flush()
        self.client.join()


class Rudder(Segment):
    source, default_gzip = "rudder", True

    def __init__(self, url, gzip):
        Sdk.__init__(self, url, gzip)
        from rudderstack.analytics.client import Client

        self.client = Client(KEY, host=url, gzip=gzip, on_error=self.on_error, max_retries=3, upload_interval=0.1)


class Posthog(Sdk):
    source, path, default_gzip, mode = "posthog", "/batch/", False, None

    def __init__(self, url, gzip):
        super().__init__(url, gzip)
        from posthog import Posthog as Client

        self.client = Client(KEY, host=url, gzip=gzip, on_error=self.on_error, flush_interval=0.1,
                             capture_mode=self.mode)

    def track(self, event, properties):
        self.client.capture(event, distinct_id=USER, properties=properties)

    def everything(self):
        self.client.set(distinct_id=USER, properties={"email": "ada@example.com", "plan": "pro"})
        self.client.group_identify("company", "company-7", {"size": 3})
        self.client.alias("anon-1234567", USER)
        return ["alias", "group", "identify", "track"]

    def finish(self):
        self.client.flush()
        self.client.shutdown()


class PosthogV1(Posthog):
    path, mode = "/i/v1/analytics/events", "v1"

    def __init__(self, url, gzip):
        super().__init__(url, False)


SDKS = pytest.mark.parametrize("sdk", [Segment, Rudder, Posthog, PosthogV1])


@pytest.fixture(autouse=True)
def quiet_sdks():
    """The SDKs log refused events as errors."""
    for name in ("segment", "rudderstack", "posthog"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


@SDKS
def test_each_kind_of_event_arrives_and_names_no_person(collector, sdk):
    client = sdk(collector.url, sdk.default_gzip)
    client.track("Ticket Resolved", {"queue": "card", "price": 9.9})
    kinds = client.everything()
    client.finish()

    events = collector.events
    assert sorted(event.kind for event in events) == kinds
    track = next(event for event in events if event.kind == "track")
    assert (track.name, track.source, track.project) == ("Ticket Resolved", sdk.source, "app")
    assert (track.properties["queue"], track.properties["price"]) == ("card", 9.9)
    assert abs(track.time_ms - track.received_ms) < 10_000
    assert {request["path"] for request in collector.requests} == {sdk.path}
    for secret in (USER, "anon-1234567", "ada@example.com", KEY):
        assert not collector.names(secret)
    assert not collector.dead
    assert not client.errors


@SDKS
@pytest.mark.parametrize("gzip", [False, True])
def test_a_hundred_events_packed_or_not_arrive_once(collector, sdk, gzip):
    client = sdk(collector.url, gzip)
    for number in range(100):
        client.track("x", {"n": number})
    client.finish()

    assert sorted(event.properties["n"] for event in collector.events) == list(range(100))
    packed = {request.get("content-encoding") for request in collector.requests}
    assert packed == ({"gzip"} if gzip and sdk is not PosthogV1 else {None})
    assert not client.errors


@SDKS
def test_after_two_503s_the_events_are_sent_again_and_arrive_once(collector, sdk):
    collector.producer.left = 2
    client = sdk(collector.url, sdk.default_gzip)
    for number in range(5):
        client.track("x", {"n": number})
    client.finish()

    assert collector.producer.refused == 2
    assert sorted(event.properties["n"] for event in collector.events) == list(range(5))
    assert not client.errors


@SDKS
def test_a_bad_event_is_a_dead_letter_and_costs_no_good_one(collector, sdk):
    client = sdk(collector.url, sdk.default_gzip)
    client.track("good", {"n": 1})
    client.track("bad", NUL)
    client.track("good", {"n": 2})
    client.finish()

    assert sorted(event.properties["n"] for event in collector.events) == [1, 2]
    letter, = collector.dead
    assert (letter.code, letter.path.rpartition(".")[2]) == ("nul_character", "text")
    assert not collector.names(USER)
    # Only PostHog's second protocol tells its user about single events.
    assert bool(client.errors) == (sdk is PosthogV1)
    assert sum(1 for request in collector.requests if request["path"] == sdk.path) <= 3


def test_nan_from_pythons_json_costs_only_its_own_event(collector):
    client = Segment(collector.url, False)
    client.track("bad", {"v": float("nan")})
    client.track("good", {"v": 1})
    client.finish()
    assert [event.properties for event in collector.events] == [{"v": 1}]
    assert [letter.code for letter in collector.dead] == ["not_a_number"]


@pytest.mark.parametrize("mode", ["binary", "structured", "batch"])
def test_the_cloudevents_sdk_sends_in_each_mode(collector, mode):
    from cloudevents.core.bindings import http
    from cloudevents.core.v1.event import CloudEvent

    event = CloudEvent({"type": "com.acme.click", "source": "/web", "id": "1", "subject": "sku-1", "specversion": "1.0",
                        "time": datetime(2026, 11, 22, 14, 9, 48, tzinfo=UTC), "userid": USER, "note": "Euro €"},
                       {"item_id": "sku-1"})
    message = http.to_binary_event(event) if mode == "binary" else http.to_structured_event(event)
    headers, body = dict(message.headers), message.body
    if mode == "batch":
        headers, body = {"content-type": "application/cloudevents-batch+json"}, b"[" + body + b"]"
    status, answer = _post(collector.url, "/events", body, headers)

    assert (status, answer["accepted"]) == (200, 1)
    stored, = collector.events
    assert (stored.id, stored.name, stored.kind) == ("/web 1", "com.acme.click", "cloudevent")
    assert stored.properties == {"item_id": "sku-1"}
    assert stored.context["note"] == "Euro €"
    assert stored.subject
    assert not collector.names(USER)


def test_a_bad_cloudevent_from_the_sdk_is_refused_and_after_a_503_a_good_one_is_taken(collector):
    from cloudevents.core.bindings import http
    from cloudevents.core.v1.event import CloudEvent

    event = CloudEvent({"type": "com.acme.click", "source": "/web", "id": "2", "specversion": "1.0"}, NUL)
    message = http.to_structured_event(event)
    status, answer = _post(collector.url, "/events", message.body, dict(message.headers))
    assert (status, answer["code"], answer["path"]) == (400, "nul_character", "data.text")
    collector.producer.left = 1
    event = CloudEvent({"type": "com.acme.click", "source": "/web", "id": "3", "specversion": "1.0"}, {"n": 1})
    message = http.to_binary_event(event)
    assert _post(collector.url, "/events", message.body, dict(message.headers))[0] == 503
    assert _post(collector.url, "/events", message.body, dict(message.headers))[0] == 200
    assert [stored.id for stored in collector.events] == ["/web 3"]


def _post(url, path, body, headers):
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=10)
    connection.request("POST", path, body, {"Authorization": f"Bearer {KEY}", **headers})
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer
