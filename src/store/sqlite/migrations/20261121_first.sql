-- Host facts that only the store itself writes.
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;

-- One row per session: the projection (doc, JSON) and what the writer needs to go on. `no` is never given twice and orders listings.
CREATE TABLE sessions (
    no INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    agent TEXT NOT NULL,
    status TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    head BLOB NOT NULL,
    headed_seq INTEGER NOT NULL,
    cursor_attempt INTEGER,
    cursor_offset INTEGER,
    frame_attempt INTEGER NOT NULL,
    frame_no INTEGER NOT NULL,
    doc TEXT NOT NULL
) STRICT;
CREATE INDEX sessions_by_name ON sessions (name);
CREATE INDEX sessions_by_status ON sessions (status);
CREATE INDEX sessions_by_agent ON sessions (agent);

-- The truth. A rowid table, so that interleaved sessions append to one place; salt lies with the body.
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    session_no INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    at INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    kind TEXT NOT NULL,
    hash BLOB NOT NULL,
    salt BLOB NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX events_by_seq ON events (session_no, seq);

-- Outbound frames that the shim may not have taken yet.
CREATE TABLE frames (
    session_no INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    no INTEGER NOT NULL,
    bytes BLOB NOT NULL,
    PRIMARY KEY (session_no, attempt, no)
) STRICT, WITHOUT ROWID;

-- Sessions whose events are still to be deleted, a few at a time.
CREATE TABLE removals (session_no INTEGER PRIMARY KEY) STRICT;

CREATE TABLE host_events (
    seq INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    kind TEXT NOT NULL,
    hash BLOB NOT NULL,
    salt BLOB NOT NULL,
    body BLOB NOT NULL
) STRICT;

-- Small documents of the host (rules for all, trust pins), JSON text.
CREATE TABLE settings (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
