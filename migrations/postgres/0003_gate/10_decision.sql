-- The second lock on the door: no state changes in this database without an allow decision, written in the same
-- transaction, that announces the change.
--
-- Every mutation is one function, which runs in this order:
--   1. gate_enter    takes the locks of the epoch and the agents, and checks that facts and epoch are the decision's
--   2. lock_id       names the locks of the keys it touches, which it takes; then it reads the state and works out what is to become of it
--   3. gate_record   writes the audit row: the decision, the outcome, the keys that change with their new versions
--   4. the change    which the triggers of 20_guards.sql hold against that row
-- All locks are advisory and are taken before the first write. The row's `xact` is therefore taken after them, and a
-- function that refuses has nothing to undo.

-- The workspace of this connection. Row security asks it of every row.
CREATE FUNCTION current_workspace() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce(nullif(current_setting('portreeve.workspace', true), ''), 'default');

-- The one source of time: this database's clock, so that hosts whose clocks differ agree. It is asked after the locks
-- are held, and so differs from now(), which is the time at which the transaction began to wait.
CREATE FUNCTION clock_now() RETURNS timestamptz LANGUAGE sql VOLATILE
RETURN clock_timestamp();

-- A time as the wire contract has it.
CREATE FUNCTION rfc3339(at timestamptz) RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
RETURN to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');

-- Microseconds since 1970, as versions in the audit log have it.
CREATE FUNCTION micros(at timestamptz) RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE
RETURN (extract(epoch FROM at) * 1000000)::bigint;

-- What a policy component decided, with what it decided from: the first half of an audit row.
-- REPLAY: the request is kept as it was asked, so that the component can be asked again.
-- TRUST: `trust_level` is the component's own word, resolved from the profile; no function takes another.
CREATE TYPE decision AS (
    id                   uuid,
    request_id           text,
    agent_id             text,
    agent_type           text,
    profile              text,
    trust_level          bigint,
    command              text,
    operation            text,
    resource             text,
    parameters           text,
    request              text,
    decision             text,
    reason               text,
    detail               text,
    engine               text,
    deciding             text,
    violations           text,
    obligations          text,
    component            text,
    epoch                bigint,
    facts_version        bigint,
    fuel                 bigint,
    -- From the request's arrival to the call, by the host's stopwatch.
    elapsed_us           bigint,
    -- The admin's key where its holder named the agent.
    admin_key_id         uuid,
    -- Decided as a repeat, without its texts: good for the first answer, not for a change.
    as_repeat            boolean,
    idempotency_key      text,
    request_hash         bytea,
    max_ttl_minutes      bigint,
    max_locks_held       bigint,
    max_open_tasks       bigint,
    max_calls_per_minute bigint
);

-- What a function answers. `verdict` is 'done', or why nothing was done: 'replayed', 'stale', 'invalid', 'limit'.
CREATE TYPE answer AS (
    verdict text,
    -- The answer to the caller as JSON text; of a refusal, its parts.
    body    text
);

-- The advisory lock of a name. Different names may share a lock, which only makes them wait.
CREATE FUNCTION lock_id(kind text, name text) RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE
RETURN hashtextextended(current_workspace() || E'\x1f' || kind || E'\x1f' || name, 0);

-- So many locks one transaction takes of a kind; who needs more takes one that stands for all of them. The server has room
-- for 64 locks of each connection, unless it was told otherwise.
CREATE FUNCTION locks_max() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 40;

-- AUDIT: one row for each decision, in the transaction of what it changes; audit_seq numbers them without a gap.
-- Writes the audit row of a decision with what came of it, and its guardrail violations. The row is what the triggers
-- of the state tables look for; `changes` is all that may change.
CREATE FUNCTION gate_record(d decision, at timestamptz, outcome text, result text, changes jsonb) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    ws   CONSTANT text := current_workspace();
    kept text := result;
