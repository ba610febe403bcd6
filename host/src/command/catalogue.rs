//! The catalogue: everything that can be asked for, once. HTTP, MCP, OpenAPI, the
//! command line, the help, the demo and the coverage tests read this list.

use futures::future::BoxFuture;

use super::action::{Action, Query};
use super::entry::{answer, run_query, to_value};
use super::input::Input;
use super::tasks::TaskClaim;
use super::{agents, audit, components, handoffs, locks, memories, network, policy, sessions, status, tasks};
use crate::app::App;
use crate::authn::Principal;
use crate::error::{Error, Result};
use crate::gate::Circumstances;

pub use super::entry::{Answer, Call, Entry, File, Kind, Method, Names, Tool};

const LOCK_ACQUIRE: &str = "Take it before you edit a file, keep the fencing_token, renew before expires_at, and \
    release it when you are done. When another agent holds it (`action` is `blocked`) do something else meanwhile, or \
    wait for it with wait_seconds.";
const TASK_SUBMIT: &str =
    "The whole text of description and input is read by the guardrails before anything is stored.";
const TASK_CLAIM: &str = "The claim is a lease: send heartbeat_work with the claim_token before lease_expires_at, and \
    complete_work at the end. With wait_seconds it waits for a task.";
const HANDOFF_WRITE: &str = "Do this before you stop or your context ends: what is done, what is begun, what was \
    decided, what to do next. It is never changed. The guardrails read it, because the next agent acts on it.";
const MEMORY_STORE: &str = "Do this after an error you solved, a decision, a discovery: whoever meets the same again \
    finds it with recall. The same event and summary within an hour add to the first memory.";
const MEMORY_QUERY: &str = "Ask before you begin something that somebody may have done before. Relevance falls by a \
    tenth a day; scope `all` shows what other agents learned.";
const SESSION_REGISTER: &str = "Do this first, once for each run, and send heartbeats: a session that is not heard of \
    for a while is ended, and with an agent's last one its locks and claims are given to others.";
const SESSION_HEARTBEAT: &str = "Send one every few minutes while you work. After `session_ended`, register again and \
    look whether you still hold your locks and claims.";
const SESSION_CLEANUP: &str = "For operators. Frees locks and requeues claims of agents that have no live session left, \
    and only what was not refreshed since; with dry_run it only counts. It takes so much at once: when the answer says \
    `remaining`, ask again.";
const STATUS_REPORT: &str = "Say so when your phase changes, when something blocks you, and with needs_human when you \
    cannot go on alone. Others see your last report beside your sessions. It counts as a heartbeat.";
const COMPONENT_UPLOAD: &str = "It is compiled and tried first: it must import nothing, know the service's operations, \
    pass the self-test and the tests it carries. The body is the component's bytes (application/wasm), at most \
    48 MiB. Nothing is activated by it.";
const COMPONENT_ACTIVATE: &str = "One atomic change of the epoch, if it is the expected one and every gate of the service \
    lets it pass; the answer says what was found. What was decided before commits before, or is decided anew. An older \
    component is activated in the same way.";
