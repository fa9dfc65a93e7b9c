-- One row per attempt: the projection of the events that tell of it, as JSON.
CREATE TABLE attempts (
    session_no INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    doc TEXT NOT NULL,
    PRIMARY KEY (session_no, attempt)
) STRICT, WITHOUT ROWID;
