//! The entry of one server in a JSON file, comments and all: put in, replaced, taken out. Nothing else moves.

use jsonc_parser::ast::{Object, ObjectProp, Value};
use jsonc_parser::common::Ranged;
use jsonc_parser::tokens::{Token, TokenAndRange};
use jsonc_parser::{CollectOptions, CommentCollectionStrategy, ParseOptions, parse_to_ast};
use serde_json::Value as Json;

use super::entry::Entry;
use super::splice::{Splice, apply, indent_at, line_indent, newline_of};

/// Where tools that read JSON keep their servers.
const SERVERS: &str = "mcpServers";
const MARK: char = '\u{feff}';

/// What tools accept, and not more: a file that they do not read is not to be written to.
const OPTIONS: ParseOptions = ParseOptions {
    allow_comments: true,
    allow_loose_object_property_names: false,
    allow_trailing_commas: true,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

/// A text that is read.
struct Read<'a> {
    text: &'a str,
    root: Option<Object<'a>>,
    tokens: Vec<TokenAndRange<'a>>,
}

/// The entry of a server, if there is one.
pub(super) fn get(text: &str, name: &str) -> Result<Option<Json>, String> {
    let read = Read::of(body_of(text))?;
    let Some(servers) = read.servers()? else { return Ok(None) };
    Ok(property(servers, name)?.map(|entry| Json::from(entry.value.clone())))
}

/// The text with the entry of a server.
pub(super) fn set(text: &str, name: &str, entry: &Entry) -> Result<String, String> {
    edit(text, |read| match read.servers()? {
        None => Ok(read.insert_servers(name, entry)),
        Some(servers) => Ok(match property(servers, name)? {
            None => read.insert(servers, name, &Node::of(entry)),
            Some(old) => vec![read.replace(old, &Node::of(entry))],
        }),
    })
}

/// The text without the entry of a server.
pub(super) fn remove(text: &str, name: &str) -> Result<String, String> {
    edit(text, |read| {
        let Some(servers) = read.servers()? else { return Ok(Vec::new()) };
        Ok(property(servers, name)?.map(|entry| read.take_out(servers, entry)).unwrap_or_default())
    })
}

