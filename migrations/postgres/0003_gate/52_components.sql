-- Components and which of them decides. An activation takes the epoch's lock alone: whatever was decided before it commits
-- before it, or not at all.

CREATE FUNCTION component_activate(d decision, p_digest text, p_bytes bytea, p_manifest json) RETURNS answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    ws      CONSTANT text := current_workspace();
    a       answer;
    at      timestamptz;
    epoch_  bigint;
    is_new  boolean;
BEGIN
    a := gate_enter(d, 'component_activate', 'activate_component', exclusive => true);
    IF a.verdict IS NOT NULL THEN
        RETURN a;
    END IF;
    at := clock_now();
    SELECT coalesce(max(v.epoch), 0) + 1 INTO epoch_ FROM activations v WHERE v.workspace = ws;
    is_new := NOT EXISTS (SELECT 1 FROM components c WHERE c.workspace = ws AND c.digest = p_digest);
    a := gate_done(d, at, 'ok', json_build_object('epoch', epoch_, 'digest', p_digest),
        CASE WHEN is_new THEN change('components', p_digest, '"stored"') ELSE '[]' END
            || change('activations', p_digest, to_jsonb(epoch_)));
    IF is_new THEN
        INSERT INTO components (workspace, digest, bytes, manifest, stored_at, stored_by)
        VALUES (ws, p_digest, p_bytes, p_manifest, at, d.agent_id);
    END IF;
    INSERT INTO activations (workspace, epoch, digest, activated_at, activated_by)
    VALUES (ws, epoch_, p_digest, at, d.agent_id);
    RETURN a;
END $$;
