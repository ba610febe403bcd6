-- What every state table insists on, whoever writes to it: a change is announced by an allow decision of the same
-- transaction, and the table's own rules hold. Triggers ask neither roles nor functions, so this holds for the owner of
-- the tables and for a superuser as well, until one of them drops the guard.

-- EQUIV: these rules are those of `host/src/domain`, and of the triggers of the embedded store.
-- Raises unless the audit row of this transaction's decision announces that this key changes.
CREATE FUNCTION check_decided(tab text, key text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
BEGIN
    -- The setting only says where to look. What counts is a row that this very transaction wrote.
    PERFORM 1 FROM audit_log l
    WHERE l.workspace = current_workspace() AND l.id = nullif(current_setting('portreeve.decision', true), '')::uuid
      AND l.xact = xact_now() AND l.decision = 'allow' AND l.outcome = 'ok'
      AND l.changes @> jsonb_build_array(jsonb_build_object('table', tab, 'key', key));
    IF NOT FOUND THEN
        PERFORM refuse_undecided(tab, key);
    END IF;
END $$;

-- The keys of a table that the audit row of this transaction's decision announces. What may change by the thousand is held
-- against them all at once after the statement: to look into the row for each key would take ever longer for each. Its names
-- are bound when it is made; a path of its own would keep it from becoming part of the statements that ask it.
CREATE FUNCTION decided_keys(tab text) RETURNS TABLE (workspace text, key text, version jsonb) LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT l.workspace, c.value->>'key', c.value->'version'
    FROM audit_log l CROSS JOIN LATERAL jsonb_array_elements(l.changes) AS c (value)
    WHERE l.workspace = current_workspace() AND l.id = nullif(current_setting('portreeve.decision', true), '')::uuid
      AND l.xact = xact_now() AND l.decision = 'allow' AND l.outcome = 'ok' AND c.value->>'table' = tab;
END;

CREATE FUNCTION refuse_undecided(tab text, key text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'no allow decision of this transaction announces that `%` of % changes', key, tab
        USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE FUNCTION guard_agents() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        RAISE EXCEPTION 'an agent is suspended, never deleted' USING ERRCODE = 'insufficient_privilege';
    ELSIF TG_OP = 'UPDATE' AND (NEW.workspace, NEW.agent_id, NEW.agent_type) IS DISTINCT FROM (OLD.workspace, OLD.agent_id, OLD.agent_type) THEN
        RAISE EXCEPTION 'an agent keeps its name and its type' USING ERRCODE = 'insufficient_privilege';
    ELSIF TG_OP = 'UPDATE' AND NEW.facts_version <> OLD.facts_version + 1 THEN
        RAISE EXCEPTION 'every change of an agent moves its facts version' USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM check_decided('agents', NEW.agent_id);
    RETURN NEW;
END $$;

CREATE FUNCTION guard_api_keys() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND (OLD.revoked_at IS NOT NULL OR NEW.revoked_at IS NULL
        OR (NEW.workspace, NEW.key_id, NEW.agent_id, NEW.lookup, NEW.key_hash)
            IS DISTINCT FROM (OLD.workspace, OLD.key_id, OLD.agent_id, OLD.lookup, OLD.key_hash))) THEN
        RAISE EXCEPTION 'a key is only revoked, and for good' USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM check_decided('api_keys', NEW.key_id::text);
    RETURN NEW;
END $$;

-- Deleting is looked at by `guard_file_locks_gone`.
CREATE FUNCTION guard_file_locks() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND (NEW.workspace, NEW.lock_key) IS DISTINCT FROM (OLD.workspace, OLD.lock_key) THEN
        RAISE EXCEPTION 'a lock keeps its key' USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM check_decided('file_locks', NEW.lock_key);
    RETURN NEW;
END $$;

CREATE FUNCTION guard_file_locks_gone() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    key text;
BEGIN
    SELECT u.key INTO key FROM (SELECT o.workspace, o.lock_key AS key FROM old_rows o
        EXCEPT SELECT c.workspace, c.key FROM decided_keys('file_locks') c) u LIMIT 1;
    IF FOUND THEN
        PERFORM refuse_undecided('file_locks', key);
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION guard_lock_fences() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND ((NEW.workspace, NEW.lock_key) IS DISTINCT FROM (OLD.workspace, OLD.lock_key)
        OR NEW.last_token <= OLD.last_token)) THEN
        RAISE EXCEPTION 'a fencing token only grows' USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM check_decided('lock_fences', NEW.lock_key);
    RETURN NEW;
END $$;

