-- Cleaning up after agents that are no longer heard of. Harmless to whoever is still there: nothing is taken from an agent
-- that has a live session or was heard of in any other way, nor what was refreshed since, nor what was taken under a session
-- that is not known to be the agent's own.

-- Ends sessions that are not heard of, and frees what agents without another live one held.
CREATE FUNCTION session_cleanup(d decision, p_stale_threshold_minutes bigint, p_dry_run boolean) RETURNS answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    ws       CONSTANT text := current_workspace();
    a        answer;
    at       timestamptz;
    cutoff   timestamptz;
    name     text;
    stale    text[];
    gone     text[];
    left_    text[];
    keys     text[] := '{}'::text[];
    claims   uuid[];
    more     task_end[];
    ends     task_end[] := '{}'::task_end[];
    changes  jsonb;
BEGIN
    a := gate_enter(d, 'session_cleanup', 'cleanup_agents');
    IF a.verdict IS NOT NULL THEN
        RETURN a;
    END IF;
    -- Found without locks, locked in order, and looked at again: a heartbeat may be quicker.
    cutoff := clock_now() - p_stale_threshold_minutes * interval '1 minute';
    SELECT coalesce(array_agg(s.session_id), '{}'), coalesce(array_agg(DISTINCT s.agent_id), '{}') INTO stale, gone
    FROM agent_sessions s WHERE s.workspace = ws AND s.ended_at IS NULL AND s.last_heartbeat <= cutoff;
    FOR name IN SELECT DISTINCT g FROM unnest(gone) g ORDER BY g LOOP
        -- Whoever is about to do something under a session holds its agent's lock: it is heard of, or it comes later.
        PERFORM pg_advisory_xact_lock(lock_id('sessions of', name));
    END LOOP;
    FOR name IN SELECT g FROM unnest(stale) g ORDER BY g LOOP
        PERFORM pg_advisory_xact_lock(lock_id('session', name));
    END LOOP;
    claims := ARRAY(SELECT q.task_id FROM work_queue q
        WHERE q.workspace = ws AND q.status = 'claimed' AND q.claimed_by = ANY (gone) AND q.heartbeat_at <= cutoff);
    PERFORM task_lock(claims, true);
    FOR name IN SELECT l.lock_key FROM file_locks l WHERE l.workspace = ws AND l.agent_id = ANY (gone)
        ORDER BY l.lock_key LOOP
        PERFORM pg_advisory_xact_lock(lock_id('lock', name));
    END LOOP;
    at := clock_now();
    cutoff := at - p_stale_threshold_minutes * interval '1 minute';
    SELECT coalesce(array_agg(s.session_id), '{}'), coalesce(array_agg(DISTINCT s.agent_id), '{}'),
        coalesce(jsonb_agg(jsonb_build_object('table', 'agent_sessions', 'key', s.session_id, 'version',
            jsonb_build_object('last_heartbeat', micros(s.last_heartbeat), 'ended', true))
            ORDER BY s.last_heartbeat, s.session_id COLLATE "C"), '[]')
    INTO stale, gone, changes
    FROM agent_sessions s
    WHERE s.workspace = ws AND s.ended_at IS NULL AND s.last_heartbeat <= cutoff AND s.session_id = ANY (stale);
    -- Whoever has a live session, or asked for anything at all since, is there: the log knows.
    gone := ARRAY(SELECT g FROM unnest(gone) g
        WHERE NOT EXISTS (SELECT 1 FROM agent_sessions s WHERE s.workspace = ws AND s.agent_id = g
                          AND s.ended_at IS NULL AND s.last_heartbeat > cutoff)
          AND NOT EXISTS (SELECT 1 FROM audit_log l WHERE l.workspace = ws AND l.agent_id = g AND l.created_at > cutoff)
        ORDER BY g COLLATE "C");
    FOREACH name IN ARRAY gone LOOP
        left_ := ARRAY(SELECT l.lock_key FROM file_locks l
            WHERE l.workspace = ws AND l.agent_id = name AND l.expires_at > at AND l.refreshed_at <= cutoff
              AND (l.session_id IS NULL OR l.session_id IN (SELECT s.session_id FROM agent_sessions s
                  WHERE s.workspace = ws AND s.agent_id = name))
            ORDER BY l.lock_key COLLATE "C");
        more := task_ends(at, ARRAY(SELECT q.task_id FROM work_queue q
            WHERE q.workspace = ws AND q.status = 'claimed' AND q.claimed_by = name AND q.heartbeat_at <= cutoff
              AND q.task_id = ANY (claims)), true, ends);
        keys := keys || left_;
        ends := ends || more;
        SELECT changes || coalesce(jsonb_agg(change('file_locks', k, 'null')->0 ORDER BY n), '[]') || task_changes(more)
        INTO changes FROM unnest(left_) WITH ORDINALITY AS g (k, n);
    END LOOP;
    a := gate_done(d, at, 'ok', json_build_object('success', true, 'agents_cleaned', cardinality(gone),
        'locks_released', cardinality(keys), 'tasks_requeued',
        (SELECT count(*) FROM unnest(ends) e WHERE e.status = 'pending')),
        CASE WHEN p_dry_run THEN '[]' ELSE changes END);
    IF NOT p_dry_run THEN
        UPDATE agent_sessions s SET ended_at = at WHERE s.workspace = ws AND s.session_id = ANY (stale);
        DELETE FROM file_locks l WHERE l.workspace = ws AND l.lock_key = ANY (keys);
        PERFORM task_move(at, ends);
    END IF;
    RETURN a;
END $$;
