//! The real binary as a command that runs and ends.

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::process::binary;
use super::{Client, cache_dir};

/// A command line to be.
pub(crate) struct Cli {
    command: Command,
    stdin: Vec<u8>,
}

/// What a command came to.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

/// The binary with some words, in a clean environment and without a terminal.
pub(crate) fn cli<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(words: I) -> Cli {
    let mut command = Command::new(binary());
    for name in
        ["PORTREEVE_URL", "PORTREEVE_DATA", "PORTREEVE_DATABASE_URL", "PORTREEVE_API_KEY", "XDG_DATA_HOME", "CVC5"]
    {
        command.env_remove(name);
    }
    // A default folder that is nobody's.
    command.env("HOME", Path::new(env!("CARGO_TARGET_TMPDIR")).join("nobody")).env("PORTREEVE_CACHE", cache_dir());
    command.args(words);
    Cli { command, stdin: Vec::new() }
}

impl Cli {
    pub(crate) fn arg(mut self, word: impl AsRef<OsStr>) -> Self {
        self.command.arg(word);
        self
    }

    pub(crate) fn args(mut self, words: &[&str]) -> Self {
        self.command.args(words);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// Against a server, with the key of a client.
    pub(crate) fn to(self, client: &Client) -> Self {
        let key = client.key.clone().unwrap_or_default();
        self.arg("--url").arg(format!("http://{}", client.address)).env("PORTREEVE_API_KEY", key)
    }

    /// On a data folder.
    pub(crate) fn on(self, data: &Path) -> Self {
        self.arg("--data").arg(data)
    }

    pub(crate) fn run(mut self) -> Ended {
        let mut child =
            self.command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A command that does not read its stdin may be gone already.
        drop(child.stdin.take().unwrap().write_all(&self.stdin));
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ended {
            code: output.status.code().expect("no signal ended it"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }

    /// Runs it for a program: `--json`, an exit code, a document on stdout.
    #[track_caller]
    pub(crate) fn json(self, code: i32) -> Value {
        let ended = self.arg("--json").run();
        assert_eq!(ended.code, code, "{ended:#?}");
        serde_json::from_str(&ended.stdout).unwrap_or_else(|error| panic!("{error}: {ended:#?}"))
    }

    /// Runs it for somebody who reads: an exit code, all that was said.
    #[track_caller]
    pub(crate) fn told(self, code: i32) -> String {
        let ended = self.run();
        assert_eq!(ended.code, code, "{ended:#?}");
        ended.stdout + &ended.stderr
    }
}