BEGIN
    -- A document that is too long is kept by digest and length: nobody fills the log.
    IF octet_length(kept) > 65536 THEN
        kept := json_build_object('bytes', octet_length(kept), 'sha256', encode(sha256(convert_to(kept, 'UTF8')), 'hex'));
    END IF;
    INSERT INTO audit_log (workspace, xact, id, created_at, request_id, agent_id, agent_type, profile, trust_level,
        command, operation, resource, parameters, request, decision, reason, detail, engine, deciding, violations,
        obligations, component, epoch, facts_version, fuel, outcome, result, changes, duration_us)
    VALUES (ws, xact_now(), d.id, at, d.request_id, d.agent_id, d.agent_type, d.profile, d.trust_level,
        d.command, d.operation, d.resource, d.parameters, d.request, d.decision, d.reason, d.detail, d.engine, d.deciding,
        d.violations, d.obligations, d.component, d.epoch, d.facts_version, d.fuel, outcome, kept, changes,
        greatest(0, d.elapsed_us + (extract(epoch FROM clock_timestamp() - statement_timestamp()) * 1000000)::bigint));
    PERFORM set_config('portreeve.decision', d.id::text, true);
    IF d.violations NOT IN ('[]', 'null') THEN
        INSERT INTO guardrail_violations (workspace, audit_id, position, agent_id, trust_level, pattern_name, category,
            severity, min_trust, label, matched_text, passed_by_trust, blocked, created_at)
        SELECT ws, d.id, v.ordinality - 1, d.agent_id, d.trust_level, v.pattern_name, v.category, v.severity,
            v.min_trust, v.label, v.matched_text, v.passed_by_trust, v.blocked, at
        FROM ROWS FROM (json_to_recordset(d.violations::json) AS (pattern_name text, category text, severity text,
            min_trust bigint, label text, matched_text text, passed_by_trust boolean, blocked boolean))
            WITH ORDINALITY AS v;
    END IF;
END $$;

-- The input turned out bad against the state: recorded as failed, told as a problem of one field.
CREATE FUNCTION gate_invalid(d decision, field text, kind text, msg text) RETURNS answer
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
BEGIN
    PERFORM gate_record(d, clock_now(), 'failed', json_build_object('success', false, 'error', 'invalid_request',
        'reason', kind, 'detail', json_build_array(json_build_object('loc', json_build_array('body', field),
        'msg', msg, 'type', kind)))::text, '[]');
    RETURN ROW('invalid', json_build_object('field', field, 'kind', kind, 'msg', msg)::text)::answer;
END $$;

-- DENY: a function that refuses has written nothing before, and writes nothing but its row.
-- An obligation of the decision stands against it: recorded and told as a denial.
CREATE FUNCTION gate_limit(d decision, reason text, detail text, remedy text) RETURNS answer
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
BEGIN
    PERFORM gate_record(d, clock_now(), 'denied', json_build_object('reason', reason, 'detail', detail)::text, '[]');
    RETURN ROW('limit', json_build_object('reason', reason, 'detail', detail, 'remedy', remedy)::text)::answer;
END $$;

-- Facts or epoch moved since the decision: recorded as failed, to be decided again.
CREATE FUNCTION gate_stale(d decision) RETURNS answer
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
BEGIN
    PERFORM gate_record(d, clock_now(), 'failed', '{"error":"stale_decision"}', '[]');
    RETURN ROW('stale', NULL)::answer;
END $$;

-- What has to be so before anything is looked at. One call is one transaction: whoever had its number before it would stand
-- in the log before what they waited for, where it is numbered already. And each statement sees what was committed before it.
CREATE FUNCTION gate_begin() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
BEGIN
    IF pg_current_xact_id_if_assigned() IS NOT NULL THEN
        RAISE EXCEPTION 'a decision is the first that its transaction writes' USING ERRCODE = 'insufficient_privilege';
    ELSIF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'decisions are made in transactions that read what is committed'
            USING ERRCODE = 'insufficient_privilege';
    END IF;
END $$;

-- Takes the lock of the epoch. Nothing is written while a store moves here: half a log is none.
CREATE FUNCTION gate_epoch(exclusive boolean) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
BEGIN
    PERFORM gate_begin();
    IF exclusive THEN
        PERFORM pg_advisory_xact_lock(lock_id('epoch', ''));
    ELSE
        PERFORM pg_advisory_xact_lock_shared(lock_id('epoch', ''));
    END IF;
    PERFORM 1 FROM store_moves m WHERE m.workspace = current_workspace() AND m.finished_at IS NULL;
    IF FOUND THEN
        RAISE EXCEPTION 'a store is moving here, and is not here yet' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
END $$;

