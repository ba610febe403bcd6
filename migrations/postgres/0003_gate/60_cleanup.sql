-- Cleaning up after agents that are no longer heard of. Harmless to whoever is still there: nothing is taken from an agent
-- that has a live session or was heard of in any other way, nor what was refreshed since, nor what was taken under a session
-- that is not known to be the agent's own.

-- Ends sessions that are not heard of, and frees what agents without another live one held. Of each it takes so many at
-- once; the sessions of an agent of whom something is left stay, so that the next call finds it.
CREATE FUNCTION session_cleanup(d decision, p_stale_threshold_minutes bigint, p_dry_run boolean) RETURNS answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    ws       CONSTANT text := current_workspace();
    a        answer;
    at       timestamptz;
    cutoff   timestamptz;
    alone    boolean;
    -- The most of each at once.
    most     CONSTANT bigint := family_max() / 2;
    few      CONSTANT bigint := locks_max() + 1;
    name     text;
    stale    text[];
    gone     text[];
    -- The first of whom something is left, and all who have a session that is still to be ended.
    late     text;
    rest     text[] := '{}'::text[];
    keys     text[];
    claims   uuid[];
    ends     task_end[];
    changes  jsonb;
    freed    jsonb;
BEGIN
    -- Found without locks, locked in order, and looked at again: a heartbeat may be quicker.
    cutoff := clock_now() - p_stale_threshold_minutes * interval '1 minute';
    SELECT coalesce(array_agg(s.session_id), '{}'), coalesce(array_agg(DISTINCT s.agent_id), '{}') INTO stale, gone
    FROM (SELECT * FROM agent_sessions s WHERE s.workspace = ws AND s.ended_at IS NULL AND s.last_heartbeat <= cutoff
        LIMIT few) s;
    keys := ARRAY(SELECT l.lock_key FROM unnest(gone) g
        JOIN file_locks l ON l.workspace = ws AND l.agent_id = g AND l.refreshed_at <= cutoff LIMIT few);
    claims := ARRAY(SELECT q.task_id FROM unnest(gone) g JOIN work_queue q ON q.workspace = ws AND q.claimed_by = g
        WHERE q.status = 'claimed' AND q.heartbeat_at <= cutoff LIMIT few);
    -- Too much to lock one by one: nothing else is decided meanwhile.
    alone := greatest(cardinality(stale), cardinality(keys), cardinality(claims)) > locks_max();
    a := gate_enter(d, 'session_cleanup', 'cleanup_agents', alone);
    IF a.verdict IS NOT NULL THEN
        RETURN a;
    END IF;
    IF NOT alone THEN
        FOR name IN SELECT DISTINCT g FROM unnest(gone) g ORDER BY g LOOP
            -- Whoever is about to do something under a session holds its agent's lock: it is heard of, or it comes later.
            PERFORM pg_advisory_xact_lock(lock_id('sessions of', name));
        END LOOP;
        FOR name IN SELECT g FROM unnest(stale) g ORDER BY g LOOP
            PERFORM pg_advisory_xact_lock(lock_id('session', name));
        END LOOP;
        PERFORM task_lock(claims, true);
        FOR name IN SELECT g FROM unnest(keys) g ORDER BY g LOOP
            PERFORM pg_advisory_xact_lock(lock_id('lock', name));
        END LOOP;
    END IF;
    at := clock_now();
    cutoff := at - p_stale_threshold_minutes * interval '1 minute';
    -- Nobody else is let in, or these are all: what is locked.
    SELECT coalesce(array_agg(s.session_id), '{}'), coalesce(array_agg(DISTINCT s.agent_id), '{}') INTO stale, gone
    FROM (SELECT * FROM agent_sessions s WHERE s.workspace = ws AND s.ended_at IS NULL AND s.last_heartbeat <= cutoff
            AND (alone OR s.session_id = ANY (stale))
        ORDER BY s.last_heartbeat, s.session_id COLLATE "C" LIMIT most) s;
    -- Whoever has a live session, or asked for anything at all since, is there: the log knows.
    gone := ARRAY(SELECT g FROM unnest(gone) g
        WHERE NOT EXISTS (SELECT 1 FROM agent_sessions s WHERE s.workspace = ws AND s.agent_id = g
                          AND s.ended_at IS NULL AND s.last_heartbeat > cutoff)
          AND NOT EXISTS (SELECT 1 FROM audit_log l WHERE l.workspace = ws AND l.agent_id = g AND l.created_at > cutoff)
        ORDER BY g COLLATE "C");
    -- One agent after the other, as the embedded store does it: its locks, and then its claims.
    keys := ARRAY(SELECT l.lock_key FROM unnest(gone) g JOIN file_locks l ON l.workspace = ws AND l.agent_id = g
        WHERE (alone OR l.lock_key = ANY (keys)) AND l.expires_at > at AND l.refreshed_at <= cutoff
          AND (l.session_id IS NULL OR EXISTS (SELECT 1 FROM agent_sessions s
              WHERE s.workspace = ws AND s.session_id = l.session_id AND s.agent_id = l.agent_id))
        ORDER BY g COLLATE "C", l.lock_key COLLATE "C" LIMIT most + 1);
    claims := ARRAY(SELECT q.task_id FROM unnest(gone) g JOIN work_queue q ON q.workspace = ws AND q.claimed_by = g
        WHERE (alone OR q.task_id = ANY (claims)) AND q.status = 'claimed' AND q.heartbeat_at <= cutoff
        ORDER BY g COLLATE "C", q.submit_order LIMIT most + 1);
    ends := task_ends(at, claims[:most], true);
    IF cardinality(task_dependants(ARRAY(SELECT e.task_id FROM unnest(ends) e WHERE e.status = 'failed'),
            most + 1)) > most THEN
        -- Too much would fail with them at once: these end with their leases, and time takes such families in parts.
        -- Nor is it waited for the others.
        ends := ARRAY(SELECT e FROM unnest(ends) e WHERE e.status <> 'failed');
        claims := claims[:most];
    END IF;
    late := least(
        (SELECT l.agent_id FROM file_locks l WHERE l.workspace = ws AND l.lock_key = keys[most + 1]) COLLATE "C",
        (SELECT q.claimed_by FROM work_queue q WHERE q.workspace = ws AND q.task_id = claims[most + 1]) COLLATE "C");
    keys := keys[:most];
    ends := task_walk(ends);
    IF alone THEN
        -- No search in arrays: both may be long.
        rest := ARRAY(SELECT s.agent_id FROM unnest(stale) g JOIN agent_sessions s ON s.workspace = ws AND s.session_id = g
            WHERE s.agent_id COLLATE "C" >= late
            UNION SELECT s.agent_id FROM (SELECT * FROM agent_sessions s WHERE s.workspace = ws AND s.ended_at IS NULL
                AND s.last_heartbeat <= cutoff ORDER BY s.last_heartbeat, s.session_id COLLATE "C" OFFSET most) s);
    END IF;
    SELECT coalesce(array_agg(s.session_id), '{}'),
        coalesce(jsonb_agg(jsonb_build_object('table', 'agent_sessions', 'key', s.session_id, 'version',
            jsonb_build_object('last_heartbeat', micros(s.last_heartbeat), 'ended', true))
            ORDER BY s.last_heartbeat, s.session_id COLLATE "C"), '[]')
    INTO stale, changes
    FROM unnest(stale) g JOIN agent_sessions s ON s.workspace = ws AND s.session_id = g
    WHERE late IS NULL OR s.agent_id COLLATE "C" < late;
    SELECT coalesce(jsonb_agg(f.change ORDER BY f.agent_id COLLATE "C", f.place, f.lock_key COLLATE "C"), '[]') INTO freed
    FROM (
        SELECT l.agent_id, 0 AS place, l.lock_key, change('file_locks', l.lock_key, 'null')->0 AS change
        FROM unnest(keys) k JOIN file_locks l ON l.workspace = ws AND l.lock_key = k
        UNION ALL
        SELECT q.claimed_by, e.place, NULL, task_change(e.task_id, e.status, e.attempt_count)->0
        FROM unnest(ends) WITH ORDINALITY AS e (task_id, status, attempt_count, error_message, part, place)
        JOIN work_queue q ON q.workspace = ws AND q.task_id = claims[e.part]
    ) f;
    a := gate_done(d, at, 'ok', json_strip_nulls(json_build_object('success', true, 'agents_cleaned',
        (SELECT count(*) FROM (SELECT unnest(gone) EXCEPT SELECT unnest(rest)) g), 'locks_released', cardinality(keys),
        'tasks_requeued', (SELECT count(*) FROM unnest(ends) e WHERE e.status = 'pending'),
        'remaining', nullif(cardinality(rest), 0))),
        CASE WHEN p_dry_run THEN '[]' ELSE changes || freed END);
    IF NOT p_dry_run THEN
        UPDATE agent_sessions s SET ended_at = at WHERE s.workspace = ws AND s.session_id = ANY (stale);
        DELETE FROM file_locks l WHERE l.workspace = ws AND l.lock_key = ANY (keys);
        PERFORM task_move(at, ends);
    END IF;
    RETURN a;
END $$;
