-- What sessions and people gave the host to keep over sessions. No projection: it outlives the log of the session that added it.
CREATE TABLE memories (
    no INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    namespace TEXT NOT NULL,
    tier TEXT NOT NULL,
    text TEXT NOT NULL,
    -- JSON list of texts.
    tags TEXT NOT NULL,
    -- The session that added it and its event `memory_added`; null where a person did.
    session TEXT,
    seq INTEGER,
    -- Of the text and the tags.
    bytes INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX memories_by_place ON memories (namespace, tier, no, bytes);
CREATE INDEX memories_by_session ON memories (session, seq) WHERE session IS NOT NULL;

-- The full text index. It is changed with the rows above, by the statements that change them.
CREATE VIRTUAL TABLE memory_words USING fts5 (
    text, tags, content = 'memories', content_rowid = 'no', tokenize = 'porter unicode61 remove_diacritics 2'
);
-- Words of what is removed or erased leave the index at once.
INSERT INTO memory_words (memory_words, rank) VALUES ('secure-delete', 1);
