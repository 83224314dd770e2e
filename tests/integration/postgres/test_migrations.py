"""Migrations, on a database that has been in use."""

import psycopg
import pytest

from shared import postgres
from shared.missing import Missing, missing_predictions


@pytest.fixture
def older(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database from before 0003."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    files = postgres._migrations()
    with monkeypatch.context() as then:
        then.setattr(postgres, "_migrations", lambda: files[:2])
        assert postgres.migrate(postgres_url) == ["0001_tables.sql", "0002_features_as_of.sql"]
    return postgres_url


def test_feedback_that_waits_already_is_counted_from_its_receipt_and_given_up_after_seven_days(older: str) -> None:
    with psycopg.connect(older, autocommit=True) as connection:
        connection.execute("INSERT INTO joins VALUES ('pr_1', 'alpha', NULL, NULL, 'waiting'), "
                           "('pr_2', 'alpha', now(), now(), 'open')")
        for event, moment in [("e1", "2026-01-02T00:00:00Z"), ("e2", "2026-01-05T00:00:00Z")]:
            connection.execute("""INSERT INTO feedback VALUES ('alpha', 'click', 'app', %s, 'pr_1', 'a', 's_1', now(),
                                  %s, false)""", [event, moment])
        assert "0003_missing_predictions.sql" in postgres.migrate(older)
        assert postgres.migrate(older) == []
        assert missing_predictions(connection) == {"alpha": Missing(1, 1_767_312_000_000, 0)}
        assert connection.execute("SELECT prediction_id, deadline = '2026-01-12T00:00:00Z' FROM joins "
                                  "WHERE waiting_since IS NOT NULL").fetchall() == [("pr_1", True)]
