//! What the service's errors mean to somebody at a command line.

use std::path::Path;

use serde_json::Value;

use super::error::{CliError, EXIT_DENIED, EXIT_REFUSED};
use crate::app::OpenError;
use crate::client::ClientError;
use crate::command::catalogue::Kind;
use crate::engine::EngineError;
use crate::engine::types::Problem;
use crate::gate::StartError;
use crate::store::StoreError;
use crate::vetting::Flaw;

/// Why the service could not be opened. `bundle` is the folder that the policy came from, if not the default one.
pub(super) fn open(error: &OpenError, bundle: Option<&Path>) -> CliError {
    match error {
        OpenError::Folder { .. } => {
            CliError::new(error.to_string(), "make it writable for you, or choose another folder: --data DIR")
        }
        OpenError::Store(error) | OpenError::Policy(StartError::Store(error)) => store(error),
        OpenError::Policy(StartError::Engine(error)) => engine(error, bundle),
        OpenError::Policy(StartError::Flaw(flaw)) => CliError::new(
            error.to_string(),
            match flaw {
                Flaw::Tests { .. } => "mend the rule or the case in the bundle's decisions/, then start again",
                Flaw::Operations(_) => {
                    "add them to the bundle's operations.toml; the program's own bundle has them all"
                }
                Flaw::SelfTest(_) => "mend the rule: whatever else a policy says, this holds of each",
                Flaw::Engine(_) => "this is a fault of the policy component; nothing was allowed by it",
            },
        ),
        OpenError::Policy(StartError::Unusable { .. }) => CliError::new(
            error.to_string(),
            "mend what it names; run the program that other hosts run; or name the policy that is to be in force: --policies DIR",
        ),
        OpenError::Policy(StartError::Refused(_)) => CliError::new(
            error.to_string(),
            "the policy in force decides about its successor; name the one that is to be in force all the same: --policies DIR",
        ),
        OpenError::Bootstrap(_) => CliError::new(
            error.to_string(),
            "the policy must let the profile `system` manage agents; see the log above for the cause",
        ),
    }
}

/// Why the store cannot be used.
pub(super) fn store(error: &StoreError) -> CliError {
    let next = match error {
        StoreError::Open { .. } => {
            "look at the file and its folder: it must be writable, and if it is damaged, restore it from a backup; nothing was changed"
        }
        StoreError::Newer { .. } => "run the program that wrote it, or choose another folder: --data DIR",
        StoreError::Edited { .. } | StoreError::Damaged(_) => {
            "restore the data folder from a backup, or choose another folder: --data DIR; nothing was changed"
        }
        StoreError::Older { .. } | StoreError::Unprepared => {
            "run `portreeve migrate --database URL` with a login that may act as portreeve_owner, then start again"
        }
        StoreError::Migration { .. } => "nothing of it was applied: mend the cause and run it again",
        StoreError::Url { .. } => {
            "give it as postgres://USER@HOST/NAME; the password goes into PGPASSWORD or ~/.pgpass"
        }
        StoreError::Unreachable { .. } => {
            "look whether the server runs there and lets this user in: host, port, database, password, TLS"
        }
        StoreError::Untrusted { .. } => {
            "name the CA's file (sslrootcert=FILE), and the host as its certificate does; sslmode says what is insisted on"
        }
        StoreError::Unencrypted { .. } => {
            "leave out sslmode=disable, or say sslmode=verify-full; pg_hba.conf on the server says whom it lets in"
        }
        StoreError::OldServer { .. } => "use a newer server",
        StoreError::Privileged { .. } => {
            "log in as portreeve_app, or as a role that is a member of it alone; --allow-privileged-role serves all the same"
        }
        StoreError::NotOwner { .. } => {
            "log in as the one that ran `portreeve migrate`, or as another member of portreeve_owner"
        }
        StoreError::Moved { is_finished: true, .. } => {
            "serve the database it moved to: portreeve serve --database URL; this file is what it was before"
        }
        StoreError::Moved { is_finished: false, .. } | StoreError::HalfMoved { .. } => {
            "go on with `portreeve migrate-store --from DIR --to URL`, or give it up with the same and --abandon"
        }
        StoreError::OtherMove => {
            "name the database that the move began with; if that is gone for good: the same with --abandon --target-lost"
        }
        StoreError::AtWork => {
            let next =
                "wait until it is done; a move that breaks off goes on when `portreeve migrate-store` is run again";
            return CliError::new(error.to_string(), next).with_exit(EXIT_REFUSED);
        }
        StoreError::Restored => "run `portreeve migrate --database URL`, which lets the log go on, then start again",
        StoreError::NotEmpty => "make a new database and prepare it: createdb, then `portreeve migrate --database URL`",
        StoreError::Unverified { .. } => {
            "look with `portreeve audit verify --data DIR` (after --abandon), and restore the data folder from a backup"
        }
        StoreError::Unequal { .. } | StoreError::Incomplete { .. } => {
            "give the move up with --abandon, drop the database, and move to a new one that nobody else writes to"
        }
        StoreError::NotApp { .. } => "GRANT portreeve_app TO that role, or log in as portreeve_app",
        StoreError::Function { .. } => "run `portreeve migrate` of this very program, or restore the function from it",
        StoreError::Objects { .. } => {
            "find out who changed it; then put it back, as portreeve_owner, as `portreeve migrate --sql` has it, or restore a backup"
        }
        StoreError::Busy | StoreError::Closed | StoreError::Database(_) => {
            "look whether another process holds the data folder or the disk is full, then try again"
        }
    };
    CliError::new(error.to_string(), next)
}

