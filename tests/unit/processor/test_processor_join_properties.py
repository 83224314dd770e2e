"""The join, whatever the order: properties over all interleavings, with the tables in memory."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from services.processor.preparing import Preparer
from tests.support.join_reference import expect
from tests.support.memory_sink import MemorySink
from tests.support.stored_streams import BASE_MS, DECLARED, TOPICS, Event, Prediction, cut, records, streams

sizes = st.lists(st.integers(1, 5), max_size=6)


def run(items, batch_sizes, *, replays=1):
    preparer = Preparer(TOPICS, DECLARED)
    sink = MemorySink(DECLARED, preparer)
    for _ in range(replays):
        for batch in cut(records(items), batch_sizes):
            sink.store(batch, preparer.prepare(batch))
    return sink


def reference(items):
    return expect([i for i in items if isinstance(i, Event)], [i for i in items if isinstance(i, Prediction)])


@given(streams(), sizes)
def test_any_order_and_repetition_gives_the_reference_join(stream, batch_sizes):
    items, shuffled = stream
    assert run(shuffled, batch_sizes).actual() == reference(items)


@given(streams(), sizes, sizes)
def test_two_orders_give_the_same_examples(stream, some, others):
    items, shuffled = stream
    assert run(items, some).actual() == run(shuffled, others).actual()


@given(streams(), sizes)
def test_replaying_the_topics_twice_equals_once(stream, batch_sizes):
    _, shuffled = stream
    once, twice = run(shuffled, batch_sizes), run(shuffled, batch_sizes, replays=2)
    assert once.actual() == twice.actual()
    assert once.revisions() == twice.revisions()


@given(streams(), st.data())
@settings(max_examples=50)
def test_overlapping_batches_of_two_owners_equal_one_pass(stream, data):
    _, shuffled = stream
    all_records = records(shuffled)
    preparer = Preparer(TOPICS, DECLARED)
    sink = MemorySink(DECLARED, preparer)
    at = 0
    while at < len(all_records):
        # A new owner starts at an older offset than the one before had reached, as Kafka's hints make it.
        start = data.draw(st.integers(0, at))
        end = data.draw(st.integers(at + 1, len(all_records)))
        batch = all_records[start:end]
        sink.store(batch, preparer.prepare(batch))
        at = end
    assert sink.actual() == run(shuffled, []).actual()


@given(streams(), sizes, st.data())
def test_giving_up_missing_predictions_at_any_moment_changes_no_example(stream, batch_sizes, data):
    items, shuffled = stream
    want = reference(items)
    preparer = Preparer(TOPICS, DECLARED)
    sink = MemorySink(DECLARED, preparer)
    n_orphaned = 0
    for batch in cut(records(shuffled), batch_sizes):
        sink.store(batch, preparer.prepare(batch))
        n_orphaned += sink.orphan(BASE_MS + data.draw(st.sampled_from([0, 40, 70, 20_000])) * 60_000, limit=100)[1]
    n_orphaned += sink.orphan(BASE_MS + 10 * 86_400_000, limit=100)[1]
    assert sink.actual() == want
    assert {key for key, state in sink.states().items() if state == "orphaned"} == {row[4] for row in want.orphans}
    assert "waiting" not in sink.states().values()
    # Given up too early, or for good: each feedback is told of once, and every one that stays without a prediction.
    assert n_orphaned == len(sink.dead()) >= len(want.orphans)


@given(streams())
def test_no_revision_repeats_the_one_before(stream):
    _, shuffled = stream
    revisions = run(shuffled, [1] * len(shuffled)).revisions()
    for before, after in itertools.pairwise(revisions):
        if before[0] == after[0]:
            assert after[1] == before[1] + 1
            assert before[2:] != after[2:]
