-- Components that are stored before they decide, signatures, and a component that is asked beside the one that decides.
-- Twin: migrations/sqlite/0004_components.sql.

-- Who signed the component, as the digest of the public key, and the version that the signature is about. Both or neither.
ALTER TABLE components ADD COLUMN signed_by text;
ALTER TABLE components ADD COLUMN signed_version bigint CHECK ((signed_by IS NULL) = (signed_version IS NULL));

-- Each row is one choice, the last row is what is asked beside the policy in force; without a digest it is nothing.
CREATE TABLE component_shadows (
    workspace text        NOT NULL DEFAULT 'default',
    choice    bigint      NOT NULL CHECK (choice > 0),
    digest    text,
    chosen_at timestamptz NOT NULL DEFAULT now(),
    chosen_by text        NOT NULL,
    PRIMARY KEY (choice, workspace),
    FOREIGN KEY (workspace, digest) REFERENCES components (workspace, digest)
);

CREATE FUNCTION guard_component_shadows() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
BEGIN
    IF NEW.choice <> (SELECT coalesce(max(s.choice), 0) + 1 FROM component_shadows s WHERE s.workspace = NEW.workspace) THEN
        RAISE EXCEPTION 'choices have no gap' USING ERRCODE = 'insufficient_privilege';
    END IF;
    PERFORM check_decided('component_shadows', NEW.choice::text);
    RETURN NEW;
END $$;

CREATE TRIGGER component_shadows_decided BEFORE INSERT ON component_shadows
    FOR EACH ROW EXECUTE FUNCTION guard_component_shadows();
CREATE TRIGGER component_shadows_fixed BEFORE UPDATE OR DELETE ON component_shadows
    FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER component_shadows_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON component_shadows
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Stores a component, which decides nothing by that.
CREATE FUNCTION component_upload(d decision, p_digest text, p_bytes bytea, p_manifest json, p_signed_by text,
    p_signed_version bigint, p_shown json) RETURNS answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    ws CONSTANT text := current_workspace();
    a  answer;
    at timestamptz;
BEGIN
    a := gate_enter(d, 'component_upload', 'upload_component');
    IF a.verdict IS NOT NULL THEN
        RETURN a;
    END IF;
    PERFORM pg_advisory_xact_lock(lock_id('component', p_digest));
    at := clock_now();
    IF EXISTS (SELECT 1 FROM components c WHERE c.workspace = ws AND c.digest = p_digest) THEN
        RETURN gate_done(d, at, 'ok', json_build_object('action', 'present'),
            result => (p_shown::jsonb || jsonb_build_object('action', 'present'))::json);
    END IF;
    a := gate_done(d, at, 'ok', json_build_object('action', 'stored'), change('components', p_digest, '"stored"'),
        result => (p_shown::jsonb || jsonb_build_object('action', 'stored'))::json);
    INSERT INTO components (workspace, digest, bytes, manifest, stored_at, stored_by, signed_by, signed_version)
    VALUES (ws, p_digest, p_bytes, p_manifest, at, d.agent_id, p_signed_by, p_signed_version);
    RETURN a;
END $$;

-- Puts a stored component in force, if the epoch is still the one that was expected and no gate of the host refused it.
-- An activation takes the epoch's lock alone: whatever was decided before it commits before it, or not at all.
DROP FUNCTION component_activate(decision, text, bytea, json);
CREATE FUNCTION component_activate(d decision, p_digest text, p_expected bigint, p_reason text, p_detail text,
    p_evidence json) RETURNS answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    ws      CONSTANT text := current_workspace();
    a       answer;
    at      timestamptz;
    epoch_  bigint;
BEGIN
    a := gate_enter(d, 'component_activate', 'activate_component', exclusive => true);
    IF a.verdict IS NOT NULL THEN
        RETURN a;
    END IF;
    at := clock_now();
    SELECT coalesce(max(v.epoch), 0) INTO epoch_ FROM activations v WHERE v.workspace = ws;
    IF p_reason IS NULL AND p_expected <> epoch_ THEN
        p_reason := 'epoch_moved';
        p_detail := format('epoch %s is in force, not %s: look at what was activated meanwhile', epoch_, p_expected);
    END IF;
    IF p_reason IS NOT NULL THEN
        RETURN gate_done(d, at, 'refused', json_build_object('success', false, 'epoch', epoch_, 'digest', p_digest,
            'reason', p_reason, 'detail', p_detail, 'evidence', p_evidence));
    END IF;
    epoch_ := epoch_ + 1;
    a := gate_done(d, at, 'ok', json_build_object('success', true, 'epoch', epoch_, 'digest', p_digest,
        'reason', NULL, 'detail', NULL, 'evidence', p_evidence), change('activations', p_digest, to_jsonb(epoch_)));
    INSERT INTO activations (workspace, epoch, digest, activated_at, activated_by)
    VALUES (ws, epoch_, p_digest, at, d.agent_id);
    RETURN a;
END $$;

-- Has a stored component asked beside the one in force, or nothing any more.
CREATE FUNCTION component_shadow(d decision, p_digest text, p_enabled boolean) RETURNS answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    ws      CONSTANT text := current_workspace();
    a       answer;
    at      timestamptz;
    current text;
    wanted  text;
    choice_ bigint;
BEGIN
    a := gate_enter(d, 'component_shadow', 'activate_component');
    IF a.verdict IS NOT NULL THEN
        RETURN a;
    END IF;
    PERFORM pg_advisory_xact_lock(lock_id('component', 'shadow'));
    at := clock_now();
    SELECT s.digest, s.choice INTO current, choice_ FROM component_shadows s WHERE s.workspace = ws
    ORDER BY s.choice DESC LIMIT 1;
    IF NOT p_enabled AND current IS DISTINCT FROM p_digest THEN
        RETURN gate_done(d, at, 'refused', json_build_object('success', false, 'shadow', current,
            'reason', 'not_the_shadow'));
    ELSIF p_enabled AND current = p_digest THEN
        RETURN gate_done(d, at, 'ok', json_build_object('success', true, 'shadow', current, 'reason', NULL));
    END IF;
    wanted := CASE WHEN p_enabled THEN p_digest END;
    choice_ := coalesce(choice_, 0) + 1;
    a := gate_done(d, at, 'ok', json_build_object('success', true, 'shadow', wanted, 'reason', NULL),
        change('component_shadows', choice_::text, to_jsonb(coalesce(wanted, ''))));
    INSERT INTO component_shadows (workspace, choice, digest, chosen_at, chosen_by)
    VALUES (ws, choice_, wanted, at, d.agent_id);
    RETURN a;
END $$;

ALTER TABLE component_shadows ENABLE ROW LEVEL SECURITY;
ALTER TABLE component_shadows FORCE ROW LEVEL SECURITY;
REVOKE ALL ON component_shadows FROM PUBLIC;
CREATE POLICY component_shadows_owner ON component_shadows TO portreeve_owner USING (workspace = current_workspace())
    WITH CHECK (workspace = current_workspace());
CREATE POLICY component_shadows_app ON component_shadows FOR SELECT TO portreeve_app
    USING (workspace = current_workspace());
CREATE POLICY component_shadows_auditor ON component_shadows FOR SELECT TO portreeve_auditor USING (true);
GRANT SELECT ON component_shadows TO portreeve_app, portreeve_auditor;
GRANT EXECUTE ON FUNCTION component_upload, component_activate, component_shadow TO portreeve_app;
