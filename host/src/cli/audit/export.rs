//! `portreeve audit export`: the whole log as a file, for other programs.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::cli::error::CliError;
use crate::cli::failure;
use crate::cli::output::Output;
use crate::cli::transport::Where;
use crate::clock::SystemClock;
use crate::store::Store;
use crate::store::audit::AuditRow;
use crate::trace::Trace;

/// Rows in one read.
const PAGE: i64 = 1000;

/// Write the whole log to a file: as JSON, or for the model checker
///
/// `jsonl` is one row a line as it is stored, each column a field, with its leaf hash. `tla` is the TLA+ module that
/// formal/validate holds against the specification. Reads the store itself, not a server; rows that come meanwhile are not
/// part of it.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  portreeve audit export --format jsonl -o log.jsonl\n  portreeve audit export --format tla -o log.tla && formal/validate log.tla"
)]
pub(super) struct Export {
    /// What to write
    #[arg(long, value_enum)]
    format: Format,
    /// The file to write [default: stdout]
    #[arg(short, long = "out", value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One JSON object a line
    Jsonl,
    /// The TLA+ module Log
    Tla,
}

impl Export {
    pub(super) async fn run(&self, place: &Where, output: &Output) -> Result<ExitCode, CliError> {
        if place.url.is_some() {
            let next = "run it where the data folder is: --data DIR";
            return Err(CliError::new("`audit export` reads the store itself", next));
        }
        let data = place.store_folder()?;
        let location = crate::app::location(&data, place.database(&data)?);
        let store = Store::open(location, Arc::new(SystemClock::default())).await;
        let store = store.map_err(|error| failure::store(&error))?;
        let written = self.write(&store).await;
        store.close().await;
        let rows = written?;
        if let Some(out) = &self.out {
            output.note(format_args!("{rows} row(s) in {}", out.display()));
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn write(&self, store: &Store) -> Result<u64, CliError> {
        let mut to: BufWriter<Box<dyn Write + Send>> = BufWriter::new(match &self.out {
            Some(path) => Box::new(File::create(path).map_err(|error| self.unwritten(&error))?),
            None => Box::new(std::io::stdout()),
        });
        let (mut trace, mut last, mut rows) = (Trace::default(), 0_i64, 0_u64);
        loop {
            let page = store.view().audit_rows(last, PAGE).await.map_err(|error| failure::store(&error))?;
            if page.is_empty() {
                break;
            }
            for (row, leaf_hash) in page {
                match self.format {
                    Format::Tla => trace
                        .push(&row)
                        .map_err(|error| CliError::new(error.to_string(), "verify the log: portreeve audit verify"))?,
                    Format::Jsonl => {
                        let line = line_of(&row, &leaf_hash)?;
                        writeln!(to, "{line}").map_err(|error| self.unwritten(&error))?;
                    }
                }
                last = row.seq;
                rows = rows.saturating_add(1);
            }
        }
        if self.format == Format::Tla {
            to.write_all(trace.to_tla().as_bytes()).map_err(|error| self.unwritten(&error))?;
        }
        to.flush().map_err(|error| self.unwritten(&error))?;
        Ok(rows)
    }

    fn unwritten(&self, error: &std::io::Error) -> CliError {
        let what = self.out.as_ref().map_or_else(|| "stdout".to_owned(), |path| path.display().to_string());
        CliError::new(format!("cannot write to `{what}`: {error}"), "choose another file: -o FILE")
    }
}

/// A row as it is stored, with its hash in hexadecimal digits.
fn line_of(row: &AuditRow, leaf_hash: &[u8]) -> Result<Value, CliError> {
    let mut line = serde_json::to_value(row).map_err(|error| CliError::new(error.to_string(), "report this"))?;
    if let Some(fields) = line.as_object_mut() {
        let hex: String = leaf_hash.iter().map(|byte| format!("{byte:02x}")).collect();
        fields.insert("leaf_hash".to_owned(), Value::from(hex));
    }
    Ok(line)
}
