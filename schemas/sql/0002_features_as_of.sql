-- Owner: the processor.

-- The aggregates of one feature of one user, item or label, from the observations before a moment and from no later
-- one. A window of w seconds holds the observations with as_of - w <= event_time < as_of.
-- rate: the mean of the numbers in the window while the newest value is a number (NULL for an empty window), else
-- observations per second. recency: seconds since the newest observation; last: its value; no row when there is none.
CREATE FUNCTION feature_as_of(
    of_loop text, of_entity text, of_key text, of_feature text, windows_s double precision[], as_of timestamptz
) RETURNS TABLE (aggregate text, window_s double precision, number double precision, text text)
LANGUAGE sql STABLE PARALLEL SAFE AS $$
    WITH newest AS (
        SELECT o.event_time, o.number, o.text
        FROM observations o
        WHERE hashtextextended(o.key, hashtextextended(o.feature, hashtextextended(o.loop, 0)))
              = hashtextextended(of_key, hashtextextended(of_feature, hashtextextended(of_loop, 0)))
          AND o.loop = of_loop AND o.entity = of_entity AND o.key = of_key AND o.feature = of_feature
          AND o.event_time < as_of
        ORDER BY o.event_time DESC, o.source_id DESC
        LIMIT 1
    ), spans AS (
        SELECT w.window_s, s.n, s.mean
        FROM unnest(windows_s) AS w(window_s)
        CROSS JOIN LATERAL (
            SELECT count(*) AS n, avg(o.number) AS mean
            FROM observations o
            WHERE hashtextextended(o.key, hashtextextended(o.feature, hashtextextended(o.loop, 0)))
                  = hashtextextended(of_key, hashtextextended(of_feature, hashtextextended(of_loop, 0)))
              AND o.loop = of_loop AND o.entity = of_entity AND o.key = of_key AND o.feature = of_feature
              AND o.event_time >= as_of - w.window_s * interval '1 second' AND o.event_time < as_of
        ) s
    )
    SELECT 'count', window_s, n::double precision, NULL FROM spans
    UNION ALL
    SELECT 'rate', spans.window_s, CASE WHEN newest.number IS NOT NULL THEN mean ELSE n / spans.window_s END, NULL
    FROM spans LEFT JOIN newest ON true
    UNION ALL
    SELECT 'recency', NULL, extract(epoch FROM as_of - event_time)::double precision, NULL FROM newest
    UNION ALL
    SELECT 'last', NULL, newest.number, newest.text FROM newest
$$;
