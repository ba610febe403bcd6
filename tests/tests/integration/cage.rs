//! Whatever a component does, it does inside its cage: the caller gets an
//! error with a name, and the next decision is not concerned.
//!
//! GATE, DENY: no answer is no allowance.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use portreeve::engine::types::{Effect, PolicyPrincipal, PolicyRequest, Target, TaskTarget, Text, TextFormat};
use portreeve::engine::{
    Cage, Engine, EngineError, Isolation, PolicyComponent, Stage, default_bundle, digest_of, engine_component,
};
use proptest::prelude::*;
use tests::hostile;

/// Compiling the default bundle takes seconds; all tests and all runs share it.
fn open(cage: Cage) -> Engine {
    open_in("engine-cache", cage)
}

/// Hostile components are many and small; their cache is their own.
fn open_hostile(cage: Cage) -> Engine {
    open_in("hostile-cache", cage)
}

fn open_in(cache: &str, cage: Cage) -> Engine {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(cache);
    Engine::open(&dir, cage).expect("the engine starts")
}

fn small_cage() -> Cage {
    Cage { fuel_decide: 50_000_000, memory_bytes_max: 16 << 20, ..Cage::default() }
}

static SMALL: LazyLock<Engine> = LazyLock::new(|| open_hostile(small_cage()));

fn load(engine: &Engine, bytes: Vec<u8>) -> Result<Arc<PolicyComponent>, EngineError> {
    engine.load_component(bytes, &|_| ())
}

fn default_component(isolation: Isolation) -> Arc<PolicyComponent> {
    let cage = Cage { isolation, ..Cage::default() };
    open(cage).load_bundle(&default_bundle(), &|_| ()).expect("the default bundle loads")
}

static FRESH: LazyLock<Arc<PolicyComponent>> = LazyLock::new(|| default_component(Isolation::Fresh));
static RECYCLED: LazyLock<Arc<PolicyComponent>> = LazyLock::new(|| default_component(Isolation::Recycled(7)));

fn request(operation: &str, target: Target) -> PolicyRequest {
    PolicyRequest {
        principal: PolicyPrincipal {
            agent_id: "agent-1".to_owned(),
            agent_type: "claude_code".to_owned(),
            profile: "claude_code_local".to_owned(),
            suspended: false,
        },
        operation: operation.to_owned(),
        target,
        texts: Vec::new(),
    }
}

fn lock_request() -> PolicyRequest {
    request("acquire_lock", Target::LockKey("src/main.rs".to_owned()))
}

fn failure(component: Vec<u8>) -> EngineError {
    load(&SMALL, component)
        .expect("it misbehaves only when it decides")
        .decide(&lock_request())
        .expect_err("there is no answer")
}

fn refusal(component: Vec<u8>) -> EngineError {
    load(&SMALL, component).expect_err("it is refused")
}

// ---------------------------------------------------------------- deciding

#[test]
fn cage_contains_each_hostile_decision() {
    let hostile: [(&str, Vec<u8>, &str); 12] = [
        ("loops", hostile::loops(), "out_of_fuel"),
        ("recurses", hostile::recurses(), "trap"),
        ("allocates", hostile::allocates(), "out_of_memory"),
        ("traps", hostile::traps(), "trap"),
        ("reads out of bounds", hostile::reads_out_of_bounds(), "trap"),
        ("points nowhere", hostile::points_nowhere(), "garbage"),
        ("garbage", hostile::garbage(), "garbage"),
        ("garbage text", hostile::garbage_text(), "garbage"),
        ("garbage reason", hostile::garbage_reason(), "garbage"),
        ("garbage trust", hostile::garbage_trust(), "garbage"),
        ("inflates", hostile::inflates(), "garbage"),
        ("traps again", hostile::traps(), "trap"),
    ];
    let good = load(&SMALL, hostile::allows()).expect("the good component loads");
    for (name, component, code) in hostile {
        let error = failure(component);
        assert_eq!(error.code(), code, "{name}: {error}");
        let answer = good.decide(&lock_request()).expect("the engine goes on");
        assert_eq!(answer.decision.effect, Effect::Allow, "after {name}");
    }
}

