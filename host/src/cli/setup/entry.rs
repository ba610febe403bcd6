//! The entry that setup writes: how a tool starts `portreeve mcp`. It never holds a key.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde_json::{Value, json};

/// The server's name in every tool's file.
pub(super) const SERVER: &str = "portreeve";
/// Where the key is: in the environment, never in a file.
const KEY_VARIABLE: &str = "PORTREEVE_API_KEY";

/// A tool that can be set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Tool {
    /// Claude Code: .mcp.json
    ClaudeCode,
    /// Codex: .codex/config.toml
    Codex,
    /// Cursor: .cursor/mcp.json
    Cursor,
}

impl Tool {
    /// The tool as people write it.
    pub(super) const fn title(self) -> &'static str {
        match self {
            Self::ClaudeCode => "Claude Code",
            Self::Codex => "Codex",
            Self::Cursor => "Cursor",
        }
    }

    /// The type that its agents are registered under.
    pub(super) const fn agent_type(self) -> &'static str {
        match self {
            Self::ClaudeCode => "claude_code",
            Self::Codex => "codex",
            Self::Cursor => "cursor",
        }
    }

    /// Its file in a repository: the folder, if it is in one of its own, and the name.
    pub(super) const fn file(self) -> (Option<&'static str>, &'static str) {
        match self {
            Self::ClaudeCode => (None, ".mcp.json"),
            Self::Codex => (Some(".codex"), "config.toml"),
            Self::Cursor => (Some(".cursor"), "mcp.json"),
        }
    }

    /// What is left to do in the tool itself.
    pub(super) const fn next(self) -> &'static str {
        match self {
            Self::ClaudeCode => {
                "start Claude Code in the repository anew, and approve the server `portreeve` when it asks"
            }
            Self::Codex => "start Codex in the repository anew; it reads this file once you trust the repository",
            Self::Cursor => "look at Cursor's settings, under MCP: the server `portreeve` must be switched on",
        }
    }
}

/// Where `portreeve mcp` finds the service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// A server; the key is in the environment.
    Server(String),
    /// A data folder, as one of its agents. None is the default folder.
    Folder { agent: String, data: Option<PathBuf> },
}

impl Target {
    fn args(&self) -> Vec<String> {
        let mut args = vec!["mcp".to_owned()];
        match self {
            Self::Server(url) => args.extend(["--url".to_owned(), url.clone()]),
            Self::Folder { agent, data } => {
                args.extend(["--agent".to_owned(), agent.clone()]);
                if let Some(data) = data {
                    args.extend(["--data".to_owned(), data.to_string_lossy().into_owned()]);
                }
            }
        }
        args
    }
}

/// The fields of an entry, in the order that they are written.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry(Vec<(&'static str, Value)>);

impl Entry {
    #[cfg(test)]
    pub(super) const fn new(fields: Vec<(&'static str, Value)>) -> Self {
        Self(fields)
    }

    /// The entry of a tool.
    pub(super) fn of(tool: Tool, command: &str, target: &Target) -> Self {
        let mut fields = vec![("command", json!(command)), ("args", json!(target.args()))];
        let is_server = matches!(target, Target::Server(_));
        match tool {
            Tool::Codex if is_server => fields.push(("env_vars", json!([KEY_VARIABLE]))),
            Tool::Codex => {}
            Tool::ClaudeCode | Tool::Cursor => {
                fields.insert(0, ("type", json!("stdio")));
                let from_environment = if tool == Tool::Cursor {
                    format!("${{env:{KEY_VARIABLE}}}")
                } else {
                    format!("${{{KEY_VARIABLE}}}")
                };
                fields.extend(is_server.then(|| ("env", json!({ KEY_VARIABLE: from_environment }))));
            }
        }
        Self(fields)
    }

    pub(super) fn fields(&self) -> &[(&'static str, Value)] {
        &self.0
    }

    pub(super) fn to_json(&self) -> Value {
        Value::Object(self.0.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect())
    }
}

/// Whether an entry is one that setup wrote, maybe with other arguments: it starts `mcp`.
pub(super) fn is_ours(entry: &Value) -> bool {
    let args = entry.get("args").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    args.iter().any(|arg| arg == "mcp")
}

/// How a tool starts this program: by its name, if the name leads to it, else by its path.
pub(super) fn command() -> std::io::Result<String> {
    let program = std::env::current_exe()?.canonicalize()?;
    let by_name = std::env::var_os("PATH").and_then(|path| find(&path));
    let is_it = by_name.and_then(|found| found.canonicalize().ok()).is_some_and(|found| found == program);
    Ok(if is_it { SERVER.to_owned() } else { program.to_string_lossy().into_owned() })
}

/// The first file of our name on the path: what a tool would start.
fn find(path: &std::ffi::OsStr) -> Option<PathBuf> {
    std::env::split_paths(path).map(|dir| dir.join(SERVER)).find(|file: &PathBuf| is_program(file))
}

fn is_program(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_holds_a_way_to_the_key_and_never_the_key() {
        let server = Target::Server("http://h:1".to_owned());
        let folder = Target::Folder { agent: "a".to_owned(), data: Some("/d".into()) };
        let entry = |tool, target| Entry::of(tool, "portreeve", target).to_json();
        assert_eq!(
            entry(Tool::ClaudeCode, &server),
            json!({"type": "stdio", "command": "portreeve", "args": ["mcp", "--url", "http://h:1"],
                   "env": {"PORTREEVE_API_KEY": "${PORTREEVE_API_KEY}"}})
        );
        assert_eq!(entry(Tool::Cursor, &server)["env"], json!({"PORTREEVE_API_KEY": "${env:PORTREEVE_API_KEY}"}));
        assert_eq!(entry(Tool::Codex, &server)["env_vars"], json!(["PORTREEVE_API_KEY"]));
        assert_eq!(
            entry(Tool::Codex, &folder),
            json!({"command": "portreeve", "args": ["mcp", "--agent", "a", "--data", "/d"]})
        );
        assert!(is_ours(&entry(Tool::Cursor, &folder)));
        assert!(!is_ours(&json!({"command": "portreeve", "args": ["serve"]})) && !is_ours(&json!("mcp")));
    }
}
