//! Every input that fuzzing keeps is tried as a plain test, and so is what chance makes of it for some seconds.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use proptest::sample::{Index, select};
use serde_json::json;
use tests::figures;
use tests::fuzzing::{Outcome, TARGETS, Target, keep_components_in};

use crate::harness::cache_dir;
use crate::stateful::{any_seed, number, runner};
use crate::tidy::root;

/// Fewest and most inputs that are kept of a target, and how large one may be: who looks for a reason reads them.
const KEPT: std::ops::RangeInclusive<usize> = 20..=100;
const BYTES_MAX: usize = 10 << 10;

/// How long chance is given for each target.
const CHANCE: Duration = Duration::from_secs(3);

/// What breaks readers: ends of what was begun, second spellings, numbers at the ends of their range, characters unseen.
const TOKENS: [&[u8]; 32] = [
    b"\"",
    b"'",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\n",
    b"\r\n",
    b"\0",
    b" ",
    b"/",
    b"../",
    b"./",
    b"//",
    b"%2e",
    b"%00",
    b"\xff",
    "\u{200b}".as_bytes(),
    "\u{202e}".as_bytes(),
    "ü".as_bytes(),
    b"null",
    b"true",
    b"-1",
    b"1e999",
    b"9223372036854775808",
    b"\\u0000",
    b"\\ud800",
    b"$(",
    b"git push -f",
];

fn folder(target: &str) -> PathBuf {
    root().join("tests/fuzz/corpus").join(target)
}

fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder(target)).unwrap_or_else(|error| panic!("{target} has no corpus: {error}"));
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut inputs: Vec<_> = paths.map(|path| (path.display().to_string(), fs::read(&path).unwrap())).collect();
    inputs.sort();
    inputs
}

/// One change of some bytes.
#[derive(Debug, Clone)]
enum Edit {
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Cut(Index, usize),
    Repeat(Index, usize),
    /// The rest is another input's.
    Splice(Index, Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    let token = select(TOKENS.to_vec()).prop_map(<[u8]>::to_vec);
    prop_oneof![
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Edit::Set(at, byte)),
        (any::<Index>(), token).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        (any::<Index>(), 1..20_usize).prop_map(|(at, length)| Edit::Cut(at, length)),
        (any::<Index>(), 1..200_usize).prop_map(|(at, length)| Edit::Repeat(at, length)),
        (any::<Index>(), any::<Index>()).prop_map(|(at, from)| Edit::Splice(at, from)),
    ]
}

fn edited(mut bytes: Vec<u8>, other: &[u8], edits: &[Edit]) -> Vec<u8> {
    for edit in edits {
        let length = bytes.len();
        let place = |at: &Index| at.index(length + 1);
        match edit {
            Edit::Set(at, byte) => {
                if let Some(old) = bytes.get_mut(place(at)) {
                    *old = *byte;
                }
            }
            Edit::Insert(at, new) => drop(bytes.splice(place(at)..place(at), new.iter().copied())),
            Edit::Cut(at, many) => drop(bytes.drain(place(at)..bytes.len().min(place(at) + many))),
            Edit::Repeat(at, many) => {
                let part = bytes[place(at)..bytes.len().min(place(at) + many)].to_vec();
                bytes.splice(place(at)..place(at), part);
            }
            Edit::Splice(at, from) => {
                bytes.truncate(place(at));
                bytes.extend_from_slice(&other[from.index(other.len() + 1)..]);
            }
        }
        bytes.truncate(BYTES_MAX);
    }
    bytes
}

fn inputs(corpus: Vec<Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let changed = (select(corpus.clone()), select(corpus), vec(edit(), 1..6));
    prop_oneof![
        1 => vec(any::<u8>(), 0..300),
        1 => Just(Vec::new()),
        8 => changed.prop_map(|(bytes, other, edits)| edited(bytes, &other, &edits)),
    ]
}

