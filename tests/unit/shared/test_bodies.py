"""Bodies are read and unpacked with a cap."""

import asyncio
import contextlib
import gzip
import zlib

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import Invalid
from shared import bodies

PACKERS = {"gzip": gzip.compress, "deflate": zlib.compress, "zstd": zstandard.compress}


def receiver(*parts):
    messages = [{"type": "http.request", "body": part, "more_body": index < len(parts) - 1}
                for index, part in enumerate(parts)]

    async def receive():
        return messages.pop(0) if messages else {"type": "http.disconnect"}

    return receive


@given(data=st.binary(max_size=2000), name=st.sampled_from(sorted(PACKERS)))
def test_unpacking_undoes_packing(data, name):
    if data.startswith(b"\x1f\x8b"):
        return  # taken for gzip once more, on purpose
    assert bodies.unpack(PACKERS[name](data), name, 5000) == data


def test_a_few_encodings_in_a_row_are_undone_and_many_are_refused():
    data = b"{}"
    for _ in range(5):
        data = gzip.compress(data)
    assert bodies.unpack(gzip.compress(gzip.compress(b"{}")), "gzip, gzip", 100) == b"{}"
    with pytest.raises(Invalid) as caught:
        bodies.unpack(data, ", ".join(["gzip"] * 5), 1000)
    assert caught.value.code == "unsupported_encoding"


@given(name=st.sampled_from(sorted(PACKERS)), cap=st.integers(0, 999))
def test_more_than_the_cap_is_never_unpacked(name, cap):
    with pytest.raises(Invalid) as caught:
        bodies.unpack(PACKERS[name](b"x" * 1000), name, cap)
    assert caught.value.code == "too_large"


@given(data=st.binary(max_size=200), name=st.sampled_from([*PACKERS, "br", "identity", "x"]))
def test_any_bytes_are_unpacked_or_refused(data, name):
    with contextlib.suppress(Invalid):
        assert len(bodies.unpack(data, name, 10_000)) <= 10_000


def test_gzip_of_several_members_and_raw_deflate_are_unpacked():
    assert bodies.unpack(gzip.compress(b"ab") + gzip.compress(b"cd"), "gzip", 10) == b"abcd"
    packer = zlib.compressobj(wbits=-15)
    assert bodies.unpack(packer.compress(b"abcd") + packer.flush(), "deflate", 10) == b"abcd"


async def test_a_body_in_parts_is_put_together():
    assert await bodies.read(receiver(b"ab", b"cd", b""), {}, 10) == b"abcd"


async def test_a_body_over_the_cap_is_read_to_its_end_and_refused():
    receive = receiver(*[b"x" * 10] * 5)
    with pytest.raises(Invalid) as caught:
        await bodies.read(receive, {"content-length": "50"}, 20)
    assert caught.value.code == "too_large"
    assert (await receive())["type"] == "http.disconnect"


async def test_a_body_without_end_is_not_read_for_ever():
    async def receive():
        return {"type": "http.request", "body": b"x" * 10, "more_body": True}

    with pytest.raises(Invalid) as caught:
        await bodies.read(receive, {}, 20)
    assert caught.value.code == "too_large"


async def test_a_client_that_goes_away_or_is_too_slow_is_named():
    with pytest.raises(Invalid) as caught:
        await bodies.read(_gone(), {}, 20)
    assert caught.value.code == "disconnected"
    with pytest.raises(Invalid) as caught:
        await bodies.read(_slow(), {}, 20, timeout_s=0.01)
    assert caught.value.code == "timeout"


async def test_a_client_that_sends_nothing_at_all_is_too_slow():
    with pytest.raises(Invalid) as caught:
        await bodies.read(asyncio.Event().wait, {}, 20, timeout_s=0.01)
    assert caught.value.code == "timeout"


async def test_memory_is_set_aside_for_what_has_come_and_is_kept():
    kept = []
    assert await bodies.read(receiver(b"ab", b"cde", b""), {"content-length": "900"}, 1000, reserve=kept.append)
    assert sum(kept) == 5


def _gone():
    messages = [{"type": "http.request", "body": b"ab", "more_body": True}, {"type": "http.disconnect"}]

    async def receive():
        return messages.pop(0)

    return receive


def _slow():
    messages = [{"type": "http.request", "body": b"ab", "more_body": True}]

    async def receive():
        return messages.pop(0) if messages else await asyncio.Event().wait()

    return receive
