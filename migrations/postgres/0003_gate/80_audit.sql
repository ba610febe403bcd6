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
-- A row's transaction number is taken under the shared lock of the epoch, so whoever may still commit a row with a number
-- below the present one holds that lock and its own number's now. Transactions of other programs do not matter.
CREATE FUNCTION audit_horizon() RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    lock_  CONSTANT bigint := lock_id('epoch', '');
    next   CONSTANT numeric := pg_snapshot_xmax(pg_current_snapshot())::text::numeric;
    behind bigint;
BEGIN
    -- Numbers in pg_locks have 32 bits; how far each lies behind the next one does not depend on the upper half.
    SELECT max(mod(mod(next, 4294967296) - x.transactionid::text::numeric + 4294967296, 4294967296))::bigint INTO behind
    FROM pg_locks g JOIN pg_locks x ON x.pid = g.pid
    WHERE g.locktype = 'advisory' AND g.granted AND g.objsubid = 1
      AND g.database = (SELECT o.oid FROM pg_database o WHERE o.datname = current_database())
      AND (g.classid::text::bigint << 32 | g.objid::text::bigint) = lock_
      AND x.locktype = 'transactionid' AND x.granted AND x.mode = 'ExclusiveLock' AND x.pid <> pg_backend_pid()
      -- One that began after `next` was read is above it: it seems to lie almost a whole round behind.
      AND mod(mod(next, 4294967296) - x.transactionid::text::numeric + 4294967296, 4294967296) < 2147483648;
    RETURN (next - coalesce(behind, 0))::bigint;
END $$;

-- The turn to number rows, until the transaction ends. Without `wait`, false when another host has it.
CREATE FUNCTION audit_turn(wait boolean) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
BEGIN
    IF NOT wait THEN
        RETURN pg_try_advisory_xact_lock(lock_id('numbering', ''));
    END IF;
    PERFORM pg_advisory_xact_lock(lock_id('numbering', ''));
    RETURN true;
END $$;

-- Settled rows that have no number yet, in their order, with the numbers that are theirs.
CREATE FUNCTION audit_unnumbered(most bigint) RETURNS TABLE (seq bigint, id uuid)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    ws      CONSTANT text := current_workspace();
    horizon CONSTANT bigint := audit_horizon();
    last    audit_seq;
BEGIN
    -- A statement of its own, so that its snapshot is younger than the horizon.
    SELECT * INTO last FROM audit_seq s WHERE s.workspace = ws ORDER BY s.seq DESC LIMIT 1;
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
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    ws       CONSTANT text := current_workspace();
    horizon  bigint;
    last     audit_seq;
    numbered bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(lock_id('numbering', ''));
    horizon := audit_horizon();
    SELECT * INTO last FROM audit_seq s WHERE s.workspace = ws ORDER BY s.seq DESC LIMIT 1;
    IF first <> coalesce(last.seq, 0) + 1 THEN
        RETURN false;
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
    IF numbered <> cardinality(ids) OR cardinality(ids) <> cardinality(leaf_hashes) THEN
        RAISE EXCEPTION 'rows are numbered in their order, all of them' USING ERRCODE = 'insufficient_privilege';
    END IF;
    RETURN true;
END $$;
