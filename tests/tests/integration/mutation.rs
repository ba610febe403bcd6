//! The list of mutants that may live is about the code as it is, and says why.

use std::collections::BTreeSet;
use std::fs;

use crate::tidy::root;

/// Shorter reasons are none.
const REASON_CHARS_MIN: usize = 30;

/// The function that a mutant is in, by its own name: `replace Time::since -> i64 with 0`, `replace < with == in Lock::is_live`.
fn function(mutant: &str) -> Option<&str> {
    let path = match mutant.rsplit_once(" in ") {
        Some((_, path)) => path,
        None => mutant.strip_prefix("replace ")?.split(" -> ").next()?.split(" with ").next()?,
    };
    path.rsplit("::").next()
}

#[test]
fn survivors_are_named_by_what_there_is_and_have_a_reason() {
    let text = fs::read_to_string(root().join("tests/mutation/survivors.txt")).unwrap();
    let mut wrong = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let parts: Vec<_> = line.split(" | ").collect();
        let [owner, mutant, reason] = parts[..] else {
            wrong.push(format!("not CRATE | MUTANT | REASON: {line}"));
            continue;
        };
        let folder = match owner {
            "policy-core" => "guest-policy/core/src/",
            "domain" => "host/src/domain/",
            "gate" => "host/src/gate/",
            _ => {
                wrong.push(format!("`{owner}` is none of the crates: {line}"));
                continue;
            }
        };
        let Some((file, change)) = mutant.split_once(": ").filter(|(file, _)| file.starts_with(folder)) else {
            wrong.push(format!("not a mutant of {owner}: {line}"));
            continue;
        };
        let source = fs::read_to_string(root().join(file)).unwrap_or_default();
        let found = function(change).is_some_and(|name| {
            [format!("fn {name}("), format!("fn {name}<")].iter().any(|form| source.contains(form.as_str()))
        });
        if !found {
            wrong.push(format!("its function is not in {file} any more: {line}"));
        }
        if reason.chars().count() < REASON_CHARS_MIN {
            wrong.push(format!("no reason: {line}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn functions_of_mutants_are_found() {
    for (mutant, name) in [
        ("replace Time::since -> i64 with 0", "since"),
        ("replace < with == in Lock::is_live", "is_live"),
        ("replace <impl Display for Key>::fmt -> fmt::Result with Ok(Default::default())", "fmt"),
        ("delete match arm Some(\"a in b\") in read", "read"),
        ("replace match guard x > 1 with true in next", "next"),
    ] {
        assert_eq!(function(mutant), Some(name), "{mutant}");
    }
}

#[test]
fn the_command_knows_the_crates_of_the_list() {
    let command = fs::read_to_string(root().join("tests/mutation/run")).unwrap();
    let known: BTreeSet<_> = ["policy-core", "domain", "gate"].into();
    for name in known {
        assert!(command.contains(&format!("\n    \"{name}\": {{")), "{name}");
    }
}