#[test]
fn cage_stops_a_loop_at_its_deadline_when_fuel_does_not() {
    let engine =
        open_hostile(Cage { fuel_decide: u64::MAX / 2, deadline_decide: Duration::from_millis(100), ..small_cage() });
    let component = load(&engine, hostile::loops()).expect("it describes itself");
    let start = Instant::now();
    let error = component.decide(&lock_request()).expect_err("it loops");
    assert_eq!(error.code(), "deadline");
    assert!(start.elapsed() < Duration::from_secs(2));
}

#[test]
fn cage_holds_on_many_threads_at_once() {
    let bad = [hostile::loops(), hostile::allocates(), hostile::recurses()]
        .map(|bytes| load(&SMALL, bytes).expect("it describes itself"));
    let good = load(&SMALL, hostile::allows()).expect("the good component loads");
    std::thread::scope(|scope| {
        for bad in &bad {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        bad.decide(&lock_request()).expect_err("it misbehaves");
                    }
                });
            }
        }
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..200 {
                    good.decide(&lock_request()).expect("the others go on");
                }
            });
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn cage_bounds_how_many_decide_and_how_long_they_wait() {
    let engine = open_hostile(Cage {
        fuel_decide: u64::MAX / 2,
        deadline_decide: Duration::from_millis(200),
        concurrency: 1,
        ..small_cage()
    });
    let component = load(&engine, hostile::loops()).expect("it describes itself");
    let asked: Vec<_> = (0..6)
        .map(|_| {
            let component = Arc::clone(&component);
            tokio::spawn(async move { component.decide_async(lock_request()).await })
        })
        .collect();
    let mut codes = Vec::new();
    for answer in asked {
        let error = answer.await.expect("nothing panics").expect_err("it loops");
        codes.push(error.code());
    }
    assert!(codes.contains(&"deadline"), "{codes:?}");
    assert!(codes.contains(&"overloaded"), "{codes:?}");
    let good = load(&engine, hostile::allows()).expect("the good component loads");
    good.decide_async(lock_request()).await.expect("a place is free again");
}

#[test]
fn cage_refuses_requests_that_no_policy_is_asked_about() {
    let component = load(&SMALL, hostile::allows()).expect("the good component loads");
    let mut request = lock_request();
    request.texts.push(Text {
        label: "task_description".to_owned(),
        format: TextFormat::Plain,
        body: "x".repeat(6 << 20),
    });
    let error = component.decide(&request).expect_err("it is too large");
    assert_eq!(error.code(), "too_large");
}

#[test]
fn cage_gives_each_decision_an_instance_of_its_own_where_it_is_told_to() {
    let engine = open_hostile(Cage { isolation: Isolation::Fresh, ..small_cage() });
    let component = load(&engine, hostile::remembers()).expect("it describes itself");
    for _ in 0..10 {
        let answer = component.decide(&lock_request()).expect("it answers");
        assert_eq!(answer.decision.effect, Effect::Allow);
    }
}

#[test]
fn cage_recycles_an_instance_as_often_as_it_was_told() {
    let engine = open_hostile(Cage { isolation: Isolation::Recycled(2), ..small_cage() });
    let component = load(&engine, hostile::remembers()).expect("it describes itself");
    let effects: Vec<Effect> = (0..4)
        .map(|_| component.decide(&lock_request()).expect("it answers"))
        .map(|decided| decided.decision.effect)
        .collect();
    use Effect::{Allow, Deny};
    assert_eq!(effects, [Allow, Deny, Allow, Deny]);
}

#[test]
fn cage_never_asks_an_instance_again_that_grew() {
    let component = load(&SMALL, hostile::hoards()).expect("it describes itself");
    for _ in 0..20 {
        let answer = component.decide(&lock_request()).expect("it answers");
        assert_eq!(answer.decision.effect, Effect::Allow);
    }
}

#[test]
fn cage_asks_a_fresh_instance_what_a_used_one_could_not_decide() {
    let component = load(&SMALL, hostile::tires()).expect("it describes itself");
    for _ in 0..20 {
        component.decide(&lock_request()).expect("a fresh one answers");
    }
}

// --------------------------------------------------------------- preparing

