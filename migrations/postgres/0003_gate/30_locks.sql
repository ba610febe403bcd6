-- Locks: acquire, renew, release, and release by force. The transitions are those of `domain/lock.rs`.

-- What is told of a lock; every key is always there.
CREATE FUNCTION lock_grant(success boolean, action text, lock_key text, expires_at timestamptz, reason text,
    locked_by text, lock_reason text, fencing_token bigint) RETURNS json LANGUAGE sql STABLE
RETURN json_build_object('success', success, 'action', action, 'file_path', lock_key, 'expires_at', rfc3339(expires_at),
    'reason', reason, 'locked_by', locked_by, 'lock_reason', lock_reason, 'fencing_token', fencing_token);

-- Refuses a lease that is longer than the profile allows; NULL when it is not.
CREATE FUNCTION lock_check_ttl(d decision, ttl_minutes bigint) RETURNS answer
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
BEGIN
    IF ttl_minutes > d.max_ttl_minutes THEN
        RETURN gate_invalid(d, 'ttl_minutes', 'ttl_out_of_range',
            format('%s is more than the %s minutes that the profile allows', ttl_minutes, d.max_ttl_minutes));
    END IF;
    RETURN NULL;
END $$;

-- EXCL: the key's lock is held from before it is read, and the fence's row only grows (guard_lock_fences).
-- Takes a lock, or refreshes the agent's own. `is_last` is false for one who waits on when it is held by another.
CREATE FUNCTION lock_acquire(d decision, p_lock_key text, p_session_id text, p_reason text, p_ttl_minutes bigint,
    is_last boolean) RETURNS answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    ws       CONSTANT text := current_workspace();
    a        answer;
    at       timestamptz;
    until    timestamptz;
    held     file_locks;
    token    bigint;
    count_   bigint;
BEGIN
    a := gate_enter(d, 'lock_acquire', 'acquire_lock');
    IF a.verdict IS NULL THEN
        a := lock_check_ttl(d, p_ttl_minutes);
    END IF;
    IF a.verdict IS NOT NULL THEN
        RETURN a;
    END IF;
    IF d.max_locks_held IS NOT NULL THEN
        -- Counted under a lock of the agent's, so that no race slips past the limit.
        PERFORM pg_advisory_xact_lock(lock_id('locks of', d.agent_id));
    END IF;
    PERFORM pg_advisory_xact_lock(lock_id('lock', p_lock_key));
    at := clock_now();
    until := at + p_ttl_minutes * interval '1 minute';
    SELECT * INTO held FROM file_locks l WHERE l.workspace = ws AND l.lock_key = p_lock_key AND l.expires_at > at;
    IF FOUND AND held.agent_id <> d.agent_id THEN
        RETURN gate_done(d, at, 'refused', lock_grant(false, 'blocked', p_lock_key, held.expires_at, 'locked_by_other',
            held.agent_id, held.reason, NULL), is_answer => is_last);
    ELSIF FOUND THEN
        a := gate_done(d, at, 'ok', lock_grant(true, 'refreshed', p_lock_key, until, NULL, d.agent_id,
            coalesce(p_reason, held.reason), held.fencing_token),
            change('file_locks', p_lock_key, to_jsonb(held.fencing_token)));
        UPDATE file_locks l SET reason = coalesce(p_reason, l.reason), session_id = coalesce(p_session_id, l.session_id),
            expires_at = until, refreshed_at = at
        WHERE l.workspace = ws AND l.lock_key = p_lock_key;
        RETURN a;
    END IF;
    IF d.max_locks_held IS NOT NULL THEN
        SELECT count(*) INTO count_ FROM file_locks l
        WHERE l.workspace = ws AND l.agent_id = d.agent_id AND l.expires_at > at;
        IF count_ >= d.max_locks_held THEN
            RETURN gate_limit(d, 'lock_limit_reached',
                format('the profile allows %s locks at once, and %s holds that many', d.max_locks_held, d.agent_id),
                'release a lock first, or ask an admin for a profile with a higher limit');
        END IF;
    END IF;
    SELECT coalesce(max(f.last_token), 0) + 1 INTO token FROM lock_fences f
    WHERE f.workspace = ws AND f.lock_key = p_lock_key;
    a := gate_done(d, at, 'ok', lock_grant(true, 'acquired', p_lock_key, until, NULL, d.agent_id, p_reason, token),
        change('lock_fences', p_lock_key, to_jsonb(token)) || change('file_locks', p_lock_key, to_jsonb(token)));
    INSERT INTO lock_fences AS f (workspace, lock_key, last_token) VALUES (ws, p_lock_key, token)
    ON CONFLICT (workspace, lock_key) DO UPDATE SET last_token = excluded.last_token;
    INSERT INTO file_locks (workspace, lock_key, agent_id, agent_type, session_id, reason, fencing_token, locked_at,
        expires_at, refreshed_at)
    VALUES (ws, p_lock_key, d.agent_id, d.agent_type, p_session_id, p_reason, token, at, until, at)
    ON CONFLICT (workspace, lock_key) DO UPDATE SET agent_id = excluded.agent_id, agent_type = excluded.agent_type,
        session_id = excluded.session_id, reason = excluded.reason, fencing_token = excluded.fencing_token,
        locked_at = excluded.locked_at, expires_at = excluded.expires_at, refreshed_at = excluded.refreshed_at;
    RETURN a;
