-- One row per question to a person: the projection (doc, JSON). `no` is the row number of the event that asked, `changed` that of the
-- event that changed it last: what a follower has seen.
CREATE TABLE approvals (
    no INTEGER PRIMARY KEY,
    session_no INTEGER NOT NULL,
    call INTEGER NOT NULL,
    state TEXT NOT NULL,
    changed INTEGER NOT NULL,
    doc TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX approvals_by_call ON approvals (session_no, call);
CREATE INDEX approvals_by_change ON approvals (changed);
CREATE INDEX approvals_waiting ON approvals (no) WHERE state = 'waiting';
