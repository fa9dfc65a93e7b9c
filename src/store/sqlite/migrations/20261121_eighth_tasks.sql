-- One row per task of a session: the projection (doc, JSON) of `task_updated`. `began` is the seq of the event that made it.
CREATE TABLE tasks (
    session_no INTEGER NOT NULL,
    id TEXT NOT NULL,
    began INTEGER NOT NULL,
    doc TEXT NOT NULL,
    PRIMARY KEY (session_no, id)
) STRICT, WITHOUT ROWID;
