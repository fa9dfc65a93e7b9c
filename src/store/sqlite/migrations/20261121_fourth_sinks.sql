-- How far each audit sink got: on the host chain, and over the rows of all sessions' events. `holds` is 1 while sessions must not be
-- removed before it has them.
CREATE TABLE sinks (
    name TEXT PRIMARY KEY,
    host_seq INTEGER NOT NULL,
    row INTEGER NOT NULL,
    holds INTEGER NOT NULL,
    delivered INTEGER NOT NULL,
    dropped INTEGER NOT NULL,
    skipped INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- Events that a sink never took, whole, so that they outlive their session.
CREATE TABLE dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    sink TEXT NOT NULL,
    at INTEGER NOT NULL,
    reason TEXT NOT NULL,
    event TEXT NOT NULL
) STRICT;
CREATE INDEX dead_letters_by_sink ON dead_letters (sink, id);
