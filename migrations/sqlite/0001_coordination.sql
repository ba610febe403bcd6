-- Agents, keys, locks, tasks and the audit log.
-- Twin: migrations/postgres/0001_coordination.sql (same number, same name, same tables).
-- Times are microseconds since 1970 (UTC). One file is one workspace, so no key carries it.

CREATE TABLE agents (
    agent_id         TEXT    NOT NULL PRIMARY KEY,
    agent_type       TEXT    NOT NULL,
    profile          TEXT    NOT NULL,
    archetype        TEXT,
    suspended_at     INTEGER,
    suspended_reason TEXT,
    -- Counts every change a decision about this agent depends on: profile,
    -- suspension, revoked keys. A permit carries the version it was decided on.
    facts_version    INTEGER NOT NULL DEFAULT 1 CHECK (facts_version > 0),
    created_at       INTEGER NOT NULL,
    created_by       TEXT    NOT NULL
) STRICT;

-- Background work (requeue of expired leases, activation at start-up) runs as this agent. It has no key.
INSERT INTO agents (agent_id, agent_type, profile, created_at, created_by)
VALUES ('system', 'system', 'system', 0, 'system');

CREATE TABLE api_keys (
    key_id     TEXT    NOT NULL PRIMARY KEY,
    agent_id   TEXT    NOT NULL REFERENCES agents (agent_id),
    -- Finds the row; the key is then compared with key_hash in constant time.
    lookup     BLOB    NOT NULL CHECK (length(lookup) = 8),
    key_hash   BLOB    NOT NULL CHECK (length(key_hash) = 32),
    label      TEXT,
    created_at INTEGER NOT NULL,
    created_by TEXT    NOT NULL,
    revoked_at INTEGER,
    revoked_by TEXT
) STRICT;
CREATE INDEX api_keys_lookup ON api_keys (lookup);
CREATE INDEX api_keys_agent ON api_keys (agent_id);

CREATE TABLE file_locks (
    lock_key      TEXT    NOT NULL PRIMARY KEY,
    agent_id      TEXT    NOT NULL REFERENCES agents (agent_id),
    agent_type    TEXT    NOT NULL,
    session_id    TEXT,
    reason        TEXT,
    fencing_token INTEGER NOT NULL CHECK (fencing_token > 0),
    locked_at     INTEGER NOT NULL,
    expires_at    INTEGER NOT NULL CHECK (expires_at > locked_at)
) STRICT;
CREATE INDEX file_locks_agent ON file_locks (agent_id, expires_at);

-- The last fencing token of a key outlives its locks, so that a token is never given twice.
CREATE TABLE lock_fences (
    lock_key   TEXT    NOT NULL PRIMARY KEY,
    last_token INTEGER NOT NULL CHECK (last_token > 0)
) STRICT;

CREATE TRIGGER lock_fences_only_grow BEFORE UPDATE ON lock_fences
WHEN NEW.lock_key <> OLD.lock_key OR NEW.last_token <= OLD.last_token
BEGIN SELECT RAISE(ABORT, 'a fencing token only grows'); END;

-- INSERT OR REPLACE deletes without asking delete triggers, so an insert over a row is judged like an update.
CREATE TRIGGER lock_fences_not_replaced BEFORE INSERT ON lock_fences
WHEN EXISTS (SELECT 1 FROM lock_fences WHERE lock_key = NEW.lock_key AND last_token >= NEW.last_token)
BEGIN SELECT RAISE(ABORT, 'a fencing token only grows'); END;

CREATE TRIGGER lock_fences_stay BEFORE DELETE ON lock_fences
BEGIN SELECT RAISE(ABORT, 'a fence is never deleted'); END;