-- Whether a change is decided is asked by `guard_work_queue_moved`.
CREATE FUNCTION guard_work_queue() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        RAISE EXCEPTION 'a task is never deleted' USING ERRCODE = 'insufficient_privilege';
    ELSIF TG_OP = 'INSERT' AND NEW.status <> 'pending' THEN
        RAISE EXCEPTION 'a task begins as pending' USING ERRCODE = 'insufficient_privilege';
    ELSIF TG_OP = 'INSERT' THEN
        PERFORM check_decided('work_queue', NEW.task_id::text);
    ELSIF OLD.status IN ('completed', 'failed', 'cancelled') THEN
        RAISE EXCEPTION 'a final task is never rewritten' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN NEW;
END $$;

-- How many of those that a task waits for are not completed.
CREATE FUNCTION open_dependencies(ws text, id uuid) RETURNS bigint LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT count(*) FROM work_dependencies w JOIN work_queue q ON q.workspace = w.workspace AND q.task_id = w.depends_on
    WHERE w.workspace = ws AND w.task_id = id AND q.status <> 'completed';
END;

CREATE FUNCTION refuse_miscount(id uuid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'the task `%` is to wait for as many others as are not completed', id
        USING ERRCODE = 'insufficient_privilege';
END $$;

-- Set operations throughout: a plan may be made for one row and meet thousands, and these take it. They hold NULLs for equal.
CREATE FUNCTION guard_work_queue_moved() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    completed uuid[];
    key       text;
BEGIN
    -- As it is most of the time: all are announced, and none waits for more or fewer than before.
    PERFORM 1 FROM (
        (SELECT n.workspace, n.task_id::text, NULL::bigint FROM new_rows n
            EXCEPT SELECT c.workspace, c.key, NULL FROM decided_keys('work_queue') c)
        UNION ALL (SELECT n.workspace, n.task_id::text, n.open_dependencies FROM new_rows n
            EXCEPT SELECT o.workspace, o.task_id::text, o.open_dependencies FROM old_rows o)) u LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    -- One of those that a task waits for is completed: what is announced is that one, and the task is told and no more.
    completed := ARRAY(SELECT c.key::uuid FROM decided_keys('work_queue') c WHERE c.version->>'status' = 'completed');
    SELECT u.task_id INTO key FROM (
        SELECT n.workspace, n.task_id FROM new_rows n
        EXCEPT SELECT c.workspace, c.key::uuid FROM decided_keys('work_queue') c
        EXCEPT (
            SELECT w.workspace, w.task_id FROM work_dependencies w
            WHERE w.workspace = current_workspace() AND w.depends_on = ANY (completed)
            INTERSECT SELECT t.workspace, t.task_id FROM (
                SELECT n.workspace, n.task_id, n.open_dependencies + 1, n.status, n.attempt_count, n.claimed_by, n.claimed_at,
                    n.claim_token, n.lease_expires_at, n.heartbeat_at, n.result::text, n.error_message, n.completed_at
                FROM new_rows n
                INTERSECT
                SELECT o.workspace, o.task_id, o.open_dependencies, o.status, o.attempt_count, o.claimed_by, o.claimed_at,
                    o.claim_token, o.lease_expires_at, o.heartbeat_at, o.result::text, o.error_message, o.completed_at
                FROM old_rows o) t)) u LIMIT 1;
    IF FOUND THEN
        PERFORM refuse_undecided('work_queue', key);
    END IF;
    -- Told twice, or before it is so, a task would be claimed too early: what counts is what is there after the statement.
    SELECT u.task_id INTO key FROM (
        SELECT n.workspace, n.task_id, n.open_dependencies FROM new_rows n
        EXCEPT SELECT o.workspace, o.task_id, o.open_dependencies FROM old_rows o) u
    WHERE u.open_dependencies <> open_dependencies(u.workspace, u.task_id) LIMIT 1;
    IF FOUND THEN
        PERFORM refuse_miscount(key::uuid);
    END IF;
    RETURN NULL;
END $$;

-- Fires only where a statement names one of these columns, so that large texts are not compared on every claim.
CREATE FUNCTION refuse_rewrite() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'what was asked for in % is never rewritten', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE FUNCTION guard_work_dependencies() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        RAISE EXCEPTION 'a dependency is never rewritten' USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM check_decided('work_queue', NEW.task_id::text);
    RETURN NEW;
END $$;

-- A task's dependencies come in one statement, after it: then it waits for as many as it says.
CREATE FUNCTION guard_work_dependencies_new() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    id uuid;
BEGIN
    -- No join: its condition is about the task alone, and a plan may try it on every task that there is.
    SELECT n.task_id INTO id FROM (SELECT DISTINCT r.workspace, r.task_id FROM new_rows r) n
    WHERE open_dependencies(n.workspace, n.task_id) <> (SELECT q.open_dependencies FROM work_queue q
        WHERE q.workspace = n.workspace AND q.task_id = n.task_id) LIMIT 1;
    IF FOUND THEN
        PERFORM refuse_miscount(id);
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION guard_components() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        RAISE EXCEPTION 'a component is what its digest says' USING ERRCODE = 'insufficient_privilege';
    ELSIF NEW.digest <> 'sha256:' || encode(sha256(NEW.bytes), 'hex') THEN
        RAISE EXCEPTION 'the bytes are not those of the digest' USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM check_decided('components', NEW.digest);
    RETURN NEW;
END $$;

CREATE FUNCTION guard_activations() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
BEGIN
    IF NEW.epoch <> (SELECT coalesce(max(v.epoch), 0) + 1 FROM activations v WHERE v.workspace = NEW.workspace) THEN
        RAISE EXCEPTION 'epochs have no gap' USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM check_decided('activations', NEW.digest);
    RETURN NEW;
END $$;

-- Whether a change is decided is asked by `guard_agent_sessions_moved`.
CREATE FUNCTION guard_agent_sessions() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND (NEW.workspace, NEW.session_id, NEW.agent_id)
        IS DISTINCT FROM (OLD.workspace, OLD.session_id, OLD.agent_id)) THEN
        RAISE EXCEPTION 'a session stays its agent''s, and is ended, never deleted' USING ERRCODE = 'insufficient_privilege';
    ELSIF TG_OP = 'INSERT' THEN
        PERFORM check_decided('agent_sessions', NEW.session_id);
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION guard_agent_sessions_moved() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    key text;
BEGIN
    SELECT u.key INTO key FROM (SELECT n.workspace, n.session_id AS key FROM new_rows n
        EXCEPT SELECT c.workspace, c.key FROM decided_keys('agent_sessions') c) u LIMIT 1;
    IF FOUND THEN
        PERFORM refuse_undecided('agent_sessions', key);
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION guard_agent_status() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND ((NEW.workspace, NEW.agent_id) IS DISTINCT FROM (OLD.workspace, OLD.agent_id)
        OR NEW.report_count <> OLD.report_count + 1)) THEN
        RAISE EXCEPTION 'reports are counted' USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM check_decided('agent_status', NEW.agent_id);
    RETURN NEW;