fn edit(text: &str, change: impl Fn(&Read<'_>) -> Result<Vec<Splice>, String>) -> Result<String, String> {
    let body = body_of(text);
    let edited = apply(body, change(&Read::of(body)?)?);
    let mark = if body.len() < text.len() { MARK.to_string() } else { String::new() };
    Ok(mark + &edited)
}

/// The text without the mark that some editors put at its beginning.
fn body_of(text: &str) -> &str {
    text.strip_prefix(MARK).unwrap_or(text)
}

/// The one property of a name: readers disagree about which of two is meant.
fn property<'r, 'a>(object: &'r Object<'a>, name: &str) -> Result<Option<&'r ObjectProp<'a>>, String> {
    let mut found = object.properties.iter().filter(|property| property.name.as_str() == name);
    match (found.next(), found.next()) {
        (first, None) => Ok(first),
        _ => Err(format!("it has `{name}` twice")),
    }
}

impl<'a> Read<'a> {
    fn of(text: &'a str) -> Result<Self, String> {
        let collect = CollectOptions { comments: CommentCollectionStrategy::AsTokens, tokens: true };
        let parsed = parse_to_ast(text, &collect, &OPTIONS).map_err(|error| error.to_string())?;
        let root = match parsed.value {
            None => None,
            Some(Value::Object(object)) => Some(object),
            Some(_) => return Err("it is not a JSON object".to_owned()),
        };
        Ok(Self { text, root, tokens: parsed.tokens.unwrap_or_default() })
    }

    fn servers(&self) -> Result<Option<&Object<'a>>, String> {
        let Some(root) = &self.root else { return Ok(None) };
        match property(root, SERVERS)?.map(|property| &property.value) {
            None => Ok(None),
            Some(Value::Object(servers)) => Ok(Some(servers)),
            Some(_) => Err(format!("its `{SERVERS}` is not a JSON object")),
        }
    }

    fn newline(&self) -> &'static str {
        newline_of(self.text)
    }

    /// What the file indents by: the white space before its first property, else two spaces.
    fn unit(&self) -> &'a str {
        let first = self.root.as_ref().and_then(|root| root.properties.first());
        first.and_then(|first| indent_at(self.text, first.range.start)).filter(|unit| !unit.is_empty()).unwrap_or("  ")
    }

    fn between(&self, start: usize, end: usize) -> &'a str {
        self.text.get(start..end).unwrap_or_default()
    }

    /// The first token from a position on that is no comment.
    fn token_from(&self, at: usize) -> Option<&TokenAndRange<'a>> {
        let is_comment = |token: &Token<'_>| matches!(token, Token::CommentLine(_) | Token::CommentBlock(_));
        self.tokens.iter().find(|token| token.range.start >= at && !is_comment(&token.token))
    }

    fn comma_after(&self, at: usize) -> Option<usize> {
        self.token_from(at).filter(|token| token.token == Token::Comma).map(|token| token.range.end)
    }

    /// The end of what a line says after a position: comments that belong to what stands before it.
    fn end_of_remarks(&self, at: usize) -> usize {
        let comments = self.tokens.iter().filter(|token| token.range.start >= at);
        let mut end = at;
        for token in comments {
            let is_comment = matches!(token.token, Token::CommentLine(_) | Token::CommentBlock(_));
            if !is_comment || self.between(end, token.range.end).contains('\n') {
                break;
            }
            end = token.range.end;
        }
        // A line comment ends before its line does.
        end - usize::from(self.between(at, end).ends_with('\r'))
    }

    fn insert_servers(&self, name: &str, entry: &Entry) -> Vec<Splice> {
        let servers = Node::Members(vec![(name, Node::of(entry))]);
        match &self.root {
            Some(root) => self.insert(root, SERVERS, &servers),
            None => {
                let whole = Node::Members(vec![(SERVERS, servers)]);
                let newline = self.newline();
                let gap = if self.text.is_empty() || self.text.ends_with('\n') { "" } else { newline };
                let text = format!("{gap}{}{newline}", whole.pretty("", self.unit(), newline));
                vec![Splice::insert(self.text.len(), text)]
            }
        }
    }

    fn insert(&self, object: &Object<'a>, name: &str, value: &Node<'_>) -> Vec<Splice> {
        match object.properties.last() {
            Some(last) => self.insert_after(object, last, name, value),
            None => vec![self.insert_first(object, name, value)],
        }
    }

    /// Into an object that is empty but for comments.
    fn insert_first(&self, object: &Object<'a>, name: &str, value: &Node<'_>) -> Splice {
        let (newline, unit) = (self.newline(), self.unit());
        let base = line_indent(self.text, object.range.start);
        let inner = self.between(object.range.start + 1, object.range.end - 1);
        let kept = inner.trim_end();
        let indent = format!("{base}{unit}");
        let property = format!("{newline}{indent}{}", member(name, value, &indent, unit, newline));
        let rest = inner.get(kept.len()..).unwrap_or_default();
        let close = if rest.contains('\n') { String::new() } else { format!("{newline}{base}") };
        Splice::insert(object.range.start + 1 + kept.len(), property + &close)
    }

    fn insert_after(&self, object: &Object<'a>, last: &ObjectProp<'a>, name: &str, value: &Node<'_>) -> Vec<Splice> {
        let (newline, unit) = (self.newline(), self.unit());
        let comma = self.comma_after(last.range.end);
        let end = comma.unwrap_or(last.range.end);
        let is_single_line = !self.between(object.range.start, object.range.end).contains('\n');
        let separator = if comma.is_some() { "" } else { "," };
        if is_single_line {
            let space = if self.between(object.range.start, last.range.end).contains("\": ") { " " } else { "" };
            let close = if comma.is_some() { "," } else { "" };
            return vec![Splice::insert(
                end,
                format!("{separator}{space}{}{close}", member_inline(name, value, space)),
            )];
        }
        let base = line_indent(self.text, object.range.start);
        let indent = indent_at(self.text, last.range.start).map_or_else(|| format!("{base}{unit}"), str::to_owned);
        let close = if comma.is_some() { "," } else { "" };
        let property = format!("{newline}{indent}{}{close}", member(name, value, &indent, unit, newline));
        let mut splices = vec![Splice::insert(self.end_of_remarks(end), property)];
        if comma.is_none() {
            splices.insert(0, Splice::insert(last.range.end, separator));
        }
        splices
    }

    fn replace(&self, old: &ObjectProp<'a>, entry: &Node<'_>) -> Splice {
        let range = old.value.range();
        let old_text = self.between(range.start, range.end);
        let text = if old_text.contains('\n') {
            entry.pretty(line_indent(self.text, old.range.start), self.unit(), self.newline())
        } else {
            entry.inline(if old_text.contains("\": ") { " " } else { "" })
        };
        Splice { range: range.start..range.end, text }
    }

    /// Takes out a property with one comma; comments stay.
    fn take_out(&self, object: &Object<'a>, gone: &ObjectProp<'a>) -> Vec<Splice> {
        let before = self.between(object.range.start + 1, gone.range.start);
        let start = gone.range.start - (before.len() - before.trim_end().len());
        if let Some(comma) = self.comma_after(gone.range.end) {
            return vec![Splice::remove(start..gone.range.end), Splice::remove(comma - 1..comma)];
        }
        let mut splices = vec![Splice::remove(start..gone.range.end)];
        let is_before = |property: &&ObjectProp<'_>| property.range.end <= gone.range.start;
        let previous = object.properties.iter().rev().find(is_before);
        if let Some(comma) = previous.and_then(|previous| self.comma_after(previous.range.end)) {
            splices.insert(0, Splice::remove(comma - 1..comma));
        }
        splices
    }
}

