-- Sessions and status reports. A session is its agent's for good; whoever has too many forgets them.

-- The entry of the audit row for a session.
CREATE FUNCTION session_change(session_id text, last_heartbeat timestamptz, is_ended boolean) RETURNS jsonb
LANGUAGE sql STABLE
RETURN change('agent_sessions', session_id, jsonb_build_object('last_heartbeat', micros(last_heartbeat), 'ended', is_ended));

-- The agent's session that was last heard of: a live one before those that ended. NULL when it has none.
CREATE FUNCTION session_newest(id text) RETURNS text LANGUAGE sql STABLE
SET search_path = pg_catalog, portreeve, pg_temp
BEGIN ATOMIC
    SELECT coalesce(
        (SELECT s.session_id FROM agent_sessions s
         WHERE s.workspace = current_workspace() AND s.agent_id = id AND s.ended_at IS NULL
         ORDER BY s.last_heartbeat DESC, s.started_at DESC, s.session_id COLLATE "C" LIMIT 1),
        (SELECT s.session_id FROM agent_sessions s
         WHERE s.workspace = current_workspace() AND s.agent_id = id
         ORDER BY s.last_heartbeat DESC, s.started_at DESC, s.session_id COLLATE "C" LIMIT 1));
END;

-- Registers a session, or says anew what it is at. What is NULL stays as it was; an ended one goes on.
CREATE FUNCTION session_register(d decision, p_session_id text, p_capabilities text[], p_current_task text) RETURNS answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    ws    CONSTANT text := current_workspace();
    a     answer;
    at    timestamptz;
    known agent_sessions;
    no    text;
BEGIN
    a := gate_enter(d, 'session_register', 'register_session');
    IF a.verdict IS NOT NULL THEN
        RETURN a;
    END IF;
    PERFORM pg_advisory_xact_lock(lock_id('sessions of', d.agent_id));
    PERFORM pg_advisory_xact_lock(lock_id('session', p_session_id));
    at := clock_now();
    SELECT * INTO known FROM agent_sessions s WHERE s.workspace = ws AND s.session_id = p_session_id;
    IF FOUND AND known.agent_id <> d.agent_id THEN
        no := 'session_owned_by_other';
    ELSIF known.session_id IS NULL AND 64 <= (SELECT count(*) FROM agent_sessions s
        WHERE s.workspace = ws AND s.agent_id = d.agent_id AND s.ended_at IS NULL) THEN
        no := 'too_many_sessions';
    END IF;
    IF no IS NOT NULL THEN
        RETURN gate_done(d, at, 'refused', json_build_object('success', false, 'session_id', NULL, 'reason', no,
            'error', no));
    END IF;
    a := gate_done(d, at, 'ok', json_build_object('success', true, 'session_id', p_session_id, 'reason', NULL,
        'error', NULL), session_change(p_session_id, greatest(known.last_heartbeat, at), false));
    INSERT INTO agent_sessions AS s (workspace, session_id, agent_id, agent_type, capabilities, current_task, started_at,
        last_heartbeat)
    VALUES (ws, p_session_id, d.agent_id, d.agent_type, coalesce(p_capabilities, '{}'), p_current_task, at, at)
    ON CONFLICT (workspace, session_id) DO UPDATE SET agent_type = excluded.agent_type,
        capabilities = coalesce(p_capabilities, s.capabilities), current_task = coalesce(p_current_task, s.current_task),
        started_at = CASE WHEN s.ended_at IS NULL THEN s.started_at ELSE at END,
        last_heartbeat = greatest(s.last_heartbeat, at), ended_at = NULL;
    RETURN a;
END $$;

-- Says that a session is alive; without a name, the one last heard of.
CREATE FUNCTION session_heartbeat(d decision, p_session_id text) RETURNS answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    ws    CONSTANT text := current_workspace();
    a     answer;
    at    timestamptz;
    id    text;
    known agent_sessions;
    no    text;
