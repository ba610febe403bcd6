//! Files as nobody writes them: put together by chance, set up, changed, and taken back.

use serde_json::{Value, json};

use super::entry::Entry;
use super::record::{Original, Record};
use super::{Tool, get, remove, set};

const ROUNDS: u64 = 3000;

/// Chance that comes out the same every time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }

    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }

    /// What may stand between two tokens of JSON.
    fn gap(&mut self, newline: &str) -> String {
        let gaps = ["", "", " ", "\n", "\n    ", "\n\t", " // x, \"y\"\n", "/* { */", "\n\n  ", "\n// [\n  "];
        self.pick(&gaps).replace('\n', newline)
    }

    fn json_value(&mut self, newline: &str, depth: usize) -> String {
        match self.below(if depth > 2 { 4 } else { 6 }) {
            0 => "1.50".to_owned(),
            1 => "\"a \\\"b\\\" // c\"".to_owned(),
            2 => "null".to_owned(),
            3 => "{}".to_owned(),
            4 => format!("[{}1,{}\"]\"{}]", self.gap(newline), self.gap(newline), self.gap(newline)),
            _ => self.json_object(newline, depth + 1, &["b", "command", "ä"]),
        }
    }

    fn json_object(&mut self, newline: &str, depth: usize, names: &[&str]) -> String {
        let mut text = format!("{{{}", self.gap(newline));
        let count = self.below(names.len() + 1);
        for (n, name) in names.iter().take(count).enumerate() {
            let value = if *name == "mcpServers" {
                self.json_object(newline, depth + 1, &["one", "two", "three"])
            } else {
                self.json_value(newline, depth)
            };
            let (before, after) = (self.gap(newline), self.gap(newline));
            let comma = if n + 1 < count || self.below(4) == 0 { "," } else { "" };
            text.push_str(&format!(
                "\"{name}\"{before}:{after}{value}{}{comma}{}",
                self.gap(newline),
                self.gap(newline)
            ));
        }
        text + "}"
    }

    fn json_file(&mut self) -> String {
        let newline = self.pick(&["\n", "\r\n"]);
        let names = if self.below(2) == 0 { ["a", "mcpServers", "z"] } else { ["mcpServers", "a", "z"] };
        let mark = self.pick(&["", "", "", "\u{feff}"]);
        let (before, after) = (self.gap(newline), self.gap(newline));
        match self.below(12) {
            0 => format!("{mark}{before}{after}"),
            _ => format!("{mark}{before}{}{after}", self.json_object(newline, 0, &names)),
        }
    }

    fn toml_file(&mut self) -> String {
        let newline = self.pick(&["\n", "\r\n"]);
        let lines = [
            "",
            "# x [mcp_servers.portreeve]",
            "k{n} = 1_000",
            "k{n} = \"\"\"\n[mcp_servers.portreeve]\n\"\"\"",
            "k{n} = [\n  1, # one\n]",
            "[t{n}]",
            "[t{n}.u] # of t",
            "[[l{n}]]",
            "[mcp_servers.s{n}]",
            "[mcp_servers.s{n}.env]",
            "'q{n}' = { a = 'b' }",
        ];
        let mut text =
            self.pick(&["", "mcp_servers = { a = { command = 'x' } }\n", "mcp_servers.a.command = 'x'\n"]).to_owned();
        let is_taken = !text.is_empty();
        for n in 0..self.below(9) {
            let line = self.pick(&lines);
            if !(is_taken && line.contains("mcp_servers.s")) {
                text.push_str(&line.replace("{n}", &n.to_string()));
                text.push('\n');
            }
        }
        if self.below(3) == 0 {
            text.pop();
        }
        text.replace('\n', newline)
    }
}

fn entry(url: &str) -> Entry {
    Entry::new(vec![
        ("command", json!("portreeve")),
        ("args", json!(["mcp", "--url", url])),
        ("env_vars", json!(["K"])),
    ])
}

/// Every other server, and whether the file is still read at all.
fn others(tool: Tool, text: &str) -> Vec<Option<Value>> {
    ["one", "two", "three", "a"]
        .into_iter()
        .map(|name| if tool == Tool::Codex { super::toml::get(text, name) } else { super::json::get(text, name) })
        .map(|found| found.unwrap_or_else(|why| panic!("{why}:\n{text}")))
        .collect()
}

#[test]
fn whatever_the_file_it_is_set_up_changed_and_found_again() {
    let mut chance = Chance(7);
    for round in 0..ROUNDS {
        let tool = if round % 2 == 0 { Tool::Cursor } else { Tool::Codex };
        let original = if tool == Tool::Codex { chance.toml_file() } else { chance.json_file() };
        let first = set(tool, &original, &entry("u")).unwrap_or_else(|why| panic!("{why}:\n{original}"));
        let second = set(tool, &first, &entry("v")).unwrap();
        for (text, url) in [(&first, "u"), (&second, "v")] {
            assert_eq!(get(tool, text).unwrap(), Some(entry(url).to_json()), "{original:?}\n{text}");
            assert_eq!(others(tool, text), others(tool, &original), "{original:?}\n{text}");
            // Back to the last byte, from wherever setup left it.
            let before = Original::Text(original.clone());
            assert_eq!(Record::of(&before, text, false).original(text), Some(before));
        }
        // Comments are there as before.
        let comments = |text: &str| text.matches("// ").count() + text.matches('#').count();
        assert_eq!(comments(&second), comments(&original), "{original:?}\n{second}");
        // Without a record the entry goes, and nothing else.
        let left = remove(tool, &second).unwrap_or_else(|why| panic!("{why}:\n{second}"));
        assert_eq!(get(tool, &left).unwrap(), None);
        assert_eq!(others(tool, &left), others(tool, &original), "{original:?}\n{left}");
        assert_eq!(comments(&left), comments(&original), "{original:?}\n{left}");
        assert!(original.contains("\r\n") || !left.contains('\r'));
    }
}
