"""Tables that have grown: filled as if millions of pairs had been joined, and brought back to that."""

import psycopg

LOOP = "support-intents"


def grow(url: str, n: int) -> None:
    """Fill the tables as if so many pairs had been joined; embeddings are left out, since they are not indexed."""
    # Ids as the real ones: a prediction's begins with its time, an event's and a subject's are random.
    statements = [
        "INSERT INTO events SELECT 'app', gen_random_uuid(), 'track', 'Ticket Resolved', 's_' || md5(n::text), "
        "now() - n * interval '1 ms', now(), '{{\"source\": \"segment\"}}' FROM generate_series({a}, {b}) n",
        "INSERT INTO predictions SELECT 'pr_' || lpad(to_hex(n), 12, '0') || left(md5(n::text), 20), '{loop}', 'v1', "
        "'s_' || md5(n::text), now(), 'card', '{{}}', '{{}}', '', '', 'champion', 1 FROM generate_series({a}, {b}) n",
        "INSERT INTO feedback SELECT '{loop}', 'correction', 'app', 'e' || n, 'pr_' || lpad(to_hex(n), 12, '0') || "
        "left(md5(n::text), 20), 'label-' || n % 77, 's', now(), now() FROM generate_series({a}, {b}) n",
        "INSERT INTO joins SELECT 'pr_' || lpad(to_hex(n), 12, '0') || left(md5(n::text), 20), '{loop}', now(), now(), "
        "'labelled' FROM generate_series({a}, {b}) n",
        "INSERT INTO labels SELECT '{loop}', n, 'pr_' || lpad(to_hex(n), 12, '0') || left(md5(n::text), 20), 1, "
        "'label-' || n % 77, 'correction', now() FROM generate_series({a}, {b}) n",
        "INSERT INTO observations SELECT '{loop}', 'user', 's_' || md5(n::text), 'activity', "
        "now() - n * interval '1 ms', 'app/' || md5(n::text) FROM generate_series({a}, {b}) n",
        "INSERT INTO observations SELECT '{loop}', 'label', 'label-' || n % 77, 'feedback', "
        "now() - n * interval '1 ms', 'app/' || md5(n::text) FROM generate_series({a}, {b}) n",
    ]
    step = 500_000
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET synchronous_commit = off")
        for first in range(1, n + 1, step):
            for statement in statements:
                connection.execute(statement.format(a=first, b=min(first + step - 1, n), loop=LOOP))
        connection.execute("INSERT INTO loop_counters VALUES (%s, %s)", [LOOP, n + 1])
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


def forget(url: str) -> None:
    """Take back what a run has brought to a grown database: all that has an embedding, and what belongs to it."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("CREATE TEMP TABLE gone AS SELECT id FROM predictions WHERE length(embedding) > 0")
        for statement in ("DELETE FROM events WHERE (project, id) IN (SELECT project, event_id FROM feedback f "
                          "JOIN gone ON gone.id = f.prediction_id)",
                          "DELETE FROM feedback WHERE prediction_id IN (SELECT id FROM gone)",
                          "DELETE FROM joins WHERE prediction_id IN (SELECT id FROM gone)",
                          "DELETE FROM labels WHERE prediction_id IN (SELECT id FROM gone)",
                          "DELETE FROM predictions WHERE id IN (SELECT id FROM gone)"):
            connection.execute(statement)
