//! The mutants of `tests/mutants`: each still applies, says what it breaks, and names tests that there are. Whether they are
//! found is what `tests/mutants/run` tells, which takes an hour.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::tidy::{files, root};

/// What the program promises, each by its name.
const PROMISES: [&str; 9] = ["EXCL", "CLAIM", "GATE", "DENY", "AUDIT", "EQUIV", "REPLAY", "REVOKE", "TRUST"];

struct Mutant {
    name: String,
    head: Vec<(String, String)>,
    diff: String,
}

impl Mutant {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let (head, diff) = text.split_once("\n\n").unwrap_or_else(|| panic!("{name} has no head"));
        let fact = |line: &str| {
            let (key, value) = line.split_once(": ").unwrap_or_else(|| panic!("{name}: `{line}` is no line of a head"));
            (key.to_owned(), value.to_owned())
        };
        Self { head: head.lines().map(fact).collect(), diff: diff.to_owned(), name }
    }

    fn all(&self, key: &str) -> Vec<&str> {
        self.head.iter().filter(|(known, _)| known == key).map(|(_, value)| value.as_str()).collect()
    }

    fn one(&self, key: &str) -> &str {
        let [one] = self.all(key)[..] else { panic!("{} says `{key}` not once", self.name) };
        one
    }
}

fn mutants() -> Vec<Mutant> {
    let listed = fs::read_dir(root().join("tests/mutants")).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = listed.filter(|path| path.extension().is_some_and(|ext| ext == "patch")).collect();
    paths.sort();
    assert!(paths.len() >= 18, "only {} mutants", paths.len());
    paths.iter().map(|path| Mutant::read(path)).collect()
}

/// Whether git can make the change, on the files as they are now.
fn applies(diff: &str) -> Result<(), String> {
    let mut git = Command::new("git")
        .current_dir(root())
        .args(["apply", "--check", "-p1", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    git.stdin.take().unwrap().write_all(diff.as_bytes()).unwrap();
    let ended = git.wait_with_output().unwrap();
    if ended.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&ended.stderr).into_owned()) }
}

#[test]
fn every_mutant_applies_to_the_sources_as_they_are() {
    let failed: Vec<String> = mutants()
        .iter()
        .filter_map(|mutant| applies(&mutant.diff).err().map(|error| format!("{}: {error}", mutant.name)))
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
    // The check is able to see what it looks for.
    let stale = mutants()[0].diff.replace("\n ", "\n other ");
    assert!(applies(&stale).is_err());
}

#[test]
fn every_mutant_says_what_it_breaks_and_every_promise_is_broken() {
    let mut broken = BTreeSet::new();
    for (n, mutant) in mutants().iter().enumerate() {
        assert!(mutant.name.starts_with(&format!("{:02}-", n + 1)), "{} is not number {}", mutant.name, n + 1);
        let promise = mutant.one("invariant");
        assert!(PROMISES.contains(&promise), "{}: {promise}", mutant.name);
        assert!(mutant.one("broken").ends_with('.'), "{}: a sentence", mutant.name);
        assert!(!mutant.all("caught by").is_empty(), "{}: who finds it?", mutant.name);
        let known = ["invariant", "broken", "caught by"];
        assert!(mutant.head.iter().all(|(key, _)| known.contains(&key.as_str())), "{}: {:?}", mutant.name, mutant.head);
        let touched: Vec<&str> = mutant.diff.lines().filter_map(|line| line.strip_prefix("+++ b/")).collect();
        // What is broken is the program, not what looks at it.
        assert!(!touched.is_empty() && touched.iter().all(|path| !path.starts_with("tests/")), "{touched:?}");
        broken.insert(promise.to_owned());
    }
    assert_eq!(broken, PROMISES.map(str::to_owned).into(), "promises that no mutant breaks");
}

/// Whether a function of this name, which is a test, stands in a text.
fn has_test(text: &str, name: &str) -> bool {
    text.contains(&format!("fn {name}()"))
}

#[test]
fn every_test_that_is_to_find_a_mutant_is_there() {
    let tests = files("tests/tests/integration", &["rs"]);
    let sources: String =
        ["host/src", "guest-policy"].iter().flat_map(|folder| files(folder, &["rs"])).map(|(_, text)| text).collect();
    for mutant in mutants() {
        for hunter in mutant.all("caught by") {
            let words: Vec<&str> = hunter.split(' ').collect();
            let what = format!("{}: `{hunter}`", mutant.name);
            match words[..] {
                ["sqlite" | "postgres", path] => {
                    let (module, name) = path.rsplit_once("::").unwrap();
                    let place = module.replace("::", "/");
                    let files = [format!("integration/{place}.rs"), format!("integration/{place}/mod.rs")];
                    let found = tests.iter().find(|(path, _)| files.iter().any(|file| path.ends_with(file)));
                    assert!(found.is_some_and(|(_, text)| has_test(text, name)), "{what}");
                }
                ["policy", path] => assert!(has_test(&sources, path.rsplit("::").next().unwrap()), "{what}"),
                ["unit", "portreeve" | "policy_core", path] => {
                    let name = path.rsplit("::").next().unwrap();
                    assert!(has_test(&sources, name), "{what}");
                }
                ["doc", module] => {
                    let file = format!("host/src/{}.rs", module.replace("::", "/"));
                    let text = fs::read_to_string(root().join(&file)).unwrap_or_default();
                    assert!(text.contains("```compile_fail"), "{what}");
                }
                ["compiler", code] => assert!(code.starts_with('E') && code.len() == 5, "{what}"),
                _ => panic!("{what}: nobody knows how"),
            }
        }
    }
}
