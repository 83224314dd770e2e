"""Keys in headers, pseudonyms, and dotted paths into events."""

import base64

import pytest

from schemas.events import Event
from shared.fields import lookup
from shared.keys import from_headers, name_of
from shared.pseudonym import Pseudonymiser
from shared.settings import Keys

EVENT = Event(id="1", project="p", kind="track", name="n", subject="s", time_ms=1, received_ms=1, source="segment",
              properties={"a": {"b": 1}, "c.d": 2, "l": [1]})


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"authorization": "Basic " + base64.b64encode(b"wk:").decode()}, "wk"),
        ({"authorization": "bearer wk"}, "wk"),
        ({"x-write-key": "wk"}, "wk"),
        ({"x-api-key": "wk"}, "wk"),
        ({"authorization": "Basic !!!"}, None),
        ({"authorization": "Basic " + base64.b64encode(b"\xff\xfe").decode()}, None),
        ({"authorization": "Basic \xe9\xe9"}, None),
        ({"authorization": "Basic"}, None),
        ({}, None),
    ],
)
def test_a_key_is_found_wherever_clients_put_it(headers, key):
    assert from_headers(headers) == key


def test_only_a_known_key_has_a_name():
    keys = Keys(app="k1", web="k2")

    assert [name_of(keys, k) for k in ("k1", "k2", "k", "", None, "\ud800")] == ["app", "web", None, None, None, None]


def test_a_pseudonym_depends_on_project_user_and_secret_and_hides_the_user():
    one, other = Pseudonymiser("a" * 16), Pseudonymiser("b" * 16)

    assert one.subject("p", "ann@example.org") == one.subject("p", "ann@example.org")
    assert len({one.subject("p", "u"), one.subject("q", "u"), other.subject("p", "u"), one.field("p", "u")}) == 4
    assert "ann" not in one.subject("p", "ann@example.org")
    assert one.subject("p", "") == ""


@pytest.mark.parametrize(
    ("path", "value"),
    [("properties.a.b", 1), ("data.a.b", 1), ("properties.c.d", 2), ("properties.a.x", None), ("properties.l.0", None),
     ("properties.a.b.c", None), ("nowhere.a", None)],
)
def test_a_path_finds_its_value_or_none(path, value):
    assert lookup(EVENT, path) == value
