"""The sink's SQL. Every statement works on a whole batch: rows come by COPY into temporary tables, ids as one array."""

# A worker that is frozen in mid-transaction would keep its partitions' fences locked, and with them their next owner.
# Every join here goes from a batch's ids into a large table by its index. Left to choose, Postgres reads the whole
# table instead while its statistics are young, and every batch takes longer than the one before.
SESSION = """
SET idle_in_transaction_session_timeout = '10s'; SET lock_timeout = '20s'; SET statement_timeout = '30s';
SET client_min_messages = warning;
SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
"""
STAGE = """
CREATE TEMP TABLE staged_events (LIKE events) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE staged_predictions (LIKE predictions INCLUDING STORAGE) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE staged_feedback (LIKE feedback) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE staged_observations (LIKE observations) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE staged_dead_letters (LIKE dead_letters) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE staged_joins (LIKE joins) ON COMMIT DELETE ROWS;
CREATE TEMP TABLE staged_decisions (
    prediction_id text, seq bigint, revision int, label text, source text, labelled_at timestamptz, late boolean
) ON COMMIT DELETE ROWS;
"""

LOCK_FENCES = """
SELECT o.topic, o.part, o.next_offset
FROM offsets o
WHERE o.consumer = %s AND (o.topic, o.part) IN (SELECT * FROM unnest(%s::text[], %s::int[]))
ORDER BY o.topic, o.part
FOR UPDATE
"""
ADD_FENCES = """
INSERT INTO offsets (consumer, topic, part, next_offset)
SELECT %s, * FROM unnest(%s::text[], %s::int[], %s::bigint[])
ON CONFLICT (consumer, topic, part) DO NOTHING
"""
MOVE_FENCES = """
INSERT INTO offsets (consumer, topic, part, next_offset)
SELECT %s, * FROM unnest(%s::text[], %s::int[], %s::bigint[])
ON CONFLICT (consumer, topic, part) DO UPDATE SET next_offset = excluded.next_offset
"""
READ_FENCES = "SELECT topic, part, next_offset FROM offsets WHERE consumer = %s"

# Staged rows are in order of id, and nothing here sorts them anew.
INSERT_EVENTS = "INSERT INTO events SELECT * FROM staged_events ON CONFLICT DO NOTHING RETURNING project, id"
INSERT_PREDICTIONS = "INSERT INTO predictions SELECT * FROM staged_predictions ON CONFLICT DO NOTHING RETURNING id"
INSERT_FEEDBACK = "INSERT INTO feedback SELECT * FROM staged_feedback ON CONFLICT DO NOTHING"
INSERT_OBSERVATIONS = "INSERT INTO observations SELECT * FROM staged_observations ON CONFLICT DO NOTHING"
INSERT_DEAD = "INSERT INTO dead_letters SELECT * FROM staged_dead_letters ON CONFLICT DO NOTHING"
INSERT_JOINS = "INSERT INTO joins SELECT * FROM staged_joins ON CONFLICT DO NOTHING RETURNING prediction_id"

# In order of id here as well: workers that meet on several predictions meet in the same order.
LOCK_JOINS = """
SELECT prediction_id, loop, state, (extract(epoch FROM predicted_at) * 1000)::bigint
FROM joins
WHERE prediction_id = ANY(%s::text[])
ORDER BY prediction_id COLLATE "C"
FOR UPDATE
"""
# After the lock and in a statement of its own: what the lock's last owner committed is only seen from here on.
# loop || '' keeps the primary key out of the plan: on a table that has grown since its last statistics, Postgres went
# through all feedback of the loop for every prediction (10,000 predictions took over 30 s instead of 0.1 s).
READ_FEEDBACK = """
SELECT w.id, f.kind, f.project, f.event_id, f.label, f.subject, (extract(epoch FROM f.event_time) * 1000)::bigint,
       (extract(epoch FROM f.received_at) * 1000)::bigint
FROM unnest(%s::text[], %s::text[]) AS w(id, loop)
CROSS JOIN LATERAL (
    SELECT * FROM feedback
    WHERE feedback.prediction_id = w.id AND feedback.loop || '' = w.loop
    ORDER BY feedback.event_time DESC, feedback.project COLLATE "C" DESC, feedback.event_id COLLATE "C" DESC,
             feedback.kind COLLATE "C" DESC
    LIMIT 1
) f
"""
READ_EXAMPLES = """
SELECT w.id, e.revision, e.label, e.source, (extract(epoch FROM e.labelled_at) * 1000)::bigint, e.late
FROM unnest(%s::text[]) AS w(id)
CROSS JOIN LATERAL (
    SELECT * FROM examples WHERE examples.prediction_id = w.id ORDER BY examples.revision DESC LIMIT 1
) e
"""
# Feedback waited for its prediction: the row gets what only the prediction knows.
ARRIVE = """
UPDATE joins j SET loop = c.loop, state = 'open',
                   predicted_at = timestamptz 'epoch' + c.predicted_ms * interval '1 ms',
                   deadline = timestamptz 'epoch' + c.deadline_ms * interval '1 ms'
FROM unnest(%s::text[], %s::text[], %s::bigint[], %s::bigint[]) AS c(prediction_id, loop, predicted_ms, deadline_ms)
WHERE j.prediction_id = c.prediction_id
"""
# ... and only now it is known whether the feedback was late. OFFSET 0 keeps the order: prediction first, by index.
READ_LATE = """
SELECT f.loop, f.kind, f.project, f.event_id
FROM unnest(%s::text[], %s::bigint[]) AS p(id, predicted_ms)
CROSS JOIN LATERAL (SELECT * FROM feedback WHERE feedback.prediction_id = p.id OFFSET 0) f
JOIN unnest(%s::text[], %s::text[], %s::double precision[]) AS k(loop, kind, window_s)
  ON f.loop = k.loop AND f.kind = k.kind
WHERE NOT f.late
  AND greatest(f.event_time, f.received_at)
      > timestamptz 'epoch' + p.predicted_ms * interval '1 ms' + k.window_s * interval '1 second'
"""
SET_LATE = """
UPDATE feedback f SET late = true
FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[]) AS c(loop, kind, project, event_id)
WHERE (f.loop, f.kind, f.project, f.event_id) = (c.loop, c.kind, c.project, c.event_id)
"""
# More feedback on a prediction that is still missing.
WAIT_ON = """
UPDATE joins j
SET waiting_since = CASE j.state WHEN 'waiting' THEN least(j.waiting_since, c.since) ELSE c.since END,
    deadline = greatest(j.deadline, c.until), state = 'waiting'
FROM (SELECT id, timestamptz 'epoch' + since_ms * interval '1 ms', timestamptz 'epoch' + until_ms * interval '1 ms'
      FROM unnest(%s::text[], %s::bigint[], %s::bigint[]) AS c(id, since_ms, until_ms)) AS c(id, since, until)
WHERE j.prediction_id = c.id
"""
SET_LABELLED = "UPDATE joins SET state = 'labelled' WHERE prediction_id = ANY(%s::text[])"

