-- Agents, keys, locks, tasks and the audit log.
-- Twin: migrations/sqlite/0001_coordination.sql (same number, same name, same tables).
-- Every key holds the workspace, so that a sharded PostgreSQL can distribute by it; it comes last. Were it first, every
-- index of a table would serve every statement, and as long as a table is small the planner finds them all alike: it takes
-- any, and keeps that plan while the table grows. Times come from the database. Documents that agents wrote are `json`, which keeps
-- their text as it is; `jsonb` would rewrite their numbers.

CREATE TABLE agents (
    workspace        text        NOT NULL DEFAULT 'default',
    agent_id         text        NOT NULL,
    agent_type       text        NOT NULL,
    profile          text        NOT NULL,
    archetype        text,
    suspended_at     timestamptz,
    suspended_reason text,
    facts_version    bigint      NOT NULL DEFAULT 1 CHECK (facts_version > 0),
    created_at       timestamptz NOT NULL DEFAULT now(),
    created_by       text        NOT NULL,
    PRIMARY KEY (agent_id, workspace)
);

INSERT INTO agents (agent_id, agent_type, profile, created_by) VALUES ('system', 'system', 'system', 'system');

CREATE TABLE api_keys (
    workspace  text        NOT NULL DEFAULT 'default',
    key_id     uuid        NOT NULL,
    agent_id   text        NOT NULL,
    lookup     bytea       NOT NULL CHECK (length(lookup) = 8),
    key_hash   bytea       NOT NULL CHECK (length(key_hash) = 32),
    label      text,
    created_at timestamptz NOT NULL DEFAULT now(),
    created_by text        NOT NULL,
    revoked_at timestamptz,
    revoked_by text,
    PRIMARY KEY (key_id, workspace),
    FOREIGN KEY (workspace, agent_id) REFERENCES agents (workspace, agent_id)
);
CREATE INDEX api_keys_lookup ON api_keys (lookup, workspace);
CREATE INDEX api_keys_agent ON api_keys (agent_id, workspace);

CREATE TABLE file_locks (
    workspace     text        NOT NULL DEFAULT 'default',
    lock_key      text        NOT NULL,
    agent_id      text        NOT NULL,
    agent_type    text        NOT NULL,
    session_id    text,
    reason        text,
    fencing_token bigint      NOT NULL CHECK (fencing_token > 0),
    locked_at     timestamptz NOT NULL,
    expires_at    timestamptz NOT NULL,
    CHECK (expires_at > locked_at),
    PRIMARY KEY (lock_key, workspace),
    FOREIGN KEY (workspace, agent_id) REFERENCES agents (workspace, agent_id)
);
CREATE INDEX file_locks_agent ON file_locks (agent_id, expires_at, workspace);

CREATE TABLE lock_fences (
    workspace  text   NOT NULL DEFAULT 'default',
    lock_key   text   NOT NULL,
    last_token bigint NOT NULL CHECK (last_token > 0),
    PRIMARY KEY (lock_key, workspace)
);

CREATE TABLE work_queue (
    workspace          text        NOT NULL DEFAULT 'default',
    task_id            uuid        NOT NULL,
    submit_order       bigint      GENERATED ALWAYS AS IDENTITY,
    task_type          text        NOT NULL,
    description        text        NOT NULL,
    input_data         json,
    priority           bigint      NOT NULL CHECK (priority BETWEEN 1 AND 10),
    status             text        NOT NULL CHECK (status IN ('pending', 'claimed', 'completed', 'failed', 'cancelled')),
    submitted_by       text        NOT NULL,
    required_archetype text,
    required_trust     bigint      CHECK (required_trust BETWEEN 0 AND 4),
    max_attempts       bigint      NOT NULL CHECK (max_attempts > 0),
    attempt_count      bigint      NOT NULL DEFAULT 0,
    open_dependencies  bigint      NOT NULL DEFAULT 0 CHECK (open_dependencies >= 0),
    deadline           timestamptz,
    claimed_by         text,
    claimed_at         timestamptz,
    claim_token        text,
    lease_expires_at   timestamptz,
    result             json,
    error_message      text,
    created_at         timestamptz NOT NULL DEFAULT now(),
    completed_at       timestamptz,
    CHECK (attempt_count BETWEEN 0 AND max_attempts),
    CHECK (open_dependencies = 0 OR status NOT IN ('claimed', 'completed')),
    CHECK ((status = 'claimed') = (claim_token IS NOT NULL)),
    CHECK ((status = 'claimed') = (lease_expires_at IS NOT NULL)),
    CHECK ((status IN ('completed', 'failed', 'cancelled')) = (completed_at IS NOT NULL)),
    PRIMARY KEY (task_id, workspace),
    FOREIGN KEY (workspace, submitted_by) REFERENCES agents (workspace, agent_id),
    FOREIGN KEY (workspace, claimed_by) REFERENCES agents (workspace, agent_id)
);
CREATE INDEX work_queue_claimable ON work_queue (priority, submit_order, workspace)
    WHERE status = 'pending' AND open_dependencies = 0;