/// What is to be written, in the order that it is to be read.
enum Node<'a> {
    Value(&'a Json),
    Members(Vec<(&'a str, Node<'a>)>),
}

impl<'a> Node<'a> {
    fn of(entry: &'a Entry) -> Self {
        Self::Members(entry.fields().iter().map(|(name, value)| (*name, Self::of_value(value))).collect())
    }

    fn of_value(value: &'a Json) -> Self {
        match value {
            Json::Object(map) => {
                Self::Members(map.iter().map(|(name, value)| (name.as_str(), Self::of_value(value))).collect())
            }
            other => Self::Value(other),
        }
    }

    /// On several lines; lists stay on one.
    fn pretty(&self, indent: &str, unit: &str, newline: &str) -> String {
        let Self::Members(members) = self else { return self.inline(" ") };
        let inner = format!("{indent}{unit}");
        let lines = members.iter().map(|(name, node)| format!("{inner}{}", member(name, node, &inner, unit, newline)));
        format!("{{{newline}{}{newline}{indent}}}", lines.collect::<Vec<_>>().join(&format!(",{newline}")))
    }

    /// On one line, with `space` after colons and commas.
    fn inline(&self, space: &str) -> String {
        let separator = format!(",{space}");
        match self {
            Self::Members(members) => {
                let members = members.iter().map(|(name, node)| member_inline(name, node, space));
                format!("{{{}}}", members.collect::<Vec<_>>().join(&separator))
            }
            Self::Value(Json::Array(items)) => {
                let items = items.iter().map(|item| Node::of_value(item).inline(space));
                format!("[{}]", items.collect::<Vec<_>>().join(&separator))
            }
            Self::Value(other) => other.to_string(),
        }
    }
}

fn member(name: &str, node: &Node<'_>, indent: &str, unit: &str, newline: &str) -> String {
    format!("{}: {}", Json::from(name), node.pretty(indent, unit, newline))
}