/// Tries what is kept, which has to hold inputs of both kinds, and then what chance makes of it.
fn try_all(name: &str) {
    keep_components_in(cache_dir());
    let target = TARGETS.into_iter().find(|target| target.name == name).expect("a target of this name");
    let kept = corpus(name);
    let (mut accepted, mut refused) = (0_u64, 0_u64);
    for (path, bytes) in &kept {
        let tried = std::panic::catch_unwind(|| (target.run)(bytes));
        match tried.unwrap_or_else(|_| panic!("{path} breaks a promise; it is told above")) {
            Outcome::Accepted => accepted += 1,
            Outcome::Refused => refused += 1,
        }
    }
    assert!(accepted > 0 && refused > 0, "{name}: {accepted} accepted, {refused} refused; the corpus means nothing");
    let chance = by_chance(target, kept.into_iter().map(|(_, bytes)| bytes).collect());
    figures::write(
        &format!("fuzz-{name}"),
        &json!({
            "layer": "fuzz", "target": name, "inputs": accepted + refused, "accepted": accepted, "refused": refused,
            "by_chance": chance, "result": "passed",
        }),
    );
}

fn by_chance(target: Target, corpus: Vec<Vec<u8>>) -> u64 {
    let (started, mut tried) = (Instant::now(), 0);
    let seed = number("PORTREEVE_SEED").unwrap_or_else(any_seed);
    println!("{}: PORTREEVE_SEED={seed}", target.name);
    let strategy = inputs(corpus);
    while started.elapsed() < CHANCE {
        let outcome = runner(seed.wrapping_add(tried), 32).run(&strategy, |bytes| {
            (target.run)(&bytes);
            Ok(())
        });
        if let Err(proptest::test_runner::TestError::Fail(why, bytes)) = outcome {
            panic!("PORTREEVE_SEED={seed}: {}: {why}\nof the input b\"{}\"", target.name, bytes.escape_ascii());
        }
        outcome.unwrap();
        tried += 32;
    }
    tried
}

#[test]
fn bundle_file() {
    try_all("bundle_file");
}

#[test]
fn command_input() {
    try_all("command_input");
}

#[test]
fn component_bytes() {
    try_all("component_bytes");
}

#[test]
fn decision_request() {
    try_all("decision_request");
}

#[test]
fn guardrail_text() {
    try_all("guardrail_text");
}

#[test]
fn http_request() {
    try_all("http_request");
}

#[test]
fn lock_key() {
    try_all("lock_key");
}

#[test]
fn mcp_frame() {
    try_all("mcp_frame");
}

#[test]
fn every_target_has_a_program_a_corpus_and_a_test() {
    let names: BTreeSet<String> = TARGETS.into_iter().map(|target| target.name.to_owned()).collect();
    let listed = |folder: &str| -> BTreeSet<String> {
        let entries = fs::read_dir(root().join("tests/fuzz").join(folder)).unwrap();
        entries.map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned()).collect()
    };
    assert_eq!(listed("corpus"), names);
    assert_eq!(listed("fuzz_targets"), names);
    let manifest: toml::Table = fs::read_to_string(root().join("tests/fuzz/Cargo.toml")).unwrap().parse().unwrap();
    let programs = manifest["bin"].as_array().unwrap().iter().map(|bin| bin["name"].as_str().unwrap().to_owned());
    assert_eq!(programs.collect::<BTreeSet<_>>(), names);
    let (own, readme) =
        (include_str!("corpora.rs"), fs::read_to_string(root().join("tests/fuzzing/README.md")).unwrap());
    for name in names {
        assert!(own.contains(&format!("\nfn {name}() {{\n    try_all(\"{name}\");")), "{name} has no test");
        assert!(readme.contains(&format!("\n| `{name}` | ")), "{name} is not in the table");
        let program = fs::read_to_string(root().join(format!("tests/fuzz/fuzz_targets/{name}.rs"))).unwrap();
        assert!(program.contains(&format!("tests::fuzzing::{name}(data)")), "{name}");
        let kept = corpus(&name);
        assert!(KEPT.contains(&kept.len()), "{name} keeps {} inputs", kept.len());
        for (path, bytes) in kept {
            assert!(bytes.len() <= BYTES_MAX, "{path} has {} bytes", bytes.len());
        }
    }
}
