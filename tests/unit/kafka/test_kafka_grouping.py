"""Items become frames: nothing lost, nothing doubled, order kept within a partition, sizes bounded."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from schemas.errors import Transient
from shared.kafka.grouping import Ticket, group, partition_of

keys = st.sampled_from(["", "s_1", "s_2", "s_3", "é", "\ud800"])
parts = st.tuples(st.sampled_from(["events", "dead"]), keys, st.binary(max_size=40))
tickets = st.lists(st.lists(parts, min_size=1, max_size=6).map(
    lambda items: Ticket(items, sum(len(data) for _, _, data in items), 0.0, lambda fault: None)), max_size=8)
PARTITIONS = {"events": 4, "dead": 1}


@given(tickets, st.integers(1, 100), st.booleans())
def test_every_item_is_in_exactly_one_frame_of_its_own_partition(sent, max_bytes, one):
    frames = group(sent, PARTITIONS.__getitem__, max_frame_bytes=max_bytes, one_per_record=one)

    wanted = Counter((topic, partition_of(key, PARTITIONS[topic]), data)
                     for ticket in sent for topic, key, data in ticket.parts)
    assert Counter((frame.topic, frame.partition, data) for frame in frames for data in frame.parts) == wanted
    assert all(frame.n_bytes == sum(map(len, frame.parts)) for frame in frames)
    assert all(frame.n_bytes <= max_bytes or len(frame.parts) == 1 for frame in frames)
    if one:
        assert all(len(frame.parts) == 1 and frame.key is not None for frame in frames)


@given(tickets, st.integers(1, 100))
def test_items_of_one_key_keep_their_order(sent, max_bytes):
    frames = group(sent, PARTITIONS.__getitem__, max_frame_bytes=max_bytes)

    for topic, n in PARTITIONS.items():
        for partition in range(n):
            went = [data for ticket in sent for named, key, data in ticket.parts
                    if named == topic and partition_of(key, n) == partition]
            came = [data for frame in frames if (frame.topic, frame.partition) == (topic, partition)
                    for data in frame.parts]
            assert came == went


@given(tickets, st.integers(1, 100), st.randoms())
def test_a_caller_is_told_once_all_frames_with_its_items_are_acknowledged_in_whatever_order(sent, max_bytes, random):
    frames = group(sent, PARTITIONS.__getitem__, max_frame_bytes=max_bytes)
    random.shuffle(frames)

    left = list(frames)
    for frame in frames:
        left.remove(frame)
        for ticket in frame.tickets:
            last = ticket.acknowledge()
            assert last == (not any(other is ticket for waiting in left for other in waiting.tickets))


def test_a_caller_gets_its_first_answer_only():
    told = []
    ticket = Ticket([("events", "k", b"1")], 1, 0.0, told.append)
    ticket.resolve(Transient("away"))
    ticket.resolve(None)
    assert [type(fault) for fault in told] == [Transient]


def test_the_partition_of_a_key_never_changes():
    # Changing it would break the order per subject in every topic that exists.
    assert [partition_of(key, 12) for key in ("", "s_0123456789abcdef0123456789abcdef", "é")] == [0, 2, 2]
