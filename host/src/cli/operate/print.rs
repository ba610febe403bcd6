//! An answer for people: a list as a table of its main columns, anything else as aligned lines.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::cli::body::{hint, short_time};
use crate::cli::error::CliError;
use crate::cli::output::{Output, tame};

/// Most columns of a table; the rest is in the JSON.
const COLUMNS_MAX: usize = 7;
/// Longest cell of a table.
const CELL_CHARS_MAX: usize = 48;

/// What people look for first. Names that are not here come after these, by name.
const FIRST: &[&str] = &[
    "success",
    "released",
    "valid",
    "allowed",
    "safe",
    "locked",
    "action",
    "id",
    "task_id",
    "session_id",
    "agent_id",
    "agent_name",
    "file_path",
    "pattern_name",
    "domain",
    "status",
    "reason",
    "remedy",
    "locked_by",
    "agent_type",
    "task_type",
    "event_type",
    "severity",
    "category",
    "summary",
    "message",
    "description",
    "priority",
    "claimed_by",
    "expires_at",
    "fencing_token",
    "created_at",
];

/// Prints an answer.
pub(super) fn answer(body: &Value, output: &Output) -> Result<(), CliError> {
    let Some(body_map) = body.as_object() else { return output.line(tame(&body.to_string())) };
    let lists = body_map.iter().filter_map(|(name, value)| rows_of(value).map(|rows| (name.as_str(), rows)));
    let lists: Vec<(&str, Vec<&Map<String, Value>>)> = lists.collect();
    let is_listing = body_map.contains_key("count") && body_map.contains_key("truncated");
    let is_table = |name: &str| lists.iter().any(|(list, rows)| *list == name && (is_listing || !rows.is_empty()));
    let mut lines = Vec::new();
    for (name, value) in ordered(body_map) {
        let is_account = is_listing && matches!(name, "count" | "truncated" | "hint");
        if !is_table(name) && !is_account {
            flatten(name, value, &mut lines);
        }
    }
    print_lines(&lines, output)?;
    for (name, rows) in lists.iter().filter(|(name, _)| is_table(name)) {
        if !(is_listing && lines.is_empty()) {
            output.line(format_args!("{name}:"))?;
        }
        print_table(name, rows, output)?;
    }
    if let Some(hint) = hint(body) {
        output.note(hint);
    }
    Ok(())
}

/// The rows of a list of objects.
fn rows_of(value: &Value) -> Option<Vec<&Map<String, Value>>> {
    value.as_array()?.iter().map(Value::as_object).collect()
}

fn rank(name: &str) -> usize {
    FIRST.iter().position(|first| *first == name).unwrap_or(FIRST.len())
}

fn ordered(map: &Map<String, Value>) -> Vec<(&str, &Value)> {
    let mut fields: Vec<(&str, &Value)> = map.iter().map(|(name, value)| (name.as_str(), value)).collect();
    fields.sort_by_key(|(name, _)| (rank(name), *name));
    fields
}

/// Lines of a value, objects as dotted names; what is null or an empty list is left out.
fn flatten(name: &str, value: &Value, lines: &mut Vec<(String, String)>) {
    match value {
        Value::Null => {}
        Value::Array(items) if items.is_empty() => {}
        Value::Object(map) if !map.is_empty() => {
            for (inner, value) in ordered(map) {
                flatten(&format!("{name}.{inner}"), value, lines);
            }
        }
        _ => lines.push((name.to_owned(), plain(value))),
    }
}

fn print_lines(lines: &[(String, String)], output: &Output) -> Result<(), CliError> {
    let width = lines.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
    for (name, value) in lines {
        // Further lines of a text stay beside the first.
        let value = tame(value).replace('\n', &format!("\n{}", " ".repeat(width.saturating_add(2))));
        // A name may be another agent's as well: one that breaks the line could pass for lines of the answer.
        let name = tame(name).replace('\n', "\\n").replace('\t', "\\t");
        output.line(format_args!("{name:<width$}  {value}"))?;
    }
    Ok(())
}

fn print_table(name: &str, rows: &[&Map<String, Value>], output: &Output) -> Result<(), CliError> {
    if rows.is_empty() {
        return output.line(format_args!("no {name}"));
    }
    let columns = columns_of(rows);
    let header: Vec<String> = columns.iter().map(|column| column.replace('_', " ").to_uppercase()).collect();
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let cells = rows.iter().map(|row| columns.iter().map(|column| cell(row.get(*column))).collect::<Vec<_>>());
    output.table(&header, cells)
}

/// The columns that say something: those known to matter before others, those that most rows fill before rare ones.
fn columns_of<'a>(rows: &[&'a Map<String, Value>]) -> Vec<&'a str> {
    let mut filled: BTreeMap<&str, usize> = BTreeMap::new();
    for (name, value) in rows.iter().flat_map(|row| row.iter()) {
        if !matches!(value, Value::Null | Value::Object(_)) && !plain(value).is_empty() {
            *filled.entry(name.as_str()).or_default() += 1;
        }
    }
    let mut columns: Vec<(&str, usize)> = filled.into_iter().collect();
    columns.sort_by_key(|(name, count)| (rank(name), Reverse(*count), *name));
    columns.into_iter().take(COLUMNS_MAX).map(|(name, _)| name).collect()
}

fn cell(value: Option<&Value>) -> String {
    let text = value.map(plain).unwrap_or_default().replace(['\n', '\t'], " ");
    if text.chars().count() <= CELL_CHARS_MAX {
        return text;
    }
    text.chars().take(CELL_CHARS_MAX - 1).chain(['…']).collect()
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) if is_time(text) => short_time(text),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(|item| !item.is_object() && !item.is_array()) => {
            items.iter().map(plain).collect::<Vec<_>>().join(", ")
        }
        other => other.to_string(),
    }
}

/// Whether a text is a time as the service writes it: to the microsecond, in UTC.
fn is_time(text: &str) -> bool {
    text.ends_with('Z') && text.contains('.') && crate::clock::Time::parse(text).is_ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nested_answers_become_lines_in_an_order_that_people_want() {
        let body =
            json!({"zeta": 1, "success": true, "lock": {"locked_by": "a", "expires_at": null}, "tags": ["x", "y"]});
        let mut lines = Vec::new();
        for (name, value) in ordered(body.as_object().unwrap()) {
            flatten(name, value, &mut lines);
        }
        let lines: Vec<(&str, &str)> = lines.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(lines, [("success", "true"), ("lock.locked_by", "a"), ("tags", "x, y"), ("zeta", "1")]);
    }

    #[test]
    fn a_table_has_the_columns_that_say_something() {
        let rows = json!([
            {"id": "1", "status": "pending", "result": null, "data": {"x": 1}, "a": 1, "b": 1, "c": 1, "d": 1, "e": 1},
            {"id": "2", "status": "claimed", "result": null, "data": {}, "a": 1, "b": 1, "c": 1, "d": 1, "e": 1, "f": 2},
        ]);
        let rows = rows_of(&rows).unwrap();
        assert_eq!(columns_of(&rows), ["id", "status", "a", "b", "c", "d", "e"]);
        assert_eq!(cell(Some(&json!("x".repeat(60)))).chars().count(), CELL_CHARS_MAX);
        assert_eq!(plain(&json!("2031-05-01T12:00:00.123456Z")), "2031-05-01T12:00:00Z");
    }
}
