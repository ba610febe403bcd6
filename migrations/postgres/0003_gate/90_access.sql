-- Who may do what. Row security is enabled and forced on every table; the service executes functions and reads.

DO $$
DECLARE
    tab text;
BEGIN
    -- The names are literals of this file.
    FOREACH tab IN ARRAY ARRAY['agents', 'api_keys', 'file_locks', 'lock_fences', 'work_queue', 'work_dependencies',
        'agent_sessions', 'agent_status', 'handoffs', 'memories', 'components', 'activations', 'idempotency_keys',
        'audit_log', 'audit_seq', 'guardrail_violations', 'store_moves'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', tab);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', tab);
        EXECUTE format('REVOKE ALL ON %I FROM PUBLIC', tab);
        EXECUTE format('CREATE POLICY %I ON %I TO portreeve_owner USING (workspace = current_workspace())
            WITH CHECK (workspace = current_workspace())', tab || '_owner', tab);
        EXECUTE format('CREATE POLICY %I ON %I FOR SELECT TO portreeve_app USING (workspace = current_workspace())',
            tab || '_app', tab);
        EXECUTE format('GRANT SELECT ON %I TO portreeve_app', tab);
    END LOOP;
    FOREACH tab IN ARRAY ARRAY['audit_log', 'audit_seq', 'guardrail_violations', 'components', 'activations'] LOOP
        EXECUTE format('CREATE POLICY %I ON %I FOR SELECT TO portreeve_auditor USING (true)', tab || '_auditor', tab);
        EXECUTE format('GRANT SELECT ON %I TO portreeve_auditor', tab);
    END LOOP;
END $$;

-- The program's own table of migrations: it was made before the first of them.
ALTER TABLE schema_migrations ENABLE ROW LEVEL SECURITY;
ALTER TABLE schema_migrations FORCE ROW LEVEL SECURITY;
CREATE POLICY schema_migrations_owner ON schema_migrations TO portreeve_owner USING (true) WITH CHECK (true);
CREATE POLICY schema_migrations_app ON schema_migrations FOR SELECT TO portreeve_app USING (true);
REVOKE ALL ON schema_migrations FROM PUBLIC;
GRANT SELECT ON schema_migrations TO portreeve_app;

GRANT USAGE ON SCHEMA portreeve TO portreeve_app, portreeve_auditor;

-- A new function is nobody's to execute; what the service calls is named, one by one.
ALTER DEFAULT PRIVILEGES FOR ROLE portreeve_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA portreeve FROM PUBLIC;
REVOKE USAGE ON TYPE decision, answer FROM PUBLIC;
GRANT USAGE ON TYPE decision, answer TO portreeve_app;
-- Row security and the lists ask these of the reader.
GRANT EXECUTE ON FUNCTION current_workspace, clock_now TO portreeve_app, portreeve_auditor;
GRANT EXECUTE ON FUNCTION
    decision_refuse, decision_answer, decision_fail, audit_turn, audit_unnumbered, audit_number,
    agent_create, agent_key_create, agent_key_revoke, agent_profile, agent_suspend,
    component_activate,
    handoff_write,
    lock_acquire, lock_renew, lock_release, lock_force_release,
    memory_store,
    session_register, session_heartbeat, session_cleanup, status_report,
    task_submit, task_claim, task_heartbeat, task_complete, task_cancel, task_expire
    TO portreeve_app;
