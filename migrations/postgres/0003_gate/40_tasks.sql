-- The work queue: submit, claim, heartbeat, complete, cancel, and what time does. The transitions are those of
-- `domain/task.rs`. Of several locks that one function takes, the lowest task comes first, so that two do not wait for
-- each other. Who locks single tasks holds the lock of all of them shared; who has too many takes that one alone instead.

-- Where a task goes without its holder.
CREATE TYPE task_end AS (
    task_id       uuid,
    status        text,
    attempt_count bigint,
    error_message text,
    -- Which of several tasks took it along, or it is that one itself.
    part          bigint
);

-- The most tasks that fail with another in one transaction. They take seconds, and less than others wait for a lock.
CREATE FUNCTION family_max() RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN 50000;

-- Pending tasks that wait for this one. `OFFSET 0` keeps the order in which the tables are looked into, task by task,
-- whatever the planner expects: where one task has most of all dependants it would read them all for each task of a chain.
CREATE FUNCTION task_waiting(id uuid) RETURNS TABLE (task_id uuid, submit_order bigint, attempt_count bigint)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT t.task_id, t.submit_order, t.attempt_count
    FROM (SELECT w.workspace, w.task_id FROM work_dependencies w
        WHERE w.workspace = current_workspace() AND w.depends_on = id OFFSET 0) w
    CROSS JOIN LATERAL (SELECT q.task_id, q.submit_order, q.attempt_count, q.status FROM work_queue q
        WHERE q.workspace = w.workspace AND q.task_id = w.task_id OFFSET 0) t
    WHERE t.status = 'pending' OFFSET 0;
END;

