//! A file and a database, compared row by row.

use std::collections::{BTreeMap, BTreeSet};

use crate::harness::state::{Db, tables};

/// Columns that only the database has.
const DERIVED: [(&str, &[&str]); 2] = [("audit_log", &["xact"]), ("memories", &["hour_slot", "word_lists", "words"])];
/// Columns of the log that are in another table there.
const NUMBERS: [&str; 2] = ["seq", "leaf_hash"];
/// Tables of either that do not move.
const STAY: [&str; 7] = [
    "schema_migrations",
    "audit_seq",
    "store_moves",
    "memories_fts_config",
    "memories_fts_data",
    "memories_fts_docsize",
    "memories_fts_idx",
];

/// The columns of a table, with the database's types for them.
async fn columns(target: &mut Db, table: &str) -> BTreeMap<String, String> {
    let sql = format!(
        "SELECT column_name || ' ' || data_type FROM information_schema.columns
         WHERE table_schema = 'portreeve' AND table_name = '{table}' AND column_name <> 'workspace'"
    );
    let split = |line: String| line.split_once(' ').map(|(name, kind)| (name.to_owned(), kind.to_owned())).unwrap();
    target.texts(&sql).await.into_iter().map(split).collect()
}

/// A column as text, alike in both.
fn shown(name: &str, kind: &str, is_postgres: bool) -> String {
    let text = match (kind, is_postgres) {
        ("timestamp with time zone", true) => format!("micros({name})::text"),
        ("bytea", true) => format!("upper(encode({name}, 'hex'))"),
        ("boolean", true) => format!("{name}::int::text"),
        ("ARRAY", true) => format!("array_to_json({name})::text"),
        ("double precision", true) => format!("round({name} * 1000000)::bigint::text"),
        // The database keeps these sorted; the log's own comparison is by hash.
        ("jsonb", true) => format!("jsonb_array_length({name})::text"),
        (_, true) => format!("{name}::text"),
        ("bytea", false) => format!("hex({name})"),
        ("double precision", false) => format!("CAST(round({name} * 1000000) AS INTEGER)"),
        ("jsonb", false) => format!("json_array_length({name})"),
        (_, false) => name.to_owned(),
    };
    format!("coalesce({text}, '(null)')")
}

async fn lines(db: &mut Db, table: &str, columns: &BTreeMap<String, String>) -> BTreeSet<String> {
    let is_postgres = matches!(db, Db::Postgres(_));
    let parts: Vec<String> = columns.iter().map(|(name, kind)| shown(name, kind, is_postgres)).collect();
    db.texts(&format!("SELECT {} FROM {table}", parts.join(" || '|' || "))).await.into_iter().collect()
}

/// Every row of every table is the same in both, and no table or column is left out.
pub(super) async fn all_is_there(source: &mut Db, target: &mut Db) {
    let known =
        |names: Vec<String>| names.into_iter().filter(|name| !STAY.contains(&name.as_str()) && name != "store_move");
    let all: Vec<String> = known(tables(source).await).collect();
    assert_eq!(all, known(tables(target).await).collect::<Vec<_>>());
    for table in &all {
        let mut there = columns(target, table).await;
        let derived = DERIVED.iter().find(|(name, _)| name == table).map_or(&[][..], |(_, names)| names);
        derived.iter().for_each(|name| drop(there.remove(*name).unwrap()));
        let here = source.texts(&format!("SELECT name FROM pragma_table_info('{table}')")).await;
        let of_log = |name: &String| table == "audit_log" && NUMBERS.contains(&name.as_str());
        let here: BTreeSet<String> = here.into_iter().filter(|name| !of_log(name)).collect();
        assert_eq!(here, there.keys().cloned().collect(), "{table}");
        if table == "memories" {
            // In another order there; who asks for a memory sees that they are the same.
            there.remove("details").unwrap();
        }
        let (before, after) = (lines(source, table, &there).await, lines(target, table, &there).await);
        assert!(!before.is_empty(), "{table} is empty, and shows nothing");
        let missing: Vec<_> = before.difference(&after).take(2).collect();
        let new: Vec<_> = after.difference(&before).take(2).collect();
        assert!(missing.is_empty() && new.is_empty(), "{table}: {missing:#?} became {new:#?}");
    }
}