#[test]
fn cage_refuses_what_is_not_a_policy() {
    let refused: [(&str, Vec<u8>, &str); 11] = [
        ("imports", hostile::imports_something(), "imports"),
        ("wrong world", hostile::wrong_world(), "wrong_world"),
        ("missing export", hostile::missing_export(), "wrong_world"),
        ("wrong types", hostile::wrong_types(), "wrong_world"),
        ("core module", hostile::core_module(), "not_a_component"),
        ("no wasm", b"not wasm at all".to_vec(), "not_a_component"),
        ("nothing", Vec::new(), "not_a_component"),
        ("lies in its manifest", hostile::lies_in_manifest(), "garbage"),
        ("lies about its digest", hostile::lies_about_digest(), "garbage"),
        ("carries no bundle", hostile::undescribed(), "undescribed"),
        ("loops at start", hostile::loops_at_start(), "out_of_fuel"),
    ];
    for (name, component, code) in refused {
        let error = refusal(component);
        assert_eq!(error.code(), code, "{name}: {error}");
    }
}

#[test]
fn cage_names_what_a_component_imports() {
    let EngineError::Imports(names) = refusal(hostile::imports_something()) else {
        panic!("refused for another reason");
    };
    assert_eq!(names, ["wasi:clocks/monotonic-clock@0.2.0"]);
}

/// Imports of a component, and of the core modules in it.
fn imports(component: &[u8]) -> u32 {
    use wasmparser::Payload;
    let (mut depth, mut imports) = (0, 0);
    for payload in wasmparser::Parser::new(0).parse_all(component) {
        match payload.expect("the component is well-formed") {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::ImportSection(section) => imports += section.count(),
            // A component inside gets its imports from the one around it.
            Payload::ComponentImportSection(section) if depth == 0 => imports += section.count(),
            _ => {}
        }
    }
    imports
}

#[test]
fn component_imports_nothing() {
    assert_eq!(imports(engine_component()), 0);
    assert_eq!(imports(FRESH.bytes()), 0);
    assert_ne!(imports(&hostile::imports_something()), 0);
}

#[test]
fn component_without_a_bundle_is_refused() {
    let error = load(&open(Cage::default()), engine_component().to_vec()).expect_err("it carries no bundle");
    assert_eq!(error.code(), "undescribed");
}

#[test]
fn bundle_with_problems_is_refused_with_all_of_them() {
    let mut files = default_bundle();
    for file in &mut files {
        if Path::new(&file.path).extension().is_some_and(|ext| ext == "toml") {
            file.text.push_str("\n[[[ no toml\n");
        }
    }
    let error = open(Cage::default()).build_bundle(&files, &|_| ()).map(drop).expect_err("the bundle is broken");
    let EngineError::Bundle(problems) = error else {
        panic!("refused for another reason: {error}");
    };
    assert!(!problems.is_empty());
}

// ---------------------------------------------------------------- snapshot

#[test]
fn snapshot_is_the_same_for_the_same_files() {
    let build = |files: &[_]| {
        let dir = tempfile::tempdir().expect("a folder");
        let engine = Engine::open(dir.path(), Cage::default()).expect("the engine starts");
        let bytes = engine.build_bundle(files, &|_| ());
        digest_of(&bytes.expect("the default bundle loads"))
    };
    let files = default_bundle();
    let backwards: Vec<_> = files.iter().rev().cloned().collect();
    assert_eq!(build(&files), build(&backwards));
}

#[test]
fn snapshot_passes_its_own_tests() {
    let report = FRESH.run_tests().expect("the tests run");
    assert_eq!(report.failures, []);
    // Examples of patterns are counted besides the cases of the tables.
    assert!(report.passed >= FRESH.manifest().test_cases);
}

// ------------------------------------------------------------------- cache

/// Loads a component in a cache of its own; says how often it was compiled.
fn compilations(dir: &Path) -> usize {
    let count = Cell::new(0);
    Engine::open(dir, small_cage())
        .expect("the engine starts")
        .load_component(hostile::allows(), &|stage| {
            count.set(count.get() + usize::from(stage == Stage::Compiling));
        })
        .expect("the component loads");
    count.get()
}