-- Takes the locks of the agents that a decision is from, shared, and that of the one it is to change alone. Always in one
-- order: two who change each other at the same moment would wait for each other otherwise.
CREATE FUNCTION gate_agents(d decision, target text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    lock_ bigint;
    alone boolean;
BEGIN
    FOR lock_, alone IN
        SELECT l.id, bool_or(l.alone) FROM (
            SELECT lock_id('agent', d.agent_id) AS id, false AS alone
            UNION ALL SELECT lock_id('agent', target), true WHERE target IS NOT NULL
            -- Whose key stands for the agent: its revocation takes the lock of the key's own agent.
            UNION ALL SELECT lock_id('agent', k.agent_id), false FROM api_keys k
            WHERE k.workspace = current_workspace() AND k.key_id = d.admin_key_id) l
        GROUP BY l.id ORDER BY l.id
    LOOP
        IF alone THEN
            PERFORM pg_advisory_xact_lock(lock_);
        ELSE
            PERFORM pg_advisory_xact_lock_shared(lock_);
        END IF;
    END LOOP;
END $$;

-- REVOKE: whoever suspends, revokes or activates takes alone what is shared here, so what waits sees what they did.
-- Takes the locks that every decision holds, and that of the agent it is to change, and says whether it still stands.
CREATE FUNCTION gate_stands(d decision, exclusive boolean, target text DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    ws CONSTANT text := current_workspace();
BEGIN
    PERFORM gate_epoch(exclusive);
    IF target IS NULL AND d.admin_key_id IS NULL THEN
        PERFORM pg_advisory_xact_lock_shared(lock_id('agent', d.agent_id));
    ELSE
        PERFORM gate_agents(d, target);
    END IF;
    -- Each statement sees what was committed before it began, so after the locks nothing moves any more.
    RETURN d.facts_version IS NOT DISTINCT FROM
            (SELECT a.facts_version FROM agents a WHERE a.workspace = ws AND a.agent_id = d.agent_id)
        AND d.epoch = (SELECT coalesce(max(v.epoch), 0) FROM activations v WHERE v.workspace = ws)
        -- A revoked key moves the facts of its own agent; where the admin's key stands for another, it is looked at itself.
        AND (d.admin_key_id IS NULL OR EXISTS (SELECT 1 FROM api_keys k
            WHERE k.workspace = ws AND k.key_id = d.admin_key_id AND k.revoked_at IS NULL));
END $$;

-- Whether the agent has calls left in this minute; NULL, or the refusal.
CREATE FUNCTION gate_calls(d decision) RETURNS answer
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    calls bigint;
BEGIN
    IF d.max_calls_per_minute IS NULL THEN
        RETURN NULL;
    END IF;
    PERFORM pg_advisory_xact_lock(lock_id('calls', d.agent_id));
    SELECT count(*) INTO calls FROM audit_log l
    WHERE l.workspace = current_workspace() AND l.agent_id = d.agent_id
      AND l.created_at > clock_now() - interval '1 minute';
    IF calls < d.max_calls_per_minute THEN
        RETURN NULL;
    END IF;
    RETURN gate_limit(d, 'call_limit_reached', format('the profile allows %s calls a minute', d.max_calls_per_minute),
        'wait a minute, or ask an admin for a profile with a higher limit');
END $$;

-- The first answer to a repeated request, as an answer; NULL when this is the first.
CREATE FUNCTION gate_first_answer(d decision) RETURNS answer
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    first idempotency_keys;
BEGIN
    IF d.idempotency_key IS NULL THEN
        RETURN NULL;
    END IF;
    PERFORM pg_advisory_xact_lock(lock_id('idempotency', d.agent_id || E'\x1f' || d.idempotency_key));
    SELECT * INTO first FROM idempotency_keys k
    WHERE k.workspace = current_workspace() AND k.agent_id = d.agent_id AND k.key = d.idempotency_key
      AND k.created_at > clock_now() - interval '24 hours';
    IF NOT FOUND THEN
        -- The first answer expired since the gate saw it; nobody has read this request's texts yet.
        RETURN CASE WHEN d.as_repeat THEN gate_stale(d) END;
    END IF;
    IF first.request_hash <> d.request_hash THEN
        RETURN gate_invalid(d, 'Idempotency-Key', 'idempotency_key_reused',
            'this Idempotency-Key was used for another request within 24 hours; take a new one');
    END IF;
    PERFORM gate_record(d, clock_now(), 'replayed', json_build_object('replayed', true, 'status', first.status)::text, '[]');
    RETURN ROW('replayed', json_build_object('status', first.status, 'body', first.body)::text)::answer;
END $$;

-- GATE: every function that changes something begins here, and may be called with an allowance of its own name only.
-- Lets a mutation in: NULL when it may go on; else the answer, which is recorded. `target` is the agent that it changes.
-- Raises unless the decision is an allowance of exactly this command and operation.
CREATE FUNCTION gate_enter(d decision, command text, operation text, exclusive boolean DEFAULT false,
    target text DEFAULT NULL) RETURNS answer
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    a answer;
BEGIN
    IF d.decision IS DISTINCT FROM 'allow' OR d.command IS DISTINCT FROM command
        OR d.operation IS DISTINCT FROM operation OR d.id IS NULL THEN
        RAISE EXCEPTION 'no allow decision for % (%)', command, operation USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF NOT gate_stands(d, exclusive, target) THEN
        RETURN gate_stale(d);
    END IF;
    a := gate_calls(d);
    IF a.verdict IS NULL THEN
        a := gate_first_answer(d);
    END IF;
    RETURN CASE WHEN a.verdict IS NOT NULL THEN a END;
END $$;

-- Records what became of a mutation, before it is made. `is_answer` keeps the body for repeats under the request's
-- idempotency key; `result` is what the log keeps of the body, where that is not the body itself.
CREATE FUNCTION gate_done(d decision, at timestamptz, outcome text, body json, changes jsonb DEFAULT '[]',
    is_answer boolean DEFAULT true, result json DEFAULT NULL) RETURNS answer
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
BEGIN
    PERFORM gate_record(d, at, outcome, coalesce(result, body)::text, changes);
    IF is_answer AND d.idempotency_key IS NOT NULL THEN
        -- One that is older than a day is forgotten by being replaced.
        INSERT INTO idempotency_keys AS k (workspace, agent_id, key, request_hash, status, body, audit_id, created_at)
        VALUES (current_workspace(), d.agent_id, d.idempotency_key, d.request_hash, 200, body::text, d.id, at)
        ON CONFLICT (workspace, agent_id, key) DO UPDATE SET request_hash = excluded.request_hash,
            status = excluded.status, body = excluded.body, audit_id = excluded.audit_id, created_at = excluded.created_at;
    END IF;
    RETURN ROW('done', body::text)::answer;
END $$;

-- One state key that changes, for the audit row.
CREATE FUNCTION change(tab text, key text, version jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN jsonb_build_array(jsonb_build_object('table', tab, 'key', key, 'version', version));

-- ------------------------------------------------------------- without a change

-- Records a decision that was not an allowance. 'stale' when it has to be made again: the facts it was made from may be
-- the host's, from before they changed.
CREATE FUNCTION decision_refuse(d decision) RETURNS answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
BEGIN
    IF d.decision NOT IN ('deny', 'unavailable') THEN
        RAISE EXCEPTION 'an allowance is no refusal' USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF NOT gate_stands(d, false) THEN
        RETURN gate_stale(d);
    END IF;
    PERFORM gate_record(d, clock_now(), 'denied', 'null', '[]');
    RETURN ROW('done', NULL)::answer;
END $$;

-- Records what was allowed and changed nothing: a question and how it ended, or a command whose input was bad.
CREATE FUNCTION decision_answer(d decision, outcome text, summary text) RETURNS answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    a answer;
BEGIN
    IF d.decision IS DISTINCT FROM 'allow' THEN
        RAISE EXCEPTION 'no allow decision for %', d.command USING ERRCODE = 'insufficient_privilege';
    END IF;
    IF NOT gate_stands(d, false) THEN
        RETURN gate_stale(d);
    END IF;
    a := gate_calls(d);
    IF a.verdict IS NOT NULL THEN
        RETURN a;
    END IF;
    PERFORM gate_record(d, clock_now(), outcome, summary, '[]');
    RETURN ROW('done', NULL)::answer;
END $$;

-- Records that an allowed mutation failed in the database and was rolled back. It is a transaction of its own, after that.
CREATE FUNCTION decision_fail(d decision) RETURNS answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
BEGIN
    PERFORM gate_epoch(false);
    PERFORM gate_record(d, clock_now(), 'failed', '{"error":"storage_unavailable"}', '[]');
    RETURN ROW('done', NULL)::answer;
END $$;
