-- Memories: stored once, and merged into by what says the same within the hour. The rules of merging are those of
-- `domain/memory.rs`.

-- The full-text index of word lists: every word at its places, with a gap between lists, so that no phrase is found across
-- two. Beyond the 16,383 places that a vector knows, words are found and no longer as a phrase; beyond the megabyte that it
-- holds, and where one is longer than an index takes, they are not found. Tags and summary come first and details last, so
-- that no document, however large, hides what it is about. Words are letters and digits, so they need no escaping.
CREATE FUNCTION memory_words(lists jsonb) RETURNS tsvector LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, portreeve, pg_temp
BEGIN ATOMIC
    SELECT coalesce(string_agg('''' || v.word || ''':' || v.places, ' '), '')::tsvector
    FROM (
        SELECT p.word, string_agg(least(p.place, 16383)::text, ',') AS places,
            -- A word takes its length once, and two bytes for each of at most 255 places.
            sum(octet_length(p.word) + 4 + 2 * least(count(*), 255)) OVER (ORDER BY min(p.place)) AS bytes
        FROM (
            SELECT w.word, row_number() OVER (ORDER BY l.key COLLATE "C" DESC, w.n)
                + 2 * dense_rank() OVER (ORDER BY l.key COLLATE "C" DESC) AS place
            FROM jsonb_each(lists) l
            CROSS JOIN LATERAL jsonb_array_elements_text(l.value) WITH ORDINALITY AS w (word, n)
            WHERE octet_length(w.word) <= 2000
        ) p
        GROUP BY p.word
    ) v
    WHERE v.bytes <= 1000000;
END;

-- A JSON object with the keys of another replaced and added, as compact text; NULL when both are.
CREATE FUNCTION memory_details(first json, more json) RETURNS text LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, portreeve, pg_temp
BEGIN ATOMIC
    SELECT CASE WHEN first IS NOT NULL OR more IS NOT NULL THEN
        '{' || coalesce(string_agg(to_json(e.key)::text || ':' || e.value::text, ',' ORDER BY e.key COLLATE "C"), '') || '}' END
    FROM (
        SELECT o.key, o.value FROM json_each(coalesce(first, '{}')) o
        WHERE NOT EXISTS (SELECT 1 FROM json_each(coalesce(more, '{}')) n WHERE n.key = o.key)
        UNION ALL
        SELECT n.key, n.value FROM json_each(coalesce(more, '{}')) n
    ) e;
END;

-- Texts of both lists in order, each once.
CREATE FUNCTION memory_union(first text[], more text[]) RETURNS text[] LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, portreeve, pg_temp
BEGIN ATOMIC
    SELECT first || ARRAY(SELECT m.text_ FROM unnest(more) WITH ORDINALITY AS m (text_, n)
        WHERE m.text_ <> ALL (first) ORDER BY m.n);
END;

-- What a memory is answered.
CREATE FUNCTION memory_stored(memory_id uuid, action text) RETURNS json LANGUAGE sql STABLE
RETURN json_build_object('success', true, 'memory_id', memory_id, 'action', action);

-- Stores a memory, or adds to the one that says the same within the hour that began with it.
CREATE FUNCTION memory_store(d decision, p_memory_id uuid, p_session_id text, p_event_type text, p_summary text,
    p_summary_hash bytea, p_details json, p_outcome text, p_lessons text[], p_tags text[], p_word_lists jsonb)
RETURNS answer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, portreeve, pg_temp AS $$
DECLARE
    ws       CONSTANT text := current_workspace();
    a        answer;
    at       timestamptz;
    first    memories;
    merged   memories;
    details_ text;
    most     record;
BEGIN
    a := gate_enter(d, 'memory_store', 'remember');
    IF a.verdict IS NOT NULL THEN
        RETURN a;
    END IF;
    PERFORM pg_advisory_xact_lock(lock_id('memory',
        d.agent_id || E'\x1f' || p_event_type || E'\x1f' || encode(p_summary_hash, 'hex')));
    at := clock_now();
    SELECT * INTO first FROM memories m
    WHERE m.workspace = ws AND m.agent_id = d.agent_id AND m.event_type = p_event_type
      AND m.summary_hash = p_summary_hash AND m.created_at > at - interval '60 minutes'
    ORDER BY m.created_at DESC LIMIT 1;
    IF NOT FOUND THEN
        a := gate_done(d, at, 'ok', memory_stored(p_memory_id, 'created'), change('memories', p_memory_id::text, '0'));
        INSERT INTO memories (workspace, memory_id, agent_id, session_id, event_type, summary, summary_hash, details,
            outcome, lessons, tags, ranks_at, hour_slot, word_lists, words, created_at)
        VALUES (ws, p_memory_id, d.agent_id, p_session_id, p_event_type, p_summary, p_summary_hash,
            memory_details(p_details, NULL)::json, p_outcome, p_lessons, p_tags, at, micros(at) / 3600000000,
            p_word_lists, memory_words(p_word_lists), at);
        RETURN a;
    END IF;
    merged := first;
    merged.lessons := memory_union(first.lessons, p_lessons);
    merged.tags := memory_union(first.tags, p_tags);
    merged.outcome := coalesce(p_outcome, first.outcome);
    details_ := memory_details(first.details, p_details);
    -- `domain::memory::Content::check`.
    SELECT * INTO most FROM (VALUES
        (1, 'tags', 'entries', cardinality(merged.tags), 100),
        (2, 'lessons', 'entries', cardinality(merged.lessons), 100),
        (3, 'details', 'bytes', coalesce(octet_length(details_), 0), 262144)) AS c (n, field, unit, size, most)
    WHERE c.size > c.most ORDER BY c.n LIMIT 1;
    IF FOUND THEN
        RETURN gate_invalid(d, most.field, 'memory_full', format('the memory would have %s %s of %s; the most is %s',
            most.size, most.unit, most.field, most.most));
    END IF;
    IF (merged.lessons, merged.tags, merged.outcome, details_)
        IS NOT DISTINCT FROM (first.lessons, first.tags, first.outcome, first.details::text) THEN
        RETURN gate_done(d, at, 'ok', memory_stored(first.memory_id, 'deduplicated'));
    END IF;
    a := gate_done(d, at, 'ok', memory_stored(first.memory_id, 'deduplicated'),
        change('memories', first.memory_id::text, to_jsonb(first.merge_count + 1)));
    UPDATE memories m SET details = details_::json, outcome = merged.outcome, lessons = merged.lessons,
        tags = merged.tags, merge_count = m.merge_count + 1, word_lists = m.word_lists || p_word_lists,
        words = memory_words(m.word_lists || p_word_lists)
    WHERE m.workspace = ws AND m.memory_id = first.memory_id;
    RETURN a;
END $$;