fn artefact(dir: &Path) -> PathBuf {
    let mut artefacts = fs::read_dir(dir)
        .expect("the cache is a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "aot"));
    artefacts.next().expect("there is an artefact")
}

fn mode(path: &Path) -> u32 {
    let metadata = fs::metadata(path).expect("it exists");
    metadata.permissions().mode() & 0o777
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("it is ours");
}

fn cache() -> (tempfile::TempDir, PathBuf) {
    let outer = tempfile::tempdir().expect("a folder");
    let dir = outer.path().join("deeper").join("cache");
    assert_eq!(compilations(&dir), 1);
    (outer, dir)
}

#[test]
fn cache_is_private_and_used() {
    let (_outer, dir) = cache();
    assert_eq!(mode(&dir), 0o700);
    assert_eq!(mode(&artefact(&dir)), 0o600);
    assert_eq!(compilations(&dir), 0);
}

#[test]
fn cache_compiles_again_what_is_damaged() {
    let (_outer, dir) = cache();
    let path = artefact(&dir);
    let whole = fs::read(&path).expect("the artefact");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for damaged in [flipped.as_slice(), &whole[..whole.len() / 2], b"", b"\xff"] {
        fs::write(&path, damaged).expect("the artefact is ours");
        assert_eq!(compilations(&dir), 1);
        assert_eq!(compilations(&dir), 0);
    }
}

#[test]
fn cache_never_loads_what_others_could_have_written() {
    let (_outer, dir) = cache();
    for mode in [0o666, 0o620, 0o602] {
        chmod(&artefact(&dir), mode);
        assert_eq!(compilations(&dir), 1);
    }
    for mode in [0o777, 0o770, 0o703] {
        chmod(&dir, mode);
        let error = Engine::open(&dir, small_cage()).expect_err("the folder is not private");
        assert_eq!(error.code(), "cache");
    }
    chmod(&dir, 0o700);
    assert_eq!(compilations(&dir), 0);
}

#[test]
fn cache_compiles_once_for_many() {
    let outer = tempfile::tempdir().expect("a folder");
    let total: usize = std::thread::scope(|scope| {
        let loading: Vec<_> = (0..4).map(|_| scope.spawn(|| compilations(outer.path()))).collect();
        loading.into_iter().map(|thread| thread.join().expect("nothing panics")).sum()
    });
    assert_eq!(total, 1);
}

// ----------------------------------------------------------- interleavings

fn varied_requests() -> Vec<PolicyRequest> {
    let task = |task_type: &str| {
        Target::Task(TaskTarget { id: "task-1".to_owned(), task_type: task_type.to_owned(), priority: 3 })
    };
    let mut dangerous = request("submit_work", task("test"));
    dangerous.texts.push(Text {
        label: "task_description".to_owned(),
        format: TextFormat::Plain,
        body: "clean up with `rm -rf /` and git push --force".to_owned(),
    });
    let mut json = request("submit_work", task("refactor"));
    json.texts.push(Text {
        label: "task_input".to_owned(),
        format: TextFormat::Json,
        body: r#"{"argv": ["git", "push", "-f"], "note": "drop table users;"}"#.to_owned(),
    });
    let mut suspended = lock_request();
    suspended.principal.suspended = true;
    let mut unknown = lock_request();
    unknown.principal.profile = "nobody".to_owned();
    let mut requests = vec![
        lock_request(),
        request("acquire_lock", Target::LockKey("../etc/passwd".to_owned())),
        request("get_work", task("")),
        request("check_guardrails", Target::Command("rm -rf /".to_owned())),
        request("network_access", Target::Domain("GitHub.com.".to_owned())),
        request("network_access", Target::Domain("example.org".to_owned())),
        request("no_such_operation", Target::AuditLog),
        dangerous,
        json,
        suspended,
        unknown,
    ];
    let others = requests.clone().into_iter().map(|mut request| {
        request.principal.profile = "claude_code_reviewer".to_owned();
        request
    });
    requests.extend(others.collect::<Vec<_>>());
    requests
}

fn answer(component: &PolicyComponent, request: &PolicyRequest) -> String {
    let decided = component.decide(request).expect("the default policy answers");
    serde_json::to_string(&decided.decision).expect("a decision is JSON")
}

/// What each request is answered when nothing came before it.
static FIRST_ANSWERS: LazyLock<Vec<String>> =
    LazyLock::new(|| varied_requests().iter().map(|request| answer(&FRESH, request)).collect());

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn answers_do_not_depend_on_what_was_decided_before(
        order in prop::collection::vec(any::<prop::sample::Index>(), 1..60),
    ) {
        let requests = varied_requests();
        for index in order {
            let index = index.index(requests.len());
            for component in [&FRESH, &RECYCLED] {
                prop_assert_eq!(&answer(component, &requests[index]), &FIRST_ANSWERS[index]);
            }
        }
    }
}

#[test]
fn fuel_of_a_fresh_instance_is_the_same_each_time() {
    for request in varied_requests() {
        let fuel = || FRESH.decide(&request).expect("it answers").fuel_used;
        assert_eq!(fuel(), fuel());
    }
}
