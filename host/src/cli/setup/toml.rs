//! The entry of one server in a TOML file: put in, replaced, taken out. Nothing else moves.
//!
//! The file is parsed to know where things are, and changed as text: a writer of TOML would change line ends.

use std::ops::Range;

use serde_json::Value as Json;
use toml_edit::{Document, Item, Table, TableLike, Value};

use super::entry::Entry;
use super::splice::{Splice, apply, line_end, newline_of};

/// Where Codex keeps its servers.
const SERVERS: &str = "mcp_servers";

/// The entry of a server, if there is one.
pub(super) fn get(text: &str, name: &str) -> Result<Option<Json>, String> {
    let document = parse(text)?;
    Ok(servers_of(&document)?.and_then(|servers| servers.get(name)).map(to_json))
}

/// The text with the entry of a server.
pub(super) fn set(text: &str, name: &str, entry: &Entry) -> Result<String, String> {
    let document = parse(text)?;
    let newline = newline_of(text);
    let servers = document.get(SERVERS);
    let splices = match servers_of(&document)?.and_then(|servers| servers.get(name)) {
        Some(Item::Table(old)) if !old.is_dotted() => {
            let mut regions = regions_of(&document, text, old).ok_or_else(|| by_hand(name))?;
            let first = regions.remove(0);
            let mut splices = vec![Splice { range: first, text: block(name, entry, newline) }];
            splices.extend(regions.into_iter().map(Splice::remove));
            splices
        }
        Some(Item::Value(old)) => {
            let range = old.span().ok_or_else(|| by_hand(name))?;
            vec![Splice { range, text: inline(entry) }]
        }
        Some(_) => return Err(by_hand(name)),
        None => match servers {
            Some(Item::Value(Value::InlineTable(table))) => {
                let range = table.span().ok_or_else(|| by_hand(name))?;
                let last = table.iter().filter_map(|(_, value)| value.span()).map(|span| span.end).max();
                let member = format!("{name} = {}", inline(entry));
                vec![match last {
                    Some(end) => Splice::insert(end, format!(", {member}")),
                    None => Splice::insert(range.start + 1, format!(" {member} ")),
                }]
            }
            _ => vec![append(text, &block(name, entry, newline), newline)],
        },
    };
    let edited = apply(text, splices);
    // What follows from TOML's rules about tables that were begun elsewhere is for its parser to say.
    match get(&edited, name) {
        Ok(Some(found)) if found == entry.to_json() => Ok(edited),
        _ => Err(by_hand(name)),
    }
}

/// The text without the entry of a server.
pub(super) fn remove(text: &str, name: &str) -> Result<String, String> {
    let document = parse(text)?;
    let splices = match servers_of(&document)?.and_then(|servers| servers.get(name)) {
        None => Vec::new(),
        Some(Item::Table(old)) if !old.is_dotted() => {
            let regions = regions_of(&document, text, old).ok_or_else(|| by_hand(name))?;
            regions.into_iter().map(|region| Splice::remove(with_gap(text, region))).collect()
        }
        Some(Item::Value(old)) => {
            let range = value_region(&document, text, name, old).ok_or_else(|| by_hand(name))?;
            vec![Splice::remove(range)]
        }
        Some(_) => return Err(by_hand(name)),
    };
    let edited = apply(text, splices);
    match get(&edited, name) {
        Ok(None) => Ok(edited),
        _ => Err(by_hand(name)),
    }
}

fn by_hand(name: &str) -> String {
    format!("its `{SERVERS}` is written in a form that is not edited here: add or remove `{SERVERS}.{name}` by hand")
}

fn parse(text: &str) -> Result<Document<&str>, String> {
    Document::parse(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let before = text.get(..at).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!("{} on line {line} column {column}", error.message().replace('\n', ", "))
    })
}

fn servers_of<'a>(document: &'a Document<&str>) -> Result<Option<&'a dyn TableLike>, String> {
    match document.get(SERVERS) {
        None => Ok(None),
        Some(item) => item.as_table_like().map(Some).ok_or_else(|| format!("its `{SERVERS}` is not a table")),
    }
}

/// A table of its own, header and all.
fn block(name: &str, entry: &Entry, newline: &str) -> String {
    let lines = entry.fields().iter().map(|(key, value)| format!("{key} = {}{newline}", to_toml(value)));
    format!("[{SERVERS}.{name}]{newline}{}", lines.collect::<String>())
}

fn inline(entry: &Entry) -> String {
    let members = entry.fields().iter().map(|(key, value)| format!("{key} = {}", to_toml(value)));
    format!("{{ {} }}", members.collect::<Vec<_>>().join(", "))
}