END $$;

CREATE FUNCTION guard_handoffs() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
BEGIN
    PERFORM check_decided('handoffs', NEW.handoff_id::text);
    RETURN NEW;
END $$;

CREATE FUNCTION guard_memories() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
BEGIN
    IF TG_OP = 'DELETE' OR (TG_OP = 'UPDATE' AND ((NEW.workspace, NEW.memory_id, NEW.agent_id, NEW.event_type, NEW.summary,
            NEW.summary_hash, NEW.created_at) IS DISTINCT FROM (OLD.workspace, OLD.memory_id, OLD.agent_id, OLD.event_type,
            OLD.summary, OLD.summary_hash, OLD.created_at) OR NEW.merge_count <= OLD.merge_count)) THEN
        RAISE EXCEPTION 'a memory is only merged into' USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM check_decided('memories', NEW.memory_id::text);
    RETURN NEW;
END $$;

-- A first answer hangs on the audit row of its own transaction, whatever came of the request; it is replaced or forgotten
-- only once it is a day old.
CREATE FUNCTION guard_idempotency_keys() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
BEGIN
    IF TG_OP <> 'INSERT' AND OLD.created_at > clock_now() - interval '24 hours' THEN
        RAISE EXCEPTION 'a first answer is kept for a day' USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM 1 FROM audit_log l
    WHERE l.workspace = current_workspace() AND l.id = nullif(current_setting('portreeve.decision', true), '')::uuid
      AND l.xact = xact_now() AND l.decision = 'allow' AND (TG_OP = 'DELETE' OR l.id = NEW.audit_id);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'no allow decision of this transaction' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN CASE WHEN TG_OP = 'DELETE' THEN OLD ELSE NEW END;
END $$;

CREATE FUNCTION refuse_truncate() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '% is never emptied', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE TRIGGER agents_decided BEFORE INSERT OR UPDATE OR DELETE ON agents
    FOR EACH ROW EXECUTE FUNCTION guard_agents();
CREATE TRIGGER api_keys_decided BEFORE INSERT OR UPDATE OR DELETE ON api_keys
    FOR EACH ROW EXECUTE FUNCTION guard_api_keys();
CREATE TRIGGER file_locks_decided BEFORE INSERT OR UPDATE ON file_locks
    FOR EACH ROW EXECUTE FUNCTION guard_file_locks();
