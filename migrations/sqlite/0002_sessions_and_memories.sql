-- Sessions, status reports, handoffs and memories; when a lock was last refreshed and a claim last beaten.
-- Twin: migrations/postgres/0002_sessions_and_memories.sql (same number, same name, same tables).

CREATE TABLE agent_sessions (
    session_id     TEXT    NOT NULL PRIMARY KEY,
    agent_id       TEXT    NOT NULL REFERENCES agents (agent_id),
    agent_type     TEXT    NOT NULL,
    -- A JSON list of texts.
    capabilities   TEXT    NOT NULL DEFAULT '[]' CHECK (json_type(capabilities) = 'array'),
    current_task   TEXT,
    started_at     INTEGER NOT NULL,
    last_heartbeat INTEGER NOT NULL,
    -- Set by cleanup; a session that is registered again goes on.
    ended_at       INTEGER
) STRICT;
CREATE INDEX agent_sessions_live ON agent_sessions (last_heartbeat) WHERE ended_at IS NULL;
CREATE INDEX agent_sessions_agent ON agent_sessions (agent_id, last_heartbeat);
CREATE INDEX agent_sessions_agent_live ON agent_sessions (agent_id, last_heartbeat) WHERE ended_at IS NULL;

CREATE TRIGGER agent_sessions_owned BEFORE UPDATE ON agent_sessions
WHEN NEW.session_id <> OLD.session_id OR NEW.agent_id <> OLD.agent_id
BEGIN SELECT RAISE(ABORT, 'a session stays its agent''s'); END;
CREATE TRIGGER agent_sessions_not_replaced BEFORE INSERT ON agent_sessions
WHEN EXISTS (SELECT 1 FROM agent_sessions WHERE session_id = NEW.session_id)
BEGIN SELECT RAISE(ABORT, 'a session stays its agent''s'); END;
CREATE TRIGGER agent_sessions_stay BEFORE DELETE ON agent_sessions
BEGIN SELECT RAISE(ABORT, 'a session is ended, never deleted'); END;

-- What each agent last said of itself.
CREATE TABLE agent_status (
    agent_id     TEXT    NOT NULL PRIMARY KEY REFERENCES agents (agent_id),
    session_id   TEXT,
    phase        TEXT,
    message      TEXT,
    needs_human  INTEGER NOT NULL CHECK (needs_human IN (0, 1)),
    event_type   TEXT,
    change_id    TEXT,
    metadata     TEXT,
    urgency      TEXT    NOT NULL CHECK (urgency IN ('high', 'medium', 'low')),
    -- Counts the agent's reports.
    report_count INTEGER NOT NULL CHECK (report_count > 0),
    reported_at  INTEGER NOT NULL
) STRICT;

CREATE TABLE handoffs (
    -- Age: the order of writing.
    write_order    INTEGER NOT NULL PRIMARY KEY,
    handoff_id     TEXT    NOT NULL UNIQUE,
    agent_id       TEXT    NOT NULL REFERENCES agents (agent_id),
    session_id     TEXT,
    summary        TEXT    NOT NULL,
    -- JSON lists of texts.
    completed_work TEXT    NOT NULL CHECK (json_type(completed_work) = 'array'),
    in_progress    TEXT    NOT NULL CHECK (json_type(in_progress) = 'array'),
    decisions      TEXT    NOT NULL CHECK (json_type(decisions) = 'array'),
    next_steps     TEXT    NOT NULL CHECK (json_type(next_steps) = 'array'),
    relevant_files TEXT    NOT NULL CHECK (json_type(relevant_files) = 'array'),
    created_at     INTEGER NOT NULL
) STRICT;
CREATE INDEX handoffs_agent ON handoffs (agent_id, write_order);

CREATE TRIGGER handoffs_not_replaced BEFORE INSERT ON handoffs
WHEN EXISTS (SELECT 1 FROM handoffs WHERE handoff_id = NEW.handoff_id OR write_order = NEW.write_order)
BEGIN SELECT RAISE(ABORT, 'handoffs are append-only'); END;
CREATE TRIGGER handoffs_stay BEFORE DELETE ON handoffs
BEGIN SELECT RAISE(ABORT, 'handoffs are append-only'); END;
CREATE TRIGGER handoffs_fixed BEFORE UPDATE ON handoffs
BEGIN SELECT RAISE(ABORT, 'handoffs are append-only'); END;

