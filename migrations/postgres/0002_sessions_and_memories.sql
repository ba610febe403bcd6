-- Sessions, status reports, handoffs and memories; when a lock was last refreshed and a claim last beaten.
-- Twin: migrations/sqlite/0002_sessions_and_memories.sql (same number, same name, same tables).

CREATE TABLE agent_sessions (
    workspace      text        NOT NULL DEFAULT 'default',
    session_id     text        NOT NULL,
    agent_id       text        NOT NULL,
    agent_type     text        NOT NULL,
    capabilities   text[]      NOT NULL DEFAULT '{}',
    current_task   text,
    started_at     timestamptz NOT NULL DEFAULT now(),
    last_heartbeat timestamptz NOT NULL DEFAULT now(),
    ended_at       timestamptz,
    PRIMARY KEY (session_id, workspace),
    FOREIGN KEY (workspace, agent_id) REFERENCES agents (workspace, agent_id)
);
CREATE INDEX agent_sessions_live ON agent_sessions (last_heartbeat, workspace) WHERE ended_at IS NULL;
CREATE INDEX agent_sessions_agent ON agent_sessions (agent_id, last_heartbeat, workspace);
CREATE INDEX agent_sessions_agent_live ON agent_sessions (agent_id, last_heartbeat, workspace)
    WHERE ended_at IS NULL;

CREATE TABLE agent_status (
    workspace    text        NOT NULL DEFAULT 'default',
    agent_id     text        NOT NULL,
    session_id   text,
    phase        text,
    message      text,
    needs_human  boolean     NOT NULL,
    event_type   text,
    change_id    text,
    metadata     json,
    urgency      text        NOT NULL CHECK (urgency IN ('high', 'medium', 'low')),
    report_count bigint      NOT NULL CHECK (report_count > 0),
    reported_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (agent_id, workspace),
    FOREIGN KEY (workspace, agent_id) REFERENCES agents (workspace, agent_id)
);

CREATE TABLE handoffs (
    workspace      text        NOT NULL DEFAULT 'default',
    write_order    bigint      GENERATED ALWAYS AS IDENTITY,
    handoff_id     uuid        NOT NULL,
    agent_id       text        NOT NULL,
    session_id     text,
    summary        text        NOT NULL,
    completed_work text[]      NOT NULL,
    in_progress    text[]      NOT NULL,
    decisions      text[]      NOT NULL,
    next_steps     text[]      NOT NULL,
    relevant_files text[]      NOT NULL,
    created_at     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (handoff_id, workspace),
    FOREIGN KEY (workspace, agent_id) REFERENCES agents (workspace, agent_id)
);
CREATE INDEX handoffs_newest ON handoffs (write_order, workspace);
CREATE INDEX handoffs_agent ON handoffs (agent_id, write_order, workspace);

CREATE TABLE memories (
    workspace    text             NOT NULL DEFAULT 'default',
    -- Age: the order of storing.
    entry        bigint           GENERATED ALWAYS AS IDENTITY,
    memory_id    uuid             NOT NULL,
    agent_id     text             NOT NULL,
    session_id   text,
    event_type   text             NOT NULL
        CHECK (event_type IN ('error', 'success', 'decision', 'discovery', 'optimization')),
    summary      text             NOT NULL,
    summary_hash bytea            NOT NULL CHECK (length(summary_hash) = 32),
    details      json             CHECK (json_typeof(details) = 'object'),
    outcome      text             CHECK (outcome IN ('positive', 'negative', 'neutral')),
    lessons      text[]           NOT NULL,
    tags         text[]           NOT NULL,
    score        double precision NOT NULL DEFAULT 1.0 CHECK (score > 0 AND score <= 1),
    ranks_at     timestamptz      NOT NULL,
    merge_count  bigint           NOT NULL DEFAULT 0 CHECK (merge_count >= 0),
    -- Hours since 1970, written by the store: an index takes no expression that depends on a time zone.
    hour_slot    bigint           NOT NULL,
    -- The words of the summary, of each lesson and tag and of each key of the details, made by the host: what a merge
    -- replaces takes its words with it, and no dictionary or locale of the server has a say.
    word_lists   jsonb            NOT NULL CHECK (jsonb_typeof(word_lists) = 'object'),
    -- All of them. No index on this: row security asks for the workspace before it lets a search look at a row, and the
    -- operator of a search is not one that may be asked first.
    words        tsvector         NOT NULL,
    created_at   timestamptz      NOT NULL DEFAULT now(),
    CHECK (ranks_at <= created_at),
    PRIMARY KEY (memory_id, workspace),
    FOREIGN KEY (workspace, agent_id) REFERENCES agents (workspace, agent_id)
);
CREATE INDEX memories_relevance ON memories (ranks_at, workspace);
CREATE INDEX memories_agent ON memories (agent_id, ranks_at, workspace);
CREATE UNIQUE INDEX memories_duplicates ON memories (agent_id, event_type, summary_hash, hour_slot, workspace);

CREATE TRIGGER handoffs_fixed BEFORE UPDATE OR DELETE ON handoffs FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER handoffs_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON handoffs
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

ALTER TABLE work_queue ADD COLUMN heartbeat_at timestamptz;
UPDATE work_queue SET heartbeat_at = claimed_at WHERE status = 'claimed';
CREATE INDEX work_queue_claimant ON work_queue (claimed_by, heartbeat_at, workspace) WHERE status = 'claimed';

ALTER TABLE file_locks ADD COLUMN refreshed_at timestamptz;
UPDATE file_locks SET refreshed_at = locked_at;
