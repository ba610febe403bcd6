-- Agents and their keys. What these change is what decisions are made from: each enters with the agent's lock alone, which
-- every decision of that agent holds shared, so that nothing commits afterwards that was decided before.

-- Why an agent may not be changed; NULL when it may.
CREATE FUNCTION agent_unchangeable(id text) RETURNS text LANGUAGE sql STABLE
SET search_path = pg_catalog, portreeve, pg_temp
BEGIN ATOMIC
    SELECT CASE
        -- The service's own agent.
        WHEN id = 'system' THEN 'system_agent_is_fixed'
        WHEN NOT EXISTS (SELECT 1 FROM agents a WHERE a.workspace = current_workspace() AND a.agent_id = id)
            THEN 'agent_not_found'
    END;
END;

-- The next version of an agent's facts, as it is announced.
CREATE FUNCTION agent_moved(id text) RETURNS jsonb LANGUAGE sql STABLE
SET search_path = pg_catalog, portreeve, pg_temp
BEGIN ATOMIC
    SELECT change('agents', id, jsonb_build_object('facts_version', a.facts_version + 1))
    FROM agents a WHERE a.workspace = current_workspace() AND a.agent_id = id;
END;

-- What a change of an agent is answered.
CREATE FUNCTION agent_changed(success boolean, agent_id text, reason text) RETURNS json LANGUAGE sql STABLE
RETURN json_build_object('success', success, 'agent_id', agent_id, 'reason', reason);

-- Registers an agent, and gives it its first key if it is to have one. The key itself never comes here.
CREATE FUNCTION agent_create(d decision, p_agent_id text, p_agent_type text, p_profile text, p_archetype text,
    p_key_id uuid, p_lookup bytea, p_key_hash bytea, p_label text) RETURNS answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    ws      CONSTANT text := current_workspace();
    a       answer;
    at      timestamptz;
    is_new  boolean;
    changes jsonb := '[]'::jsonb;
BEGIN
    a := gate_enter(d, 'agent_create', 'manage_agents', target => p_agent_id);
    IF a.verdict IS NOT NULL THEN
        RETURN a;
    END IF;
    at := clock_now();
    is_new := NOT EXISTS (SELECT 1 FROM agents g WHERE g.workspace = ws AND g.agent_id = p_agent_id);
    IF is_new THEN
        changes := change('agents', p_agent_id, '{"facts_version": 1}');
    END IF;
    IF is_new AND p_key_id IS NOT NULL THEN
        changes := changes || change('api_keys', p_key_id::text, '"live"');
    END IF;
    a := gate_done(d, at, CASE WHEN is_new THEN 'ok' ELSE 'refused' END, json_build_object('success', is_new,
        'agent_id', p_agent_id, 'agent_type', p_agent_type, 'profile', p_profile,
        'key_id', CASE WHEN is_new THEN p_key_id END, 'key', NULL,
        'reason', CASE WHEN NOT is_new THEN 'agent_exists' END), changes);
    IF NOT is_new THEN
        RETURN a;
    END IF;
    INSERT INTO agents (workspace, agent_id, agent_type, profile, archetype, created_at, created_by)
    VALUES (ws, p_agent_id, p_agent_type, p_profile, p_archetype, at, d.agent_id);
    IF p_key_id IS NOT NULL THEN
        INSERT INTO api_keys (workspace, key_id, agent_id, lookup, key_hash, label, created_at, created_by)
        VALUES (ws, p_key_id, p_agent_id, p_lookup, p_key_hash, p_label, at, d.agent_id);
    END IF;
    RETURN a;
END $$;

-- Gives an agent one more key: a new one, or one that it has from elsewhere. A revoked key keeps its row, so that it never
-- comes back under another.
CREATE FUNCTION agent_key_create(d decision, p_agent_id text, p_key_id uuid, p_lookup bytea, p_key_hash bytea,
    p_label text) RETURNS answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    ws     CONSTANT text := current_workspace();
    a      answer;
    at     timestamptz;
    no     text;
    holder api_keys;
