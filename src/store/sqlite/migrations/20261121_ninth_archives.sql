-- Which of a session's events lie in a file instead of `events`: gapless ranges from 1 on. `file` is below the data folder unless it is
-- absolute; `digest` is of its bytes, `head` the hash of its last event, `places` where in it which event begins. A `staged` one is
-- not in force: its events are still here.
CREATE TABLE archives (
    id INTEGER PRIMARY KEY,
    session_no INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    file TEXT NOT NULL,
    digest BLOB NOT NULL,
    head BLOB NOT NULL,
    bytes INTEGER NOT NULL,
    places TEXT NOT NULL,
    staged INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX archives_by_range ON archives (session_no, staged, first);

-- Of an event whose body was erased: what its hash commits to, since salt and body no longer give it.
ALTER TABLE events ADD COLUMN commitment BLOB;

-- Bodies that are to take the place of erased ones as soon as an event says so; `archive` is the row above that goes with it.
CREATE TABLE redactions (
    session_no INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    body BLOB NOT NULL,
    archive INTEGER,
    PRIMARY KEY (session_no, seq)
) STRICT, WITHOUT ROWID;
