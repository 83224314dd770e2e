"""The sink in memory and the one on Postgres do the same, batch for batch."""

import threading
import time

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.loops import parse
from schemas.predictions import Prediction
from services.processor import statements as sql
from services.processor.preparing import Preparer
from services.processor.sink import Sink
from services.processor.storing import Storer
from shared.missing import Missing
from tests.support.memory_sink import MemorySink
from tests.support.stored_streams import BASE_MS, DECLARED, TOPICS, Event, cut, records, streams
from tests.support.tables import Tables

WRITTEN = ("events", "predictions", "feedback", "joins", "loop_counters", "labels", "observations", "dead_letters",
           "offsets")
# Beta has a default here, and the shortest window, so that some mature in the middle of the stream.
WITH_DEFAULT = DECLARED | {"beta": parse("""
name = "beta"
default_label = "none"
[feedback.correction]
event = "Resolved"
label = "properties.queue"
window = "30m"
""")}


class RealSink:
    """The sink on Postgres, with the tables in the reference's form."""

    def __init__(self, url, loops):
        self.tables = Tables(url)
        with psycopg.connect(url, autocommit=True) as connection:
            for table in WRITTEN:
                connection.execute(f"DELETE FROM {table}")
        self.sink = Sink(url, loops, Preparer(TOPICS, loops))
        self.store, self.mature, self.orphan = self.sink.store, self.sink.mature, self.sink.orphan
        self.missing = self.sink.missing

    def actual(self):
        return self.tables.actual()

    def states(self):
        return dict(self.tables.rows("SELECT prediction_id, state FROM joins"))

    def dead(self):
        return set(self.tables.rows("""SELECT id, code, path, message, (extract(epoch FROM event_time) * 1000)::bigint
                                       FROM dead_letters"""))

    def revisions(self):
        return sorted(self.tables.rows("SELECT prediction_id, revision, label, source FROM examples"))


@pytest.fixture
def real(postgres_url):
    made = []

    def make():
        for sink in made:
            sink.sink.close()
        made.append(RealSink(postgres_url, WITH_DEFAULT))
        return made[-1]

    yield make
    made[-1].sink.close()


# Minutes after which feedback of beta, of alpha's clicks, and of everything is given up.
GIVEN_UP = st.sampled_from([40, 70, 100, 8 * 1440])


@given(streams(), st.lists(st.integers(1, 5), max_size=6), st.integers(0, 6),
       st.dictionaries(st.integers(0, 6), GIVEN_UP))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_sinks_give_the_same_tables_after_every_batch(real, stream, sizes, mature_at, orphan_at):
    _, shuffled = stream
    preparer = Preparer(TOPICS, WITH_DEFAULT)
    ours, twin = real(), MemorySink(WITH_DEFAULT, preparer)
    for number, batch in enumerate(cut(records(shuffled), sizes)):
        if number == mature_at:
            now_ms = BASE_MS + 45 * 60_000
            assert ours.mature(now_ms, limit=100) == twin.mature(now_ms, limit=100)
        if number in orphan_at:
            now_ms = BASE_MS + orphan_at[number] * 60_000
            assert ours.orphan(now_ms, limit=100) == twin.orphan(now_ms, limit=100)
        for sink in (ours, twin):
            sink.store(batch, preparer.prepare(batch))
        assert ours.actual() == twin.actual()
        assert ours.revisions() == twin.revisions()
        assert ours.states() == twin.states()
        assert ours.missing() == twin.missing()
        assert ours.dead() == twin.dead()
    ours.tables.check_numbering()


def halves(number):
    prediction = Prediction(id=f"pr_{number:04}", loop="alpha", version="v1", subject="s", time_ms=BASE_MS,
                            input={"text": "t"}, label="a")
    feedback = Event(id=f"e_{number:04}", project="app", kind="track", name="Resolved", subject="s",
                     time_ms=BASE_MS + 1, received_ms=BASE_MS + 1, source="segment",
                     properties={"prediction_id": prediction.id, "queue": "a"})
    return prediction, feedback


def side_by_side(work, parts):
    """Run ``work`` of each part in a thread of its own until all have ended, a minute at most."""
    threads = [threading.Thread(target=work, args=[part], daemon=True) for part in parts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)


