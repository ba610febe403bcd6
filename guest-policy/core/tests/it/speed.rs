//! Time that must not grow out of bounds. Numbers are printed with `--nocapture`.

#![expect(clippy::print_stdout, reason = "the numbers are for whoever looks")]

use std::time::Instant;

use policy_core::{EngineMode, Target, TaskTarget, Text, TextFormat};

use crate::common::{policy, request};

fn submit(format: TextFormat, body: String) -> policy_core::Request {
    let target = Target::Task(TaskTarget { id: "t".into(), task_type: "x".into(), priority: 5 });
    let mut asked = request("codex", "codex_remote", "submit_work", target);
    asked.texts = vec![Text { label: "text".into(), format, body }];
    asked
}

#[test]
fn large_texts_take_linear_time() {
    for unit in [
        "word ",
        "rm -x ",
        "git push origin ",
        "update t set a=1 ",
        "delete from a where b=c ",
        "'",
        "\"",
        "\\",
        "$'a b' ",
        "\"a b\" ",
        ".env.example ",
        "/*",
        "drop ",
        "truncate a,",
        "=''",
        "--",
        "find -exec sh -c ",
        "kubectl -a ",
        "{ ",
        "`",
        "(",
        "é",
    ] {
        let body = unit.repeat((1 << 20) / unit.len());
        let asked = submit(TextFormat::Plain, body);
        let start = Instant::now();
        let _ = policy().decide(&asked);
        let took = start.elapsed();
        println!("{unit:?}: {took:?}");
        assert!(took.as_secs() < 10, "{unit:?} took {took:?}");
    }
}

#[test]
fn typical_requests_are_fast() {
    policy().warm();
    let text = "Refactor the session store so that expiry is one query; run the tests and write a handoff. ";
    for length in [1, 10] {
        let asked = submit(TextFormat::Plain, text.repeat(length));
        for mode in [EngineMode::Native, EngineMode::Cedar, EngineMode::Both] {
            let start = Instant::now();
            for _ in 0..2_000 {
                let _ = policy().decide_with(mode, &asked);
            }
            println!("{length} x {mode:?}: {:?} a decision", start.elapsed() / 2_000);
        }
    }
}
