"""Every statement that touches a large table goes into it by an index, however old the table's statistics are."""

import psycopg
import pytest

from services.processor import statements as sql

LARGE = ("events", "predictions", "feedback", "joins", "labels", "observations")
FILL = """
INSERT INTO events SELECT 'app', 'e' || n, 'track', 'Resolved', 's', now(), now(), '{}'
FROM generate_series(1, 20000) n;
INSERT INTO predictions SELECT 'pr_' || n, 'alpha', 'v1', 's', now(), 'a', '{}', '{}', '', '', 'champion', 1
FROM generate_series(1, 20000) n;
INSERT INTO feedback SELECT 'alpha', 'correction', 'app', 'e' || n, 'pr_' || n, 'a', 's', now(), now()
FROM generate_series(1, 20000) n;
INSERT INTO joins SELECT 'pr_' || n, 'alpha', now(), now() + interval '1 day', 'open' FROM generate_series(1, 20000) n;
INSERT INTO labels SELECT 'alpha', n, 'pr_' || n, 1, 'a', 'correction', now() FROM generate_series(1, 20000) n;
INSERT INTO observations SELECT 'alpha', 'user', 's' || n % 100, 'activity', now() - n * interval '1 s', 'app/e' || n
FROM generate_series(1, 20000) n;
"""


@pytest.fixture
def filled(postgres_url):
    """A database whose tables have grown since anybody looked at them."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for table in LARGE:
            connection.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
        connection.execute(FILL)
        yield connection


def check(plan, *indexes):
    for table in LARGE:
        assert f"Seq Scan on {table}" not in plan
    for index in indexes:
        assert index in plan


@pytest.mark.parametrize(("statement", "arguments", "index"), [
    ("KNOWN_EVENTS", ["{app}", "{e1}"], "events_pkey"),
    ("KNOWN_PREDICTIONS", ["{pr_1}"], "predictions_pkey"),
    ("LOCK_JOINS", ["{pr_1,pr_2}"], "joins_pkey"),
    ("READ_FEEDBACK", ["{pr_1}", "{alpha}"], "feedback_by_prediction"),
    ("READ_LABELS", ["{pr_1}"], "labels_prediction_id_revision_key"),
    ("ARRIVE", ["{pr_1}", "{alpha}", "{open}", "{1}", "{2}"], "joins_pkey"),
    ("READ_LATE", ["{pr_1}", "{alpha}", "{1}", ["alpha"], ["correction"], [1.0]], "feedback_by_prediction"),
    ("SET_LATE", [["pr_1"], ["alpha"], ["correction"], ["app"], ["e1"]], "feedback_by_prediction"),
    ("WAIT_ON", [["pr_1"], [1], [2]], "joins_pkey"),
    ("LOCK_ORPHANS", [1, 10], "joins_missing"),
    ("SET_ORPHANED", ["{pr_1}"], "joins_pkey"),
    ("READ_ORPHANS", ["{pr_1}"], "feedback_by_prediction"),
    ("SET_LABELLED", ["{pr_1}"], "joins_pkey"),
    ("AMEND_LABELS", [["pr_1"], [1], [5], [True]], "labels_prediction_id_revision_key"),
    ("DUE_LOOPS", [1, 10], "joins_to_mature"),
    ("LOCK_MATURE", [1, ["alpha"], 10], "joins_to_mature"),
    ("SET_MATURED", ["{pr_1}"], "joins_pkey")])
def test_the_sink_goes_into_large_tables_by_index(filled, statement, arguments, index):
    filled.execute(sql.SESSION.encode())
    plan = filled.execute("EXPLAIN " + getattr(sql, statement), arguments).fetchall()
    check("\n".join(row[0] for row in plan), index)


@pytest.mark.parametrize(("query", "indexes"), [
    ("SELECT seq, prediction_id, revision, subject, label, input, embedding, encoder, predicted FROM examples "
     "WHERE loop = 'alpha' AND seq > 19000 AND seq <= 1000000 ORDER BY seq LIMIT 1000",
     ["labels_pkey", "predictions_pkey"]),
    ("SELECT * FROM examples WHERE prediction_id = ANY('{pr_1,pr_2}') AND loop = 'alpha' AND seq <= 5",
     ["labels_prediction_id_revision_key", "predictions_pkey"])])
def test_examples_are_read_by_index(filled, query, indexes):
    plan = filled.execute("EXPLAIN " + query).fetchall()
    check("\n".join(row[0] for row in plan), *indexes)


def test_a_feature_is_read_from_its_series_alone(filled):
    series = "hashtextextended({0}, hashtextextended({1}, hashtextextended({2}, 0)))"
    plan = filled.execute(
        f"EXPLAIN SELECT * FROM observations o WHERE {series.format('o.key', 'o.feature', 'o.loop')} = "
        f"{series.format(*map(repr, ['s1', 'activity', 'alpha']))} AND o.event_time < now() "
        "ORDER BY o.event_time DESC, o.source_id DESC LIMIT 1").fetchall()
    check("\n".join(row[0] for row in plan), "observations_by_series")