CREATE INDEX work_queue_leases ON work_queue (lease_expires_at, workspace) WHERE status = 'claimed';
CREATE INDEX work_queue_deadlines ON work_queue (deadline, workspace)
    WHERE status IN ('pending', 'claimed') AND deadline IS NOT NULL;
CREATE INDEX work_queue_submitter ON work_queue (submitted_by, status, workspace);
CREATE INDEX work_queue_order ON work_queue (submit_order, workspace);
CREATE INDEX work_queue_status ON work_queue (status, submit_order, workspace);

CREATE TABLE work_dependencies (
    workspace  text NOT NULL DEFAULT 'default',
    task_id    uuid NOT NULL,
    depends_on uuid NOT NULL,
    PRIMARY KEY (task_id, depends_on, workspace),
    FOREIGN KEY (workspace, task_id) REFERENCES work_queue (workspace, task_id),
    FOREIGN KEY (workspace, depends_on) REFERENCES work_queue (workspace, task_id)
);
CREATE INDEX work_dependencies_reverse ON work_dependencies (depends_on, workspace);

CREATE TABLE components (
    workspace text        NOT NULL DEFAULT 'default',
    digest    text        NOT NULL,
    bytes     bytea       NOT NULL,
    manifest  json        NOT NULL,
    stored_at timestamptz NOT NULL DEFAULT now(),
    stored_by text        NOT NULL,
    PRIMARY KEY (digest, workspace)
);

CREATE TABLE activations (
    workspace    text        NOT NULL DEFAULT 'default',
    epoch        bigint      NOT NULL CHECK (epoch > 0),
    digest       text        NOT NULL,
    activated_at timestamptz NOT NULL DEFAULT now(),
    activated_by text        NOT NULL,
    PRIMARY KEY (epoch, workspace),
    FOREIGN KEY (workspace, digest) REFERENCES components (workspace, digest)
);

-- What is added to the numbers that this cluster gives its transactions. A log that was restored into another cluster, whose
-- numbers are smaller, goes on behind its last row: `portreeve migrate` raises this where it has to.
CREATE FUNCTION xact_base() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 0;

-- Above the numbers of all transactions that are committed.
CREATE FUNCTION xact_next() RETURNS bigint LANGUAGE sql STABLE
RETURN pg_snapshot_xmax(pg_current_snapshot())::text::bigint + xact_base();

-- The number of this transaction, as the log orders by it.
CREATE FUNCTION xact_now() RETURNS bigint LANGUAGE sql STABLE
RETURN pg_current_xact_id()::text::bigint + xact_base();