BEGIN
    a := gate_enter(d, 'session_heartbeat', 'heartbeat');
    IF a.verdict IS NOT NULL THEN
        RETURN a;
    END IF;
    PERFORM pg_advisory_xact_lock(lock_id('sessions of', d.agent_id));
    id := coalesce(p_session_id, session_newest(d.agent_id));
    IF id IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock(lock_id('session', id));
    END IF;
    at := clock_now();
    SELECT * INTO known FROM agent_sessions s WHERE s.workspace = ws AND s.session_id = id AND s.agent_id = d.agent_id;
    no := CASE WHEN NOT FOUND THEN 'session_not_found' WHEN known.ended_at IS NOT NULL THEN 'session_ended' END;
    IF no IS NOT NULL THEN
        RETURN gate_done(d, at, 'refused', json_build_object('success', false,
            'session_id', coalesce(known.session_id, p_session_id), 'error', no, 'reason', no));
    END IF;
    a := gate_done(d, at, 'ok', json_build_object('success', true, 'session_id', id, 'error', NULL, 'reason', NULL),
        session_change(id, greatest(known.last_heartbeat, at), false));
    UPDATE agent_sessions s SET last_heartbeat = greatest(s.last_heartbeat, at)
    WHERE s.workspace = ws AND s.session_id = id;
    RETURN a;
END $$;

-- Takes a report of how the agent is getting on. It counts as a heartbeat of its session; one that is not known, not the
-- agent's, or over is recorded as given and not brought to life.
CREATE FUNCTION status_report(d decision, p_session_id text, p_phase text, p_message text, p_needs_human boolean,
    p_event_type text, p_change_id text, p_metadata json, p_urgency text) RETURNS answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    ws      CONSTANT text := current_workspace();
    a       answer;
    at      timestamptz;
    id      text;
    known   agent_sessions;
    count_  bigint;
    changes jsonb := '[]'::jsonb;
BEGIN
    a := gate_enter(d, 'status_report', 'heartbeat');
    IF a.verdict IS NOT NULL THEN
        RETURN a;
    END IF;
    PERFORM pg_advisory_xact_lock(lock_id('sessions of', d.agent_id));
    id := coalesce(p_session_id, session_newest(d.agent_id));
    IF id IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock(lock_id('session', id));
    END IF;
    PERFORM pg_advisory_xact_lock(lock_id('status', d.agent_id));
    at := clock_now();
    SELECT * INTO known FROM agent_sessions s
    WHERE s.workspace = ws AND s.session_id = id AND s.agent_id = d.agent_id AND s.ended_at IS NULL;
    IF FOUND THEN
        changes := session_change(id, greatest(known.last_heartbeat, at), false);
    END IF;
    SELECT coalesce(max(t.report_count), 0) + 1 INTO count_ FROM agent_status t
    WHERE t.workspace = ws AND t.agent_id = d.agent_id;
    a := gate_done(d, at, 'ok', json_build_object('success', true, 'urgency', p_urgency),
        changes || change('agent_status', d.agent_id, jsonb_build_object('report_count', count_)));
    UPDATE agent_sessions s SET last_heartbeat = greatest(s.last_heartbeat, at)
    WHERE s.workspace = ws AND s.session_id = known.session_id;
    INSERT INTO agent_status AS t (workspace, agent_id, session_id, phase, message, needs_human, event_type, change_id,
        metadata, urgency, report_count, reported_at)
    VALUES (ws, d.agent_id, p_session_id, p_phase, p_message, p_needs_human, p_event_type, p_change_id, p_metadata,
        p_urgency, count_, at)
    ON CONFLICT (workspace, agent_id) DO UPDATE SET session_id = excluded.session_id, phase = excluded.phase,
        message = excluded.message, needs_human = excluded.needs_human, event_type = excluded.event_type,
        change_id = excluded.change_id, metadata = excluded.metadata, urgency = excluded.urgency,
        report_count = excluded.report_count, reported_at = excluded.reported_at;
    RETURN a;
END $$;
