"""No user's id and no configured field reaches Kafka, wherever the sender put it."""

import json
import math
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from schemas.dead import DeadLetter
from schemas.events import Event
from schemas.frames import encode_one
from schemas.posthog import Capture
from schemas.segment import Call
from services.collector import cloudevents, intake, posthog, segment
from services.collector.limits import Limits
from services.collector.privacy import Privacy
from shared.pseudonym import Pseudonymiser

LIMITS = Limits(max_event_bytes=1 << 20)
ids = st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=("Cs",)), min_size=6,
              max_size=24).filter(lambda text: text.strip() == text and "s_" not in text)

# What stands in every stored event or dead letter, and so would also be found as an id.
OUR_WORDS = " ".join((
    *Event.__struct_fields__, *DeadLetter.__struct_fields__, *Call.__struct_fields__, *segment.TYPES,
    *Capture.__struct_fields__, "posthog", "segment", "rudder", "cloudevents", "collector", "subjects", "$user_id",
    "$device_id", "$create_alias", "missing_field", "unknown_type", "the field is missing or empty")).lower()


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


@pytest.mark.parametrize(("user", "properties"), [
    (r"alice\/77", '{"note":"by alice/77"}'), (r"alice\/77", r'{"note":"alice\u002f77"}'),
    ("alice/77", r'{"note":"by \u0061lice/77"}'), ("alice/77", r'{"note":"alice/7\u0037 said"}'),
    ("alice/77", '{"note":"by ALICE/77"}'), ("Alice/77", '{"alice/77":{"ALICE/77":1}}'),
    ("alice/77", '{"note":"?u=alice%2f77"}'), ("alice/77", '{"note":"?u=Alice%2F77"}'),
    ("alice 77", '{"note":"?u=alice+77"}'), ("alice", '{"who":"Alice"}'),
])
def test_a_users_id_is_replaced_in_other_letter_case_and_however_it_is_escaped(user, properties):
    own = privacy()
    body = f'{{"batch":[{{"type":"track","event":"x","userId":"{user}","properties":{properties}}}]}}'
    envelope = segment.open_batch(body.encode(), LIMITS)
    event = intake.take(envelope.raws, arrival(), segment.Reader(own, LIMITS), own, LIMITS).events[0]
    assert "alice" not in encode_one(event).decode().lower()
    assert event.subject in json.dumps(event.properties)


def test_an_id_that_is_not_ascii_is_replaced_in_other_letter_case_and_in_a_url():
    call = {"type": "track", "event": "x", "userId": "élodie@x", "properties": {
        "a": "by ÉLODIE@X", "b": f"?u={quote('élodie@x').lower()}", "c": "?u=%C3%A9lodie@x"}}
    _, text = stored(segment.open_batch, segment.Reader(privacy(), LIMITS), {"batch": [call]}, privacy())
    assert "lodie" not in text.lower()


def test_a_short_number_is_left_alone_outside_of_id_fields_because_it_may_be_a_label():
    call = {"type": "track", "event": "Rated", "userId": "7", "properties": {"queue": "7", "user_id": "7", "stars": 7}}
    taken, _ = stored(segment.open_batch, segment.Reader(privacy(), LIMITS), {"batch": [call]}, privacy())
    event = taken.events[0]
    assert event.properties == {"queue": "7", "user_id": event.subject, "stars": 7}


def test_a_short_id_is_replaced_only_where_it_is_the_whole_value():
    call = {"type": "track", "event": "u1 again", "userId": "u1", "properties": {"who": "u1", "text": "menu1 u1"}}
    taken, _ = stored(segment.open_batch, segment.Reader(privacy(), LIMITS), {"batch": [call]}, privacy())
    event = taken.events[0]
    assert event.properties == {"who": event.subject, "text": "menu1 u1"}


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(user=ids, anonymous=ids, previous=ids, kind=st.sampled_from(["track", "alias", "zap", "group"]))
def test_no_id_of_any_kind_of_call_is_ever_stored(user, anonymous, previous, kind):
    assume(not any(id_.lower() in OUR_WORDS for id_ in (user, anonymous, previous)))
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
    assume(not any(id_.lower() in OUR_WORDS for id_ in (user, anonymous)))
    capture = {"event": event, "distinct_id": user, "uuid": "1", "$set": {"email": user},
               "properties": {"$anon_distinct_id": anonymous, "$user_id": user, "$device_id": anonymous,
                              "alias": anonymous, "deep": [{"x": user}], "distinct_id": user}}
    _, text = stored(posthog.open_body, posthog.Reader(privacy(), LIMITS), {"batch": [capture]}, privacy())
    for id_ in (user, anonymous) if event == "$create_alias" else (user,):
        assert json.dumps(id_, ensure_ascii=False)[1:-1] not in text


BOB = "bob-654321"
NESTED = [{"team": {"userId": BOB}}, {"list": [{"user_id": BOB}]}, {"a": {"distinct_id": BOB}},
          {"a": [[{"anonymousId": BOB}]]}, {"a": {"previousId": BOB}}, {"a": {"userID": BOB}},
          {"a": {"$anon_distinct_id": BOB}}, {"a": {"$device_id": BOB}}, {"a": {"user_id": {BOB: [BOB]}}}]


@pytest.mark.parametrize("nested", NESTED)
@pytest.mark.parametrize("place", ["properties", "traits", "context"])
def test_other_users_that_an_event_names_are_subjects_at_any_depth(place, nested):
    own = privacy()
    call = {"type": "track", "event": "x", "userId": "user-123456", place: nested}
    taken, text = stored(segment.open_batch, segment.Reader(own, LIMITS), {"batch": [call]}, own)
    assert len(taken.events) == 1
    assert BOB not in text
    assert own.subject("app", BOB) in text