CREATE TRIGGER file_locks_gone AFTER DELETE ON file_locks REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION guard_file_locks_gone();
CREATE TRIGGER lock_fences_decided BEFORE INSERT OR UPDATE OR DELETE ON lock_fences
    FOR EACH ROW EXECUTE FUNCTION guard_lock_fences();
CREATE TRIGGER work_queue_decided BEFORE INSERT OR UPDATE OR DELETE ON work_queue
    FOR EACH ROW EXECUTE FUNCTION guard_work_queue();
CREATE TRIGGER work_queue_moved AFTER UPDATE ON work_queue REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION guard_work_queue_moved();
CREATE TRIGGER work_queue_asked BEFORE UPDATE OF workspace, task_id, submit_order, task_type, description, input_data,
    priority, submitted_by, required_archetype, required_trust, max_attempts, deadline, created_at ON work_queue
    FOR EACH ROW EXECUTE FUNCTION refuse_rewrite();
CREATE TRIGGER work_dependencies_decided BEFORE INSERT OR UPDATE OR DELETE ON work_dependencies
    FOR EACH ROW EXECUTE FUNCTION guard_work_dependencies();
CREATE TRIGGER work_dependencies_counted AFTER INSERT ON work_dependencies REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION guard_work_dependencies_new();
CREATE TRIGGER components_decided BEFORE INSERT OR UPDATE OR DELETE ON components
    FOR EACH ROW EXECUTE FUNCTION guard_components();
CREATE TRIGGER activations_decided BEFORE INSERT ON activations
    FOR EACH ROW EXECUTE FUNCTION guard_activations();
CREATE TRIGGER agent_sessions_decided BEFORE INSERT OR UPDATE OR DELETE ON agent_sessions
    FOR EACH ROW EXECUTE FUNCTION guard_agent_sessions();
CREATE TRIGGER agent_sessions_moved AFTER UPDATE ON agent_sessions REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION guard_agent_sessions_moved();
CREATE TRIGGER agent_status_decided BEFORE INSERT OR UPDATE OR DELETE ON agent_status
    FOR EACH ROW EXECUTE FUNCTION guard_agent_status();
CREATE TRIGGER handoffs_decided BEFORE INSERT ON handoffs
    FOR EACH ROW EXECUTE FUNCTION guard_handoffs();
CREATE TRIGGER memories_decided BEFORE INSERT OR UPDATE OR DELETE ON memories
    FOR EACH ROW EXECUTE FUNCTION guard_memories();
CREATE TRIGGER idempotency_keys_decided BEFORE INSERT OR UPDATE OR DELETE ON idempotency_keys
    FOR EACH ROW EXECUTE FUNCTION guard_idempotency_keys();

-- Triggers of statements are passed over where a table is changed as the child of another. The server makes no child of a
-- table with a trigger like these, and they cost nothing: they never fire.
CREATE TRIGGER file_locks_no_child AFTER DELETE ON file_locks REFERENCING OLD TABLE AS old_rows
    FOR EACH ROW WHEN (false) EXECUTE FUNCTION guard_file_locks_gone();
CREATE TRIGGER work_queue_no_child AFTER UPDATE ON work_queue REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH ROW WHEN (false) EXECUTE FUNCTION guard_work_queue_moved();
CREATE TRIGGER work_dependencies_no_child AFTER INSERT ON work_dependencies REFERENCING NEW TABLE AS new_rows
    FOR EACH ROW WHEN (false) EXECUTE FUNCTION guard_work_dependencies_new();
CREATE TRIGGER agent_sessions_no_child AFTER UPDATE ON agent_sessions REFERENCING NEW TABLE AS new_rows
    FOR EACH ROW WHEN (false) EXECUTE FUNCTION guard_agent_sessions_moved();

CREATE TRIGGER agents_stay BEFORE TRUNCATE ON agents FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER api_keys_stay BEFORE TRUNCATE ON api_keys FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER file_locks_stay BEFORE TRUNCATE ON file_locks FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER lock_fences_stay BEFORE TRUNCATE ON lock_fences FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER work_queue_stays BEFORE TRUNCATE ON work_queue FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER work_dependencies_stay BEFORE TRUNCATE ON work_dependencies
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER components_stay BEFORE TRUNCATE ON components FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER agent_sessions_stay BEFORE TRUNCATE ON agent_sessions
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER agent_status_stays BEFORE TRUNCATE ON agent_status FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER memories_stay BEFORE TRUNCATE ON memories FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
CREATE TRIGGER idempotency_keys_stay BEFORE TRUNCATE ON idempotency_keys
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_truncate();
