"""A look into what the processor wrote."""

from typing import Any

import psycopg

from tests.support.join_reference import Expected


class Tables:
    """Reads what the processor wrote."""

    def __init__(self, url: str) -> None:
        self.url = url

    def rows(self, query: str, *args: Any) -> list[tuple[Any, ...]]:
        """Run one query on a connection of its own."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(query, args).fetchall()

    def value(self, query: str, *args: Any) -> Any:
        """Return the first column of the first row."""
        return self.rows(query, *args)[0][0]

    def has(self, want: Expected) -> bool:
        """Tell whether there are as many events and predictions as wanted; assert that there are not more."""
        counts = "SELECT (SELECT count(*) FROM events), (SELECT count(*) FROM predictions)"
        n_events, n_predictions = self.rows(counts)[0]
        assert n_events <= len(want.events)
        assert n_predictions <= len(want.predictions)
        return (n_events, n_predictions) == (len(want.events), len(want.predictions))

    def actual(self) -> Expected:
        """Return the tables in the reference's form."""
        latest = """
            SELECT DISTINCT ON (prediction_id) prediction_id, loop, label, source,
                   (extract(epoch FROM labelled_at) * 1000)::bigint, late
            FROM examples ORDER BY prediction_id, revision DESC"""
        return Expected(
            events=set(self.rows("SELECT project, id FROM events")),
            predictions={row[0] for row in self.rows("SELECT id FROM predictions")},
            examples={row[0]: row[1:] for row in self.rows(latest)},
            feedback=set(self.rows("SELECT loop, kind, project, event_id, prediction_id, label FROM feedback")),
            observations=set(self.rows("SELECT loop, entity, key, feature, source_id, number FROM observations")),
        )

    def check_numbering(self) -> None:
        """Assert that examples are numbered without gaps, and that revisions are as well and differ in something."""
        for loop, n, first, last in self.rows("SELECT loop, count(*), min(seq), max(seq) FROM examples GROUP BY loop"):
            assert (first, last) == (1, n), loop
        assert self.rows("""SELECT prediction_id FROM examples GROUP BY prediction_id
                            HAVING max(revision) <> count(*) OR min(revision) <> 1""") == []
        assert self.rows("""SELECT a.prediction_id FROM examples a JOIN examples b
                            ON a.prediction_id = b.prediction_id AND a.revision + 1 = b.revision
                            WHERE a.label = b.label AND a.source = b.source""") == []
