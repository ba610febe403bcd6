//! One line of the catalogue: what an operation is called on each surface, what it takes and answers, how it runs.

use futures::future::BoxFuture;
use serde_json::{Map, Value};

use super::action::{Command, Query};
use super::input::{Field, Input, Place};
use super::schema::{input_schema, output_schema};
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

impl Answer {
    /// What the caller is told of an error.
    #[must_use]
    pub fn refusal(error: &Error) -> Self {
        Self { status: error.status(), body: error.body(), replayed: false }
    }

    /// Whether it is an error and not an answer of the operation.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        self.status >= 400
    }
}

/// How an operation is offered as an MCP tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tool {
    /// The tool's name, which the contract fixes: `acquire_lock`.
    pub name: &'static str,
    /// Whether it may take away what is there, another's work above all.
    pub destructive: bool,
    /// Whether a repeat with the same arguments has no further effect.
    pub idempotent: bool,
}

impl Tool {
    /// A tool that adds or reads.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self { name, destructive: false, idempotent: false }
    }

    /// It may take away what is there.
    #[must_use]
    pub const fn destructive(mut self) -> Self {
        self.destructive = true;
        self
    }

    /// A repeat has no further effect.
    #[must_use]
    pub const fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }
}

/// A field whose value is a file, in base64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct File {
    /// The field.
    pub field: &'static str,
    /// The media type under which a body of bytes is that field.
    pub media_type: &'static str,
    /// Largest file, in bytes.
    pub bytes_max: usize,
}

pub(super) type Run = for<'a> fn(&'a App, &'a Principal, Input, Circumstances) -> BoxFuture<'a, Result<Answer>>;

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
    /// What whoever calls it should know beyond that; empty when the summary says it all.
    pub details: &'static str,
    /// The MCP tool, if it is one.
    pub tool: Option<Tool>,
    /// Whose `agent_id` its input may name.
    pub names: Names,
    /// A field that HTTP also takes as a body of bytes, if there is one.
    pub file: Option<File>,
    /// Whether the answer may take minutes: something is compiled, proven or replayed first.
    pub takes_long: bool,
    output: fn() -> Value,
    run: Run,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} {})", self.name, self.method.as_str(), self.path)
    }
}

impl Entry {
    pub(super) const fn command<C: Apply>(method: Method, path: &'static str, summary: &'static str) -> Self {
        Self {
            name: C::NAME,
            operation: C::OPERATION,
            kind: Kind::Mutation,
            method,
            path,
            input: C::INPUT,
            summary,
            details: "",
            tool: None,
            names: Names::Caller,
            file: None,
            takes_long: false,
            output: output_schema::<C::Output>,
            run: run_command::<C>,
        }
    }

    pub(super) const fn query<Q: Query>(method: Method, path: &'static str, summary: &'static str) -> Self {
        Self {
            name: Q::NAME,
            operation: Q::OPERATION,
            kind: Kind::Query,
            method,
            path,
            input: Q::INPUT,
            summary,
            details: "",
            tool: None,
            names: Names::Caller,
            file: None,
            takes_long: false,
            output: output_schema::<Q::Output>,
            run: run_query::<Q>,
        }
    }

    pub(super) const fn about_anyone(mut self) -> Self {
        self.names = Names::Anyone;
        self
    }

    pub(super) const fn file(mut self, file: File) -> Self {
        self.file = Some(file);
        self
    }

    pub(super) const fn takes_long(mut self) -> Self {
        self.takes_long = true;
        self
    }

    pub(super) const fn run_by(mut self, run: Run) -> Self {
        self.run = run;
        self
    }

    pub(super) const fn tool(mut self, tool: Tool) -> Self {
        self.tool = Some(tool);
        self
    }

    pub(super) const fn details(mut self, details: &'static str) -> Self {
        self.details = details;
        self
    }

    /// Where most of an input stands in a request: part of what is said of bad fields.
    #[must_use]
    pub const fn place(&self) -> Place {
        match self.method {
            Method::Post => Place::Body,
            Method::Get | Method::Delete => Place::Query,
        }
    }

    /// Summary and details as one text.
    #[must_use]
    pub fn description(&self) -> String {
        if self.details.is_empty() {
            format!("{}.", self.summary)
        } else {
            format!("{}. {}", self.summary, self.details)
        }
    }

    /// The JSON Schema of what it takes.
    #[must_use]
    pub fn input_schema(&self) -> Map<String, Value> {
        input_schema(self.input)
    }

    /// The JSON Schema of what it answers when it is not refused.
    #[must_use]
    pub fn output_schema(&self) -> Value {
        (self.output)()
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

pub(super) fn run_query<'a, Q: Query>(
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

pub(super) fn answer<C: Command>(committed: Committed<C::Output>) -> Result<Answer> {
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

pub(super) fn to_value<T: serde::Serialize>(output: &T) -> Result<Value> {
    serde_json::to_value(output).map_err(|error| {
        tracing::error!(error = %error, "an answer does not serialise");
        Error::StorageUnavailable
    })
}