-- Tasks that wait for one of these, directly or through others, and would fail with it: no more than so many.
-- Planned once and not compiled: no plan is better than that one, and either takes longer than looking where nothing waits.
CREATE FUNCTION task_dependants(ids uuid[], most bigint) RETURNS uuid[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, portreeve, pg_temp
SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
BEGIN
    RETURN ARRAY(WITH RECURSIVE waiting AS (
        SELECT t.task_id FROM unnest(ids) g CROSS JOIN LATERAL task_waiting(g) t
        UNION
        SELECT t.task_id FROM waiting CROSS JOIN LATERAL task_waiting(waiting.task_id) t
    )
    SELECT waiting.task_id FROM waiting LIMIT most);
END $$;

-- Locks these tasks, and with `family` all that wait for them. What comes to wait for one of them meanwhile is locked as
-- well: its identifier is younger, and so the order stays. Many are locked by the one lock of all tasks. False, and nothing
-- is locked, when they are more than `most`.
CREATE FUNCTION task_lock(ids uuid[], family boolean, most bigint DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    locked uuid[] := '{}'::uuid[];
    wanted uuid[] := ids;
    id     uuid;
BEGIN
    IF family THEN
        wanted := ids || task_dependants(ids, locks_max() + 1);
    END IF;
    IF cardinality(wanted) > locks_max() THEN
        IF family AND cardinality(task_dependants(ids, most + 1)) > most THEN
            RETURN false;
        END IF;
        PERFORM pg_advisory_xact_lock(lock_id('tasks', ''));
        RETURN true;
    END IF;
    PERFORM pg_advisory_xact_lock_shared(lock_id('tasks', ''));
    LOOP
        FOR id IN SELECT DISTINCT w FROM unnest(wanted) w WHERE w <> ALL (locked) ORDER BY w LOOP
            PERFORM pg_advisory_xact_lock(lock_id('task', id::text));
        END LOOP;
        EXIT WHEN NOT family;
        locked := locked || wanted;
        wanted := ids || task_dependants(ids, 2 * locks_max());
        EXIT WHEN wanted <@ locked;
        IF cardinality(wanted) >= 2 * locks_max() THEN
            -- Two who hold the lock of all shared and want it alone would wait for each other; it is taken the next time.
            RAISE EXCEPTION 'the family of a task grew while it was locked' USING ERRCODE = 'serialization_failure';
        END IF;
    END LOOP;
    RETURN true;
END $$;

-- Too much waits for a task to fail with it at once: told as a problem of the request.
CREATE FUNCTION task_too_much(d decision, field text) RETURNS answer
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp AS $$
BEGIN
    RETURN gate_invalid(d, field, 'too_many_dependants', format('more than %s tasks wait for this one, too many to fail '
        'with it at once; cancel some of those first, or let its lease or deadline pass', family_max()));
END $$;

-- The entry of the audit row for a task that goes there.
CREATE FUNCTION task_change(task_id uuid, status text, attempt_count bigint) RETURNS jsonb LANGUAGE sql STABLE
RETURN jsonb_build_array(jsonb_build_object('table', 'work_queue', 'key', task_id, 'version',
    jsonb_build_object('status', status, 'attempt_count', attempt_count)));

-- What is to be announced of these.
CREATE FUNCTION task_changes(ends task_end[]) RETURNS jsonb LANGUAGE sql STABLE
SET search_path = pg_catalog, portreeve, pg_temp
BEGIN ATOMIC
    SELECT coalesce(jsonb_agg(task_change(e.task_id, e.status, e.attempt_count)->0), '[]') FROM unnest(ends) e;
END;

-- These tasks in their order, each that fails or is withdrawn followed by what fails with it: all that waits for it,
-- directly or through others. One that an earlier one took along is final by then, and passed over. They are locked
-- already, with their families.
--
-- The order is that of the embedded store, which looks one task after the other: the last one found comes first, with those
-- that wait for it as they were submitted. Here the whole family is read at once, numbered as it was submitted, and
-- what the loop touches is found by its number: a family of thousands takes no longer for each of them than one of ten.
CREATE FUNCTION task_walk(own task_end[]) RETURNS task_end[]
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, portreeve, pg_temp
SET enable_seqscan = off SET jit = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    ws       CONSTANT text := current_workspace();
    -- The family by number: who it is, its attempts, whether it is reached.
    ids      uuid[];
    attempts bigint[];
    reached  boolean[];
    -- The numbers of `own`, and who waits for whom: `waiting[n]` for `on_[n]`, for each from `first[…]` to `last[…]`.
    numbers  integer[];
    on_      integer[];
    waiting  integer[];
    first    integer[];
    last     integer[];
    -- What is found: the number, none for one of `own`; and the part.
    found_   integer[] := '{}'::integer[];
    parts    integer[] := '{}'::integer[];
    ended    integer[];
    open_    integer;
    n        integer;
    size     integer := 0;
BEGIN
    WITH RECURSIVE family AS (
        SELECT q.task_id, q.submit_order, q.attempt_count FROM unnest(own) e
        JOIN work_queue q ON q.workspace = ws AND q.task_id = e.task_id
        WHERE e.status IN ('failed', 'cancelled')
        UNION
        SELECT t.task_id, t.submit_order, t.attempt_count FROM family f CROSS JOIN LATERAL task_waiting(f.task_id) t
    ), orders AS (
        SELECT array_agg(f.submit_order ORDER BY f.submit_order) AS all_,
            array_agg(f.task_id ORDER BY f.submit_order) AS ids,
            array_agg(f.attempt_count ORDER BY f.submit_order) AS attempts
        FROM family f
    ), edges AS (
        -- The number of a task is its place among all of them: looked up by halves.
        SELECT width_bucket(f.submit_order, (SELECT o.all_ FROM orders o)) AS on_,
            width_bucket(t.submit_order, (SELECT o.all_ FROM orders o)) AS waiting
        FROM family f CROSS JOIN LATERAL task_waiting(f.task_id) t
    )
    SELECT o.ids, o.attempts, e.on_, e.waiting,
        ARRAY(SELECT CASE WHEN g.status IN ('failed', 'cancelled') THEN width_bucket(q.submit_order, o.all_) END
            FROM unnest(own) WITH ORDINALITY AS g (task_id, status, attempt_count, error_message, part, n)
            JOIN work_queue q ON q.workspace = ws AND q.task_id = g.task_id ORDER BY g.n)
    INTO ids, attempts, on_, waiting, numbers
    FROM orders o, (SELECT array_agg(e.on_ ORDER BY e.on_, e.waiting) AS on_,
        array_agg(e.waiting ORDER BY e.on_, e.waiting) AS waiting FROM edges e) e;
    IF on_ IS NULL THEN
        -- Nothing waits for any of them.
        RETURN own;
    END IF;
    reached := array_fill(false, ARRAY[cardinality(ids)]);
    first := array_fill(1, ARRAY[cardinality(ids)]);
    last := array_fill(0, ARRAY[cardinality(ids)]);
    FOR e IN 1 .. cardinality(on_) LOOP
        n := on_[e];
        IF last[n] = 0 THEN
            first[n] := e;
        END IF;
        last[n] := e;
    END LOOP;
    FOR part IN 1 .. cardinality(own) LOOP
        n := numbers[part];
        CONTINUE WHEN n IS NOT NULL AND reached[n];
        size := size + 1;
        found_[size] := NULL;
        parts[size] := part;
        CONTINUE WHEN n IS NULL;
        reached[n] := true;
        ended := ARRAY[n];
        open_ := 1;
        WHILE open_ > 0 LOOP
            n := ended[open_];
            open_ := open_ - 1;
            FOR e IN first[n] .. last[n] LOOP
                n := waiting[e];
                CONTINUE WHEN reached[n];
                reached[n] := true;
                size := size + 1;
                found_[size] := n;
                parts[size] := part;
                open_ := open_ + 1;
                ended[open_] := n;
            END LOOP;
        END LOOP;
    END LOOP;
    -- `domain::task::failure::DEPENDENCY_FAILED`
    RETURN ARRAY(SELECT CASE WHEN f.n IS NULL THEN own[f.part]
        ELSE ROW(ids[f.n], 'failed', attempts[f.n], 'dependency_failed', (own[f.part]).part)::task_end END
        FROM unnest(found_, parts) WITH ORDINALITY AS f (n, part, place) ORDER BY f.place);
END $$;

-- What becomes of these tasks, in this order, by time alone, or with `gone` because whoever had claimed them is gone; those
-- of which nothing becomes are left out. They are locked already.
CREATE FUNCTION task_ends(at timestamptz, ids uuid[], gone boolean) RETURNS task_end[] LANGUAGE sql STABLE
SET search_path = pg_catalog, portreeve, pg_temp
BEGIN ATOMIC
    -- `domain::task::failure::DEADLINE_EXCEEDED` and `ATTEMPTS_EXHAUSTED`
    SELECT ARRAY(
        SELECT ROW(q.task_id,
            CASE WHEN q.deadline <= at OR s.attempts >= q.max_attempts THEN 'failed' ELSE 'pending' END, s.attempts,
            CASE WHEN q.deadline <= at THEN 'deadline_exceeded'
                 WHEN s.attempts >= q.max_attempts THEN 'attempts_exhausted' END,
            g.n)::task_end
        FROM unnest(ids) WITH ORDINALITY AS g (id, n)
        JOIN work_queue q ON q.workspace = current_workspace() AND q.task_id = g.id
        CROSS JOIN LATERAL (SELECT least(q.attempt_count + CASE q.status WHEN 'claimed' THEN 1 ELSE 0 END,
            q.max_attempts) AS attempts) s
        WHERE (q.status IN ('pending', 'claimed') AND q.deadline <= at)
           OR (q.status = 'claimed' AND (gone OR q.lease_expires_at <= at))
        ORDER BY g.n);
END;

-- The part of a family too large for one transaction that fails first: the youngest of all that waits for these. Whoever
-- waits for a task is younger than it, so nothing is left that waits for what fails; and they are doomed, because nobody can
-- complete a task whose time is over.
CREATE FUNCTION task_youngest(own task_end[], most bigint) RETURNS task_end[] LANGUAGE sql STABLE
SET search_path = pg_catalog, portreeve, pg_temp
BEGIN ATOMIC
    SELECT ARRAY(
        SELECT ROW(q.task_id, 'failed', q.attempt_count, 'dependency_failed', NULL)::task_end
        FROM unnest(task_dependants(ARRAY(SELECT e.task_id FROM unnest(own) e WHERE e.status = 'failed'), NULL)) g
        JOIN work_queue q ON q.workspace = current_workspace() AND q.task_id = g
        ORDER BY q.submit_order DESC LIMIT most);
END;

-- Ends claims and tasks as announced. `claimed_by` of a final task stays, to tell who did it.
CREATE FUNCTION task_move(at timestamptz, ends task_end[], result json DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, portreeve, pg_temp SET enable_nestloop = off AS $$
DECLARE
    own task_end;
BEGIN
    IF cardinality(ends) = 1 THEN
        -- As it is most of the time, and found by its key.
        own := ends[1];
        UPDATE work_queue q SET status = own.status, attempt_count = own.attempt_count, result = task_move.result,
            error_message = own.error_message, claim_token = NULL, lease_expires_at = NULL, heartbeat_at = NULL,
            completed_at = CASE WHEN own.status <> 'pending' THEN at END,
            claimed_by = CASE WHEN own.status <> 'pending' THEN q.claimed_by END,
            claimed_at = CASE WHEN own.status <> 'pending' THEN q.claimed_at END
        WHERE q.workspace = current_workspace() AND q.task_id = own.task_id;
    ELSE
        -- In one statement, which the guard looks into once. By hash: the plan that is kept may have been made for a few.
        UPDATE work_queue q SET status = e.status, attempt_count = e.attempt_count, result = task_move.result,
            error_message = e.error_message, claim_token = NULL, lease_expires_at = NULL, heartbeat_at = NULL,
            completed_at = CASE WHEN e.status <> 'pending' THEN at END,
            claimed_by = CASE WHEN e.status <> 'pending' THEN q.claimed_by END,
            claimed_at = CASE WHEN e.status <> 'pending' THEN q.claimed_at END
        FROM unnest(ends) e WHERE q.workspace = current_workspace() AND q.task_id = e.task_id;
    END IF;
END $$;

-- What a report or a withdrawal is answered.
CREATE FUNCTION task_ended(success boolean, status text, task_id uuid, reason text) RETURNS json LANGUAGE sql STABLE
RETURN json_build_object('success', success, 'status', status, 'task_id', task_id, 'reason', reason);

-- What a successful claim is answered; the texts are the task's own, or what the log keeps of them.
CREATE FUNCTION task_claimed(task work_queue, description json, input_data json, token text, until timestamptz)
RETURNS json LANGUAGE sql STABLE
RETURN json_build_object('success', true, 'task_id', task.task_id, 'task_type', task.task_type,
    'description', description, 'input_data', input_data, 'priority', task.priority, 'deadline', rfc3339(task.deadline),
    'reason', NULL, 'claim_token', token, 'lease_expires_at', rfc3339(until), 'attempt', task.attempt_count + 1);

-- The task, if the agent holds a live claim on it, under this token if one is named; else nothing.
CREATE FUNCTION task_held(d decision, id uuid, token text, at timestamptz) RETURNS work_queue LANGUAGE sql STABLE
SET search_path = pg_catalog, portreeve, pg_temp
BEGIN ATOMIC
    SELECT q FROM work_queue q
    WHERE q.workspace = current_workspace() AND q.task_id = id AND q.status = 'claimed' AND q.claimed_by = d.agent_id
      AND q.lease_expires_at > at AND (q.deadline IS NULL OR q.deadline > at)
      AND (token IS NULL OR q.claim_token = token);
END;

-- Puts a task into the queue.
CREATE FUNCTION task_submit(d decision, p_task_id uuid, p_task_type text, p_description text, p_input_data json,
    p_priority bigint, p_depends_on uuid[], p_deadline timestamptz, p_max_attempts bigint, p_required_archetype text,
    p_required_trust bigint) RETURNS answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    ws    CONSTANT text := current_workspace();
    a     answer;
    at    timestamptz;
    bad   record;
    open_ bigint;
    count_ bigint;
BEGIN
    a := gate_enter(d, 'task_submit', 'submit_work');
    IF a.verdict IS NOT NULL THEN
        RETURN a;
    END IF;
    IF d.max_open_tasks IS NOT NULL THEN
        -- Counted under a lock of the agent's, so that no race slips past the limit.
        PERFORM pg_advisory_xact_lock(lock_id('tasks of', d.agent_id));
    END IF;
    -- One that ends at this moment has ended before, or finds this one waiting.
    PERFORM task_lock(p_depends_on || p_task_id, false);
    at := clock_now();
    SELECT g.id, q.status INTO bad FROM unnest(p_depends_on) WITH ORDINALITY AS g (id, n)
    LEFT JOIN work_queue q ON q.workspace = ws AND q.task_id = g.id
    WHERE q.status IS NULL OR q.status IN ('failed', 'cancelled') ORDER BY g.n LIMIT 1;
    IF FOUND AND bad.status IS NULL THEN
        RETURN gate_invalid(d, 'depends_on', 'unknown_dependency', format('there is no task `%s` to depend on', bad.id));
    ELSIF FOUND THEN
        RETURN gate_done(d, at, 'refused', json_build_object('success', false, 'task_id', NULL,
            'reason', 'dependency_failed'));
    END IF;
    IF d.max_open_tasks IS NOT NULL THEN
        SELECT count(*) INTO count_ FROM work_queue q
        WHERE q.workspace = ws AND q.submitted_by = d.agent_id AND q.status IN ('pending', 'claimed');
        IF count_ >= d.max_open_tasks THEN
            RETURN gate_limit(d, 'open_task_limit_reached',
                format('the profile allows %s open tasks, and %s submitted that many', d.max_open_tasks, d.agent_id),
                'wait for a task to end or cancel one, or ask an admin for a profile with a higher limit');
        END IF;
    END IF;
    SELECT count(*) INTO open_ FROM work_queue q
    WHERE q.workspace = ws AND q.task_id = ANY (p_depends_on) AND q.status IN ('pending', 'claimed');
    a := gate_done(d, at, 'ok', json_build_object('success', true, 'task_id', p_task_id),
        task_change(p_task_id, 'pending', 0));
    INSERT INTO work_queue (workspace, task_id, task_type, description, input_data, priority, status, submitted_by,
        required_archetype, required_trust, max_attempts, open_dependencies, deadline, created_at)
    VALUES (ws, p_task_id, p_task_type, p_description, p_input_data, p_priority, 'pending', d.agent_id,
        p_required_archetype, p_required_trust, p_max_attempts, open_, p_deadline, at);
    INSERT INTO work_dependencies (workspace, task_id, depends_on) SELECT ws, p_task_id, g FROM unnest(p_depends_on) g;
    RETURN a;
END $$;

-- CLAIM: the task's lock is held from before it is read, and guard_work_queue lets nothing rewrite a final status.
-- Claims the task that the host chose and policy decided about, if it still waits and the claimant still meets what it asks
-- for. Without a task only the answer is recorded. `p_shown` is what the log keeps of the task's texts.
CREATE FUNCTION task_claim(d decision, p_task_id uuid, p_blocked text, p_lease_seconds bigint, p_shown json) RETURNS answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    ws      CONSTANT text := current_workspace();
    a       answer;
    at      timestamptz;
    until   timestamptz;
    task    work_queue;
    token   CONSTANT text := gen_random_uuid()::text;
BEGIN
    a := gate_enter(d, 'task_claim', 'get_work');
    IF a.verdict IS NOT NULL THEN
        RETURN a;
    END IF;
    IF p_task_id IS NOT NULL THEN
        PERFORM pg_advisory_xact_lock_shared(lock_id('tasks', ''));
        PERFORM pg_advisory_xact_lock(lock_id('task', p_task_id::text));
    END IF;
    at := clock_now();
    until := at + p_lease_seconds * interval '1 second';
    SELECT * INTO task FROM work_queue q
    WHERE q.workspace = ws AND q.task_id = p_task_id AND q.status = 'pending' AND q.open_dependencies = 0
      AND (q.deadline IS NULL OR q.deadline > at)
      AND (q.required_trust IS NULL OR q.required_trust <= d.trust_level)
      AND (q.required_archetype IS NULL OR q.required_archetype =
          (SELECT g.archetype FROM agents g WHERE g.workspace = ws AND g.agent_id = d.agent_id))
      -- `domain::task::INDEPENDENT_TYPES`: nobody judges their own work.
      AND NOT (q.task_type IN ('evaluate', 'review') AND q.submitted_by = d.agent_id);
    IF NOT FOUND THEN
        -- Another agent was first: the claim is tried anew, and this is no answer.
        RETURN gate_done(d, at, 'refused', json_build_object('success', false, 'task_id', NULL, 'task_type', NULL,
            'description', NULL, 'input_data', NULL, 'priority', NULL, 'deadline', NULL, 'reason',
            CASE WHEN p_task_id IS NULL THEN coalesce(p_blocked, 'no_tasks_available') ELSE 'no_tasks_available' END,
            'claim_token', NULL, 'lease_expires_at', NULL, 'attempt', NULL), is_answer => p_task_id IS NULL);
    END IF;
    a := gate_done(d, at, 'ok',
        task_claimed(task, to_json(task.description), task.input_data, token, until),
        task_change(task.task_id, 'claimed', task.attempt_count),
        result => task_claimed(task, p_shown->'description', p_shown->'input_data', token, until));
    UPDATE work_queue q SET status = 'claimed', claimed_by = d.agent_id, claimed_at = at, claim_token = token,
        lease_expires_at = until, heartbeat_at = at
    WHERE q.workspace = ws AND q.task_id = task.task_id;
    RETURN a;
END $$;

-- Extends the lease of a claim.
CREATE FUNCTION task_heartbeat(d decision, p_task_id uuid, p_claim_token text, p_lease_seconds bigint) RETURNS answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    ws    CONSTANT text := current_workspace();
    a     answer;
    at    timestamptz;
    until timestamptz;
    task  work_queue;
BEGIN
    a := gate_enter(d, 'task_heartbeat', 'complete_work');
    IF a.verdict IS NOT NULL THEN
        RETURN a;
    END IF;
    PERFORM pg_advisory_xact_lock_shared(lock_id('tasks', ''));
    PERFORM pg_advisory_xact_lock(lock_id('task', p_task_id::text));
    at := clock_now();
    until := at + p_lease_seconds * interval '1 second';
    task := task_held(d, p_task_id, p_claim_token, at);
    IF task.task_id IS NULL THEN
        RETURN gate_done(d, at, 'refused', json_build_object('success', false, 'lease_expires_at', NULL,
            'reason', 'task_not_found_or_not_claimed_by_agent'));
    END IF;
    a := gate_done(d, at, 'ok', json_build_object('success', true, 'lease_expires_at', rfc3339(until), 'reason', NULL),
        task_change(task.task_id, 'claimed', task.attempt_count));
    UPDATE work_queue q SET lease_expires_at = until, heartbeat_at = at WHERE q.workspace = ws AND q.task_id = p_task_id;
    RETURN a;
END $$;

-- Takes the holder's report. A failed attempt is tried again while there are any left.
CREATE FUNCTION task_complete(d decision, p_task_id uuid, p_success boolean, p_result json, p_error_message text,
    p_claim_token text) RETURNS answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    ws    CONSTANT text := current_workspace();
    a     answer;
    at    timestamptz;
    task  work_queue;
    own   task_end;
    ends  task_end[];
BEGIN
    a := gate_enter(d, 'task_complete', 'complete_work');
    IF a.verdict IS NOT NULL THEN
        RETURN a;
    END IF;
    IF NOT task_lock(ARRAY[p_task_id], NOT p_success, family_max()) THEN
        RETURN task_too_much(d, 'success');
    END IF;
    at := clock_now();
    task := task_held(d, p_task_id, p_claim_token, at);
    IF task.task_id IS NULL THEN
        RETURN gate_done(d, at, 'refused',
            task_ended(false, NULL, p_task_id, 'task_not_found_or_not_claimed_by_agent'));
    END IF;
    own := ROW(p_task_id, 'completed', task.attempt_count + 1, p_error_message, 1)::task_end;
    IF NOT p_success THEN
        own.attempt_count := least(task.attempt_count + 1, task.max_attempts);
        own.status := CASE WHEN own.attempt_count >= task.max_attempts THEN 'failed' ELSE 'pending' END;
    END IF;
    ends := ARRAY[own];
    IF own.status = 'failed' THEN
        ends := task_walk(ends);
    END IF;
    a := gate_done(d, at, 'ok', task_ended(true, own.status, p_task_id, NULL), task_changes(ends));
    PERFORM task_move(at, ends[:1], p_result);
    IF cardinality(ends) > 1 THEN
        PERFORM task_move(at, ends[2:]);
    END IF;
    IF own.status = 'completed' THEN
        UPDATE work_queue q SET open_dependencies = q.open_dependencies - 1
        WHERE q.workspace = ws AND q.status = 'pending' AND q.open_dependencies > 0 AND q.task_id IN
            (SELECT w.task_id FROM work_dependencies w WHERE w.workspace = ws AND w.depends_on = p_task_id);
    END IF;
    RETURN a;
END $$;

-- Withdraws a task that is not final. Its submitter may, and an agent of trust 3 (`ADMIN_TRUST`).
CREATE FUNCTION task_cancel(d decision, p_task_id uuid, p_reason text) RETURNS answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    ws    CONSTANT text := current_workspace();
    a     answer;
    at    timestamptz;
    task  work_queue;
    own   task_end;
    ends  task_end[];
    no    text;
BEGIN
    a := gate_enter(d, 'task_cancel', 'submit_work');
    IF a.verdict IS NOT NULL THEN
        RETURN a;
    END IF;
    IF NOT task_lock(ARRAY[p_task_id], true, family_max()) THEN
        RETURN task_too_much(d, 'task_id');
    END IF;
    at := clock_now();
    SELECT * INTO task FROM work_queue q WHERE q.workspace = ws AND q.task_id = p_task_id;
    no := CASE
        WHEN NOT FOUND THEN 'task_not_found'
        WHEN task.submitted_by <> d.agent_id AND d.trust_level < 3 THEN 'not_task_submitter'
        WHEN task.status IN ('completed', 'failed', 'cancelled') THEN 'task_already_final'
    END;
    IF no IS NOT NULL THEN
        RETURN gate_done(d, at, 'refused', task_ended(false, NULL, p_task_id, no));
    END IF;
    own := ROW(p_task_id, 'cancelled', least(task.attempt_count + CASE task.status WHEN 'claimed' THEN 1 ELSE 0 END,
        task.max_attempts), p_reason, 1)::task_end;
    ends := task_walk(ARRAY[own]);
    a := gate_done(d, at, 'ok', task_ended(true, 'cancelled', p_task_id, NULL), task_changes(ends));
    PERFORM task_move(at, ends);
    RETURN a;
END $$;

-- Lets time do its work: lapsed leases, passed deadlines, first answers that are a day old.
CREATE FUNCTION task_expire(d decision) RETURNS answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    ws   CONSTANT text := current_workspace();
    a    answer;
    at   timestamptz;
    ids  uuid[];
    own  task_end[];
    ends task_end[];
    -- The most tasks of one call; the next one takes the rest.
    most CONSTANT bigint := family_max() / 2;
BEGIN
    a := gate_enter(d, 'task_expire', 'expire_leases');
    IF a.verdict IS NOT NULL THEN
        RETURN a;
    END IF;
    -- One host at a time; the next one finds it done.
    PERFORM pg_advisory_xact_lock(lock_id('expiry', ''));
    at := clock_now();
    ids := ARRAY(
        SELECT l.task_id FROM (
            SELECT q.task_id, q.submit_order FROM work_queue q
            WHERE q.workspace = ws AND q.status = 'claimed' AND q.lease_expires_at <= at
            UNION
            SELECT q.task_id, q.submit_order FROM work_queue q
            WHERE q.workspace = ws AND q.status IN ('pending', 'claimed') AND q.deadline <= at) l
        ORDER BY l.submit_order LIMIT 500);
    PERFORM task_lock(ids, true);
    -- A heartbeat or a report may have been quicker.
    own := task_ends(at, ids, false);
    ids := ARRAY(SELECT e.task_id FROM unnest(own) e WHERE e.status = 'failed');
    IF cardinality(task_dependants(ids, most + 1)) > most THEN
        ends := task_youngest(own, most);
    ELSE
        ends := task_walk(own);
    END IF;
    a := gate_done(d, at, 'ok', json_build_object(
        'requeued', (SELECT count(*) FROM unnest(ends) e WHERE e.status = 'pending'),
        'failed', (SELECT count(*) FROM unnest(ends) e WHERE e.status = 'failed')), task_changes(ends));
    PERFORM task_move(at, ends);
    DELETE FROM idempotency_keys k USING (
        SELECT o.agent_id, o.key FROM idempotency_keys o
        WHERE o.workspace = ws AND o.created_at <= at - interval '24 hours' ORDER BY o.created_at LIMIT most) o
    -- Said once more: one that was replaced meanwhile is young again.
    WHERE k.workspace = ws AND k.agent_id = o.agent_id AND k.key = o.key AND k.created_at <= at - interval '24 hours';
    RETURN a;
END $$;
