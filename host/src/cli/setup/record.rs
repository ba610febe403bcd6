//! What setup remembers of a file that it changed, so that undoing leaves exactly what was there. It is kept with git's
//! own files, which no commit holds, and keeps of the file's content only what stood where the entry now stands.

use std::fs;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::place::write_whole;
use super::splice::Trace;
use crate::cli::error::CliError;

/// What setup did to one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Digest of the file as setup left it. Under another, somebody has edited it since.
    digest: String,
    /// Whether setup made the folder.
    pub(super) made_folder: bool,
    /// What leads back; none where there was no file.
    back: Option<Back>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Back {
    prefix: usize,
    before: String,
    after: usize,
    /// Digest of what it leads back to.
    digest: String,
}

/// What was there before setup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Original {
    /// No file.
    Absent,
    /// This.
    Text(String),
}

impl Record {
    /// The change from what was there to what is there now.
    pub(super) fn of(original: &Original, now: &str, made_folder: bool) -> Self {
        let back = match original {
            Original::Absent => None,
            Original::Text(text) => {
                let Trace { prefix, before, after } = Trace::between(text, now);
                Some(Back { prefix, before, after, digest: digest(text) })
            }
        };
        Self { digest: digest(now), made_folder, back }
    }

    /// What was there, if the file is as setup left it.
    pub(super) fn original(&self, now: &str) -> Option<Original> {
        if digest(now) != self.digest {
            return None;
        }
        let Some(back) = &self.back else { return Some(Original::Absent) };
        let trace = Trace { prefix: back.prefix, before: back.before.clone(), after: back.after };
        trace.undo(now).filter(|text| digest(text) == back.digest).map(Original::Text)
    }
}

fn digest(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The file that a record is kept in.
pub(super) struct Drawer(PathBuf);

impl Drawer {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The record, if there is one. One that is not understood is none: undoing then takes out the entry alone.
    pub(super) fn read(&self) -> Option<Record> {
        fs::read_to_string(&self.0).ok().and_then(|text| serde_json::from_str(&text).ok())
    }

    pub(super) fn keep(&self, record: &Record) -> Result<(), CliError> {
        let text = serde_json::to_string(record).map_err(|error| {
            CliError::new(
                format!("cannot write down what was done: {error}"),
                "report this: it is a fault of the program",
            )
        })?;
        write_whole(&self.0, &format!("{text}\n"))
    }

    pub(super) fn clear(&self) {
        // A record that stays is of a file that is no longer so, and is not followed.
        drop(fs::remove_file(&self.0));
        drop(self.0.parent().map(fs::remove_dir));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_leads_back_only_from_what_setup_left() {
        let before = Original::Text("{ \"a\": 1 }".to_owned());
        let now = "{ \"a\": 1, \"b\": 2 }";
        let record = Record::of(&before, now, false);
        assert_eq!(record.original(now), Some(before));
        assert_eq!(record.original("{ \"a\": 1, \"b\": 3 }"), None);
        assert!(!serde_json::to_string(&record).unwrap().contains("\\\"a\\\""), "the file's own content is not kept");
        let record = Record::of(&Original::Absent, now, true);
        assert_eq!((record.original(now), record.made_folder), (Some(Original::Absent), true));
    }
}
