//! The catalogue: everything that can be asked for, once. HTTP, MCP, OpenAPI, the
//! command line, the help, the demo and the coverage tests read this list.

use futures::future::BoxFuture;

use super::action::{Action, Query};
use super::entry::{answer, run_query};
use super::input::Input;
use super::tasks::TaskClaim;
use super::{agents, audit, locks, policy, tasks};
use crate::app::App;
use crate::authn::Principal;
use crate::error::Result;
use crate::gate::Circumstances;

pub use super::entry::{Answer, Call, Entry, Kind, Method, Names, Tool};

const LOCK_ACQUIRE: &str = "Take it before you edit a file, keep the fencing_token, renew before expires_at, and \
    release it when you are done. When another agent holds it (`action` is `blocked`) do something else meanwhile, or \
    wait for it with wait_seconds.";
const TASK_SUBMIT: &str =
    "The whole text of description and input is read by the guardrails before anything is stored.";
const TASK_CLAIM: &str = "The claim is a lease: send heartbeat_work with the claim_token before lease_expires_at, and \
    complete_work at the end. With wait_seconds it waits for a task.";

/// Everything that can be asked for.
pub static CATALOGUE: &[Entry] = &[
    Entry::command::<locks::LockAcquire>(Method::Post, "/locks/acquire", "Take a lock, or refresh your own")
        .details(LOCK_ACQUIRE)
        .tool(Tool::new("acquire_lock"))
        .run_by(run_acquire),
    Entry::command::<locks::LockRenew>(Method::Post, "/locks/renew", "Extend a lock that you hold under its token")
        .tool(Tool::new("renew_lock")),
    Entry::command::<locks::LockRelease>(Method::Post, "/locks/release", "Give back a lock that you hold")
        .tool(Tool::new("release_lock").idempotent()),
    Entry::query::<locks::LockVerify>(
        Method::Post,
        "/locks/verify",
        "Ask whether a fencing token is the newest and live",
    )
    .details("Ask before writing to something that a lock protects if the lock may have run out meanwhile.")
    .tool(Tool::new("verify_lock")),
    Entry::query::<locks::LockStatus>(Method::Get, "/locks/status/{*path}", "Look at one lock"),
    Entry::query::<locks::LockList>(Method::Get, "/locks", "List held locks")
        .details(
            "Look here before planning edits; name the files you care about in `file_paths`, or leave it out for all.",
        )
        .tool(Tool::new("check_locks"))
        .about_anyone(),
    Entry::command::<locks::LockForceRelease>(Method::Delete, "/locks/{*path}", "Free a lock whoever holds it")
        .details("For operators: the holder is not asked. Its fencing token stops being valid at once.")
        .tool(Tool::new("force_release_lock").destructive().idempotent()),
    Entry::command::<tasks::TaskSubmit>(Method::Post, "/work/submit", "Put a task into the queue")
        .details(TASK_SUBMIT)
        .tool(Tool::new("submit_work")),
    Entry::command::<TaskClaim>(Method::Post, "/work/claim", "Claim the next task that you may work on")
        .details(TASK_CLAIM)
        .tool(Tool::new("get_work"))
        .run_by(run_claim),
    Entry::command::<tasks::TaskHeartbeat>(Method::Post, "/work/heartbeat", "Extend the lease of your claim")
        .tool(Tool::new("heartbeat_work")),
    Entry::command::<tasks::TaskComplete>(Method::Post, "/work/complete", "Report how a claimed task went")
        .details("A failed task is tried again until its attempts are used up.")
        .tool(Tool::new("complete_work").idempotent()),
    Entry::command::<tasks::TaskCancel>(Method::Post, "/work/cancel", "Withdraw a task")
        .details("Only its submitter may, or an agent of trust 3. Tasks that depend on it fail.")
        .tool(Tool::new("cancel_work").destructive().idempotent()),
    Entry::query::<tasks::TaskGet>(Method::Post, "/work/get", "Look at one task")
        .tool(Tool::new("get_task"))
        .run_by(run_task_query::<tasks::TaskGet>),
    Entry::query::<tasks::TaskList>(Method::Get, "/work", "List tasks, newest first")
        .tool(Tool::new("list_tasks"))
        .about_anyone()
        .run_by(run_task_query::<tasks::TaskList>),
    Entry::query::<policy::GuardrailsCheck>(
        Method::Post,
        "/guardrails/check",
        "Ask which guardrails a text would meet",
    )
    .details("Ask before you run a command that deletes, overwrites, publishes or deploys. Nothing is run.")
    .tool(Tool::new("check_guardrails")),
    Entry::query::<policy::GuardrailsList>(Method::Get, "/guardrails/patterns", "List the guardrail patterns in force"),
    Entry::query::<policy::PolicyCheck>(Method::Post, "/policy/check", "Ask what policy would say to you")
        .details("Nothing is done. The facts about you come from the service, never from `context`.")
        .tool(Tool::new("check_policy")),
    Entry::query::<policy::PolicyValidate>(Method::Post, "/policy/validate", "Check Cedar text against the schema")
        .tool(Tool::new("validate_cedar_policy")),
    Entry::query::<policy::ProfileMe>(Method::Get, "/profiles/me", "See your own profile")
        .tool(Tool::new("get_my_profile")),
    Entry::query::<audit::AuditQuery>(Method::Get, "/audit", "Look into the audit log, newest first")
        .details("Agents below trust 3 see their own lines only.")
        .tool(Tool::new("query_audit"))
        .about_anyone(),
    Entry::command::<agents::AgentCreate>(Method::Post, "/agents", "Register an agent and give it a key")
        .about_anyone(),
    Entry::query::<agents::AgentList>(Method::Get, "/agents", "List agents and their keys").about_anyone(),
    Entry::command::<agents::AgentKeyCreate>(Method::Post, "/agents/{id}/keys", "Give an agent one more key")
        .about_anyone(),
    Entry::command::<agents::AgentKeyRevoke>(Method::Delete, "/agents/{id}/keys/{key_id}", "Take a key back")
        .about_anyone(),
    Entry::command::<agents::AgentProfile>(Method::Post, "/agents/{id}/profile", "Give an agent another profile")
        .about_anyone(),
    Entry::command::<agents::AgentSuspend>(
        Method::Post,
        "/agents/{id}/suspend",
        "Suspend an agent, or let it work again",
    )
    .about_anyone(),
];