-- Append-only. `xact` orders the rows: it is taken inside the transaction after its locks, so that rows that touch one
-- key, one agent or the epoch stand as they happened. Rows that were moved here from an embedded store were numbered
-- before: theirs is 0 for the last of them and falls by one with each before it. The gap-free `seq` is given a moment
-- later, in `audit_seq`: a counter inside the hot transaction would serialise every commit.
CREATE TABLE audit_log (
    workspace     text        NOT NULL DEFAULT 'default',
    xact          bigint      NOT NULL DEFAULT xact_now(),
    id            uuid        NOT NULL,
    created_at    timestamptz NOT NULL,
    request_id    text        NOT NULL,
    agent_id      text        NOT NULL,
    agent_type    text        NOT NULL,
    profile       text        NOT NULL,
    trust_level   bigint      NOT NULL,
    command       text        NOT NULL,
    operation     text        NOT NULL,
    resource      text        NOT NULL,
    parameters    text        NOT NULL,
    request       text        NOT NULL,
    decision      text        NOT NULL CHECK (decision IN ('allow', 'deny', 'unavailable')),
    reason        text        NOT NULL,
    detail        text        NOT NULL,
    engine        text        NOT NULL,
    deciding      text        NOT NULL,
    violations    text        NOT NULL,
    obligations   text        NOT NULL,
    component     text        NOT NULL,
    epoch         bigint      NOT NULL,
    facts_version bigint      NOT NULL,
    fuel          bigint      NOT NULL,
    outcome       text        NOT NULL CHECK (outcome IN ('ok', 'refused', 'failed', 'denied', 'replayed')),
    result        text        NOT NULL,
    -- The state keys that change in this transaction, with their new versions. What is not announced here does not
    -- change: the triggers of the state tables look.
    changes       jsonb       NOT NULL CHECK (changes = '[]' OR (decision = 'allow' AND outcome = 'ok')),
    duration_us   bigint      NOT NULL,
    PRIMARY KEY (id, workspace)
);
CREATE INDEX audit_log_order ON audit_log (xact, id, workspace);
CREATE INDEX audit_log_agent ON audit_log (agent_id, xact, workspace);
CREATE INDEX audit_log_recent_calls ON audit_log (agent_id, created_at, workspace);
CREATE INDEX audit_log_operation ON audit_log (operation, xact, workspace);
CREATE INDEX audit_log_created ON audit_log (created_at, workspace);

CREATE TABLE guardrail_violations (
    workspace       text        NOT NULL DEFAULT 'default',
    audit_id        uuid        NOT NULL,
    position        bigint      NOT NULL,
    agent_id        text        NOT NULL,
    trust_level     bigint      NOT NULL,
    pattern_name    text        NOT NULL,
    category        text        NOT NULL,
    severity        text        NOT NULL CHECK (severity IN ('block', 'warn', 'log')),
    min_trust       bigint      NOT NULL,
    label           text        NOT NULL,
    matched_text    text        NOT NULL,
    passed_by_trust boolean     NOT NULL,
    blocked         boolean     NOT NULL,
    created_at      timestamptz NOT NULL,
    PRIMARY KEY (audit_id, position, workspace),
    FOREIGN KEY (workspace, audit_id) REFERENCES audit_log (workspace, id)
);
CREATE INDEX guardrail_violations_agent ON guardrail_violations (agent_id, created_at, workspace);

CREATE TABLE idempotency_keys (
    workspace    text        NOT NULL DEFAULT 'default',
    agent_id     text        NOT NULL,
    key          text        NOT NULL,
    request_hash bytea       NOT NULL CHECK (length(request_hash) = 32),
    status       bigint      NOT NULL,
    body         text        NOT NULL,
    audit_id     uuid        NOT NULL,
    created_at   timestamptz NOT NULL,
    PRIMARY KEY (agent_id, key, workspace),
    FOREIGN KEY (workspace, agent_id) REFERENCES agents (workspace, agent_id),
    FOREIGN KEY (workspace, audit_id) REFERENCES audit_log (workspace, id)
);
CREATE INDEX idempotency_keys_created ON idempotency_keys (created_at, workspace);

-- What these records hold is never rewritten, not even by whoever owns them: a row trigger and a statement trigger each.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE TRIGGER audit_log_fixed BEFORE UPDATE OR DELETE ON audit_log FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_log_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER guardrail_violations_fixed BEFORE UPDATE OR DELETE ON guardrail_violations
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER guardrail_violations_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON guardrail_violations
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER activations_fixed BEFORE UPDATE OR DELETE ON activations
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER activations_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON activations
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