def test_two_workers_that_bring_the_two_halves_at_once_always_join_them(postgres_url):
    n, size = 1200, 40
    pairs = [halves(number) for number in range(n)]
    # Block by block at the same time, in opposite order, so that they meet in the middle of batches.
    blocks = [pairs[start: start + size] for start in range(0, n, size)]
    streams_of_workers = [[prediction for prediction, _ in pairs],
                          [feedback for block in blocks for _, feedback in reversed(block)]]
    barrier = threading.Barrier(2)
    errors = []

    def work(items):
        preparer = Preparer(TOPICS, DECLARED)
        sink = Sink(postgres_url, DECLARED, preparer)
        try:
            for batch in cut(records(items), [size] * (n // size)):
                barrier.wait(timeout=30)
                sink.store(batch, preparer.prepare(batch))
        except Exception as exc:  # noqa: BLE001
            errors.append(exc)
            barrier.abort()
        finally:
            sink.close()

    side_by_side(work, streams_of_workers)
    assert errors == []
    tables = Tables(postgres_url)
    assert tables.value("SELECT count(*) FROM examples") == n
    assert tables.rows("SELECT DISTINCT state FROM joins") == [("labelled",)]
    tables.check_numbering()


def test_two_workers_mature_each_prediction_once(postgres_url):
    n = 2000
    preparer = Preparer(TOPICS, WITH_DEFAULT)
    sinks = [Sink(postgres_url, WITH_DEFAULT, preparer) for _ in range(2)]
    batch = records([Prediction(id=f"pr_{number}", loop="beta", version="v1", subject="s", time_ms=BASE_MS + number,
                                input={"text": "t"}) for number in range(n)])
    sinks[0].store(batch, preparer.prepare(batch))
    now_ms = BASE_MS + 3_600_000
    done = [0, 0]

    def work(number):
        while (count := sinks[number].mature(now_ms, limit=50)[0]) or done[0] + done[1] < n:
            done[number] += count

    side_by_side(work, (0, 1))
    for sink in sinks:
        sink.close()
    tables = Tables(postgres_url)
    assert sum(done) == n
    assert tables.value("SELECT count(*) FROM examples") == n
    assert tables.value("SELECT count(*) FROM joins WHERE state = 'matured'") == n
    tables.check_numbering()


@pytest.fixture
def stored(real):
    """A sink on Postgres, its twin, and a way to store one item after the other in both."""
    sinks = real(), MemorySink(WITH_DEFAULT, Preparer(TOPICS, WITH_DEFAULT))
    preparer = Preparer(TOPICS, WITH_DEFAULT)

    def store(*items):
        for batch in cut(records(items), [1] * len(items)):
            for sink in sinks:
                sink.store(batch, preparer.prepare(batch))

    return *sinks, store


@pytest.mark.parametrize("which", [0, 1])
def test_feedback_is_orphaned_once_and_joined_should_its_prediction_still_come(stored, which):
    sink = stored[which]
    store = stored[2]
    prediction, feedback = halves(1)
    store(feedback)
    gives_up_ms = feedback.received_ms + 7 * 24 * 3_600_000
    assert sink.missing() == {"alpha": Missing(1, feedback.received_ms, 0)}
    assert sink.orphan(gives_up_ms - 1, limit=10) == (0, 0)
    # Both loops learn from this event, so each has lost something.
    assert sink.orphan(gives_up_ms, limit=10) == (1, 2)
    assert sink.orphan(gives_up_ms, limit=10) == (0, 0)
    assert sink.missing() == {"alpha": Missing(0, None, 1)}
    assert {(code, path) for _, code, path, _, _ in sink.dead()} == {("orphaned", "properties.prediction_id")}
    store(feedback, prediction)
    assert sink.missing() == {}
    assert sink.revisions() == [("pr_0001", 1, "a", "correction")]
    assert len(sink.dead()) == 2


@pytest.mark.parametrize("which", [0, 1])
def test_further_feedback_makes_a_missing_prediction_be_waited_for_again(stored, which):
    sink = stored[which]
    store = stored[2]
    _, first = halves(1)
    week_ms = 7 * 24 * 3_600_000
    later = msgspec.structs.replace(first, id="e_later", received_ms=first.received_ms + 1000)
    latest = msgspec.structs.replace(first, id="e_latest", received_ms=first.received_ms + week_ms + 5000)
    store(first, later)
    assert sink.missing() == {"alpha": Missing(1, first.received_ms, 0)}
    assert sink.orphan(first.received_ms + week_ms, limit=10) == (0, 0)
    assert sink.orphan(later.received_ms + week_ms, limit=10) == (1, 4)
    store(first, later, latest)
    assert sink.missing() == {"alpha": Missing(1, latest.received_ms, 0)}
    assert sink.orphan(latest.received_ms + week_ms, limit=10) == (1, 2)


def test_two_workers_orphan_each_feedback_once(postgres_url):
    n = 2000
    preparer = Preparer(TOPICS, DECLARED)
    sinks = [Sink(postgres_url, DECLARED, preparer) for _ in range(2)]
    batch = records([halves(number)[1] for number in range(n)])
    sinks[0].store(batch, preparer.prepare(batch))
    done = [(0, 0), (0, 0)]

    def work(number):
        while (counts := sinks[number].orphan(BASE_MS + 8 * 86_400_000, limit=50))[0] or sum(d[0] for d in done) < n:
            done[number] = done[number][0] + counts[0], done[number][1] + counts[1]

    side_by_side(work, (0, 1))
    for sink in sinks:
        sink.close()
    tables = Tables(postgres_url)
    assert tuple(map(sum, zip(*done, strict=True))) == (n, 2 * n)
    assert tables.value("SELECT count(*) FROM dead_letters WHERE code = 'orphaned'") == 2 * n
    assert tables.rows("SELECT n_waiting, n_orphaned FROM missing_predictions") == [(0, n)]


def test_missing_predictions_are_counted_and_given_up_by_one_small_index(postgres_url):
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("""INSERT INTO joins SELECT 'pr_' || n, 'alpha', now(), now(), 'labelled', NULL
                              FROM generate_series(1, 20000) n""")
        connection.execute("ANALYZE joins")
        for statement, arguments in [("SELECT * FROM missing_predictions", []), (sql.LOCK_ORPHANS, [1, 10])]:
            plan = "\n".join(row[0] for row in connection.execute("EXPLAIN " + statement, arguments).fetchall())
            assert "joins_missing" in plan
            assert "Seq Scan" not in plan


def test_feedback_that_waited_is_marked_late_when_its_prediction_comes(real):
    sink = real()
    preparer = Preparer(TOPICS, WITH_DEFAULT)
    prediction, in_time = halves(1)
    hours_later = BASE_MS + 8 * 24 * 3_600_000
    late = msgspec.structs.replace(in_time, id="e_late", time_ms=hours_later, received_ms=hours_later)
    for batch in cut(records([in_time, late, prediction]), [1, 1, 1]):
        sink.store(batch, preparer.prepare(batch))
    assert sorted(sink.tables.rows("SELECT event_id, late FROM feedback WHERE loop = 'alpha'")) == [
        ("e_0001", False), ("e_late", True)]
    assert sink.tables.rows("SELECT label, late, revision FROM examples") == [("a", True, 1)]


def test_a_batch_that_holds_something_known_is_stored_once_and_the_rest_of_it_as_well(real):
    sink = real()
    preparer = Preparer(TOPICS, WITH_DEFAULT)
    known, new = [item for number in (1, 2) for item in halves(number)], list(halves(3))
    for offset, items in [(0, known), (100, known + new), (200, known)]:
        batch = records(items, start=offset)
        for record in batch:
            sink.sink.set_fences(sink.sink.fences(), {record.partition: offset})
        stored = sink.store(batch, preparer.prepare(batch))
        assert (stored.n_events, stored.n_repeated) == {0: (2, 0), 100: (1, 2), 200: (0, 2)}[offset]
    assert sink.revisions() == [(f"pr_000{number}", 1, "a", "correction") for number in (1, 2, 3)]
    sink.tables.check_numbering()


def test_two_workers_that_bring_the_same_events_at_once_store_them_once(postgres_url):
    n, size = 600, 40
    items = [item for number in range(n) for item in halves(number)]
    barrier = threading.Barrier(2)
    errors = []

    def work(part):
        preparer = Preparer(TOPICS, DECLARED)
        sink = Sink(postgres_url, DECLARED, preparer)
        storer = Storer(sink, preparer, patience_s=30, clock=time.monotonic, sleep=time.sleep,
                        on_retry=lambda exc: None)
        # A client's retry is a new record, here in a partition of the other worker.
        stream = [record._replace(part=part, offset=number % n) for number, record in enumerate(
            sorted(records(items), key=lambda record: record.topic))]
        try:
            for batch in cut(stream, [size] * (2 * n // size)):
                barrier.wait(timeout=30)
                storer.store(batch, preparer.prepare(batch), {})
        except Exception as exc:  # noqa: BLE001
            errors.append(exc)
            barrier.abort()
        finally:
            sink.close()

    side_by_side(work, (0, 1))
    assert errors == []
    tables = Tables(postgres_url)
    assert tables.value("SELECT count(*) FROM events") == n
    assert tables.value("SELECT count(*) FROM feedback") == 2 * n
    assert tables.value("SELECT count(*) FROM examples") == n
    tables.check_numbering()
