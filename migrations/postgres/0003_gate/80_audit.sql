-- Numbering the audit log: a gap-free `seq` for committed rows, in the order of `xact`, with the row's leaf hash. Any host
-- may do it at any time; one does at a time.

CREATE TABLE audit_seq (
    workspace text   NOT NULL DEFAULT 'default',
    seq       bigint NOT NULL CHECK (seq > 0),
    xact      bigint NOT NULL,
    id        uuid   NOT NULL,
    -- RFC 6962 leaf hash of the row's canonical JSON with its seq.
    leaf_hash bytea  NOT NULL CHECK (length(leaf_hash) = 32),
    PRIMARY KEY (seq, workspace),
    -- No foreign key: rows are numbered from audit_log itself, which keeps them for ever, and a foreign key would lock each
    -- one, and so write it once more.
    UNIQUE (id, workspace)
);
CREATE TRIGGER audit_seq_fixed BEFORE UPDATE OR DELETE ON audit_seq FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_seq_stays BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_seq
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- The rows of transactions below this are settled: each is committed, and none can come any more.
--
-- A row's transaction number is taken under the shared lock of the epoch, and by nobody who had one before (`gate_begin`). So
-- of the transactions that the snapshot finds going on, those do not matter whose number's lock is seen and who do not hold the
-- epoch's: they are other programs'. One whose number's lock is not seen has it in a moment, or is ending.
CREATE FUNCTION audit_horizon() RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    lock_ CONSTANT bigint := lock_id('epoch', '');
    seen  CONSTANT pg_snapshot := pg_current_snapshot();
    least xid8;
BEGIN
    -- Afterwards, and in statements of their own: whoever the snapshot finds and is to log has held the epoch's lock since
    -- before it. By virtual transaction: a prepared one has no process.
    SELECT min(x) INTO least FROM pg_snapshot_xip(seen) x
    WHERE NOT EXISTS (SELECT 1 FROM pg_locks o
            WHERE o.locktype = 'transactionid' AND o.granted AND o.mode = 'ExclusiveLock' AND o.transactionid = xid(x))
        OR EXISTS (SELECT 1 FROM pg_locks o JOIN pg_locks g ON g.virtualtransaction = o.virtualtransaction
            WHERE o.locktype = 'transactionid' AND o.granted AND o.mode = 'ExclusiveLock' AND o.transactionid = xid(x)
              AND g.locktype = 'advisory' AND g.granted AND g.objsubid = 1
              AND g.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
              AND (g.classid::text::bigint << 32 | g.objid::text::bigint) = lock_);
    RETURN coalesce(least, pg_snapshot_xmax(seen))::text::bigint + xact_base();
END $$;

-- The turn to number rows, until the transaction ends. Without `wait`, false when another host has it.
CREATE FUNCTION audit_turn(wait boolean) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
BEGIN
    PERFORM gate_begin();
    IF NOT wait THEN
        RETURN pg_try_advisory_xact_lock(lock_id('numbering', ''));
    END IF;
    PERFORM pg_advisory_xact_lock(lock_id('numbering', ''));
    RETURN true;
END $$;

-- Settled rows that have no number yet, in their order, with the numbers that are theirs. This and what numbers them are
-- planned for each call, which is rare: a plan that was kept from when the log was small reads all of it when it is large.
CREATE FUNCTION audit_unnumbered(most bigint) RETURNS TABLE (seq bigint, id uuid)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp
SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    ws      CONSTANT text := current_workspace();
    horizon bigint;
    last    audit_seq;
BEGIN
    PERFORM gate_begin();
    horizon := audit_horizon();
    -- A statement of its own, so that its snapshot is younger than the horizon.
    SELECT * INTO last FROM audit_seq s WHERE s.workspace = ws ORDER BY s.seq DESC LIMIT 1;
    IF last.xact >= xact_next() THEN
        RAISE EXCEPTION 'the log is of a cluster that was further: run `portreeve migrate`, then start again'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    RETURN QUERY SELECT coalesce(last.seq, 0) + row_number() OVER (ORDER BY l.xact, l.id), l.id
    FROM audit_log l
    WHERE l.workspace = ws AND l.xact < horizon
      -- Below all, where nothing is numbered: of rows that were moved here the first are far below zero.
      AND (l.xact, l.id) > (coalesce(last.xact, '-9223372036854775808'::bigint),
                            coalesce(last.id, '00000000-0000-0000-0000-000000000000'::uuid))
    ORDER BY l.xact, l.id LIMIT most;
END $$;

-- Numbers rows from `first` on, as `audit_unnumbered` listed them in the same turn. False when that was another turn.
CREATE FUNCTION audit_number(first bigint, ids uuid[], leaf_hashes bytea[]) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp
SET plan_cache_mode = force_custom_plan AS $$
DECLARE
    ws       CONSTANT text := current_workspace();
    horizon  bigint;
    last     audit_seq;
    numbered bigint;
BEGIN
    PERFORM gate_begin();
    PERFORM pg_advisory_xact_lock(lock_id('numbering', ''));
    horizon := audit_horizon();
    SELECT * INTO last FROM audit_seq s WHERE s.workspace = ws ORDER BY s.seq DESC LIMIT 1;
    IF first <> coalesce(last.seq, 0) + 1 THEN
        RETURN false;
    ELSIF cardinality(ids) <> cardinality(leaf_hashes) THEN
        RAISE EXCEPTION 'rows are numbered in their order, all of them' USING ERRCODE = 'insufficient_privilege';
    END IF;
    -- The same rows in the same order as they are listed now, and none left out: nobody numbers as they please. One walk
    -- along the index that has them in order: joins would leave the planner a choice, which it makes from old counts.
    INSERT INTO audit_seq (workspace, seq, xact, id, leaf_hash)
    SELECT ws, first + l.n - 1, l.xact, l.id, leaf_hashes[l.n]
    FROM (SELECT l.xact, l.id, row_number() OVER (ORDER BY l.xact, l.id) AS n FROM audit_log l
          WHERE l.workspace = ws AND l.xact < horizon
            AND (l.xact, l.id) > (coalesce(last.xact, '-9223372036854775808'::bigint),
                                  coalesce(last.id, '00000000-0000-0000-0000-000000000000'::uuid))
          ORDER BY l.xact, l.id LIMIT cardinality(ids)) l
    WHERE l.id = ids[l.n];
    GET DIAGNOSTICS numbered = ROW_COUNT;
    IF numbered <> cardinality(ids) THEN
        RAISE EXCEPTION 'rows are numbered in their order, all of them' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN true;
END $$;
