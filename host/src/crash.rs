//! Steps at which a test has the process die, to see what a power cut there leaves behind.
//!
//! Only the feature `crash-points` puts them into a program, and only `portreeve-crash` is built with it: without it
//! `point!` is nothing at all, and a release holds not even the names. Tests hold this list against the sources: each name
//! stands at exactly one place.
//!
//! Which step is the last one is said by a file that the variable `PORTREEVE_CRASH_POINT` names. It is read at each step, so
//! that a running service can be told. `NAME N` dies at the N-th time that NAME is reached since the file says so; `trace`
//! notes each step that is reached, in the file with `.reached` behind its name, and nobody dies.

/// All steps, in the order in which a request passes them.
pub const NAMES: [&str; 54] = [
    "start.store-opened",
    "start.component-stored",
    "start.policy-in-force",
    "start.admin-made",
    "start.admin-key-written",
    "http.request-arrived",
    "http.key-found",
    "http.input-read",
    "gate.subject-read",
    "gate.before-component",
    "gate.after-component",
    "gate.permit-minted",
    "component.admitted",
    "component.weighed",
    "gate.checked",
    "gate.before-failed-check",
    "gate.failed-check-recorded",
    "gate.before-refusal",
    "gate.refusal-recorded",
    "gate.query-read",
    "gate.query-recorded",
    "gate.decision-stale",
    "sqlite.batch-taken",
    "sqlite.batch-begun",
    "sqlite.savepoint-opened",
    "sqlite.decision-stands",
    "sqlite.first-answer-looked-up",
    "sqlite.key-changed",
    "sqlite.transition-applied",
    "sqlite.audit-written",
    "sqlite.violations-written",
    "sqlite.answer-kept",
    "sqlite.savepoint-rolled-back",
    "sqlite.savepoint-released",
    "sqlite.before-commit",
    "sqlite.committed",
    "sqlite.caller-answered",
    "postgres.before-call",
    "postgres.call-committed",
    "postgres.before-retry",
    "postgres.before-failure",
    "postgres.failure-recorded",
    "postgres.facts-forgotten",
    "postgres.numbers-taken",
    "postgres.rows-hashed",
    "postgres.before-numbers-commit",
    "postgres.numbers-committed",
    "gate.committed",
    "gate.waiters-woken",
    "policy.before-swap",
    "policy.swapped",
    "http.answer-made",
    "background.lapse-seen",
    "background.lapse-handled",
];

/// A step. The process may die here, if a test wants it to.
macro_rules! point {
    ($name:literal) => {
        #[cfg(feature = "crash-points")]
        {
            const { assert!($crate::crash::is_listed($name), "a step that is not in the list") };
            $crate::crash::reached($name);
        }
    };
}

pub(crate) use point;

/// Whether a name is in the list, as the compiler can tell.
#[cfg(feature = "crash-points")]
pub(crate) const fn is_listed(name: &str) -> bool {
    let mut at = 0;
    while at < NAMES.len() {
        if are_same(NAMES[at].as_bytes(), name.as_bytes()) {
            return true;
        }
        at += 1;
    }
    false
}

#[cfg(feature = "crash-points")]
const fn are_same(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// Dies if this is the step, and the time, that the file names.
#[cfg(feature = "crash-points")]
pub(crate) fn reached(name: &str) {
    use std::io::Write;
    use std::sync::{Mutex, PoisonError};

    /// What the file said last, and how often its step was reached since.
    static SAID: Mutex<(String, u64)> = Mutex::new((String::new(), 0));

    let Some(path) = std::env::var_os("PORTREEVE_CRASH_POINT") else { return };
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    let text = std::fs::read_to_string(&path).unwrap_or_default();
    if text != said.0 {
        *said = (text, 0);
    }
    let (wanted, nth) = said.0.trim().split_once(' ').unwrap_or((said.0.trim(), "1"));
    let traces = wanted == "trace";
    if !traces && wanted != name {
        return;
    }
    let dies = !traces && nth.parse() == Ok(said.1 + 1);
    said.1 += 1;
    if traces || dies {
        let mut beside = path;
        beside.push(".reached");
        // Who cannot note it does not die either, and the test that waits for it says so.
        let file = std::fs::OpenOptions::new().create(true).append(true).open(beside);
        let noted = file.and_then(|mut file| file.write_all(format!("{name}\n").as_bytes()));
        if dies && noted.is_ok() {
            std::process::abort();
        }
    }
}