CREATE TABLE work_queue (
    task_id            TEXT    NOT NULL PRIMARY KEY,
    -- Age: the order of submission.
    submit_order       INTEGER NOT NULL UNIQUE,
    task_type          TEXT    NOT NULL,
    description        TEXT    NOT NULL,
    input_data         TEXT,
    priority           INTEGER NOT NULL CHECK (priority BETWEEN 1 AND 10),
    status             TEXT    NOT NULL CHECK (status IN ('pending', 'claimed', 'completed', 'failed', 'cancelled')),
    submitted_by       TEXT    NOT NULL REFERENCES agents (agent_id),
    required_archetype TEXT,
    required_trust     INTEGER CHECK (required_trust BETWEEN 0 AND 4),
    max_attempts       INTEGER NOT NULL CHECK (max_attempts > 0),
    attempt_count      INTEGER NOT NULL DEFAULT 0 CHECK (attempt_count BETWEEN 0 AND max_attempts),
    open_dependencies  INTEGER NOT NULL DEFAULT 0 CHECK (open_dependencies >= 0),
    deadline           INTEGER,
    claimed_by         TEXT REFERENCES agents (agent_id),
    claimed_at         INTEGER,
    claim_token        TEXT,
    lease_expires_at   INTEGER,
    result             TEXT,
    error_message      TEXT,
    created_at         INTEGER NOT NULL,
    completed_at       INTEGER,
    CHECK ((status = 'claimed') = (claim_token IS NOT NULL)),
    CHECK ((status = 'claimed') = (lease_expires_at IS NOT NULL)),
    CHECK ((status IN ('completed', 'failed', 'cancelled')) = (completed_at IS NOT NULL))
) STRICT;
CREATE INDEX work_queue_claimable ON work_queue (priority, submit_order) WHERE status = 'pending' AND open_dependencies = 0;
CREATE INDEX work_queue_leases ON work_queue (lease_expires_at) WHERE status = 'claimed';
CREATE INDEX work_queue_deadlines ON work_queue (deadline) WHERE status IN ('pending', 'claimed') AND deadline IS NOT NULL;
CREATE INDEX work_queue_submitter ON work_queue (submitted_by, status);
CREATE INDEX work_queue_status ON work_queue (status, submit_order);

CREATE TRIGGER work_queue_final_stays BEFORE UPDATE ON work_queue
WHEN OLD.status IN ('completed', 'failed', 'cancelled')
BEGIN SELECT RAISE(ABORT, 'a final task is never rewritten'); END;

CREATE TRIGGER work_queue_not_replaced BEFORE INSERT ON work_queue
WHEN EXISTS (SELECT 1 FROM work_queue WHERE task_id = NEW.task_id OR submit_order = NEW.submit_order)
BEGIN SELECT RAISE(ABORT, 'a task is never replaced'); END;

CREATE TRIGGER work_queue_stays BEFORE DELETE ON work_queue
BEGIN SELECT RAISE(ABORT, 'a task is never deleted'); END;

CREATE TABLE work_dependencies (
    task_id    TEXT NOT NULL REFERENCES work_queue (task_id),
    depends_on TEXT NOT NULL REFERENCES work_queue (task_id),
    PRIMARY KEY (task_id, depends_on)
) STRICT, WITHOUT ROWID;
CREATE INDEX work_dependencies_reverse ON work_dependencies (depends_on);

CREATE TABLE components (
    digest    TEXT    NOT NULL PRIMARY KEY,
    bytes     BLOB    NOT NULL,
    manifest  TEXT    NOT NULL,
    stored_at INTEGER NOT NULL,
    stored_by TEXT    NOT NULL
) STRICT;

-- The policy epoch: each row is one activation, the last row is what decides now.
CREATE TABLE activations (
    epoch        INTEGER NOT NULL PRIMARY KEY CHECK (epoch > 0),
    digest       TEXT    NOT NULL REFERENCES components (digest),
    activated_at INTEGER NOT NULL,
    activated_by TEXT    NOT NULL
) STRICT;

CREATE TRIGGER activations_in_order BEFORE INSERT ON activations
WHEN NEW.epoch <> (SELECT coalesce(max(epoch), 0) + 1 FROM activations)
BEGIN SELECT RAISE(ABORT, 'activations.epoch has no gap and is never replaced'); END;
CREATE TRIGGER activations_stay BEFORE DELETE ON activations
BEGIN SELECT RAISE(ABORT, 'activations are append-only'); END;
CREATE TRIGGER activations_fixed BEFORE UPDATE ON activations
BEGIN SELECT RAISE(ABORT, 'activations are append-only'); END;

