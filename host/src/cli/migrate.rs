//! `portreeve migrate`: prepares a PostgreSQL database, or says what it would do.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::error::{CliError, EXIT_REFUSED, EXIT_USAGE};
use super::output::{Output, Tone};
use super::{failure, folders};
use crate::store::postgres::{self, Migrated, Told};

/// Prepare a PostgreSQL database for the service, or bring it up to date
///
/// Makes the roles portreeve_owner, portreeve_app and portreeve_auditor where they are missing, the schema `portreeve`, its
/// tables, functions and row security. Run it with a login that may create roles and a schema (the first time), or that is a
/// member of portreeve_owner; the service itself then runs as portreeve_app. Each migration is one transaction: one that
/// fails leaves nothing. The embedded store of a data folder needs none of this.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  portreeve migrate --database postgres://postgres@127.0.0.1/fleet\n  portreeve migrate --check\n  portreeve migrate --sql > schema.sql\n\nExit codes of --check: 0 up to date, 4 not yet"
)]
pub(super) struct Migrate {
    /// The database: postgres://USER@HOST/NAME [env: PORTREEVE_DATABASE_URL]
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// Change nothing; say what is there and what would be applied
    #[arg(long, conflicts_with = "sql")]
    check: bool,
    /// Change nothing; print the whole schema as a script for psql
    #[arg(long)]
    sql: bool,
}

impl Migrate {
    pub(super) async fn run(self, output: &Output) -> Result<ExitCode, CliError> {
        if self.sql {
            let script = postgres::script();
            if output.json {
                output.json(&json!({ "sql": script }))?;
            } else {
                output.line(script.trim_end())?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        let Some(options) = folders::database(self.database.as_deref(), None)? else {
            let next = "name it: --database postgres://USER@HOST/NAME, or PORTREEVE_DATABASE_URL";
            return Err(CliError::new("it is not known which database to prepare", next).with_exit(EXIT_USAGE));
        };
        if self.check {
            let there = postgres::check(&options).await.map_err(|error| failure::store(&error))?;
            let is_done = there.iter().all(|migrated| migrated.was_there);
            self.report(&there, output)?;
            return Ok(if is_done { ExitCode::SUCCESS } else { ExitCode::from(EXIT_REFUSED) });
        }
        let mut unsaid = Ok(());
        let mut say = |told: Told<'_>| match told {
            Told::Waits => output
                .note("another `portreeve migrate` or `migrate-store` is at work on this database; waiting for it"),
            Told::Migrated(migrated) if !output.json && unsaid.is_ok() => unsaid = self.say(migrated, output),
            Told::Migrated(_) => {}
        };
        let all = postgres::migrate(&options, &mut say).await.map_err(|error| failure::store(&error))?;
        unsaid?;
        if output.json {
            self.report(&all, output)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn report(&self, all: &[Migrated], output: &Output) -> Result<(), CliError> {
        if !output.json {
            return all.iter().try_for_each(|migrated| self.say(migrated, output));
        }
        let state = |migrated: &Migrated| json!({"version": migrated.version, "name": migrated.name, "state": self.state(migrated)});
        let is_done = !self.check || all.iter().all(|migrated| migrated.was_there);
        output.json(&json!({"up_to_date": is_done, "migrations": all.iter().map(state).collect::<Vec<_>>()}))
    }

    fn say(&self, migrated: &Migrated, output: &Output) -> Result<(), CliError> {
        let tone = if migrated.was_there { Tone::Faint } else { Tone::Good };
        let state = output.paint(tone, self.state(migrated));
        output.line(format_args!("{:04} {:<24} {state}", migrated.version, migrated.name))
    }

    const fn state(&self, migrated: &Migrated) -> &'static str {
        match (migrated.was_there, self.check) {
            (true, _) => "was there",
            (false, true) => "missing",
            (false, false) => "applied",
        }
    }
}
