-- What policies keep between calls, one row a key: the projection of `plugin_state_changed`.
CREATE TABLE plugin_states (
    session_no INTEGER NOT NULL,
    policy TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (session_no, policy, key)
) STRICT, WITHOUT ROWID;
