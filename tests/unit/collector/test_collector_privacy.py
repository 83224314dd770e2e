"""No user's id and no configured field reaches Kafka, wherever the sender put it."""

import json
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.frames import encode_one
from services.collector import intake, posthog, segment
from services.collector.limits import Limits
from services.collector.privacy import Privacy
from shared.pseudonym import Pseudonymiser

LIMITS = Limits(max_event_bytes=1 << 20)
ids = st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=("Cs",)), min_size=6,
              max_size=24).filter(lambda text: text.strip() == text and "s_" not in text)


def arrival():
    return intake.Arrival("app", "/v1/batch", 1_795_356_600_000, lambda: "gen", None)


def stored(open_body, reader, body, privacy):
    envelope = open_body(json.dumps(body).encode(), LIMITS)
    taken = intake.take(envelope.raws, arrival(), reader, privacy, LIMITS, prefix=envelope.prefix)
    return taken, "\n".join(json.dumps(json.loads(encode_one(item)), ensure_ascii=False)
                            for item in (*taken.events, *taken.dead))


def privacy():
    return Privacy(Pseudonymiser("unit-test-key-0123456789"))


@pytest.mark.parametrize("place", [
    {"properties": {"note": "seen by user-123456 today"}}, {"properties": {"user-123456": 1}},
    {"properties": {"list": [["user-123456"]]}}, {"properties": {"userId": "user-123456"}},
    {"context": {"traits": {"id": "user-123456"}}}, {"traits": {"owner": "user-123456"}},
    {"context": {"page": {"url": "https://x.example/u/user-123456?x=1"}}}, {"event": "Clicked by user-123456"},
    {"messageId": "user-123456-0001"}, {"context": {"externalIds": [{"id": "user-123456", "type": "x"}]}},
])
def test_a_users_id_is_replaced_wherever_it_stands(place):
    call = {"type": "track", "event": "x", "userId": "user-123456", **place}
    _, text = stored(segment.open_batch, segment.Reader(privacy(), LIMITS), {"batch": [call]}, privacy())
    assert "user-123456" not in text


def test_a_users_id_is_replaced_where_it_stands_in_a_url():
    call = {"type": "track", "event": "x", "userId": "ada+1@example.com",
            "context": {"page": {"search": f"?mail={quote('ada+1@example.com')}"}}}
    _, text = stored(segment.open_batch, segment.Reader(privacy(), LIMITS), {"batch": [call]}, privacy())
    assert "ada" not in text


def test_a_short_id_is_replaced_only_where_it_is_the_whole_value():
    call = {"type": "track", "event": "u1 again", "userId": "u1", "properties": {"who": "u1", "text": "menu1 u1"}}
    taken, _ = stored(segment.open_batch, segment.Reader(privacy(), LIMITS), {"batch": [call]}, privacy())
    event = taken.events[0]
    assert event.properties == {"who": event.subject, "text": "menu1 u1"}


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(user=ids, anonymous=ids, previous=ids, kind=st.sampled_from(["track", "alias", "zap", "group"]))
def test_no_id_of_any_kind_of_call_is_ever_stored(user, anonymous, previous, kind):
    call = {"type": kind, "event": "x", "userId": user, "anonymousId": anonymous, "previousId": previous,
            "groupId": "g", "messageId": "m",
            "properties": {"a": [user, {"b": f"<{anonymous}>"}], "c": {previous: user}},
            "context": {"traits": {"id": user, "email": previous}}}
    _, text = stored(segment.open_batch, segment.Reader(privacy(), LIMITS), {"batch": [call]}, privacy())
    loaded = json.dumps([json.loads(line) for line in text.splitlines()], ensure_ascii=False)
    for id_ in (user, anonymous, previous):
        assert json.dumps(id_, ensure_ascii=False)[1:-1] not in loaded


@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
@given(user=ids, anonymous=ids, event=st.sampled_from(["x", "$identify", "$create_alias", ""]))
def test_no_id_of_any_capture_is_ever_stored(user, anonymous, event):
    capture = {"event": event, "distinct_id": user, "uuid": "1", "$set": {"email": user},
               "properties": {"$anon_distinct_id": anonymous, "$user_id": user, "$device_id": anonymous,
                              "alias": anonymous, "deep": [{"x": user}], "distinct_id": user}}
    _, text = stored(posthog.open_body, posthog.Reader(privacy(), LIMITS), {"batch": [capture]}, privacy())
    for id_ in (user, anonymous) if event == "$create_alias" else (user,):
        assert json.dumps(id_, ensure_ascii=False)[1:-1] not in text


def test_configured_fields_are_hashes_and_everything_else_is_kept():
    own = Privacy(Pseudonymiser("unit-test-key-0123456789"), ["properties.card.number", "traits.city"])
    call = {"type": "identify", "userId": "user-123456", "traits": {"city": "Bern", "plan": "pro"},
            "properties": {"card": {"number": 4111, "kind": "visa"}}}
    taken, _ = stored(segment.open_batch, segment.Reader(own, LIMITS), {"batch": [call]}, own)
    event = taken.events[0]
    assert event.traits["city"].startswith("h_")
    assert event.traits["plan"] == "pro"
    assert event.properties["card"]["number"].startswith("h_")
    assert event.properties["card"]["kind"] == "visa"


def test_a_group_id_stays_unless_it_is_configured():
    call = {"type": "group", "userId": "user-123456", "groupId": "company-7"}
    own = Privacy(Pseudonymiser("unit-test-key-0123456789"), ["context.groupId"])
    kept, _ = stored(segment.open_batch, segment.Reader(privacy(), LIMITS), {"batch": [call]}, privacy())
    hidden, text = stored(segment.open_batch, segment.Reader(own, LIMITS), {"batch": [call]}, own)
    assert kept.events[0].context["groupId"] == "company-7"
    assert hidden.events[0].context["groupId"].startswith("h_")
    assert "company-7" not in text


def test_a_field_that_holds_an_object_is_hidden_leaf_by_leaf():
    call = {"type": "identify", "userId": "user-123456", "traits": {"address": {"street": "Main 1", "lines": ["A", 2]}}}
    taken, text = stored(segment.open_batch, segment.Reader(privacy(), LIMITS), {"batch": [call]}, privacy())
    assert set(taken.events[0].traits["address"]) == {"street", "lines"}
    assert "Main 1" not in text


def test_a_refused_event_is_kept_without_what_names_a_person():
    call = {"type": "track", "userId": "user-123456", "writeKey": "WK-secret", "messageId": "m-1",
            "context": {"ip": "10.1.2.3"}, "properties": {"email": "ada@example.com", "note": "by user-123456", "n": 7}}
    taken, text = stored(segment.open_batch, segment.Reader(privacy(), LIMITS), {"batch": [call]}, privacy())
    payload = json.loads(taken.dead[0].payload)
    assert payload["properties"]["n"] == 7
    assert payload["messageId"] == "m-1"
    for secret in ("user-123456", "WK-secret", "10.1.2.3", "ada@example.com"):
        assert secret not in text


@pytest.mark.parametrize("path", ["email", "body.email", "traits", "", "properties."])
def test_a_wrong_path_in_the_settings_is_refused(path):
    with pytest.raises(ValueError, match="is not a path"):
        Privacy(Pseudonymiser("unit-test-key-0123456789"), [path])
