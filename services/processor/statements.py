"""The sink's SQL. Rows come by COPY straight into the tables; every other statement works on a whole batch of ids."""

# A worker that is frozen in mid-transaction would keep its partitions' fences locked, and with them their next owner.
# Every join here goes from a batch's ids into a large table by its index. Left to choose, Postgres reads the whole
# table instead while its statistics are young, and every batch takes longer than the one before.
SESSION = """
SET idle_in_transaction_session_timeout = '10s'; SET lock_timeout = '20s'; SET statement_timeout = '30s';
SET client_min_messages = warning;
SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_hashjoin = off; SET enable_mergejoin = off;
"""
# Dead letters are the exception: they are few, and they have no event whose being new says that they are.
STAGE = "CREATE TEMP TABLE staged_dead_letters (LIKE dead_letters) ON COMMIT DELETE ROWS"

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

INSERT_DEAD = "INSERT INTO dead_letters SELECT * FROM staged_dead_letters ON CONFLICT DO NOTHING"
# OFFSET 0 keeps the order: from the ids, by the primary key.
KNOWN_EVENTS = """
SELECT w.project, w.id
FROM unnest(%s::text[], %s::text[]) AS w(project, id)
CROSS JOIN LATERAL (SELECT FROM events WHERE events.id = w.id AND events.project = w.project OFFSET 0) e
"""
KNOWN_PREDICTIONS = "SELECT id FROM predictions WHERE id = ANY(%s::text[])"

# In order of id: workers that meet on several predictions meet in the same order.
LOCK_JOINS = """
SELECT prediction_id, loop, state, (extract(epoch FROM predicted_at) * 1000)::bigint
FROM joins
WHERE prediction_id = ANY(%s::text[])
ORDER BY prediction_id
FOR UPDATE
"""
# The deciding one, and one more if there is. After the lock and in a statement of its own: what the lock's last owner
# committed is only seen from here on.
READ_FEEDBACK = """
SELECT w.id, f.kind, f.project, f.event_id, f.label, f.subject, (extract(epoch FROM f.event_time) * 1000)::bigint,
       (extract(epoch FROM f.received_at) * 1000)::bigint
FROM unnest(%s::text[], %s::text[]) AS w(id, loop)
CROSS JOIN LATERAL (
    SELECT * FROM feedback
    WHERE feedback.prediction_id = w.id AND feedback.loop = w.loop
    ORDER BY feedback.event_time DESC, feedback.project COLLATE "C" DESC, feedback.event_id COLLATE "C" DESC,
             feedback.kind COLLATE "C" DESC
    LIMIT 2
) f
"""
READ_LABELS = """
SELECT w.id, e.revision, e.label, e.source, (extract(epoch FROM e.labelled_at) * 1000)::bigint, e.late
FROM unnest(%s::text[]) AS w(id)
CROSS JOIN LATERAL (
    SELECT * FROM labels WHERE labels.prediction_id = w.id ORDER BY labels.revision DESC LIMIT 1
) e
"""
# Feedback waited for its prediction: the row gets what only the prediction knows.
ARRIVE = """
UPDATE joins j SET loop = c.loop, state = c.state,
                   predicted_at = timestamptz 'epoch' + c.predicted_ms * interval '1 ms',
                   deadline = timestamptz 'epoch' + c.deadline_ms * interval '1 ms'
FROM unnest(%s::text[], %s::text[], %s::text[], %s::bigint[], %s::bigint[])
     AS c(prediction_id, loop, state, predicted_ms, deadline_ms)
WHERE j.prediction_id = c.prediction_id
"""
# ... and only now it is known whether the feedback was late. OFFSET 0 keeps the order: prediction first, by index.
READ_LATE = """
SELECT f.prediction_id, f.loop, f.kind, f.project, f.event_id
FROM unnest(%s::text[], %s::text[], %s::bigint[]) AS p(id, loop, predicted_ms)
CROSS JOIN LATERAL (
    SELECT * FROM feedback WHERE feedback.prediction_id = p.id AND feedback.loop = p.loop OFFSET 0
) f
JOIN unnest(%s::text[], %s::text[], %s::double precision[]) AS k(loop, kind, window_s)
  ON f.loop = k.loop AND f.kind = k.kind
WHERE NOT f.late
  AND greatest(f.event_time, f.received_at)
      > timestamptz 'epoch' + p.predicted_ms * interval '1 ms' + k.window_s * interval '1 second'
"""
SET_LATE = """
UPDATE feedback f SET late = true
FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::text[])
     AS c(prediction_id, loop, kind, project, event_id)
WHERE f.prediction_id = c.prediction_id
  AND (f.loop, f.kind, f.project, f.event_id) = (c.loop, c.kind, c.project, c.event_id)
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

LOCK_LOOPS = "SELECT loop, next_seq FROM loop_counters WHERE loop = ANY(%s::text[]) ORDER BY loop FOR UPDATE"
ADD_LOOPS = """
INSERT INTO loop_counters (loop, next_seq) SELECT loop, 1 FROM unnest(%s::text[]) AS w(loop) ON CONFLICT DO NOTHING
"""
MOVE_LOOP = "UPDATE loop_counters SET next_seq = %s WHERE loop = %s"
AMEND_LABELS = """
UPDATE labels l SET labelled_at = timestamptz 'epoch' + d.labelled_ms * interval '1 ms', late = d.late
FROM unnest(%s::text[], %s::int[], %s::bigint[], %s::boolean[]) AS d(prediction_id, revision, labelled_ms, late)
WHERE l.prediction_id = d.prediction_id AND l.revision = d.revision
"""
NOTIFY = "SELECT pg_notify('ratchet_examples', %s)"

DUE_LOOPS = """
SELECT DISTINCT loop
FROM (SELECT loop FROM joins WHERE state = 'open' AND deadline <= timestamptz 'epoch' + %s * interval '1 ms'
      ORDER BY deadline LIMIT %s) due
"""
# Rows that another worker is joining are left to it.
LOCK_MATURE = """
SELECT prediction_id, loop, (extract(epoch FROM deadline) * 1000)::bigint
FROM joins
WHERE state = 'open' AND deadline <= timestamptz 'epoch' + %s * interval '1 ms' AND loop = ANY(%s::text[])
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