/// Why the policy cannot be used.
pub(super) fn engine(error: &EngineError, bundle: Option<&Path>) -> CliError {
    let next = match error {
        EngineError::Bundle(problems) => return problems_of(problems, bundle),
        EngineError::Unreadable { .. } => "name a folder that holds a policy bundle (bundle.toml and the rest)",
        EngineError::Cache { .. } => "make the folder yours alone (chmod 700), or choose another: PORTREEVE_CACHE=DIR",
        EngineError::TooLarge { .. } => "split the text; what is too large to be decided is never allowed",
        EngineError::Unsupported(_) => "look at the memory that this process may use (ulimit -v)",
        _ => "this is a fault of the policy component; nothing was allowed by it",
    };
    CliError::new(error.to_string(), next)
}

fn problems_of(problems: &[Problem], bundle: Option<&Path>) -> CliError {
    let lines = problems.iter().map(|problem| match bundle {
        Some(dir) if !problem.file.is_empty() => format!("\n  {}", dir.join(problem.to_string()).display()),
        _ => format!("\n  {problem}"),
    });
    let cause = format!("the policy bundle has {} problem(s):{}", problems.len(), lines.collect::<String>());
    CliError::new(cause, "mend them and start again; a policy with problems is never put in force")
}

/// Why there is no answer.
pub(super) fn client(error: &ClientError, kind: Kind) -> CliError {
    let next = match error {
        ClientError::Unreachable { may_have_arrived: true, .. } if kind == Kind::Mutation => {
            "it is not known whether the change was made: look before trying again, or repeat it under an idempotency key"
        }
        ClientError::Unreachable { .. } => "look whether the server runs there (portreeve serve), and at the URL",
        ClientError::NotPortreeve { .. } => "look whether the URL is that of a Portreeve server",
        ClientError::Setup(_) => "install the system's CA certificates, or use http to a local server",
        ClientError::Url { .. } => "give it as `serve` printed it, for instance http://127.0.0.1:8081",
    };
    CliError::new(error.to_string(), next)
}

/// What a refusal's body, the same over any transport, means.
pub(super) fn refused(body: &Value) -> CliError {
    meaning(body).with_body(body)
}

fn meaning(body: &Value) -> CliError {
    let text = |name: &str| body.get(name).and_then(Value::as_str).unwrap_or_default();
    let error = text("error");
    match error {
        "unauthenticated" => CliError::new(
            "the key is not known to the service, or was revoked",
            "look at PORTREEVE_API_KEY, or at the folder's admin.key: where that file is missing, `portreeve serve` makes a new key",
        ),
        "denied" | "identity_mismatch" => {
            let next = Some(text("remedy")).filter(|remedy| !remedy.is_empty());
            CliError::new(
                format!("denied by policy: {}", text("reason")),
                next.unwrap_or("ask whoever owns the policy"),
            )
            .with_exit(EXIT_DENIED)
        }
        "invalid_request" => invalid(body),
        "policy_unavailable" => CliError::new(
            format!("the policy component could not decide ({}); nothing was done", text("reason")),
            "try again; if it stays so, look at the service's log",
        ),
        "storage_unavailable" if !text("reason").is_empty() => {
            CliError::new(text("detail"), "ask whoever runs the service which database it is served from")
        }
        "storage_unavailable" => CliError::new(
            "the store is not available; nothing was done",
            "look at the service's log for the cause, then try again",
        ),
        "" => CliError::new("the service did not say what is wrong", "look at its log"),
        _ => CliError::new(
            format!("{error}: {}", text("detail")),
            "try again; if it stays so, look at the service's log",
        ),
    }
}

fn invalid(body: &Value) -> CliError {
    let problems = body.get("detail").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let text = |problem: &Value, name: &str| problem.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let lines = problems.iter().map(|problem| {
        let field = problem.pointer("/loc/1").and_then(Value::as_str).unwrap_or("request");
        format!("{field}: {}", text(problem, "msg"))
    });
    let kind = problems.first().map(|problem| text(problem, "type")).unwrap_or_default();
    let next = match kind.as_str() {
        "unknown_profile" | "profile_not_for_agent_type" => {
            "`portreeve policy describe` lists the default policy's profiles and their types"
        }
        _ => "see --help for what the command takes",
    };
    CliError::new(lines.collect::<Vec<_>>().join("\n  "), next)
}

/// What a business refusal (`success: false` with a reason) means.
pub(super) fn unsuccessful(body: &Value) -> Result<(), CliError> {
    if body.get("success").and_then(Value::as_bool) != Some(false) {
        return Ok(());
    }
    let reason = body.get("reason").and_then(Value::as_str).unwrap_or("no reason given");
    let next = match reason {
        "agent_exists" => "choose another name, or give that agent one more key: portreeve agent key NAME new",
        "agent_not_found" => "`portreeve agent list` shows who there is",
        "key_exists" => "the service has that key already; nothing is left to do",
        "key_revoked" => "issue a new key: portreeve agent key NAME new",
        "key_not_found" => "`portreeve agent key NAME list` shows the agent's keys",
        "system_agent_is_fixed" => "leave `system` alone: the service's own work runs as it",
        _ => "see --help",
    };
    Err(CliError::new(format!("refused: {reason}"), next).with_exit(EXIT_REFUSED).with_body(body))
}