@pytest.mark.parametrize("nested", NESTED)
def test_other_users_in_a_batchs_context_in_captures_and_in_cloudevents_are_subjects_too(nested):
    own = privacy()
    call = {"type": "track", "event": "x", "userId": "user-123456"}
    _, text = stored(segment.open_batch, segment.Reader(own, LIMITS, context=nested), {"batch": [call]}, own)
    for capture in ({"properties": nested}, {"$set": nested}, {"properties": {"$set_once": nested}}):
        capture = {"event": "x", "distinct_id": "user-123456", **capture}
        text += stored(posthog.open_body, posthog.Reader(own, LIMITS), {"batch": [capture]}, own)[1]
    headers = {"content-type": cloudevents.BATCH}
    for sent in ({"data": nested}, {"data": [nested]}):
        sent = {"specversion": "1.0", "id": "1", "type": "t", "source": "/w", **sent}
        text += stored(lambda body, limits: cloudevents.open_request(body, headers, limits),
                       cloudevents.Reader(own, LIMITS), [sent], own)[1]
    assert BOB not in text
    assert text.count(own.subject("app", BOB)) >= 6


def test_an_id_that_is_also_a_configured_field_is_the_subject_and_not_the_hash_of_it():
    own = Privacy(Pseudonymiser("unit-test-key-0123456789"), ["properties.user_id"])
    call = {"type": "track", "event": "x", "userId": "user-123456", "properties": {"user_id": BOB}}
    taken, _ = stored(segment.open_batch, segment.Reader(own, LIMITS), {"batch": [call]}, own)
    assert taken.events[0].properties["user_id"] == own.subject("app", BOB)


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


ALICE = "alice@example.com"


@pytest.mark.parametrize("bad", [
    {"timestamp": ALICE}, {"userId": "user-123456", "timestamp": ALICE}, {"type": ALICE}, {"type": "ALICE@example.com"},
    {"userId": {ALICE: 1}}, {"userId": [ALICE]}, {"userId": [{"id": ALICE}], "event": f"by {ALICE}"},
    {"userId": {"x": ALICE}, "properties": {f"of {ALICE}": 1}}, {"properties": {ALICE: math.nan}},
    {"userId": "user-123456", "properties": {f"x {ALICE}": {ALICE: math.nan}}}, {"properties": {"v": [{ALICE: "\0"}]}},
    {"userId": "user-123456", "event": None, "traits": {"id": ALICE}, "properties": {"deep": [ALICE.upper()]}},
    {"userId": "user-123456", "event": None, "context": {"traits": {"id": ALICE}}},
    {"userId": "user-123456", "event": None, "properties": {"search": "?mail=alice%40example.com"}},
])
@pytest.mark.parametrize("fields", [None, ["properties.card"]])
def test_a_dead_letter_names_no_person_in_its_message_its_path_or_its_keys(bad, fields):
    own = privacy() if fields is None else Privacy(Pseudonymiser("unit-test-key-0123456789"), fields)
    call = {"type": "track", "event": "x", "userId": ALICE, **bad}
    taken, text = stored(segment.open_batch, segment.Reader(own, LIMITS), {"batch": [call]}, own)
    assert len(taken.dead) == 1
    assert taken.dead[0].payload
    assert "alice" not in text.lower()


def test_an_id_that_is_no_address_is_found_in_the_path_and_in_traits_whatever_fields_are_configured():
    own = Privacy(Pseudonymiser("unit-test-key-0123456789"), ["properties.card"])
    call = {"type": "identify", "userId": "user-123456", "traits": {"id": "bob-654321"},
            "properties": {"user-123456": {"Bob-654321": math.nan}}}
    taken, text = stored(segment.open_batch, segment.Reader(own, LIMITS), {"batch": [call]}, own)
    subjects = own.subject("app", "user-123456"), own.subject("app", "bob-654321")
    assert taken.dead[0].path == f"batch.0.properties.{subjects[0]}.{subjects[1]}"
    assert "user-123456" not in text
    assert "bob-654321" not in text.lower()


def test_messages_quote_no_value():
    for path, body in (("timestamp", {"timestamp": "tomorrow at Ada's"}), ("type", {"type": "Ada's"})):
        call = {"type": "track", "event": "x", "userId": "user-123456", **body}
        taken, _ = stored(segment.open_batch, segment.Reader(privacy(), LIMITS), {"batch": [call]}, privacy())
        assert taken.verdicts[0].path == f"batch.0.{path}"
        assert "Ada" not in taken.verdicts[0].message


def test_a_dead_letters_id_cannot_be_found_by_guessing_the_event():
    letters = []
    for key in ("unit-test-key-0123456789", "another-key-0123456789"):
        own = Privacy(Pseudonymiser(key))
        taken, _ = stored(segment.open_batch, segment.Reader(own, LIMITS), {"batch": [{"type": "track"}]}, own)
        letters.append(taken.dead[0].id)
    assert letters[0] != letters[1]


def test_a_refused_event_with_a_thousand_ids_is_kept_without_its_payload():
    call = {"type": "track", "properties": {"users": [{"userId": f"user-{n:06}"} for n in range(1000)]}}
    taken, text = stored(segment.open_batch, segment.Reader(privacy(), LIMITS), {"batch": [call]}, privacy())
    assert taken.dead[0].payload == ""
    assert "user-0" not in text


@pytest.mark.parametrize("path", ["email", "body.email", "traits", "", "properties."])
def test_a_wrong_path_in_the_settings_is_refused(path):
    with pytest.raises(ValueError, match="is not a path"):
        Privacy(Pseudonymiser("unit-test-key-0123456789"), [path])
