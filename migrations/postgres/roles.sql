-- The roles, the schema, and who may do what with them: run by `portreeve migrate` before the migrations, by a login that
-- may create roles and a schema. Roles belong to the cluster and not to one database, so this may find them there.
--   portreeve_owner    owns everything; nobody logs in as it
--   portreeve_app      the service: executes the functions, reads through row security, writes nothing directly
--   portreeve_auditor  reads the audit log
--   anon               nothing
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['portreeve_owner', 'portreeve_app', 'portreeve_auditor', 'anon'] LOOP
        BEGIN
            IF NOT EXISTS (SELECT 1 FROM pg_catalog.pg_roles r WHERE r.rolname = name) THEN
                EXECUTE pg_catalog.format('CREATE ROLE %I %s NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS',
                    name, CASE WHEN name IN ('portreeve_app', 'portreeve_auditor') THEN 'LOGIN' ELSE 'NOLOGIN' END);
            END IF;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL; -- The migration of another database of this cluster made it meanwhile.
        END;
    END LOOP;
    SELECT r.rolname INTO name FROM pg_catalog.pg_roles r
    WHERE r.rolname IN ('portreeve_owner', 'portreeve_app', 'portreeve_auditor')
      AND (r.rolsuper OR r.rolbypassrls OR (r.rolname = 'portreeve_owner' AND r.rolcanlogin));
    IF FOUND THEN
        RAISE EXCEPTION 'the role % passes row security or logs in as the owner', name
            USING ERRCODE = 'insufficient_privilege',
                  HINT = pg_catalog.format('ALTER ROLE %I NOSUPERUSER NOBYPASSRLS, and NOLOGIN for the owner', name);
    END IF;
    IF pg_catalog.pg_has_role('portreeve_app', 'portreeve_owner', 'MEMBER')
        OR pg_catalog.pg_has_role('portreeve_auditor', 'portreeve_app', 'MEMBER') THEN
        RAISE EXCEPTION 'portreeve_app must not be a member of portreeve_owner, nor portreeve_auditor of portreeve_app'
            USING ERRCODE = 'insufficient_privilege', HINT = 'REVOKE the membership';
    END IF;
    IF NOT pg_catalog.pg_has_role(current_user, 'portreeve_owner', 'MEMBER') THEN
        EXECUTE pg_catalog.format('GRANT portreeve_owner TO %I', current_user);
    END IF;
    IF NOT EXISTS (SELECT 1 FROM pg_catalog.pg_namespace n WHERE n.nspname = 'portreeve') THEN
        EXECUTE 'CREATE SCHEMA portreeve AUTHORIZATION portreeve_owner';
    END IF;
    SELECT pg_catalog.pg_get_userbyid(n.nspowner) INTO name FROM pg_catalog.pg_namespace n WHERE n.nspname = 'portreeve';
    IF name <> 'portreeve_owner' THEN
        RAISE EXCEPTION 'the schema portreeve belongs to %', name USING ERRCODE = 'insufficient_privilege',
            HINT = 'it is another program''s: use another database';
    END IF;
END $$;
