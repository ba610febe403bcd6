//! Each promise is named where it is held and where it is attacked, so that nobody removes one without meeting the other.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use crate::tidy::{files, root};

/// Promises, as `docs/assurance.md` lists them.
fn promises() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("docs/assurance.md")).unwrap();
    let section = text.split("## Promises").nth(1).unwrap().split("\n## ").next().unwrap();
    let names = section.lines().filter_map(|line| line.strip_prefix("| ")?.split(' ').next());
    let names: Vec<String> = names
        .filter(|name| name.len() > 3 && name.bytes().all(|byte| byte.is_ascii_uppercase()))
        .map(str::to_owned)
        .collect();
    assert_eq!(names.len(), 9, "{names:?}");
    names
}

/// Whether a comment of a text begins to speak of a promise: its name and a colon, or several names and one.
fn speaks_of(text: &str, promise: &str) -> bool {
    text.lines().any(|line| {
        // A seeded bug says which promise it breaks.
        if let Some(broken) = line.strip_prefix("invariant: ") {
            return broken.split([' ', ',']).any(|word| word == promise);
        }
        let Some((before, _)) = line.split_once(':') else { return false };
        let words: Vec<&str> = before.split([' ', ',']).filter(|word| !word.is_empty()).collect();
        let names: Vec<&str> = words.iter().rev().take_while(|word| is_name(word)).copied().collect();
        let is_comment = words
            .iter()
            .take(words.len() - names.len())
            .any(|word| ["//", "///", "//!", "--", "\\*", "(*", "#"].contains(word));
        (is_comment || words.len() == names.len()) && names.contains(&promise)
    })
}

fn is_name(word: &str) -> bool {
    word.len() > 3 && word.bytes().all(|byte| byte.is_ascii_uppercase())
}

#[test]
fn a_comment_that_speaks_of_a_promise_is_known() {
    assert!(speaks_of("    /// EXCL: one holder", "EXCL"));
    assert!(speaks_of("//! EXCL, CLAIM: both", "CLAIM"));
    assert!(speaks_of("-- REVOKE: what waits", "REVOKE"));
    assert!(!speaks_of("REVOKE ALL ON x FROM PUBLIC;", "REVOKE"));
    assert!(!speaks_of("    let EXCL = 1;", "EXCL"));
}

#[test]
fn each_promise_is_named_in_code_in_sql_in_the_specification_and_in_tests_and_has_a_bug_that_breaks_it() {
    let places: [(&str, Vec<(String, String)>); 5] = [
        ("code", [files("host/src", &["rs"]), files("guest-policy", &["rs"])].concat()),
        ("SQL", files("migrations", &["sql"])),
        ("the specification", files("formal", &["tla"])),
        ("tests", files("tests", &["rs"])),
        ("seeded bugs", files("tests/mutants", &["patch"])),
    ];
    let mut missing = BTreeMap::new();
    for promise in promises() {
        for (place, files) in &places {
            if !files.iter().any(|(_, text)| speaks_of(text, &promise)) {
                missing.entry(*place).or_insert_with(Vec::new).push(promise.clone());
            }
        }
    }
    assert!(missing.is_empty(), "promises that are not spoken of: {missing:#?}");
}

/// The report is made of files by their names: one that moved must not leave a layer empty.
#[test]
fn the_report_finds_every_layer_where_it_says_and_each_promise_is_attacked_in_several() {
    let report = root().join("tests/assurance/report.py");
    let output = Command::new("python3").arg(report).arg("--json").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let layers: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"));
    let known = std::fs::read_to_string(root().join("tests/run")).unwrap();
    for layer in &layers {
        assert_eq!(layer["unmatched"], serde_json::json!([]), "{}", layer["layer"]);
        for step in layer["steps"].as_array().unwrap() {
            assert!(known.contains(&format!("step {} ", step.as_str().unwrap())), "{layer}");
        }
    }
    for promise in promises() {
        let attacked = layers.iter().filter(|layer| {
            layer["steps"] != serde_json::json!([]) && layer["promises"][&promise] != serde_json::json!([])
        });
        let attacked: Vec<&str> = attacked.map(|layer| layer["layer"].as_str().unwrap()).collect();
        assert!(attacked.len() > 2, "{promise} is attacked in {attacked:?} only");
    }
}