CREATE TABLE memories (
    -- Names the row for the full-text index.
    entry        INTEGER NOT NULL PRIMARY KEY,
    memory_id    TEXT    NOT NULL UNIQUE,
    agent_id     TEXT    NOT NULL REFERENCES agents (agent_id),
    session_id   TEXT,
    event_type   TEXT    NOT NULL CHECK (event_type IN ('error', 'success', 'decision', 'discovery', 'optimization')),
    summary      TEXT    NOT NULL,
    -- SHA-256 of the summary.
    summary_hash BLOB    NOT NULL CHECK (length(summary_hash) = 32),
    details      TEXT    CHECK (json_type(details) = 'object'),
    outcome      TEXT    CHECK (outcome IN ('positive', 'negative', 'neutral')),
    -- JSON lists of texts.
    lessons      TEXT    NOT NULL CHECK (json_type(lessons) = 'array'),
    tags         TEXT    NOT NULL CHECK (json_type(tags) = 'array'),
    score        REAL    NOT NULL DEFAULT 1.0 CHECK (score > 0 AND score <= 1),
    -- The time at which a memory of score 1 with the same relevance was made. The relevance of all memories fades
    -- alike, so the later of two is the more relevant one at any time, and an index knows the order.
    ranks_at     INTEGER NOT NULL,
    -- Duplicates that added something.
    merge_count  INTEGER NOT NULL DEFAULT 0 CHECK (merge_count >= 0),
    created_at   INTEGER NOT NULL,
    CHECK (ranks_at <= created_at)
) STRICT;
CREATE INDEX memories_relevance ON memories (ranks_at);
CREATE INDEX memories_agent ON memories (agent_id, ranks_at);
-- What cannot be two memories: the store merges a duplicate within an hour of the first, and so never gets here.
CREATE UNIQUE INDEX memories_duplicates ON memories (agent_id, event_type, summary_hash, created_at / 3600000000);

CREATE TRIGGER memories_only_merge BEFORE UPDATE ON memories
WHEN NEW.entry <> OLD.entry OR NEW.memory_id <> OLD.memory_id OR NEW.agent_id <> OLD.agent_id
    OR NEW.event_type <> OLD.event_type OR NEW.summary <> OLD.summary OR NEW.summary_hash <> OLD.summary_hash
    OR NEW.created_at <> OLD.created_at OR NEW.merge_count <= OLD.merge_count
BEGIN SELECT RAISE(ABORT, 'a memory is only merged into'); END;
CREATE TRIGGER memories_not_replaced BEFORE INSERT ON memories
WHEN EXISTS (SELECT 1 FROM memories WHERE memory_id = NEW.memory_id OR entry = NEW.entry
    OR (agent_id = NEW.agent_id AND event_type = NEW.event_type AND summary_hash = NEW.summary_hash
        AND created_at / 3600000000 = NEW.created_at / 3600000000))
BEGIN SELECT RAISE(ABORT, 'a memory is never replaced'); END;
CREATE TRIGGER memories_stay BEFORE DELETE ON memories
BEGIN SELECT RAISE(ABORT, 'a memory is never deleted'); END;

-- The words of a memory. JSON text as it stands would not do: in `"a\nb"` the word `nb` would be found.
CREATE VIEW memory_words AS
SELECT entry,
       summary,
       (SELECT group_concat(value, char(10)) FROM json_each(m.lessons)) AS lessons,
       (SELECT group_concat(value, char(10)) FROM json_each(m.tags)) AS tags,
       (SELECT group_concat(coalesce(key, '') || ' ' || coalesce(atom, ''), char(10)) FROM json_tree(m.details)) AS details
FROM memories m;

-- Holds no texts of its own: it is told the words of a memory anew whenever the memory changes.
CREATE VIRTUAL TABLE memories_fts USING fts5 (
    summary, lessons, tags, details,
    content = '', contentless_delete = 1, tokenize = 'unicode61 remove_diacritics 2'
);

CREATE TRIGGER memories_words_come AFTER INSERT ON memories BEGIN
    INSERT INTO memories_fts (rowid, summary, lessons, tags, details)
    SELECT entry, summary, lessons, tags, details FROM memory_words WHERE entry = NEW.entry;
END;
CREATE TRIGGER memories_words_change AFTER UPDATE ON memories BEGIN
    DELETE FROM memories_fts WHERE rowid = OLD.entry;
    INSERT INTO memories_fts (rowid, summary, lessons, tags, details)
    SELECT entry, summary, lessons, tags, details FROM memory_words WHERE entry = NEW.entry;
END;

-- When the holder last showed that it is there: by its claim or grant, a heartbeat or a refresh.
ALTER TABLE work_queue ADD COLUMN heartbeat_at INTEGER;
UPDATE work_queue SET heartbeat_at = claimed_at WHERE status = 'claimed';
CREATE INDEX work_queue_claimant ON work_queue (claimed_by, heartbeat_at) WHERE status = 'claimed';

ALTER TABLE file_locks ADD COLUMN refreshed_at INTEGER;
UPDATE file_locks SET refreshed_at = locked_at;
