//! The catalogue: everything that can be asked for, once. HTTP, the command
//! line, the demo and the coverage tests read this list.

use futures::future::BoxFuture;
use serde_json::{Map, Value};

use super::action::{Action, Command, Query};
use super::input::{Field, Input, Place};
use super::tasks::TaskClaim;
use super::{agents, audit, locks, policy, tasks};
use crate::app::App;
use crate::authn::Principal;
use crate::error::{Error, Result};
use crate::gate::Circumstances;
use crate::store::{Apply, Committed};

/// Whether something changes state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It does.
    Mutation,
    /// It does not.
    Query,
}

/// Whose `agent_id` a request may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// Only the caller's own; another is refused.
    Caller,
    /// Any: it is what the request is about, or a filter.
    Anyone,
}

/// HTTP methods of the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names of the methods")]
pub enum Method {
    Get,
    Post,
    Delete,
}

impl Method {
    /// As it stands in a request line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Delete => "DELETE",
        }
    }
}

/// One request, as a surface hands it in.
#[derive(Debug, Clone)]
pub struct Call {
    /// Fields of body, query string and path together.
    pub input: Map<String, Value>,
    /// Where most of them came from, for error messages.
    pub place: Place,
    /// What else is known.
    pub circumstances: Circumstances,
}

/// An answer for any surface.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// The body.
    pub body: Value,
    /// Whether it is the first answer to a repeated request.
    pub replayed: bool,
}

type Run = for<'a> fn(&'a App, &'a Principal, Input, Circumstances) -> BoxFuture<'a, Result<Answer>>;

/// One line of the catalogue.
#[derive(Clone, Copy)]
pub struct Entry {
    /// Name, noun first.
    pub name: &'static str,
    /// The policy operation it asks for.
    pub operation: &'static str,
    /// Whether it changes state.
    pub kind: Kind,
    /// HTTP method.
    pub method: Method,
    /// HTTP path, with `{field}` and `{*field}`.
    pub path: &'static str,
    /// What it takes.
    pub input: &'static [Field],
    /// What it does, in a sentence.
    pub summary: &'static str,
    names: Names,
    run: Run,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} {})", self.name, self.method.as_str(), self.path)
    }
}

impl Entry {
    const fn command<C: Apply>(method: Method, path: &'static str, summary: &'static str) -> Self {
        Self {
            name: C::NAME,
            operation: C::OPERATION,
            kind: Kind::Mutation,
            method,
            path,
            input: C::INPUT,
            summary,
            names: Names::Caller,
            run: run_command::<C>,
        }
    }

    const fn query<Q: Query>(method: Method, path: &'static str, summary: &'static str) -> Self {
        Self {
            name: Q::NAME,
            operation: Q::OPERATION,
            kind: Kind::Query,
            method,
            path,
            input: Q::INPUT,
            summary,
            names: Names::Caller,
            run: run_query::<Q>,
        }
    }

    const fn about_anyone(mut self) -> Self {
        self.names = Names::Anyone;
        self
    }

    const fn run_by(mut self, run: Run) -> Self {
        self.run = run;
        self
    }

    /// Answers a call of `who`.
    ///
    /// # Errors
    /// Whatever keeps the call from its answer.
    pub async fn call(&self, app: &App, who: &Principal, mut call: Call) -> Result<Answer> {
        if self.names == Names::Caller {
            self.check_identity(app, who, &call).await?;
        }
        let input = Input::read(self.input, &call.input, call.place)?;
        call.circumstances.parameters = input.to_json();
        (self.run)(app, who, input, call.circumstances).await
    }

    /// Refuses, and records, a request that names another agent than its key.
    async fn check_identity(&self, app: &App, who: &Principal, call: &Call) -> Result<()> {
        for (field, own) in [("agent_id", who.agent_id()), ("agent_type", who.agent_type())] {
            let claimed = match call.input.get(field) {
                None | Some(Value::Null) => continue,
                Some(Value::String(text)) if text.is_empty() => continue,
                Some(Value::String(text)) => text.clone(),
                // Not a name at all: the reader of the input says so.
                Some(_) => continue,
            };
            if claimed != own {
                let claimed = claimed.chars().take(256).collect::<String>();
                let names = (self.name, self.operation);
                return Err(app.gate().refuse_identity(who, names, &claimed, &call.circumstances).await);
            }
        }
        Ok(())
    }
}

