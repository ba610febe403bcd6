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
    PRIMARY KEY (workspace, session_id),
    FOREIGN KEY (workspace, agent_id) REFERENCES agents (workspace, agent_id)
);
CREATE INDEX agent_sessions_live ON agent_sessions (workspace, last_heartbeat) WHERE ended_at IS NULL;
CREATE INDEX agent_sessions_agent ON agent_sessions (workspace, agent_id, last_heartbeat);
CREATE INDEX agent_sessions_agent_live ON agent_sessions (workspace, agent_id, last_heartbeat)
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
    metadata     jsonb,
    urgency      text        NOT NULL CHECK (urgency IN ('high', 'medium', 'low')),
    report_count bigint      NOT NULL CHECK (report_count > 0),
    reported_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (workspace, agent_id),
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
    PRIMARY KEY (workspace, handoff_id),
    FOREIGN KEY (workspace, agent_id) REFERENCES agents (workspace, agent_id)
);
CREATE INDEX handoffs_newest ON handoffs (workspace, write_order);
CREATE INDEX handoffs_agent ON handoffs (workspace, agent_id, write_order);

CREATE TABLE memories (
    workspace    text             NOT NULL DEFAULT 'default',
    memory_id    uuid             NOT NULL,
    agent_id     text             NOT NULL,
    session_id   text,
    event_type   text             NOT NULL
        CHECK (event_type IN ('error', 'success', 'decision', 'discovery', 'optimization')),
    summary      text             NOT NULL,
    summary_hash bytea            NOT NULL CHECK (length(summary_hash) = 32),
    details      jsonb            CHECK (jsonb_typeof(details) = 'object'),
    outcome      text             CHECK (outcome IN ('positive', 'negative', 'neutral')),
    lessons      text[]           NOT NULL,
    tags         text[]           NOT NULL,
    score        double precision NOT NULL DEFAULT 1.0 CHECK (score > 0 AND score <= 1),
    ranks_at     timestamptz      NOT NULL,
    merge_count  bigint           NOT NULL DEFAULT 0 CHECK (merge_count >= 0),
    -- Hours since 1970, written by the store: an index takes no expression that depends on a time zone.
    hour_slot    bigint           NOT NULL,
    -- Summary, lessons, tags and the words of the details, written by the store.
    words        tsvector         NOT NULL,
    created_at   timestamptz      NOT NULL DEFAULT now(),
    CHECK (ranks_at <= created_at),
    PRIMARY KEY (workspace, memory_id),
    FOREIGN KEY (workspace, agent_id) REFERENCES agents (workspace, agent_id)
);
CREATE INDEX memories_relevance ON memories (workspace, ranks_at);
CREATE INDEX memories_agent ON memories (workspace, agent_id, ranks_at);
CREATE INDEX memories_words ON memories USING gin (words);
CREATE UNIQUE INDEX memories_duplicates ON memories (workspace, agent_id, event_type, summary_hash, hour_slot);

CREATE TRIGGER handoffs_fixed BEFORE UPDATE OR DELETE ON handoffs FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER handoffs_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON handoffs
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE FUNCTION check_session() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF TG_OP = 'DELETE' OR NEW.session_id <> OLD.session_id OR NEW.agent_id <> OLD.agent_id THEN
        RAISE EXCEPTION 'a session stays its agent''s, and is ended, never deleted';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER agent_sessions_owned BEFORE UPDATE OR DELETE ON agent_sessions
    FOR EACH ROW EXECUTE FUNCTION check_session();

CREATE FUNCTION check_memory() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF TG_OP = 'DELETE' OR NEW.memory_id <> OLD.memory_id OR NEW.agent_id <> OLD.agent_id
        OR NEW.event_type <> OLD.event_type OR NEW.summary <> OLD.summary OR NEW.summary_hash <> OLD.summary_hash
        OR NEW.created_at <> OLD.created_at OR NEW.merge_count <= OLD.merge_count THEN
        RAISE EXCEPTION 'a memory is only merged into';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER memories_only_merge BEFORE UPDATE OR DELETE ON memories FOR EACH ROW EXECUTE FUNCTION check_memory();

ALTER TABLE work_queue ADD COLUMN heartbeat_at timestamptz;
UPDATE work_queue SET heartbeat_at = claimed_at WHERE status = 'claimed';
CREATE INDEX work_queue_claimant ON work_queue (workspace, claimed_by, heartbeat_at) WHERE status = 'claimed';

ALTER TABLE file_locks ADD COLUMN refreshed_at timestamptz;
UPDATE file_locks SET refreshed_at = locked_at;