fn member_inline(name: &str, node: &Node<'_>, space: &str) -> String {
    format!("{}:{space}{}", Json::from(name), node.inline(space))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn entry(url: &str) -> Entry {
        Entry::new(vec![
            ("command", json!("portreeve")),
            ("args", json!(["mcp", "--url", url])),
            ("env", json!({"K": "${K}"})),
        ])
    }

    const OURS: &str = "\"portreeve\": {\n      \"command\": \"portreeve\",\n      \"args\": [\"mcp\", \"--url\", \"u\"],\n      \"env\": {\n        \"K\": \"${K}\"\n      }\n    }";

    #[test]
    fn an_entry_joins_what_is_there_in_its_own_style() {
        let whole = format!("{{\n  \"mcpServers\": {{\n    {OURS}\n  }}\n}}");
        let cases = [
            ("", format!("{whole}\n")),
            ("{}", whole.clone()),
            ("{}\n", format!("{whole}\n")),
            ("{\n}\n", format!("{whole}\n")),
            ("// only this", format!("// only this\n{whole}\n")),
            (
                "{\n  // none yet\n}\n",
                format!("{{\n  // none yet\n  \"mcpServers\": {{\n    {OURS}\n  }}\n}}\n"),
            ),
            (
                "{\n  \"mcpServers\": {\n    \"a\": {} // of a\n  },\n  \"z\": 1\n}\n",
                format!("{{\n  \"mcpServers\": {{\n    \"a\": {{}}, // of a\n    {OURS}\n  }},\n  \"z\": 1\n}}\n"),
            ),
            (
                "{\n  \"mcpServers\": {\n    \"a\": {}, // of a\n  },\n}\n",
                format!("{{\n  \"mcpServers\": {{\n    \"a\": {{}}, // of a\n    {OURS},\n  }},\n}}\n"),
            ),
            (
                "{\"mcpServers\":{\"a\":{}}}",
                "{\"mcpServers\":{\"a\":{},\"portreeve\":{\"command\":\"portreeve\",\"args\":[\"mcp\",\"--url\",\"u\"],\"env\":{\"K\":\"${K}\"}}}}"
                    .to_owned(),
            ),
        ];
        for (old, new) in cases {
            assert_eq!(set(old, "portreeve", &entry("u")).unwrap(), new, "{old:?}");
        }
        let crlf = "\u{feff}{\r\n\t\"mcpServers\": {\r\n\t}\r\n}\r\n";
        let set_crlf = set(crlf, "portreeve", &entry("u")).unwrap();
        assert!(
            set_crlf.starts_with("\u{feff}{\r\n\t\"mcpServers\": {\r\n\t\t\"portreeve\": {\r\n\t\t\t\"command\""),
            "{set_crlf}"
        );
        assert!(!set_crlf.replace("\r\n", "").contains('\n'));
    }

    #[test]
    fn only_the_entry_is_replaced_and_only_the_entry_goes() {
        for text in [
            "{ \"mcpServers\": { \"a\": 1, /* x */ \"b\": 2 } }",
            "{\n  \"mcpServers\": {\n    \"a\": {}, // of a\n    // before the end\n  }\n}\n",
            "{\n\t\"mcpServers\": {\n\t\t\"a\": {}\n\t}, // of all\n\t\"z\": [1,\n2]\n}",
            "{\"mcpServers\": {\"a\": 1,}}",
        ] {
            let first = set(text, "portreeve", &entry("u")).unwrap();
            assert_eq!(get(&first, "portreeve").unwrap(), Some(entry("u").to_json()), "{first}");
            let second = set(&first, "portreeve", &entry("v")).unwrap();
            assert_eq!(second, first.replace("\"u\"", "\"v\""), "{first}");
            // Another joins, and stays when the first goes.
            let third = set(&second, "other", &entry("w")).unwrap();
            let rest = remove(&third, "portreeve").unwrap();
            assert_eq!(
                (get(&rest, "portreeve").unwrap(), get(&rest, "other").unwrap()),
                (None, Some(entry("w").to_json()))
            );
            assert_eq!(remove(&second, "portreeve").unwrap(), text);
            assert_eq!(remove(text, "portreeve").unwrap(), text);
        }
    }

    #[test]
    fn what_is_not_understood_is_refused_with_its_place() {
        for (text, why) in [
            ("{\n  \"a\": 1,\n  oops\n}", "line 3"),
            ("{\"a\": 1 \"b\": 2}", "line 1"),
            ("[]", "not a JSON object"),
            ("{\"mcpServers\": []}", "`mcpServers` is not"),
            ("{\"mcpServers\": {}, \"mcpServers\": {}}", "`mcpServers` twice"),
            ("{\"mcpServers\": {\"portreeve\": 1, \"portreeve\": 2}}", "`portreeve` twice"),
        ] {
            let error = set(text, "portreeve", &entry("u")).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