/// A value as TOML: texts and lists of texts, of which entries are made.
fn to_toml(value: &Json) -> String {
    match value {
        Json::String(text) => Value::from(text.as_str()).to_string(),
        Json::Array(items) => format!("[{}]", items.iter().map(to_toml).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// At the end, after an empty line.
fn append(text: &str, block: &str, newline: &str) -> Splice {
    let gap = match text {
        "" => String::new(),
        text if text.ends_with('\n') => newline.to_owned(),
        _ => newline.repeat(2),
    };
    Splice::insert(text.len(), format!("{gap}{block}"))
}

/// The lines of a table and of the tables below it: from each header to its last value, without what follows.
fn regions_of(document: &Document<&str>, text: &str, table: &Table) -> Option<Vec<Range<usize>>> {
    let mut headers = Vec::new();
    collect_headers(document.as_table(), &mut headers);
    let (mut regions, mut open) = (Vec::new(), vec![table]);
    while let Some(table) = open.pop() {
        if let Some(header) = header_of(table) {
            let values = table.iter().filter_map(|(_, item)| item.as_value());
            let end = values.filter_map(Value::span).map(|span| span.end).max().unwrap_or(header.end).max(header.end);
            let region = header.start..line_end(text, end);
            if headers.iter().any(|other| *other > region.start && *other < region.end) {
                return None;
            }
            regions.push(region);
        }
        for (_, item) in table.iter() {
            match item {
                Item::Table(inner) if !inner.is_dotted() => open.push(inner),
                Item::Table(_) | Item::ArrayOfTables(_) => return None,
                _ => {}
            }
        }
    }
    regions.sort_by_key(|region| region.start);
    (!regions.is_empty()).then_some(regions)
}

/// The place of an entry that is a value, with its key: a line of a table, or a member of an inline one.
fn value_region(document: &Document<&str>, text: &str, name: &str, value: &Value) -> Option<Range<usize>> {
    let servers = document.get(SERVERS)?;
    let end = value.span()?.end;
    let start_of = |key: &str| servers.as_table_like()?.get_key_value(key)?.0.span().map(|span| span.start);
    let start = start_of(name)?;
    let Item::Value(Value::InlineTable(table)) = servers else {
        let line = text.get(..start)?.rfind('\n').map_or(0, |newline| newline + 1);
        return Some(line..line_end(text, end));
    };
    let others = || table.iter().filter(|(key, _)| *key != name);
    let previous = others().filter_map(|(_, value)| value.span()).map(|span| span.end).filter(|at| *at < start).max();
    let next = others().filter_map(|(key, _)| start_of(key)).filter(|at| *at > end).min();
    match (previous, next) {
        (Some(previous), _) => Some(previous..end),
        (None, Some(next)) => Some(start..next),
        (None, None) => table.span().map(|span| span.start + 1..span.end - 1),
    }
}

/// The header of a table, if it has one of its own.
fn header_of(table: &Table) -> Option<Range<usize>> {
    table.span().filter(|span| !span.is_empty() && !table.is_implicit() && !table.is_dotted())
}

/// Where each table of a document begins.
fn collect_headers(table: &Table, headers: &mut Vec<usize>) {
    headers.extend(header_of(table).map(|header| header.start));
    for (_, item) in table.iter() {
        match item {
            Item::Table(inner) => collect_headers(inner, headers),
            Item::ArrayOfTables(tables) => tables.iter().for_each(|inner| collect_headers(inner, headers)),
            _ => {}
        }
    }
}

/// A region with the empty line before it, which was put there to set it off.
fn with_gap(text: &str, region: Range<usize>) -> Range<usize> {
    let before = text.get(..region.start).unwrap_or_default();
    let line = ["\r\n", "\n"].into_iter().find(|line| before.ends_with(*line));
    let gap = line.filter(|line| before.strip_suffix(*line).is_some_and(|rest| rest.ends_with('\n')));
    region.start - gap.map_or(0, str::len)..region.end
}

fn to_json(item: &Item) -> Json {
    match item {
        Item::None => Json::Null,
        Item::Value(value) => value_json(value),
        Item::Table(table) => table_json(table),
        Item::ArrayOfTables(tables) => tables.iter().map(table_json).collect(),
    }
}

fn table_json(table: &Table) -> Json {
    Json::Object(table.iter().map(|(key, item)| (key.to_owned(), to_json(item))).collect())
}

fn value_json(value: &Value) -> Json {
    match value {
        Value::String(text) => Json::from(text.value().as_str()),
        Value::Integer(number) => Json::from(*number.value()),
        Value::Float(number) => Json::from(*number.value()),
        Value::Boolean(truth) => Json::from(*truth.value()),
        Value::Datetime(time) => Json::from(time.value().to_string()),
        Value::Array(items) => items.iter().map(value_json).collect(),
        Value::InlineTable(table) => {
            Json::Object(table.iter().map(|(key, value)| (key.to_owned(), value_json(value))).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(url: &str) -> Entry {
        Entry::new(vec![("command", json!("portreeve")), ("args", json!(["mcp", "--url", url]))])
    }

    const OURS: &str = "[mcp_servers.portreeve]\ncommand = \"portreeve\"\nargs = [\"mcp\", \"--url\", \"u\"]\n";

    #[test]
    fn an_entry_joins_what_is_there() {
        for (old, new) in [
            ("", OURS.to_owned()),
            ("a = 1\n", format!("a = 1\n\n{OURS}")),
            ("a = 1", format!("a = 1\n\n{OURS}")),
            ("[mcp_servers.x]\ncommand = \"x\"\n# the end\n", format!("[mcp_servers.x]\ncommand = \"x\"\n# the end\n\n{OURS}")),
            ("[mcp_servers]\nx = { command = \"x\" }\n", format!("[mcp_servers]\nx = {{ command = \"x\" }}\n\n{OURS}")),
            ("mcp_servers.x.command = \"x\"\n", format!("mcp_servers.x.command = \"x\"\n\n{OURS}")),
            (
                "mcp_servers = { x = { command = \"x\" } } # all\n",
                "mcp_servers = { x = { command = \"x\" }, portreeve = { command = \"portreeve\", args = [\"mcp\", \"--url\", \"u\"] } } # all\n"
                    .to_owned(),
            ),
            (
                "mcp_servers = {}\n",
                "mcp_servers = { portreeve = { command = \"portreeve\", args = [\"mcp\", \"--url\", \"u\"] } }\n".to_owned(),
            ),
        ] {
            assert_eq!(set(old, "portreeve", &entry("u")).unwrap(), new, "{old:?}");
        }
        let crlf = set("a = 1\r\n", "portreeve", &entry("u")).unwrap();
        assert_eq!(crlf, format!("a = 1\r\n\r\n{}", OURS.replace('\n', "\r\n")));
    }

    #[test]
    fn only_the_entry_is_replaced_and_only_the_entry_goes() {
        for text in [
            "a = 1\n",
            "# first\r\n[x]\r\ny = [\r\n  1, # one\r\n]\r\n",
            "text = \"\"\"\n[mcp_servers.portreeve]\n\"\"\"\n[mcp_servers.x]\ncommand = 'x'\n",
            "",
        ] {
            let first = set(text, "portreeve", &entry("u")).unwrap();
            let second = set(&first, "portreeve", &entry("v")).unwrap();
            assert_eq!(second, first.replace("\"u\"", "\"v\""));
            let more = format!("{second}\n# of z\n[z]\nw = 1 # w\n");
            let changed = set(&more, "portreeve", &entry("w")).unwrap();
            assert_eq!(changed, more.replace("\"v\"", "\"w\""));
            assert_eq!(remove(&changed, "portreeve").unwrap(), format!("{text}\n# of z\n[z]\nw = 1 # w\n"));
            assert_eq!(remove(&second, "portreeve").unwrap(), text);
        }
        for (text, rest) in [
            ("mcp_servers = { x = 1, portreeve = { args = [] }, y = 2 }\n", "mcp_servers = { x = 1, y = 2 }\n"),
            ("mcp_servers = { portreeve = { args = [] }, y = 2 }\n", "mcp_servers = { y = 2 }\n"),
            ("mcp_servers = { portreeve = { args = [] } } # x\n", "mcp_servers = {} # x\n"),
            ("[mcp_servers]\nx = 1\nportreeve = { args = [] } # o\ny = 2\n", "[mcp_servers]\nx = 1\ny = 2\n"),
        ] {
            assert_eq!(remove(text, "portreeve").unwrap(), rest);
        }
        // What the user added below our entry is part of it.
        let grown = format!("{OURS}\n[x]\n\n[mcp_servers.portreeve.env]\nA = \"1\"\n\n[y]\n");
        assert_eq!(remove(&grown, "portreeve").unwrap(), "\n[x]\n\n[y]\n");
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_place() {
        for (text, why) in [
            ("a = 1\nb = = 2\n", "line 2 column 5"),
            ("mcp_servers = 5\n", "not a table"),
            ("[mcp_servers.portreeve]\nargs.x = 1\n", "by hand"),
            ("mcp_servers.portreeve.args = [\"mcp\"]\n", "by hand"),
        ] {
            let error = set(text, "portreeve", &entry("u")).map(|_| ()).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
