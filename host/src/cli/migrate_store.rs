//! `portreeve migrate-store`: moves the embedded store of a data folder to a PostgreSQL database.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use serde_json::{Map, Value, json};

use super::error::{CliError, EXIT_USAGE};
use super::output::{Output, Tone};
use super::progress::Moving;
use super::{failure, folders};
use crate::clock::{Clock, SystemClock};
use crate::store::{Moved, abandon, move_store, postgres};

/// Move the store of a data folder to a PostgreSQL database, audit log and all
///
/// The database is one that `portreeve migrate` prepared and that nobody served; the login is one that may act as
/// portreeve_owner. First the folder's store is closed for writing, also to a service that still runs on it; then its
/// audit log is copied and verified, row by row and hash by hash, and after it everything else. A move that breaks off
/// at any moment goes on where it was when it is run again. Then serve the database from the same folder: keys stay
/// good.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  portreeve migrate --database postgres://postgres@127.0.0.1/fleet\n  portreeve migrate-store --from ./coordinator --to postgres://postgres@127.0.0.1/fleet\n  portreeve migrate-store --from ./coordinator --to postgres://postgres@127.0.0.1/fleet --abandon"
)]
pub(super) struct MigrateStore {
    /// The data folder whose store moves
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// The database: postgres://USER@HOST/NAME [env: PORTREEVE_DATABASE_URL]
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// Give up a move that is not finished: the folder's store is open again, and the database is of no more use
    #[arg(long)]
    abandon: bool,
    /// With --abandon: the database of the move is gone for good, and is not asked. Where it is not, the store would be there twice
    #[arg(long, requires = "abandon")]
    target_lost: bool,
}

impl MigrateStore {
    pub(super) async fn run(self, output: &Output) -> Result<ExitCode, CliError> {
        if self.target_lost {
            return self.give_up(&self.file()?, None, output).await;
        }
        let Some(options) = folders::database(self.to.as_deref(), None)? else {
            let next = "name it: --to postgres://USER@HOST/NAME, or PORTREEVE_DATABASE_URL";
            return Err(CliError::new("it is not known which database to move to", next).with_exit(EXIT_USAGE));
        };
        let file = self.file()?;
        if self.abandon {
            return self.give_up(&file, Some(&options), output).await;
        }
        let mut moving = Moving::new(output);
        let moved = move_store(&file, &options, SystemClock::default().now(), &mut |step| moving.show(step)).await;
        drop(moving);
        self.report(&moved.map_err(|error| failure::store(&error))?, &options, output)?;
        Ok(ExitCode::SUCCESS)
    }

    /// The folder's store.
    fn file(&self) -> Result<PathBuf, CliError> {
        let (shown, file) = (self.from.display(), folders::store_file(&self.from));
        if !self.from.is_dir() {
            let next = "name the data folder of a service: --from DIR";
            return Err(CliError::new(format!("there is no folder `{shown}`"), next));
        }
        if !file.is_file() {
            let next = "name the folder that `portreeve serve` keeps its store in: --from DIR";
            return Err(CliError::new(format!("the folder `{shown}` holds no store (portreeve.db)"), next));
        }
        Ok(file)
    }

    async fn give_up(
        &self,
        file: &Path,
        options: Option<&postgres::Options>,
        output: &Output,
    ) -> Result<ExitCode, CliError> {
        let now = SystemClock::default().now();
        let abandoned = abandon(file, options, now).await.map_err(|error| failure::store(&error))?;
        if output.json {
            output.json(&json!({"abandoned": abandoned.was_closed, "log_rows_left": abandoned.log_rows}))?;
            return Ok(ExitCode::SUCCESS);
        }
        let folder = self.from.display();
        output.line(if abandoned.was_closed {
            format!("the move was given up; `portreeve serve --data {folder}` serves the store as before")
        } else {
            format!("no move of the store in {folder} had begun")
        })?;
        if abandoned.log_rows > 0 {
            output.line(format_args!(
                "the database keeps {} rows of its log, which nothing deletes: drop it, no store moves to it any more",
                abandoned.log_rows
            ))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn report(&self, moved: &Moved, options: &postgres::Options, output: &Output) -> Result<(), CliError> {
        if output.json {
            let tables: Map<String, Value> =
                moved.tables.iter().map(|(name, n)| ((*name).to_owned(), json!(n))).collect();
            return output.json(&json!({
                "database": options.to_string(), "was_finished": moved.was_finished, "log_rows": moved.log_rows,
                "log_rows_before": moved.log_rows_before, "tables": tables,
            }));
        }
        let done = if moved.was_finished { "was there already; nothing was changed" } else { "moved and verified" };
        let rows = |name: &str, n: u64| format!("{name} {n}");
        let tables: Vec<String> = moved.tables.iter().map(|(name, n)| rows(name, *n)).collect();
        output.line(format_args!("audit log     {} rows, {}", moved.log_rows, output.paint(Tone::Good, done)))?;
        output.line(format_args!("tables        {}", tables.join(", ")))?;
        output.line(format_args!("database      {options}"))?;
        output.line(format_args!(
            "serve it      portreeve serve --data {} --database URL   (as portreeve_app; the folder's keys stay good)",
            self.from.display()
        ))
    }
}