# Last before the commit, since every other worker on the loop waits for it.
TAKE_SEQ = """
INSERT INTO loop_counters AS c (loop, next_seq) VALUES (%(loop)s, 1 + %(n)s)
ON CONFLICT (loop) DO UPDATE SET next_seq = c.next_seq + %(n)s
RETURNING next_seq - %(n)s
"""
INSERT_EXAMPLES = """
INSERT INTO examples (loop, seq, prediction_id, revision, subject, label, source, event_time, labelled_at, version,
                      predicted, input, embedding, encoder, late)
SELECT p.loop, d.seq, p.id, d.revision, p.subject, d.label, d.source, p.event_time, d.labelled_at, p.version,
       p.label, p.input, p.embedding, p.encoder, d.late
FROM staged_decisions d CROSS JOIN LATERAL (SELECT * FROM predictions WHERE id = d.prediction_id OFFSET 0) p
"""
AMEND_EXAMPLES = """
UPDATE examples e SET labelled_at = timestamptz 'epoch' + d.labelled_ms * interval '1 ms', late = d.late
FROM unnest(%s::text[], %s::int[], %s::bigint[], %s::boolean[]) AS d(prediction_id, revision, labelled_ms, late)
WHERE e.prediction_id = d.prediction_id AND e.revision = d.revision
"""
NOTIFY = "SELECT pg_notify('ratchet_examples', %s)"

# Rows that another worker is maturing or joining are left to it.
LOCK_MATURE = """
SELECT prediction_id, loop, (extract(epoch FROM deadline) * 1000)::bigint
FROM joins
WHERE state = 'open' AND deadline <= timestamptz 'epoch' + %s * interval '1 ms'
ORDER BY deadline
LIMIT %s
FOR UPDATE SKIP LOCKED
"""
SET_MATURED = "UPDATE joins SET state = 'matured' WHERE prediction_id = ANY(%s::text[])"

LOCK_ORPHANS = """
SELECT prediction_id
FROM joins
WHERE state = 'waiting' AND deadline <= timestamptz 'epoch' + %s * interval '1 ms'
ORDER BY deadline
LIMIT %s
FOR UPDATE SKIP LOCKED
"""
SET_ORPHANED = "UPDATE joins SET state = 'orphaned' WHERE prediction_id = ANY(%s::text[])"
# After the lock and in a statement of its own, as above.
READ_ORPHANS = """
SELECT f.loop, f.kind, f.project, f.event_id, w.id, (extract(epoch FROM j.deadline) * 1000)::bigint,
       coalesce((e.body -> 'properties')::text, '')
FROM unnest(%s::text[]) AS w(id)
JOIN joins j ON j.prediction_id = w.id
CROSS JOIN LATERAL (SELECT * FROM feedback WHERE feedback.prediction_id = w.id OFFSET 0) f
LEFT JOIN events e ON e.project = f.project AND e.id = f.event_id
ORDER BY f.project COLLATE "C", f.event_id COLLATE "C", f.loop COLLATE "C", f.kind COLLATE "C"
"""