END $$;

-- Extends the lease of a lock that the agent holds under a token.
CREATE FUNCTION lock_renew(d decision, p_lock_key text, p_fencing_token bigint, p_ttl_minutes bigint) RETURNS answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    ws    CONSTANT text := current_workspace();
    a     answer;
    at    timestamptz;
    until timestamptz;
    held  file_locks;
BEGIN
    a := gate_enter(d, 'lock_renew', 'acquire_lock');
    IF a.verdict IS NULL THEN
        a := lock_check_ttl(d, p_ttl_minutes);
    END IF;
    IF a.verdict IS NOT NULL THEN
        RETURN a;
    END IF;
    PERFORM pg_advisory_xact_lock(lock_id('lock', p_lock_key));
    at := clock_now();
    until := at + p_ttl_minutes * interval '1 minute';
    SELECT * INTO held FROM file_locks l
    WHERE l.workspace = ws AND l.lock_key = p_lock_key AND l.expires_at > at AND l.agent_id = d.agent_id
      AND l.fencing_token = p_fencing_token;
    IF NOT FOUND THEN
        RETURN gate_done(d, at, 'refused', lock_grant(false, 'blocked', p_lock_key, NULL, 'lock_not_found_or_not_owner',
            NULL, NULL, NULL));
    END IF;
    a := gate_done(d, at, 'ok', lock_grant(true, 'refreshed', p_lock_key, until, NULL, held.agent_id, held.reason,
        held.fencing_token), change('file_locks', p_lock_key, to_jsonb(held.fencing_token)));
    UPDATE file_locks l SET expires_at = until, refreshed_at = at WHERE l.workspace = ws AND l.lock_key = p_lock_key;
    RETURN a;
END $$;

-- Gives back a lock that the agent holds; under a token, if one is named.
CREATE FUNCTION lock_release(d decision, p_lock_key text, p_fencing_token bigint) RETURNS answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    ws   CONSTANT text := current_workspace();
    a    answer;
    at   timestamptz;
BEGIN
    a := gate_enter(d, 'lock_release', 'release_lock');
    IF a.verdict IS NOT NULL THEN
        RETURN a;
    END IF;
    PERFORM pg_advisory_xact_lock(lock_id('lock', p_lock_key));
    at := clock_now();
    PERFORM 1 FROM file_locks l
    WHERE l.workspace = ws AND l.lock_key = p_lock_key AND l.expires_at > at AND l.agent_id = d.agent_id
      AND (p_fencing_token IS NULL OR l.fencing_token = p_fencing_token);
    IF NOT FOUND THEN
        RETURN gate_done(d, at, 'refused', json_build_object('success', false, 'action', 'none', 'file_path', p_lock_key,
            'reason', 'lock_not_found_or_not_owner'));
    END IF;
    a := gate_done(d, at, 'ok', json_build_object('success', true, 'action', 'released', 'file_path', p_lock_key,
        'reason', NULL), change('file_locks', p_lock_key, 'null'));
    DELETE FROM file_locks l WHERE l.workspace = ws AND l.lock_key = p_lock_key;
    RETURN a;
END $$;

-- Frees a lock whoever holds it.
CREATE FUNCTION lock_force_release(d decision, p_lock_key text) RETURNS answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    ws   CONSTANT text := current_workspace();
    a    answer;
    at   timestamptz;
    held file_locks;
BEGIN
    a := gate_enter(d, 'lock_force_release', 'force_release_lock');
    IF a.verdict IS NOT NULL THEN
        RETURN a;
    END IF;
    PERFORM pg_advisory_xact_lock(lock_id('lock', p_lock_key));
    at := clock_now();
    SELECT * INTO held FROM file_locks l WHERE l.workspace = ws AND l.lock_key = p_lock_key AND l.expires_at > at;
    IF NOT FOUND THEN
        RETURN gate_done(d, at, 'refused', json_build_object('released', false, 'prior_holder_agent_id', NULL,
            'prior_acquired_at', NULL));
    END IF;
    a := gate_done(d, at, 'ok', json_build_object('released', true, 'prior_holder_agent_id', held.agent_id,
        'prior_acquired_at', rfc3339(held.locked_at)), change('file_locks', p_lock_key, 'null'));
    DELETE FROM file_locks l WHERE l.workspace = ws AND l.lock_key = p_lock_key;
    RETURN a;
END $$;
