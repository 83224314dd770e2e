-- Owner: the processor, except training_runs and trainer_state, which the trainer owns.

-- The fence: which offset of each partition comes next. Updated in the transaction that writes the effects.
CREATE TABLE offsets (
    consumer    text   NOT NULL,
    topic       text   NOT NULL,
    part        int    NOT NULL,
    next_offset bigint NOT NULL,
    PRIMARY KEY (consumer, topic, part)
);

CREATE TABLE events (
    project     text        NOT NULL,
    id          text        NOT NULL,
    kind        text        NOT NULL,
    name        text        NOT NULL,
    subject     text        NOT NULL,
    event_time  timestamptz NOT NULL,
    received_at timestamptz NOT NULL,
    body        jsonb       NOT NULL,
    PRIMARY KEY (project, id)
);

CREATE TABLE predictions (
    id         text        PRIMARY KEY,
    loop       text        NOT NULL,
    version    text        NOT NULL,
    subject    text        NOT NULL,
    event_time timestamptz NOT NULL,
    label      text,
    scores     jsonb       NOT NULL,
    input      jsonb       NOT NULL,
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
    prediction_id text        NOT NULL,
    label         text        NOT NULL,
    subject       text        NOT NULL,
    event_time    timestamptz NOT NULL,
    received_at   timestamptz NOT NULL,
    late          boolean     NOT NULL DEFAULT false,  -- its kind's window had passed when it happened or arrived
    PRIMARY KEY (loop, kind, project, event_id)
);
-- With the time, the deciding (newest) feedback of a prediction is one index step however many there are.
CREATE INDEX feedback_by_prediction ON feedback (prediction_id, event_time);

-- One row per prediction id seen in a prediction or a feedback: its row lock orders workers that join the same
-- prediction, and its deadline says when the prediction matures without feedback.
CREATE TABLE joins (
    prediction_id text        PRIMARY KEY,
    loop          text        NOT NULL,    -- while waiting: of the first feedback
    predicted_at  timestamptz,             -- NULL until the prediction itself is here
    deadline      timestamptz,             -- likewise
    state         text        NOT NULL     -- waiting (feedback only) | open (no feedback yet) | labelled | matured
);
CREATE INDEX joins_to_mature ON joins (deadline) WHERE state = 'open';

CREATE TABLE loop_counters (
    loop     text   PRIMARY KEY,
    next_seq bigint NOT NULL
);

-- seq is gapless and in commit order within a loop: the loop's row in loop_counters stays locked until commit.
-- A new revision of an example is a new row with a new seq; the greatest revision is the one that counts.
CREATE TABLE examples (
    loop          text        NOT NULL,
    seq           bigint      NOT NULL,
    prediction_id text        NOT NULL,
    revision      int         NOT NULL,
    subject       text        NOT NULL,
    label         text        NOT NULL,
    source        text        NOT NULL,    -- the feedback kind, or 'default'
    event_time    timestamptz NOT NULL,    -- of the prediction
    labelled_at   timestamptz NOT NULL,    -- event time of the deciding feedback, or the deadline
    learnable_at  timestamptz NOT NULL DEFAULT now(),
    version       text        NOT NULL,    -- the version that predicted
    predicted     text,
    input         jsonb       NOT NULL,
    embedding     bytea       NOT NULL,
    encoder       text        NOT NULL,
    late          boolean     NOT NULL DEFAULT false,
    PRIMARY KEY (loop, seq),
    UNIQUE (prediction_id, revision)
);
ALTER TABLE examples ALTER COLUMN embedding SET STORAGE EXTERNAL;

-- One row per event and feature, append-only: counts, rates, recency and last values of any window are exact as of
-- any time, whatever the order of arrival.
CREATE TABLE observations (
    loop       text             NOT NULL,
    entity     text             NOT NULL,  -- user | item | label
    key        text             NOT NULL,
    feature    text             NOT NULL,
    event_time timestamptz      NOT NULL,
    source_id  text             NOT NULL,  -- project/event id, or prediction id and revision
    number     double precision,
    text       text,
    PRIMARY KEY (loop, entity, key, feature, event_time, source_id)
);

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
