//! The list of steps against the sources, and against the programs that are made of them.

use std::collections::{BTreeMap, BTreeSet};

use portreeve::crash::NAMES;

use crate::harness::process::{binary, crash_binary};
use crate::tidy::files;

const VARIABLE: &[u8] = b"PORTREEVE_CRASH_POINT";
const MACRO: &str = "crash::point!(\"";

/// How often each step stands in the sources.
fn used() -> BTreeMap<String, usize> {
    let mut used = BTreeMap::new();
    for (_, text) in files("host/src", &["rs"]) {
        for (at, _) in text.match_indices(MACRO) {
            let name = text[at + MACRO.len()..].split('"').next().unwrap();
            *used.entry(name.to_owned()).or_insert(0) += 1;
        }
    }
    used
}

#[test]
fn every_step_of_the_list_stands_at_one_place_and_every_place_is_in_the_list() {
    let listed: BTreeMap<String, usize> = NAMES.iter().map(|name| ((*name).to_owned(), 1)).collect();
    assert_eq!(used(), listed);
    assert_eq!(listed.len(), NAMES.len(), "a name stands twice in the list");
}

/// The steps whose names are in a program, in one walk over its bytes: each name has one dot.
fn named_in(program: &[u8]) -> BTreeSet<&'static str> {
    let mut found = BTreeSet::new();
    for (at, _) in program.iter().enumerate().filter(|(_, byte)| **byte == b'.') {
        for name in NAMES {
            let begin = name.find('.').and_then(|before| at.checked_sub(before));
            if begin.and_then(|begin| program.get(begin..begin + name.len())) == Some(name.as_bytes()) {
                found.insert(name);
            }
        }
    }
    found
}

#[test]
fn the_released_program_holds_no_step() {
    let [released, crashing] = [binary(), crash_binary()].map(|path| std::fs::read(path).unwrap());
    assert_eq!(named_in(&crashing), BTreeSet::from(NAMES), "the check has to see what it looks for");
    assert_eq!(named_in(&released), BTreeSet::new(), "these are in the program that is released");
    let reads = |program: &[u8]| program.windows(VARIABLE.len()).any(|window| window == VARIABLE);
    assert_eq!((reads(&crashing), reads(&released)), (true, false), "whether a program asks where to die");
}