CREATE TABLE audit_log (
    -- Gap-free and given by the one writer, inside the transaction of the change.
    seq           INTEGER NOT NULL PRIMARY KEY,
    id            TEXT    NOT NULL UNIQUE,
    created_at    INTEGER NOT NULL,
    request_id    TEXT    NOT NULL,
    agent_id      TEXT    NOT NULL,
    agent_type    TEXT    NOT NULL,
    profile       TEXT    NOT NULL,
    trust_level   INTEGER NOT NULL,
    -- The command or query of the catalogue, and the policy operation it asked for.
    command       TEXT    NOT NULL,
    operation     TEXT    NOT NULL,
    resource      TEXT    NOT NULL,
    parameters    TEXT    NOT NULL,
    -- What the component was asked, canonical JSON (RFC 8785).
    request       TEXT    NOT NULL,
    decision      TEXT    NOT NULL CHECK (decision IN ('allow', 'deny', 'unavailable')),
    reason        TEXT    NOT NULL,
    detail        TEXT    NOT NULL,
    engine        TEXT    NOT NULL,
    deciding      TEXT    NOT NULL,
    violations    TEXT    NOT NULL,
    obligations   TEXT    NOT NULL,
    component     TEXT    NOT NULL,
    epoch         INTEGER NOT NULL,
    facts_version INTEGER NOT NULL,
    fuel          INTEGER NOT NULL,
    -- What then happened: 'ok', 'refused', 'failed', 'denied' or 'replayed'.
    outcome       TEXT    NOT NULL CHECK (outcome IN ('ok', 'refused', 'failed', 'denied', 'replayed')),
    result        TEXT    NOT NULL,
    -- The state keys that changed, with their new versions.
    changes       TEXT    NOT NULL,
    duration_us   INTEGER NOT NULL,
    -- RFC 6962 leaf hash of the row's canonical JSON without this column.
    leaf_hash     BLOB    NOT NULL CHECK (length(leaf_hash) = 32)
) STRICT;
CREATE INDEX audit_log_agent ON audit_log (agent_id, seq);
CREATE INDEX audit_log_recent_calls ON audit_log (agent_id, created_at);
CREATE INDEX audit_log_operation ON audit_log (operation, seq);
CREATE INDEX audit_log_created ON audit_log (created_at);

CREATE TRIGGER audit_log_no_gap BEFORE INSERT ON audit_log
WHEN NEW.seq <> (SELECT coalesce(max(seq), 0) + 1 FROM audit_log) OR EXISTS (SELECT 1 FROM audit_log WHERE id = NEW.id)
BEGIN SELECT RAISE(ABORT, 'audit_log.seq has no gap, and no row is replaced'); END;
CREATE TRIGGER audit_log_stays BEFORE DELETE ON audit_log
BEGIN SELECT RAISE(ABORT, 'audit_log is append-only'); END;
CREATE TRIGGER audit_log_fixed BEFORE UPDATE ON audit_log
BEGIN SELECT RAISE(ABORT, 'audit_log is append-only'); END;

CREATE TABLE guardrail_violations (
    audit_id        TEXT    NOT NULL REFERENCES audit_log (id),
    position        INTEGER NOT NULL,
    agent_id        TEXT    NOT NULL,
    trust_level     INTEGER NOT NULL,
    pattern_name    TEXT    NOT NULL,
    category        TEXT    NOT NULL,
    severity        TEXT    NOT NULL CHECK (severity IN ('block', 'warn', 'log')),
    min_trust       INTEGER NOT NULL,
    label           TEXT    NOT NULL,
    matched_text    TEXT    NOT NULL,
    passed_by_trust INTEGER NOT NULL CHECK (passed_by_trust IN (0, 1)),
    blocked         INTEGER NOT NULL CHECK (blocked IN (0, 1)),
    created_at      INTEGER NOT NULL,
    PRIMARY KEY (audit_id, position)
) STRICT, WITHOUT ROWID;
CREATE INDEX guardrail_violations_agent ON guardrail_violations (agent_id, created_at);

CREATE TRIGGER guardrail_violations_not_replaced BEFORE INSERT ON guardrail_violations
WHEN EXISTS (SELECT 1 FROM guardrail_violations WHERE audit_id = NEW.audit_id AND position = NEW.position)
BEGIN SELECT RAISE(ABORT, 'guardrail_violations is append-only'); END;
CREATE TRIGGER guardrail_violations_stay BEFORE DELETE ON guardrail_violations
BEGIN SELECT RAISE(ABORT, 'guardrail_violations is append-only'); END;
CREATE TRIGGER guardrail_violations_fixed BEFORE UPDATE ON guardrail_violations
BEGIN SELECT RAISE(ABORT, 'guardrail_violations is append-only'); END;

CREATE TABLE idempotency_keys (
    agent_id     TEXT    NOT NULL REFERENCES agents (agent_id),
    key          TEXT    NOT NULL,
    -- SHA-256 of the command and its parameters: the same key for another request is refused.
    request_hash BLOB    NOT NULL CHECK (length(request_hash) = 32),
    status       INTEGER NOT NULL,
    body         TEXT    NOT NULL,
    audit_id     TEXT    NOT NULL REFERENCES audit_log (id),
    created_at   INTEGER NOT NULL,
    PRIMARY KEY (agent_id, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_keys_created ON idempotency_keys (created_at);
