-- Owner: the processor, except training_runs and trainer_state, which the trainer owns.
--
-- Rows come by COPY straight into these tables, and each index costs as much again as its row: a table has the indexes
-- that a statement needs and no other. What arrives is made unique by events, predictions and labels; the rest is
-- written in their transactions. Keys compare as bytes (COLLATE "C"), which is twice as fast as by a locale. JSON stays
-- as it came (json, not jsonb): it is read back rarely, and whole.

-- The fence: which offset of each partition comes next. Updated in the transaction that writes the effects.
CREATE TABLE offsets (
    consumer    text   NOT NULL,
    topic       text   NOT NULL,
    part        int    NOT NULL,
    next_offset bigint NOT NULL,
    PRIMARY KEY (consumer, topic, part)
);

CREATE TABLE events (
    project     text        NOT NULL COLLATE "C",
    id          text        NOT NULL COLLATE "C",
    kind        text        NOT NULL,
    name        text        NOT NULL,
    subject     text        NOT NULL,
    event_time  timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    body        json        NOT NULL,
    PRIMARY KEY (id, project)
);

CREATE TABLE predictions (
    id         text        COLLATE "C" PRIMARY KEY,
    loop       text        NOT NULL,
    version    text        NOT NULL,
    subject    text        NOT NULL,
    event_time timestamptz NOT NULL,
    label      text,
    scores     json        NOT NULL,
    input      json        NOT NULL,
    embedding  bytea       NOT NULL,
    encoder    text        NOT NULL,
    arm        text        NOT NULL,
    propensity real        NOT NULL
);
-- Floats do not compress: trying costs time on every write and finds nothing.
ALTER TABLE predictions ALTER COLUMN embedding SET STORAGE EXTERNAL;

-- One row for each (event, feedback kind of a loop) that names a prediction; it may come before its prediction.
CREATE TABLE feedback (
    loop          text        NOT NULL,
    kind          text        NOT NULL,
    project       text        NOT NULL,
    event_id      text        NOT NULL,
    prediction_id text        NOT NULL COLLATE "C",
    label         text        NOT NULL,
    subject       text        NOT NULL,
    event_time    timestamptz NOT NULL,
    received_at   timestamptz NOT NULL,
    late          boolean     NOT NULL DEFAULT false   -- its kind's window had passed when it happened or arrived
);
-- With the time, the deciding (newest) feedback of a prediction is one index step however many there are.
CREATE INDEX feedback_by_prediction ON feedback (prediction_id, event_time);

-- One row per prediction id seen in a prediction or a feedback; its deadline says when the prediction matures without
-- feedback.
CREATE TABLE joins (
    prediction_id text        COLLATE "C" PRIMARY KEY,
    loop          text        NOT NULL,    -- while waiting: of the first feedback
    predicted_at  timestamptz,             -- NULL until the prediction itself is here
    deadline      timestamptz,             -- likewise
    state         text        NOT NULL     -- waiting (feedback only) | open (no feedback yet) | labelled | matured
);
CREATE INDEX joins_to_mature ON joins (deadline) WHERE state = 'open';

-- A loop's row is locked by whoever joins its predictions or numbers its examples, until the commit.
CREATE TABLE loop_counters (
    loop     text   COLLATE "C" PRIMARY KEY,
    next_seq bigint NOT NULL
);

-- What an example has beside its prediction. seq is gapless and in commit order within a loop. A new revision of an
-- example is a new row with a new seq; the greatest revision is the one that counts.
CREATE TABLE labels (
    loop          text        NOT NULL COLLATE "C",
    seq           bigint      NOT NULL,
    prediction_id text        NOT NULL COLLATE "C",
    revision      int         NOT NULL,
    label         text        NOT NULL,
    source        text        NOT NULL,    -- the feedback kind, or 'default'
    labelled_at   timestamptz NOT NULL,    -- event time of the deciding feedback, or the deadline
    learnable_at  timestamptz NOT NULL DEFAULT now(),
    late          boolean     NOT NULL DEFAULT false,
    PRIMARY KEY (loop, seq),
    UNIQUE (prediction_id, revision)
);

-- Examples as they are learned from: every revision with its prediction.
CREATE VIEW examples AS
SELECT l.loop, l.seq, l.prediction_id, l.revision, p.subject, l.label, l.source, p.event_time, l.labelled_at,
       l.learnable_at, p.version, p.label AS predicted, p.input, p.embedding, p.encoder, l.late
FROM labels l LEFT JOIN predictions p ON p.id = l.prediction_id;

-- One row per event and feature, append-only: counts, rates, recency and last values of any window are exact as of
-- any time, whatever the order of arrival.
CREATE TABLE observations (
    loop       text             NOT NULL COLLATE "C",
    entity     text             NOT NULL COLLATE "C",  -- user | item | label
    key        text             NOT NULL COLLATE "C",
    feature    text             NOT NULL COLLATE "C",
    event_time timestamptz      NOT NULL,
    source_id  text             NOT NULL COLLATE "C",  -- project/event id
    number     double precision,
    text       text
);
-- One series is the rows of one loop, feature and key. By its hash, since the texts would make the index three times as
-- large; who reads a series compares the texts as well.
CREATE INDEX observations_by_series
    ON observations (hashtextextended(key, hashtextextended(feature, hashtextextended(loop, 0))), event_time);

CREATE TABLE dead_letters (
    id         text        PRIMARY KEY,
    stage      text        NOT NULL,
    code       text        NOT NULL,
    path       text        NOT NULL,
    message    text        NOT NULL,
    project    text        NOT NULL,
    origin     text        NOT NULL,
    event_time timestamptz NOT NULL,
    payload    text        NOT NULL
);

-- Every gate decision, accepted or not.
CREATE TABLE training_runs (
    loop       text        NOT NULL,
    run_id     text        NOT NULL,
    method     text        NOT NULL,
    version    text,                       -- NULL when rejected before publishing
    started_at timestamptz NOT NULL,
    ended_at   timestamptz NOT NULL,
    first_seq  bigint      NOT NULL,
    last_seq   bigint      NOT NULL,
    gate       jsonb       NOT NULL,
    PRIMARY KEY (loop, run_id)
);

CREATE TABLE trainer_state (
    loop       text        PRIMARY KEY,
    state      jsonb       NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);
