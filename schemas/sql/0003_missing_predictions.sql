-- Owner: the processor.

-- Feedback whose prediction is missing waits for it as long as its kind's window, from its receipt on; then it is
-- orphaned: joins.state is waiting or orphaned, and joins.deadline says until when. When the prediction comes after
-- all, the row becomes like any other.
ALTER TABLE joins ADD COLUMN waiting_since timestamptz;  -- receipt of the first feedback that waits, or waited

-- How long those that are there already may wait is in the loop files; a window is 7 days unless it says otherwise.
UPDATE joins j SET waiting_since = f.since, deadline = f.latest + interval '7 days'
FROM (SELECT j.prediction_id, min(f.received_at) AS since, max(f.received_at) AS latest
      FROM joins j JOIN feedback f USING (prediction_id)
      WHERE j.state = 'waiting' GROUP BY j.prediction_id) f
WHERE j.prediction_id = f.prediction_id AND j.state = 'waiting';

CREATE INDEX joins_missing ON joins (state, deadline) INCLUDE (loop, waiting_since)
    WHERE state IN ('waiting', 'orphaned');

-- Predictions that feedback names and that are not here, by the loop of their first feedback. Loops without any have no
-- row.
CREATE VIEW missing_predictions AS
SELECT loop, count(*) FILTER (WHERE state = 'waiting') AS n_waiting,
       min(waiting_since) FILTER (WHERE state = 'waiting') AS waiting_since,
       count(*) FILTER (WHERE state = 'orphaned') AS n_orphaned
FROM joins
WHERE state IN ('waiting', 'orphaned')
GROUP BY loop;
