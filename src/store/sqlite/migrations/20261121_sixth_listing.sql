-- What listings filter and sort by beside name, agent and status. The first six never change; `cost` is -1 where none is known.
ALTER TABLE sessions ADD COLUMN owner TEXT;
ALTER TABLE sessions ADD COLUMN mission TEXT;
ALTER TABLE sessions ADD COLUMN phase TEXT;
ALTER TABLE sessions ADD COLUMN tenant TEXT;
ALTER TABLE sessions ADD COLUMN thread TEXT;
ALTER TABLE sessions ADD COLUMN parent TEXT;
ALTER TABLE sessions ADD COLUMN outcome TEXT;
ALTER TABLE sessions ADD COLUMN active_at INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN cost INTEGER NOT NULL DEFAULT -1;
-- Not one on what changes with every append: that would cost each of them a page.
CREATE INDEX sessions_by_owner ON sessions (owner) WHERE owner IS NOT NULL;
CREATE INDEX sessions_by_mission ON sessions (mission) WHERE mission IS NOT NULL;
CREATE INDEX sessions_by_phase ON sessions (phase) WHERE phase IS NOT NULL;
CREATE INDEX sessions_by_tenant ON sessions (tenant) WHERE tenant IS NOT NULL;
CREATE INDEX sessions_by_thread ON sessions (thread) WHERE thread IS NOT NULL;
CREATE INDEX sessions_by_parent ON sessions (parent) WHERE parent IS NOT NULL;
CREATE INDEX sessions_by_outcome ON sessions (outcome) WHERE outcome IS NOT NULL;
CREATE INDEX sessions_by_created ON sessions (created_at);

-- One row per label of a session, in the order in which listings read them.
CREATE TABLE session_labels (
    key TEXT NOT NULL,
    value TEXT NOT NULL,
    session_no INTEGER NOT NULL,
    PRIMARY KEY (key, value, session_no)
) STRICT, WITHOUT ROWID;
CREATE INDEX session_labels_by_session ON session_labels (session_no);
