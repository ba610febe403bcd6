-- Handoffs: written once, never changed.

CREATE FUNCTION handoff_write(d decision, p_handoff_id uuid, p_session_id text, p_summary text, p_completed_work text[],
    p_in_progress text[], p_decisions text[], p_next_steps text[], p_relevant_files text[]) RETURNS answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    a  answer;
    at timestamptz;
BEGIN
    a := gate_enter(d, 'handoff_write', 'write_handoff');
    IF a.verdict IS NOT NULL THEN
        RETURN a;
    END IF;
    -- Of one agent, the order of writing is that of the audit log.
    PERFORM pg_advisory_xact_lock(lock_id('handoffs of', d.agent_id));
    at := clock_now();
    a := gate_done(d, at, 'ok', json_build_object('success', true, 'handoff_id', p_handoff_id, 'error', NULL),
        change('handoffs', p_handoff_id::text, '"written"'));
    INSERT INTO handoffs (workspace, handoff_id, agent_id, session_id, summary, completed_work, in_progress, decisions,
        next_steps, relevant_files, created_at)
    VALUES (current_workspace(), p_handoff_id, d.agent_id, p_session_id, p_summary, p_completed_work, p_in_progress,
        p_decisions, p_next_steps, p_relevant_files, at);
    RETURN a;
END $$;