BEGIN
    a := gate_enter(d, 'agent_key_create', 'manage_agents', target => p_agent_id);
    IF a.verdict IS NOT NULL THEN
        RETURN a;
    END IF;
    -- Two who give the same key meet here, whichever agents they give it to.
    PERFORM pg_advisory_xact_lock(lock_id('key', encode(p_key_hash, 'hex')));
    at := clock_now();
    no := agent_unchangeable(p_agent_id);
    IF no IS NULL THEN
        SELECT * INTO holder FROM api_keys k WHERE k.workspace = ws AND k.lookup = p_lookup AND k.key_hash = p_key_hash
        ORDER BY k.revoked_at IS NULL DESC LIMIT 1;
        no := CASE WHEN FOUND AND holder.revoked_at IS NULL THEN 'key_exists' WHEN FOUND THEN 'key_revoked' END;
    END IF;
    IF no IS NOT NULL THEN
        RETURN gate_done(d, at, 'refused', json_build_object('success', false,
            'agent_id', coalesce(holder.agent_id, p_agent_id), 'key_id', holder.key_id, 'key', NULL, 'reason', no));
    END IF;
    a := gate_done(d, at, 'ok', json_build_object('success', true, 'agent_id', p_agent_id, 'key_id', p_key_id,
        'key', NULL, 'reason', NULL), change('api_keys', p_key_id::text, '"live"'));
    INSERT INTO api_keys (workspace, key_id, agent_id, lookup, key_hash, label, created_at, created_by)
    VALUES (ws, p_key_id, p_agent_id, p_lookup, p_key_hash, p_label, at, d.agent_id);
    RETURN a;
END $$;

-- Takes a key back, for good.
CREATE FUNCTION agent_key_revoke(d decision, p_agent_id text, p_key_id uuid) RETURNS answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    ws CONSTANT text := current_workspace();
    a  answer;
    at timestamptz;
BEGIN
    a := gate_enter(d, 'agent_key_revoke', 'manage_agents', target => p_agent_id);
    IF a.verdict IS NOT NULL THEN
        RETURN a;
    END IF;
    -- A key's hash never changes, so it is read before its lock is held. Whoever gives the same key asks whether it lives.
    PERFORM pg_advisory_xact_lock(lock_id('key', encode(k.key_hash, 'hex')))
    FROM api_keys k WHERE k.workspace = ws AND k.agent_id = p_agent_id AND k.key_id = p_key_id;
    at := clock_now();
    PERFORM 1 FROM api_keys k
    WHERE k.workspace = ws AND k.agent_id = p_agent_id AND k.key_id = p_key_id AND k.revoked_at IS NULL;
    IF NOT FOUND THEN
        RETURN gate_done(d, at, 'refused', agent_changed(false, p_agent_id, 'key_not_found'));
    END IF;
    a := gate_done(d, at, 'ok', agent_changed(true, p_agent_id, NULL),
        change('api_keys', p_key_id::text, '"revoked"') || agent_moved(p_agent_id));
    UPDATE api_keys k SET revoked_at = at, revoked_by = d.agent_id WHERE k.workspace = ws AND k.key_id = p_key_id;
    UPDATE agents g SET facts_version = g.facts_version + 1 WHERE g.workspace = ws AND g.agent_id = p_agent_id;
    RETURN a;
END $$;

-- Gives an agent another profile. Nobody gives one to itself, so that one admin always remains.
CREATE FUNCTION agent_profile(d decision, p_agent_id text, p_profile text) RETURNS answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    ws CONSTANT text := current_workspace();
    a  answer;
    at timestamptz;
    no text := CASE WHEN p_agent_id = d.agent_id THEN 'own_account' END;
BEGIN
    a := gate_enter(d, 'agent_profile', 'manage_agents', target => p_agent_id);
    IF a.verdict IS NOT NULL THEN
        RETURN a;
    END IF;
    no := coalesce(no, agent_unchangeable(p_agent_id));
    at := clock_now();
    IF no IS NOT NULL THEN
        RETURN gate_done(d, at, 'refused', agent_changed(false, p_agent_id, no));
    END IF;
    a := gate_done(d, at, 'ok', agent_changed(true, p_agent_id, NULL), agent_moved(p_agent_id));
    UPDATE agents g SET profile = p_profile, facts_version = g.facts_version + 1
    WHERE g.workspace = ws AND g.agent_id = p_agent_id;
    RETURN a;
END $$;

-- Suspends an agent, or lets it work again.
CREATE FUNCTION agent_suspend(d decision, p_agent_id text, p_suspended boolean, p_reason text) RETURNS answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    ws CONSTANT text := current_workspace();
    a  answer;
    at timestamptz;
    no text := CASE WHEN p_agent_id = d.agent_id THEN 'own_account' END;
BEGIN
    a := gate_enter(d, 'agent_suspend', 'manage_agents', target => p_agent_id);
    IF a.verdict IS NOT NULL THEN
        RETURN a;
    END IF;
    no := coalesce(no, agent_unchangeable(p_agent_id));
    at := clock_now();
    IF no IS NOT NULL THEN
        RETURN gate_done(d, at, 'refused', agent_changed(false, p_agent_id, no));
    END IF;
    a := gate_done(d, at, 'ok', agent_changed(true, p_agent_id, NULL), agent_moved(p_agent_id));
    UPDATE agents g SET suspended_at = CASE WHEN p_suspended THEN at END,
        suspended_reason = CASE WHEN p_suspended THEN p_reason END, facts_version = g.facts_version + 1
    WHERE g.workspace = ws AND g.agent_id = p_agent_id;
    RETURN a;
END $$;
