//! Without a solver, or with one that is none, nothing passes.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use portreeve::authoring::diff::{Verdict, compare};
use portreeve::authoring::solver::Solver;
use portreeve::authoring::source::Bundle;
use tempfile::TempDir;

use super::{WIDER, bundle, diff};
use crate::harness::cache_dir;

/// A program that is taken for the solver.
fn fake(script: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("cvc5");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    (dir, program)
}

#[test]
fn without_a_solver_it_fails_and_says_how_to_get_one() {
    let empty = tempfile::tempdir().unwrap();
    let ended = diff("default", "default").env("PORTREEVE_CACHE", empty.path()).env("PATH", "/nowhere").run();
    assert_eq!((ended.code, ended.stdout.as_str()), (1, ""), "{ended:?}");
    assert!(ended.stderr.contains("portreeve policy solver install"), "{ended:?}");
    // One that is named is not replaced by another that is there.
    let ended = diff("default", "default").env("CVC5", empty.path().join("cvc5")).run();
    assert_eq!((ended.code, ended.stdout.as_str()), (1, ""), "{ended:?}");
}

#[test]
fn the_solver_in_the_path_is_found() {
    let (real, empty) = (cache_dir().join("solver/cvc5"), tempfile::tempdir().unwrap());
    let (dir, _) = fake(&format!("exec '{}' \"$@\"", real.display()));
    let report = diff("default", "default").env("PORTREEVE_CACHE", empty.path()).env("PATH", dir.path()).json(0);
    assert_eq!(report["verdict"], "equivalent");
}

/// Answers each question with the same.
fn answering(answer: &str) -> String {
    format!("while read -r line; do case \"$line\" in '(check-sat)') {answer};; esac; done")
}

#[test]
fn a_solver_that_is_none_is_found_out() {
    let solvers = [
        ("nothing to say", String::new()),
        ("always no", answering("echo unsat")),
        ("always yes", answering("echo sat; echo '('; echo ')'")),
        (
            "now and then",
            answering("n=$((n + 1)); if [ $((n % 2)) = 1 ]; then echo unsat; else echo sat; echo '('; echo ')'; fi"),
        ),
        ("never sure", answering("echo unknown")),
        ("another language", answering("echo 'I cannot help with that'")),
        ("an error", answering("echo '(error \"Parse Error: x\")'")),
        ("too eager", "yes unsat".to_owned()),
        ("no end", "tr '\\0' x </dev/zero".to_owned()),
        ("no model's end", answering("echo sat; echo '('; yes '(define-fun x () Int 1)'")),
        ("too deep", answering("echo sat; echo '('; printf '%0900000d\\n)\\n' 0 | tr 0 '('")),
        ("silent", "exec sleep 600".to_owned()),
    ];
    let other = bundle(&WIDER);
    for (name, script) in solvers {
        let (_dir, program) = fake(&script);
        // Where there is nothing to prove as well.
        for b in [other.path(), Path::new("default")] {
            let began = Instant::now();
            let ended = diff("default", b).args(&["--limit", "1", "--json"]).env("CVC5", &program).run();
            assert_eq!((ended.code, ended.stdout.as_str()), (1, ""), "{name}: {ended:?}");
            assert!(ended.stderr.contains("whose answer is known"), "{name}: {ended:?}");
            assert!(began.elapsed() < Duration::from_secs(60), "{name}: {:?}", began.elapsed());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_can_ask_the_same() {
    let other = bundle(&WIDER);
    // As a task that may move between threads.
    let compared = tokio::spawn(async move {
        let (a, b) = (Bundle::named(Path::new("default")).unwrap(), Bundle::named(other.path()).unwrap());
        let solver = Solver { program: cache_dir().join("solver/cvc5"), limit: Duration::from_secs(10) };
        compare(&a, &b, &solver, &|_, _| ()).await
    });
    let report = compared.await.unwrap().unwrap();
    assert_eq!((report.verdict, report.verdict.is_not_wider()), (Verdict::Wider, false));
}

#[test]
fn a_request_that_does_not_hold_is_no_request() {
    // Asked for trust 3, it answers 9: it gets the known questions right, whose number is another one.
    let real = cache_dir().join("solver/cvc5");
    let lie = "s/#b0{62}11/#b0000000000000000000000000000000000000000000000000000000000001001/g; s/#x0{15}3/#x0000000000000009/g";
    let (_dir, program) = fake(&format!("'{}' \"$@\" | sed -u -E '{lie}'", real.display()));
    let ended = diff("default", bundle(&WIDER).path()).env("CVC5", &program).run();
    assert_eq!((ended.code, ended.stdout.as_str()), (1, ""), "{ended:?}");
    assert!(ended.stderr.contains("does not hold against Cedar's authorizer"), "{ended:?}");
}
