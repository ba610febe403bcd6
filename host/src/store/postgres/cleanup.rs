//! Cleaning up after agents that are no longer heard of, in PostgreSQL.

use super::body::{Body, Unreadable};
use super::call::Call;
use super::decision::{Args, call};
use crate::command::sessions::{SessionCleanup, SessionsCleaned};

impl Call for SessionCleanup {
    const SQL: &'static str = call!("session_cleanup", "$32, $33");

    fn bind<'q>(&self, args: Args<'q>) -> Args<'q> {
        args.bind(self.stale_threshold_minutes).bind(self.dry_run)
    }

    fn read(self, body: &Body) -> Result<SessionsCleaned, Unreadable> {
        let (locks_released, tasks_requeued) = (body.int("locks_released")?, body.int("tasks_requeued")?);
        Ok(SessionsCleaned {
            success: body.flag("success")?,
            agents_cleaned: body.int("agents_cleaned")?,
            locks_released,
            tasks_requeued,
            remaining: body.opt_int("remaining")?,
            is_freed: !self.dry_run && (locks_released > 0 || tasks_requeued > 0),
        })
    }
}