const COMPONENT_SHADOW: &str = "It is asked what the policy in force is asked, with a part of one processor at most, and \
    decides nothing.";

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
    Entry::query::<locks::LockStatus>(Method::Get, "/locks/status/{*file_path}", "Look at one lock"),
    Entry::query::<locks::LockList>(Method::Get, "/locks", "List held locks")
        .details(
            "Look here before planning edits; name the files you care about in `file_paths`, or leave it out for all.",
        )
        .tool(Tool::new("check_locks"))
        .about_anyone(),
    Entry::command::<locks::LockForceRelease>(Method::Delete, "/locks/{*file_path}", "Free a lock whoever holds it")
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
    Entry::command::<handoffs::HandoffWrite>(Method::Post, "/handoffs/write", "Leave word for the next agent")
        .details(HANDOFF_WRITE)
        .tool(Tool::new("write_handoff")),
    Entry::query::<handoffs::HandoffRead>(Method::Post, "/handoffs/read", "Read what agents left, newest first")
        .details("Read it when you begin, to go on where another agent, or you yourself, stopped.")
        .tool(Tool::new("read_handoff")),
    Entry::command::<memories::MemoryStore>(Method::Post, "/memory/store", "Remember what you learned")
        .details(MEMORY_STORE)
        .tool(Tool::new("remember")),
    Entry::query::<memories::MemoryQuery>(Method::Post, "/memory/query", "Look for what was learned before")
        .details(MEMORY_QUERY)
        .tool(Tool::new("recall")),
    Entry::command::<sessions::SessionRegister>(Method::Post, "/discovery/register", "Say that you are here")
        .details(SESSION_REGISTER)
        .tool(Tool::new("register_session")),
    Entry::query::<sessions::SessionList>(Method::Get, "/discovery/agents", "See who is here and what they are at")
        .details("Ask for a `capability` to find somebody who can help.")
        .tool(Tool::new("discover_agents")),
    Entry::command::<sessions::SessionHeartbeat>(Method::Post, "/discovery/heartbeat", "Say that you are still here")
        .details(SESSION_HEARTBEAT)
        .tool(Tool::new("heartbeat").idempotent()),
    Entry::command::<sessions::SessionCleanup>(
        Method::Post,
        "/discovery/cleanup",
        "End sessions that are no longer heard of",
    )
    .details(SESSION_CLEANUP)
    .tool(Tool::new("cleanup_dead_agents").destructive().idempotent()),
    Entry::command::<status::StatusReport>(Method::Post, "/status/report", "Say how you are getting on")
        .details(STATUS_REPORT)
        .tool(Tool::new("report_status")),
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
    Entry::query::<network::NetworkCheck>(Method::Post, "/network/check", "Ask whether you may connect to a name")
        .details("Ask before you fetch from a host. A name that is not allowed is an answer with its reason, no error.")
        .tool(Tool::new("check_network"))
        .run_by(run_network_check),
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
    Entry::command::<components::ComponentUpload>(Method::Post, "/components", "Store a policy component")
        .details(COMPONENT_UPLOAD)
        .file(File { field: "component", media_type: "application/wasm", bytes_max: components::COMPONENT_BYTES_MAX })
        .takes_long()
        .run_by(run_component_upload),
    Entry::query::<components::ComponentList>(Method::Get, "/components", "List the policy components that are stored"),
    Entry::query::<components::ComponentGet>(Method::Get, "/components/{digest}", "Look at one policy component"),
    Entry::command::<components::ComponentActivate>(
        Method::Post,
        "/components/{digest}/activate",
        "Put a stored policy component in force",
    )
    .details(COMPONENT_ACTIVATE)
    .takes_long()
    .run_by(run_component_activate),
    Entry::command::<components::ComponentShadow>(
        Method::Post,
        "/components/{digest}/shadow",
        "Ask a stored policy component beside the one in force, or no longer",
    )
    .details(COMPONENT_SHADOW)
    .run_by(run_component_shadow),
    Entry::query::<components::ComponentReport>(
        Method::Get,
        "/components/{digest}/report",
        "See where a component differs from the one in force",
    )
    .run_by(run_component_report),
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

/// Policy's denial of the name is the answer; its audit row says what policy decided.
fn run_network_check<'a>(
    app: &'a App,
    who: &'a Principal,
    input: Input,
    circumstances: Circumstances,
) -> BoxFuture<'a, Result<Answer>> {
    Box::pin(async move {
        let query = network::NetworkCheck::parse(&input, who)?;
        let domain = query.domain.clone();
        let output = match app.gate().ask(who, query, &circumstances).await {
            Err(Error::Denied(denial)) => match network::NetworkAnswer::of_denial(&domain, &denial) {
                Some(output) => output,
                None => return Err(Error::Denied(denial)),
            },
            asked => asked?,
        };
        Ok(Answer { status: 200, body: to_value(&output)?, replayed: false })
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

/// The log keeps the digest of a component, not its bytes.
fn run_component_upload<'a>(
    app: &'a App,
    who: &'a Principal,
    input: Input,
    mut circumstances: Circumstances,
) -> BoxFuture<'a, Result<Answer>> {
    Box::pin(async move {
        let command = components::ComponentUpload::parse(&input, who)?;
        drop(input);
        circumstances.parameters = command.parameters();
        let command = command.vetted_by(app.vetting());
        answer::<components::ComponentUpload>(app.gate().run(who, command, &circumstances).await?)
    })
}

fn run_component_activate<'a>(
    app: &'a App,
    who: &'a Principal,
    input: Input,
    circumstances: Circumstances,
) -> BoxFuture<'a, Result<Answer>> {
    Box::pin(async move {
        let command = components::ComponentActivate::parse(&input, who)?.vetted_by(app.vetting());
        let committed = app.gate().run(who, command, &circumstances).await?;
        app.follow_policy().await;
        answer::<components::ComponentActivate>(committed)
    })
}

fn run_component_shadow<'a>(
    app: &'a App,
    who: &'a Principal,
    input: Input,
    circumstances: Circumstances,
) -> BoxFuture<'a, Result<Answer>> {
    Box::pin(async move {
        let command = components::ComponentShadow::parse(&input, who)?;
        let committed = app.gate().run(who, command, &circumstances).await?;
        app.follow_policy().await;
        answer::<components::ComponentShadow>(committed)
    })
}

fn run_component_report<'a>(
    app: &'a App,
    who: &'a Principal,
    input: Input,
    circumstances: Circumstances,
) -> BoxFuture<'a, Result<Answer>> {
    Box::pin(async move {
        let seen = app.gate().policy().shadow().seen();
        let query = components::ComponentReport::parse(&input, who)?.with(seen);
        let output = app.gate().ask(who, query, &circumstances).await?;
        Ok(Answer { status: 200, body: to_value(&output)?, replayed: false })
    })
}
