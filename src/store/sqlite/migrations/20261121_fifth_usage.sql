-- One row per model call: the projection of `model_responded`. `message` is the agent's id of it.
CREATE TABLE usage (
    session_no INTEGER NOT NULL,
    message TEXT NOT NULL,
    at INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    model TEXT NOT NULL,
    source TEXT NOT NULL,
    input INTEGER NOT NULL,
    output INTEGER NOT NULL,
    cache_read INTEGER NOT NULL,
    cache_write INTEGER NOT NULL,
    cache_write_1h INTEGER NOT NULL,
    reasoning INTEGER,
    cost INTEGER,
    unpriced INTEGER NOT NULL,
    prices TEXT,
    PRIMARY KEY (session_no, message)
) STRICT, WITHOUT ROWID;
CREATE INDEX usage_by_time ON usage (at);
