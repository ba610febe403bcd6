//! Memories: duplicates merge, relevance fades, words are found.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::state::{Db, drop_guards, execute, scalar};
use crate::harness::{Client, Reply, Server, Setup, postgres};

async fn store(client: &Client, summary: &str, more: Value) -> Reply {
    let mut body = json!({"event_type": "discovery", "summary": summary});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    client.post("/memory/store", body).await
}

async fn recall(client: &Client, body: Value) -> Value {
    client.post("/memory/query", body).await.ok()
}

fn summaries(listing: &Value) -> Vec<&str> {
    listing["memories"].as_array().unwrap().iter().map(|entry| entry["summary"].as_str().unwrap()).collect()
}

async fn found(client: &Client, text: &str) -> Vec<String> {
    let listing = recall(client, json!({"text": text, "limit": 100})).await;
    summaries(&listing).into_iter().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_is_found_as_it_was_stored() {
    let server = Server::start().await;
    let a = server.agent("a", "codex_remote").await;
    let body = json!({
        "event_type": "error", "summary": "deadlock in the pool", "details": {"pool": {"size": 4}}, "outcome": "negative",
        "lessons": ["take locks in order"], "tags": ["db", "locks", "db", " "], "session_id": "unknown",
    });
    let stored = a.post("/memory/store", body.clone()).await.done();
    assert_eq!(stored["action"], "created");
    let listing = recall(&a, json!({})).await;
    assert_eq!((&listing["count"], &listing["truncated"], listing.get("hint")), (&json!(1), &json!(false), None));
    assert_eq!(
        listing["memories"][0],
        json!({
            "id": stored["memory_id"], "agent_id": "a", "event_type": "error", "summary": "deadlock in the pool",
            "details": {"pool": {"size": 4}}, "outcome": "negative", "lessons": ["take locks in order"],
            "tags": ["db", "locks"], "relevance_score": 1.0, "created_at": server.now().to_string(),
        })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_within_the_hour_adds_to_the_first() {
    let server = Server::start().await;
    let (a, b) = (server.agent("a", "codex_remote").await, server.agent("b", "codex_remote").await);
    // Not at the beginning of an hour of the clock: the hour is the memory's own.
    server.advance(40 * 60).await;
    let first = json!({"tags": ["x", "y"], "lessons": ["one"], "details": {"k": 1, "m": {"deep": 1}}});
    let id = store(&a, "same", first).await.done()["memory_id"].clone();
    server.advance(3599).await;
    let more = json!({"tags": ["y", "z"], "lessons": ["two", "one"], "details": {"m": 2}, "outcome": "positive"});
    let again = store(&a, "same", more.clone()).await.done();
    assert_eq!((&again["action"], &again["memory_id"]), (&json!("deduplicated"), &id));
    let listing = recall(&a, json!({})).await;
    let memory = &listing["memories"][0];
    assert_eq!(listing["count"], 1);
    assert_eq!((&memory["tags"], &memory["lessons"]), (&json!(["x", "y", "z"]), &json!(["one", "two"])));
    assert_eq!((&memory["details"], &memory["outcome"]), (&json!({"k": 1, "m": 2}), &json!("positive")));
    // What adds nothing changes nothing.
    let (before, seq) = (server.state().await, server.last_seq().await);
    assert_eq!(store(&a, "same", more).await.done()["action"], "deduplicated");
    assert_eq!(store(&a, "same", json!({})).await.done()["action"], "deduplicated");
    assert_eq!(server.state().await, before);
    assert!(server.audit_after(seq).await.iter().all(|line| line.changes == "[]" && line.outcome == "ok"));
    // Another agent, another kind of event, another summary, another hour.
    assert_eq!(store(&b, "same", json!({})).await.done()["action"], "created");
    assert_eq!(store(&a, "same", json!({"event_type": "error"})).await.done()["action"], "created");
    assert_eq!(store(&a, "Same", json!({})).await.done()["action"], "created");
    server.advance(1).await;
    let later = store(&a, "same", json!({})).await.done();
    assert_eq!(later["action"], "created");
    assert_ne!(later["memory_id"], id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_memory_does_not_grow_beyond_what_one_may_hold() {
    let server = Server::start().await;
    let a = server.agent("a", "codex_remote").await;
    let many = |from: usize| -> Vec<String> { (from..from + 60).map(|n| format!("n{n}")).collect() };
    let half = "x".repeat(200 << 10);
    for field in ["tags", "lessons"] {
        store(&a, field, json!({field: many(0)})).await.done();
        store(&a, field, json!({field: many(60)})).await.invalid("memory_full");
        store(&a, field, json!({field: many(40)})).await.done();
    }
    store(&a, "details", json!({"details": {"a": half}})).await.done();
    store(&a, "details", json!({"details": {"b": half}})).await.invalid("memory_full");
    store(&a, "details", json!({"details": {"a": half}})).await.done();
    store(&a, "large", json!({"details": {"a": half, "b": half}})).await.invalid("too_long");
    let entry = recall(&a, json!({"text": "tags"})).await["memories"][0].clone();
    assert_eq!(entry["tags"].as_array().unwrap().len(), 100);
    for body in [
        json!({"event_type": "error"}),
        json!({"event_type": "error", "summary": " "}),
        json!({"event_type": "ERROR", "summary": "s"}),
        json!({"summary": "s"}),
        json!({"event_type": "error", "summary": "s", "outcome": "good"}),
        json!({"event_type": "error", "summary": "s", "details": [1]}),
        json!({"event_type": "error", "summary": "s", "tags": ["x".repeat(257)]}),
    ] {
        assert_eq!(a.post("/memory/store", body.clone()).await.status, 422, "{body}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn parallel_duplicates_become_one_memory_with_all_they_said() {
    let server = Server::start_with(Setup::default()).await;
    let a = server.agent("a", "codex_remote").await;
    let stores = (0..32).map(|n| {
        let a = a.clone();
        async move {
            let more = json!({"tags": [format!("tag{n}"), "common"], "lessons": [format!("lesson{n}")],
                              "details": {format!("key{n}"): n}});
            store(&a, "the same again", more).await.done()
        }
    });
    let answers = futures::future::join_all(stores).await;
    let ids: BTreeSet<&str> = answers.iter().map(|answer| answer["memory_id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(answers.iter().filter(|answer| answer["action"] == "created").count(), 1);
    let mut db = server.db().await;
    assert_eq!(scalar(&mut db, "SELECT count(*) FROM memories").await, 1);
    assert_eq!(scalar(&mut db, "SELECT merge_count FROM memories").await, 31);
    let memory = recall(&a, json!({})).await["memories"][0].clone();
    assert_eq!(memory["tags"].as_array().unwrap().len(), 33);
    assert_eq!(memory["lessons"].as_array().unwrap().len(), 32);
    assert_eq!(memory["details"].as_object().unwrap().len(), 32);
    // The index kept step with every merge: one row, all the words, each once.
    if !postgres::is_chosen() {
        assert_eq!(scalar(&mut db, "SELECT count(*) FROM memories_fts_docsize").await, 1);
    }
    for n in 0..32 {
        for word in [format!("tag{n}"), format!("lesson{n}"), format!("key{n}")] {
            assert_eq!(found(&a, &word).await, ["the same again"], "{word}");
        }
    }
    if !postgres::is_chosen() {
        execute(&mut db, "INSERT INTO memories_fts (memories_fts) VALUES ('integrity-check')").await.unwrap();
    }
}

/// The store finds the first memory and merges; should it ever not, the database does not take a second one.
#[tokio::test(flavor = "multi_thread")]
async fn the_database_itself_takes_no_duplicate() {
    let server = Server::start().await;
    let a = server.agent("a", "codex_remote").await;
    store(&a, "once", json!({})).await.done();
    if postgres::is_chosen() {
        return takes_no_duplicate(&mut server.db().await).await;
    }
    let columns = "agent_id, event_type, summary, summary_hash, lessons, tags, ranks_at, created_at";
    let again = |add: i64| {
        format!(
            "INSERT OR REPLACE INTO memories (memory_id, {columns})
             SELECT 'another' || {add}, agent_id, event_type, summary, summary_hash, lessons, tags, ranks_at,
                    created_at + {add} FROM memories LIMIT 1"
        )
    };
    let mut db = server.db().await;
    for add in [0, 1, 3_599_999_999] {
        assert!(execute(&mut db, &again(add)).await.is_err(), "{add} µs later");
    }
    execute(&mut db, "DROP TRIGGER memories_not_replaced").await.unwrap();
    let plain = again(5).replace("OR REPLACE ", "");
    assert!(execute(&mut db, &plain).await.is_err(), "the unique index stands behind the trigger");
    execute(&mut db, &again(3_600_000_000)).await.unwrap();
}

async fn takes_no_duplicate(db: &mut Db) {
    let columns = "agent_id, event_type, summary, summary_hash, lessons, tags, ranks_at, word_lists, words, created_at";
    let again = |hours: i64| {
        format!(
            "INSERT INTO memories (memory_id, hour_slot, {columns})
             SELECT gen_random_uuid(), hour_slot + {hours}, {columns} FROM memories LIMIT 1"
        )
    };
    assert!(execute(db, &again(1)).await.is_err(), "nobody decided about it");
    drop_guards(db, "memories").await;
    assert!(execute(db, &again(0)).await.is_err(), "the unique index stands behind the guard");
    execute(db, &again(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_forgets_what_a_merge_replaced() {
    let server = Server::start().await;
    let a = server.agent("a", "codex_remote").await;
    store(&a, "s", json!({"details": {"state": "oldword", "lines": "first\nsecond"}})).await.done();
    assert_eq!(found(&a, "oldword").await.len(), 1);
    assert_eq!((found(&a, "second").await.len(), found(&a, "nsecond").await.len()), (1, 0), "an escape is no letter");
    store(&a, "s", json!({"details": {"state": "newword"}})).await.done();
    assert_eq!((found(&a, "oldword").await.len(), found(&a, "newword").await.len()), (0, 1));
    assert_eq!((found(&a, "state newword first").await.len(), found(&a, "newword absent").await.len()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_takes_any_text_and_no_syntax() {
    let server = Server::start().await;
    let a = server.agent("a", "codex_remote").await;
    store(&a, "plain words", json!({"lessons": ["it's 100% NEAR the AND gate"], "tags": ["c++", "rm-rf"]}))
        .await
        .done();
    store(&a, "Größe der Ärzte", json!({"tags": ["数据库", "🚀 launch"], "lessons": ["naïve café"]})).await.done();
    let mine = |words: &'static str| found(&a, words);
    for words in
        ["plain", "PLAIN words", "near and", "\"plain\"", "pl\"ain plain", "summary", "c++", "rm-rf", "it's", "100%"]
    {
        let expected = if matches!(words, "summary" | "pl\"ain plain") { 0 } else { 1 };
        assert_eq!(mine(words).await.len(), expected, "{words}");
    }
    for words in ["größe", "GRÖSSE", "grosse", "grÖße arzte", "数据库", "launch", "cafe naive", "ÄRZTE"] {
        let expected = usize::from(!matches!(words, "GRÖSSE" | "grosse"));
        assert_eq!(mine(words).await.len(), expected, "{words}");
    }
    let hostile = [
        "plain OR nothing",
        "NOT plain nothing",
        "sum*",
        "summary:plain",
        "{summary lessons}:plain",
        "^plain",
        "plain*",
        "NEAR(plain words, 2)",
        "'; DROP TABLE memories; --",
        "\")) OR 1=1 --",
        "(((((",
        "a\"\"b",
        "-plain",
        "+plain",
        "plain AND (",
        "\\",
        "%",
        "memories_fts MATCH plain",
        "rank:1",
        "\u{202e}plain",
    ];
    for words in hostile {
        let reply = a.post("/memory/query", json!({"text": words})).await;
        assert!(matches!(reply.status, 200 | 422), "{words}: {} {}", reply.status, reply.body);
    }
    for words in ["plain OR nothing", "sum*", "summary:plain"] {
        assert_eq!(mine(words).await.len(), 0, "{words} was taken for syntax");
    }
    for wordless in ["", " ", "--", "\"\"", "***", "🚀", "()"] {
        a.post("/memory/query", json!({"text": wordless})).await.invalid("no_words");
    }
    a.post("/memory/query", json!({"text": "w ".repeat(65)})).await.invalid("too_many_words");
    assert_eq!(mine(&*Box::leak("plain ".repeat(64).into_boxed_str())).await.len(), 1);
    a.post("/memory/query", json!({"text": "w".repeat(1025)})).await.invalid("string_too_long");
    assert_eq!(scalar(&mut server.db().await, "SELECT count(*) FROM memories").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn relevance_fades_with_the_clock() {
    let server = Server::start().await;
    let a = server.agent("a", "codex_remote").await;
    for day in 0..30 {
        store(&a, &format!("day {day}"), json!({})).await.done();
        server.advance(24 * 3600).await;
    }
    let all = recall(&a, json!({"limit": 100})).await;
    for (n, memory) in (1..).zip(all["memories"].as_array().unwrap()) {
        let (age, score) = (f64::from(n), memory["relevance_score"].as_f64().unwrap());
        assert!((score - (-0.1 * age).exp()).abs() < 1e-9, "{age} days: {score}");
        assert_eq!(memory["summary"], json!(format!("day {}", 30 - n)));
    }
    for (least, count) in [(0.0, 30), (0.5, 6), (0.9, 1), (0.91, 0), (1.0, 0), ((-3.0_f64).exp() - 1e-9, 30)] {
        let kept = recall(&a, json!({"limit": 100, "min_relevance": least})).await;
        assert_eq!(kept["count"], json!(count), "{least}");
        let searched = recall(&a, json!({"limit": 100, "min_relevance": least, "text": "day"})).await;
        assert_eq!(searched["count"], json!(count), "{least} with a search");
    }
    let cut = recall(&a, json!({})).await;
    assert_eq!((&cut["count"], &cut["truncated"]), (&json!(10), &json!(true)));
    assert!(cut["hint"].is_string());
    for least in [json!(-0.1), json!(1.1), json!("high")] {
        assert_eq!(a.post("/memory/query", json!({"min_relevance": least})).await.status, 422, "{least}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_weighs_words_against_age() {
    let server = Server::start().await;
    let a = server.agent("a", "codex_remote").await;
    let filler = "many other things that were seen on the same day and tell nothing of it";
    for n in 0..20 {
        store(&a, &format!("{filler} {n}"), json!({})).await.done();
    }
    store(&a, "parser parser parser", json!({})).await.done();
    server.advance(3600).await;
    store(&a, &format!("parser {filler} {filler}"), json!({})).await.done();
    // An hour apart, the words decide.
    assert_eq!(found(&a, "parser").await[0], "parser parser parser");
    server.advance(60 * 24 * 3600).await;
    store(&a, &format!("parser {filler} {filler} at last"), json!({})).await.done();
    // Two months apart, the age does.
    assert_eq!(
        found(&a, "parser").await,
        [
            format!("parser {filler} {filler} at last"),
            "parser parser parser".to_owned(),
            format!("parser {filler} {filler}")
        ]
    );
    // Very old ones are still found, and the oldest comes last.
    server.advance(3000 * 24 * 3600).await;
    assert_eq!(found(&a, "parser").await.len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn scope_tags_and_kind_narrow() {
    let server = Server::start().await;
    let (a, b) = (server.agent("a", "codex_remote").await, server.agent("b", "claude_code_reviewer").await);
    store(&a, "one", json!({"tags": ["x", "y"]})).await.done();
    store(&a, "two", json!({"tags": ["y", "100%"], "event_type": "decision"})).await.done();
    server
        .admin
        .post("/memory/store", json!({"event_type": "error", "summary": "of admin", "tags": ["y"]}))
        .await
        .done();
    assert_eq!(summaries(&recall(&a, json!({})).await), ["two", "one"]);
    assert_eq!(recall(&b, json!({"scope": "own"})).await["count"], 0);
    assert_eq!(summaries(&recall(&b, json!({"scope": "all"})).await), ["of admin", "two", "one"]);
    for (tags, expected) in [
        (json!(["y"]), vec!["two", "one"]),
        (json!(["y", "x"]), vec!["one"]),
        (json!(["X"]), vec![]),
        (json!(["100%"]), vec!["two"]),
        (json!(["%"]), vec![]),
        (json!([]), vec!["two", "one"]),
        (json!(["y' OR 1=1 --"]), vec![]),
    ] {
        assert_eq!(summaries(&recall(&a, json!({"tags": tags})).await), expected, "{tags}");
        let searched = recall(&a, json!({"tags": tags, "text": "y", "scope": "own"})).await;
        assert_eq!(searched["count"], json!(expected.len()), "{tags} with a search");
    }
    assert_eq!(summaries(&recall(&a, json!({"event_type": "decision", "scope": "all"})).await), ["two"]);
    a.post("/memory/query", json!({"agent_id": "admin"})).await.denied("identity_mismatch");
    assert_eq!(a.post("/memory/query", json!({"scope": "theirs"})).await.status, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_wrong_is_remembered_and_recorded() {
    let server = Server::start().await;
    let a = server.agent("a", "codex_remote").await;
    store(&a, "rm -rf / destroyed the build machine", json!({"lessons": ["no git push --force"]})).await.done();
    assert_eq!(found(&a, "rm -rf").await.len(), 1, "asking for it is no deed");
    let mut db = server.db().await;
    for (pattern, label) in [("rm_recursive_force", "summary"), ("git_force_push", "lessons")] {
        let recorded = format!(
            "SELECT count(*) FROM guardrail_violations WHERE agent_id = 'a' AND pattern_name = '{pattern}'
             AND label = '{label}' AND blocked"
        );
        assert!(scalar(&mut db, &recorded).await > 0, "{pattern} in {label}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_large_memories_is_cut_by_its_size() {
    let server = Server::start().await;
    let a = server.agent("a", "codex_remote").await;
    for n in 0..20 {
        store(&a, &format!("large {n}"), json!({"details": {"x": "y".repeat(250 << 10)}})).await.done();
    }
    for body in [json!({"limit": 100}), json!({"limit": 100, "text": "large"})] {
        let listing = recall(&a, body).await;
        assert_eq!(listing["truncated"], true);
        assert!(listing["memories"].as_array().unwrap().len() < 20);
        assert!(listing.to_string().len() < 5 << 20);
    }
}
