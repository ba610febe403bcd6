//! What no compiler checks: sizes, who may know which library, twins of migrations, names that are not ours.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 500;

pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Files below a folder of the workspace, with their path from its root and their text.
pub(crate) fn files(folder: &str, extensions: &[&str]) -> Vec<(String, String)> {
    let (mut found, mut open) = (Vec::new(), vec![root().join(folder)]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().and_then(|ext| ext.to_str()).is_some_and(|ext| extensions.contains(&ext)) {
                found.push(read(path));
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "there is nothing in {folder}");
    found
}

fn read(path: PathBuf) -> (String, String) {
    let shown = path.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
    (shown, fs::read_to_string(path).unwrap())
}

fn rust_files() -> Vec<(String, String)> {
    ["host", "guest-policy", "tests"].into_iter().flat_map(|folder| files(folder, &["rs"])).collect()
}

#[test]
fn no_file_is_longer_than_one_can_hold_in_mind() {
    let long: Vec<String> = rust_files()
        .into_iter()
        .map(|(path, text)| (path, text.lines().count()))
        .filter(|(_, lines)| *lines > LINES_MAX)
        .map(|(path, lines)| format!("{path} has {lines} lines"))
        .collect();
    assert!(long.is_empty(), "at most {LINES_MAX}: {long:#?}");
}

/// A file's lines without comments, and without the tests at its end.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().take_while(|line| line.trim() != "#[cfg(test)]").filter(|line| !line.trim_start().starts_with("//"))
}

