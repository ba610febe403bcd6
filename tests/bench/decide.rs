//! How long a decision takes: natively, and in the component.
//!
//! The component runs in three ways: a fresh instance for each decision, an
//! instance recycled after 256 decisions, which is what the service does, and one
//! that lives for ever. The native build of the same source is the measure.
//!
//! `cargo run --release -p tests --bin bench-decide`
#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "a program that prints a table, and has nothing to print when it cannot start"
)]

use std::env;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use policy_core::{BundleFile, Policy, Request};
use portreeve::engine::types::{PolicyPrincipal, PolicyRequest, Target, TaskTarget, Text, TextFormat};
use portreeve::engine::{Cage, Engine, Isolation, PolicyComponent, default_bundle};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How long each cell of the table is measured.
const TIME_PER_CELL: Duration = Duration::from_secs(2);
const WARMING: usize = 50;
const SAMPLES_MAX: usize = 20_000;

fn main() {
    let cache = env::temp_dir().join("portreeve-bench-cache");
    let native =
        Policy::load(&mirrored::<_, Vec<BundleFile>>(&default_bundle())).expect("the default bundle loads natively");
    let ways = [
        ("fresh", component(&cache, Isolation::Fresh)),
        ("recycled 256", component(&cache, Isolation::Recycled(256))),
        ("long-lived", component(&cache, Isolation::Recycled(u32::MAX))),
    ];

    println!("| request | way | p50 µs | p99 µs | × native | fuel |");
    println!("|---|---|--:|--:|--:|--:|");
    for (name, request) in requests() {
        let mirrored: Request = mirrored(&request);
        let native = measure(|| {
            black_box(native.decide(black_box(&mirrored)));
        });
        row(name, "native", &native, &native, None);
        for (way, component) in &ways {
            let decide = || component.decide(&request).expect("the policy answers");
            let fuel = decide().fuel_used;
            let times = measure(|| {
                black_box(decide());
            });
            row(name, way, &times, &native, Some(fuel));
        }
    }
    println!();
    throughput(&ways);
}

fn component(cache: &Path, isolation: Isolation) -> Arc<PolicyComponent> {
    let cage =
        Cage { isolation, fuel_decide: u64::MAX / 2, deadline_decide: Duration::from_secs(60), ..Cage::default() };
    Engine::open(cache, cage)
        .and_then(|engine| engine.load_bundle(&default_bundle(), &|_| ()))
        .expect("the default bundle loads")
}

/// The host's types and the core's have the same form as JSON.
fn mirrored<T: Serialize, U: DeserializeOwned>(value: &T) -> U {
    let json = serde_json::to_value(value).expect("it has a form as JSON");
    serde_json::from_value(json).expect("the forms are the same")
}

/// Times of single runs, sorted.
struct Times(Vec<Duration>);

impl Times {
    fn percentile_us(&self, percent: usize) -> f64 {
        let index = (self.0.len() * percent / 100).min(self.0.len() - 1);
        self.0[index].as_secs_f64() * 1e6
    }
}

fn measure(mut run: impl FnMut()) -> Times {
    for _ in 0..WARMING {
        run();
    }
    let begin = Instant::now();
    let mut times = Vec::new();
    while times.len() < 20 || (begin.elapsed() < TIME_PER_CELL && times.len() < SAMPLES_MAX) {
        let start = Instant::now();
        run();
        times.push(start.elapsed());
    }
    times.sort();
    Times(times)
}

fn row(request: &str, way: &str, times: &Times, native: &Times, fuel: Option<u64>) {
    let (p50, p99) = (times.percentile_us(50), times.percentile_us(99));
    let ratio = p50 / native.percentile_us(50);
    let fuel = fuel.map_or_else(String::new, |fuel| fuel.to_string());
    println!("| {request} | {way} | {p50:.1} | {p99:.1} | {ratio:.1} | {fuel} |");
}

fn throughput(ways: &[(&str, Arc<PolicyComponent>)]) {
    println!("| way | threads | decisions a second |");
    println!("|---|--:|--:|");
    let (_, request) = requests().swap_remove(0);
    for (way, component) in ways {
        for threads in [1, 2, 4] {
            let each = 3_000;
            let start = Instant::now();
            std::thread::scope(|scope| {
                for _ in 0..threads {
                    scope.spawn(|| {
                        for _ in 0..each {
                            black_box(component.decide(&request).expect("the policy answers"));
                        }
                    });
                }
            });
            let rate = f64::from(threads * each) / start.elapsed().as_secs_f64();
            println!("| {way} | {threads} | {rate:.0} |");
        }
    }
}

fn requests() -> Vec<(&'static str, PolicyRequest)> {
    let prose = "Move the parser's error type into a module of its own, keep the public \
        paths, and add a test for an unterminated string. Do not touch the lexer. ";
    let task = || {
        Target::Task(TaskTarget {
            id: "0198c0de-0000-7000-8000-000000000000".to_owned(),
            task_type: "refactor".to_owned(),
            priority: 3,
        })
    };
    let lock = Target::LockKey("host/src/gate/mod.rs".to_owned());
    let command = "git push origin main && rm -rf / && cargo publish";
    vec![
        ("task, 600 B", request("submit_work", task(), &prose.repeat(4))),
        ("lock", request("acquire_lock", lock, "")),
        ("blocked command", request("check_guardrails", Target::Command(command.to_owned()), command)),
        ("text of 16 KiB", request("submit_work", task(), &prose.repeat(106))),
        ("text of 1 MiB", request("submit_work", task(), &prose.repeat(6_700))),
    ]
}

fn request(operation: &str, target: Target, text: &str) -> PolicyRequest {
    let text = (!text.is_empty()).then(|| Text {
        label: "task_description".to_owned(),
        format: TextFormat::Plain,
        body: text.to_owned(),
    });
    PolicyRequest {
        principal: PolicyPrincipal {
            agent_id: "agent-1".to_owned(),
            agent_type: "claude_code".to_owned(),
            profile: "claude_code_local".to_owned(),
            suspended: false,
        },
        operation: operation.to_owned(),
        target,
        texts: text.into_iter().collect(),
    }
}
