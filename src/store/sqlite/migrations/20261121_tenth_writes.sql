-- Sessions that other programs write: by which key one is found again, and which keyed writes are in its log already.
-- No projection: the log does not have these keys. They are changed in the transaction of the events that they stand for.

CREATE TABLE writers (
    -- 'k' and the writer's own key, or 't', tenant and thread.
    key TEXT PRIMARY KEY,
    session_no INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX writers_by_session ON writers (session_no);

CREATE TABLE writes (
    session_no INTEGER NOT NULL,
    key TEXT NOT NULL,
    -- BLAKE3 of what was written under it.
    digest BLOB NOT NULL,
    first_seq INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    PRIMARY KEY (session_no, key)
) STRICT, WITHOUT ROWID;