/// Whether a line names a crate or module by a path of its own: `sqlx::`, `use sqlx`, `extern crate sqlx`.
fn names(line: &str, name: &str) -> bool {
    words(line).any(|word| word == name)
        && (line.contains(&format!("{name}::")) || line.trim_start().starts_with("use "))
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

#[test]
fn each_library_is_known_where_it_belongs_and_nowhere_else() {
    let walls = [
        ("sqlx", "host/src/store/"),
        ("wasmtime", "host/src/engine/"),
        ("axum", "host/src/http/"),
        ("rmcp", "host/src/mcp/"),
    ];
    let mut breaches = Vec::new();
    for (path, text) in files("host/src", &["rs"]).into_iter().chain(files("guest-policy", &["rs"])) {
        for (library, home) in walls {
            let knows = code(&text).any(|line| names(line, library));
            if knows && !path.starts_with(home) {
                breaches.push(format!("{path} knows {library}, which is for {home}"));
            }
        }
    }
    assert!(breaches.is_empty(), "{breaches:#?}");
    // The check is able to see what it looks for.
    for (library, home) in walls {
        assert!(files(home, &["rs"]).iter().any(|(_, text)| code(text).any(|line| names(line, library))), "{library}");
    }
}

#[test]
fn no_policy_is_read_natively_in_the_host_but_by_its_authors_tools() {
    let (home, libraries) = ("host/src/authoring/", ["policy_core", "cedar_policy", "cedar_policy_symcc"]);
    let knows = |text: &str, library: &str| code(text).any(|line| names(line, library));
    for (path, text) in files("host/src", &["rs"]).into_iter().filter(|(path, _)| !path.starts_with(home)) {
        let known: Vec<_> = libraries.iter().filter(|library| knows(&text, library)).collect();
        assert!(known.is_empty(), "{path} knows {known:?}: in production only the component decides");
    }
    // The check is able to see what it looks for.
    for library in libraries {
        assert!(files(home, &["rs"]).iter().any(|(_, text)| knows(text, library)), "{library}");
    }
}

#[test]
fn what_is_pure_has_no_files_network_time_or_chance() {
    // Addresses are plain values; sockets are not.
    let impure = [
        "std::fs",
        "std::net::{",
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "ToSocketAddrs",
        "std::process",
        "std::env",
        "std::time::SystemTime",
        "std::time::Instant",
        "SystemTime::",
        "Instant::now",
        "rand::",
        "getrandom",
        "uuid::",
        "tokio::",
        "sqlx::",
        "Timestamp::now",
    ];
    let mut breaches = Vec::new();
    for folder in ["guest-policy/core/src", "guest-policy/src", "host/src/domain"] {
        for (path, text) in files(folder, &["rs"]) {
            for line in code(&text) {
                let found = impure.iter().filter(|name| line.contains(**name));
                breaches.extend(found.map(|name| format!("{path}: {name} in `{}`", line.trim())));
            }
        }
    }
    assert!(breaches.is_empty(), "{breaches:#?}");
}

/// Tables that a migration makes.
fn tables(sql: &str) -> BTreeSet<String> {
    let lines = sql.lines().map(str::trim).filter(|line| !line.starts_with("--"));
    let made = lines.filter_map(|line| {
        let upper = line.to_ascii_uppercase();
        let at = upper.find("CREATE TABLE ")?;
        let rest = line.get(at + "CREATE TABLE ".len()..)?;
        let rest = rest.strip_prefix("IF NOT EXISTS ").unwrap_or(rest);
        let name = rest.split(|c: char| c.is_whitespace() || c == '(').next()?;
        Some(name.rsplit('.').next().unwrap_or(name).trim_matches('"').to_owned())
    });
    made.collect()
}

/// The number and name of a migration: a file, or a folder of parts.
fn migration_of(backend: &str, path: &str) -> Option<String> {
    let below = path.split_once(&format!("migrations/{backend}/"))?.1;
    let name = below.split('/').next()?.trim_end_matches(".sql");
    name.starts_with(|c: char| c.is_ascii_digit()).then(|| name.to_owned())
}

/// Tables that only one backend needs: a file's one writer numbers the log's rows as it writes them, and only a file moves.
const TABLES_OF_POSTGRES: [&str; 2] = ["audit_seq", "store_moves"];

#[test]
fn every_migration_has_a_twin_that_makes_the_same_tables() {
    let of = |backend: &str| -> BTreeMap<String, BTreeSet<String>> {
        let mut all = BTreeMap::<String, BTreeSet<String>>::new();
        for (path, sql) in files(&format!("migrations/{backend}"), &["sql"]) {
            let Some(migration) = migration_of(backend, &path) else { continue };
            let own = tables(&sql).into_iter().filter(|table| !TABLES_OF_POSTGRES.contains(&table.as_str()));
            all.entry(migration).or_default().extend(own);
        }
        all
    };
    let sqlite = of("sqlite");
    assert!(sqlite.values().any(|tables| tables.contains("audit_log")));
    for (n, name) in sqlite.keys().enumerate() {
        assert!(name.starts_with(&format!("{:04}_", n + 1)), "{name} is not number {}", n + 1);
    }
    assert_eq!(sqlite, of("postgres"));
}

/// Names that belong to another change: delegated identity, approvals, risk scores,
/// realtime policy synchronisation, policy rollback and session grants are not built here.
const FOREIGN_WORDS: [&str; 18] = [
    "on_behalf_of",
    "delegated_from",
    "request_approval",
    "check_approval",
    "list_policy_versions",
    "request_permission",
    "rollback_policy",
    "DelegatingUser",
    "delegated_by",
    "session_grants",
    "risk_score",
    "approval_required",
    "approval_queue",
    "cedar_policies_history",
    "session_permission_grants",
    "policy_version",
    "capture_policy_history",
    "notify_policy_changed",
];

/// The same, where a word is too common to be looked for by itself.
const FOREIGN_TEXTS: [&str; 6] =
    ["\"/approvals", "\"/policies", "\"/permissions", "policy_changed", "coordinator_approval", "app.changed_by"];

#[test]
fn names_of_another_change_are_not_used() {
    let folders = ["host", "guest-policy", "policies", "wit", "migrations"];
    let extensions = ["rs", "toml", "cedar", "cedarschema", "wit", "sql", "md"];
    let mut found = Vec::new();
    for (path, text) in folders.into_iter().flat_map(|folder| files(folder, &extensions)) {
        found.extend(
            FOREIGN_WORDS.iter().filter(|name| words(&text).any(|word| word == **name)).map(|n| format!("{path}: {n}")),
        );
        found.extend(FOREIGN_TEXTS.iter().filter(|name| text.contains(**name)).map(|n| format!("{path}: {n}")));
    }
    assert!(found.is_empty(), "{found:#?}");
}
