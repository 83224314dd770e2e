"""Frames: many items in one record, and one bad item never costs its neighbours."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from schemas.events import Event
from schemas.frames import FRAME, SINGLE, Decoder, content_type, encode, encode_one

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",))),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(exclude_categories=("Cs",)),
                                                                        max_size=5), inner, max_size=3),
    max_leaves=8,
)
text = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
events = st.builds(
    Event, id=text, project=text, kind=st.sampled_from(["track", "identify", "cloudevent"]), name=text, subject=text,
    time_ms=st.integers(0, 2**53), received_ms=st.integers(0, 2**53), source=text,
    properties=st.dictionaries(text, json_values, max_size=4),
)


@given(st.lists(events, max_size=5))
def test_a_frame_comes_back_as_it_went(items):
    assert Decoder(Event).decode(encode(items), FRAME) == (items, [])


@given(events)
def test_a_single_item_record_is_read_without_a_header(item):
    assert Decoder(Event).decode(encode_one(item), content_type(None)) == ([item], [])


@given(st.binary(max_size=60))
def test_no_bytes_break_the_decoder(value):
    for kind in (FRAME, SINGLE, "text/plain"):
        good, bad = Decoder(Event).decode(value, kind)
        assert not good or not bad


@given(st.lists(events, min_size=1, max_size=4), st.integers(0, 4))
def test_one_bad_item_costs_no_good_one(items, position):
    parts = [msgspec.Raw(encode_one(item)) for item in items]
    parts.insert(min(position, len(parts)), msgspec.Raw(b'{"id": 7}'))

    good, bad = Decoder(Event).decode(msgspec.json.encode(parts), FRAME)

    assert good == items
    assert [(raw, exc.code) for raw, exc in bad] == [(b'{"id": 7}', "undecodable")]


def test_the_header_is_found_whatever_its_case():
    assert content_type([("Content-Type", FRAME.encode())]) == FRAME