/// The entry of a name.
#[must_use]
pub fn entry(name: &str) -> Option<&'static Entry> {
    CATALOGUE.iter().find(|entry| entry.name == name)
}

/// The entry that an MCP tool runs.
#[must_use]
pub fn entry_of_tool(name: &str) -> Option<&'static Entry> {
    CATALOGUE.iter().find(|entry| entry.tool.is_some_and(|tool| tool.name == name))
}

fn run_acquire<'a>(
    app: &'a App,
    who: &'a Principal,
    input: Input,
    circumstances: Circumstances,
) -> BoxFuture<'a, Result<Answer>> {
    Box::pin(async move {
        let command = locks::LockAcquire::parse(&input, who)?;
        let committed = locks::wait::acquire(app, who, command, &circumstances).await?;
        answer::<locks::LockAcquire>(committed)
    })
}

fn run_claim<'a>(
    app: &'a App,
    who: &'a Principal,
    input: Input,
    circumstances: Circumstances,
) -> BoxFuture<'a, Result<Answer>> {
    Box::pin(async move {
        let committed = tasks::claim::claim(app, who, TaskClaim::parse(&input, who)?, &circumstances).await?;
        answer::<TaskClaim>(committed)
    })
}

/// What time did to tasks is done before anyone looks at them.
fn run_task_query<'a, Q: Query>(
    app: &'a App,
    who: &'a Principal,
    input: Input,
    circumstances: Circumstances,
) -> BoxFuture<'a, Result<Answer>> {
    Box::pin(async move {
        app.expire_tasks().await?;
        run_query::<Q>(app, who, input, circumstances).await
    })
}