/// Everything that can be asked for.
pub static CATALOGUE: &[Entry] = &[
    Entry::command::<locks::LockAcquire>(Method::Post, "/locks/acquire", "Take a lock, or refresh your own"),
    Entry::command::<locks::LockRenew>(Method::Post, "/locks/renew", "Extend a lock that you hold under its token"),
    Entry::command::<locks::LockRelease>(Method::Post, "/locks/release", "Give back a lock that you hold"),
    Entry::query::<locks::LockVerify>(
        Method::Post,
        "/locks/verify",
        "Ask whether a fencing token is the newest and live",
    ),
    Entry::query::<locks::LockStatus>(Method::Get, "/locks/status/{*path}", "Look at one lock"),
    Entry::query::<locks::LockList>(Method::Get, "/locks", "List held locks").about_anyone(),
    Entry::command::<locks::LockForceRelease>(Method::Delete, "/locks/{*path}", "Free a lock whoever holds it"),
    Entry::command::<tasks::TaskSubmit>(Method::Post, "/work/submit", "Put a task into the queue"),
    Entry::command::<TaskClaim>(Method::Post, "/work/claim", "Claim the next task that you may work on")
        .run_by(run_claim),
    Entry::command::<tasks::TaskHeartbeat>(Method::Post, "/work/heartbeat", "Extend the lease of your claim"),
    Entry::command::<tasks::TaskComplete>(Method::Post, "/work/complete", "Report how a claimed task went"),
    Entry::command::<tasks::TaskCancel>(Method::Post, "/work/cancel", "Withdraw a task"),
    Entry::query::<tasks::TaskGet>(Method::Post, "/work/get", "Look at one task")
        .run_by(run_task_query::<tasks::TaskGet>),
    Entry::query::<tasks::TaskList>(Method::Get, "/work", "List tasks, newest first")
        .about_anyone()
        .run_by(run_task_query::<tasks::TaskList>),
    Entry::query::<policy::GuardrailsCheck>(
        Method::Post,
        "/guardrails/check",
        "Ask which guardrails a text would meet",
    ),
    Entry::query::<policy::PolicyCheck>(Method::Post, "/policy/check", "Ask what policy would say to you"),
    Entry::query::<policy::PolicyValidate>(Method::Post, "/policy/validate", "Check Cedar text against the schema"),
    Entry::query::<policy::ProfileMe>(Method::Get, "/profiles/me", "See your own profile"),
    Entry::query::<audit::AuditQuery>(Method::Get, "/audit", "Look into the audit log, newest first").about_anyone(),
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

fn run_command<'a, C: Apply>(
    app: &'a App,
    who: &'a Principal,
    input: Input,
    circumstances: Circumstances,
) -> BoxFuture<'a, Result<Answer>> {
    Box::pin(async move {
        let committed = app.gate().run(who, C::parse(&input, who)?, &circumstances).await?;
        answer::<C>(committed)
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

fn run_query<'a, Q: Query>(
    app: &'a App,
    who: &'a Principal,
    input: Input,
    circumstances: Circumstances,
) -> BoxFuture<'a, Result<Answer>> {
    Box::pin(async move {
        let output = app.gate().ask(who, Q::parse(&input, who)?, &circumstances).await?;
        Ok(Answer { status: 200, body: to_value(&output)?, replayed: false })
    })
}

fn answer<C: Command>(committed: Committed<C::Output>) -> Result<Answer> {
    match committed {
        Committed::Done(output) => Ok(Answer { status: 200, body: to_value(&output)?, replayed: false }),
        Committed::Replayed(first) => {
            let body = serde_json::from_str(&first.body).map_err(|error| {
                tracing::error!(error = %error, "a stored answer does not parse");
                Error::StorageUnavailable
            })?;
            Ok(Answer { status: first.status, body, replayed: true })
        }
    }
}

fn to_value<T: serde::Serialize>(output: &T) -> Result<Value> {
    serde_json::to_value(output).map_err(|error| {
        tracing::error!(error = %error, "an answer does not serialise");
        Error::StorageUnavailable
    })
}
