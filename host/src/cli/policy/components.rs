//! `portreeve policy push`, `activate`, `list`, `show`, `shadow` and `report`: components of a running service.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::{Value, json};

use crate::authoring::source::{Policy as Text, Source};
use crate::cli::body::{fields, hint, items, short_time, text};
use crate::cli::error::{CliError, EXIT_REFUSED};
use crate::cli::output::{Output, Tone, tame};
use crate::cli::progress::Waiting;
use crate::cli::transport::{Transport, Where};

use super::explain;

/// Fewest digits of a digest that stand for all of it.
const DIGITS_MIN: usize = 8;

/// Store a component in a running service, which tries it; with --activate, put it in force
///
/// The service compiles the file, checks that it imports nothing and knows its operations, and runs the self-test and the
/// tests that the file carries. Nothing is in force by that.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  portreeve policy push policy.wasm\n  portreeve policy push policy.wasm --activate --url http://127.0.0.1:8081"
)]
pub(super) struct Push {
    /// The component file that `policy build` wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Put it in force as well, in place of what is in force now
    #[arg(long)]
    activate: bool,
    /// So many changed decisions of the service's replay are accepted, where it requires one
    #[arg(long, value_name = "N", default_value_t = 0, requires = "activate")]
    accept_changes: u32,
    #[command(flatten)]
    place: Where,
}

/// Put a stored component in force
///
/// One atomic change of the epoch: what was decided before commits before, or is decided anew, and no request is refused for
/// it. An older component is activated in the same way. The service's gates may refuse it (docs/policy-gates.md).
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  portreeve policy activate sha256:8f14e45f\n\nExit code 4: refused, by a gate or because another was activated meanwhile"
)]
pub(super) struct Activate {
    /// The component's digest, or the first digits of it
    #[arg(value_name = "DIGEST")]
    digest: String,
    /// The epoch that has to be in force [default: the one that is]
    #[arg(long, value_name = "N")]
    expected_epoch: Option<i64>,
    /// So many changed decisions of the service's replay are accepted, where it requires one
    #[arg(long, value_name = "N", default_value_t = 0)]
    accept_changes: u32,
    #[command(flatten)]
    place: Where,
}

/// List the components that a service has stored, and which of them decides
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  portreeve policy list")]
pub(super) struct List {
    /// Most components
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=1000))]
    limit: i64,
    #[command(flatten)]
    place: Where,
}

/// Show one stored component, with what it says of itself
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  portreeve policy show sha256:8f14e45f --json")]
pub(super) struct Show {
    /// The component's digest, or the first digits of it
    #[arg(value_name = "DIGEST")]
    digest: String,
    #[command(flatten)]
    place: Where,
}

/// Have a stored component asked beside the one in force; it decides nothing
///
/// It sees live traffic, as much of it as a fifth of one processor can ask it. See `policy report` for what it says otherwise.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  portreeve policy shadow sha256:8f14e45f\n  portreeve policy shadow sha256:8f14e45f --off"
)]
pub(super) struct Shadow {
    /// The component's digest, or the first digits of it
    #[arg(value_name = "DIGEST")]
    digest: String,
    /// End it
    #[arg(long)]
    off: bool,
    #[command(flatten)]
    place: Where,
}

/// Show where a component says otherwise than the one in force did
///
/// Of the host that answers, since it began to ask. `portreeve policy replay` asks the recorded requests again instead.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  portreeve policy report sha256:8f14e45f")]
pub(super) struct Report {
    /// The component's digest, or the first digits of it
    #[arg(value_name = "DIGEST")]
    digest: String,
    #[command(flatten)]
    place: Where,
}

impl Push {
    pub(super) async fn run(self, output: &Output) -> Result<ExitCode, CliError> {
        let bytes = component_file(&self.file)?;
        let transport = self.place.connect(output).await?;
        let ended = self.push(&bytes, &transport, output).await;
        transport.close().await;
        ended
    }

    async fn push(&self, bytes: &[u8], to: &Transport, output: &Output) -> Result<ExitCode, CliError> {
        let waiting = Waiting::new(output, "the service compiles and tries the component (some seconds)");
        let stored = to.call("component_upload", fields(json!({"component": STANDARD.encode(bytes)}))).await?;
        drop(waiting);
        if !self.activate {
            if output.json {
                return output.json(&stored).map(|()| ExitCode::SUCCESS);
            }
            print_stored(&stored, output)?;
            output
                .line(format_args!("put it in force: portreeve policy activate {}", short(text(&stored, "digest"))))?;
            return Ok(ExitCode::SUCCESS);
        }
        if !output.json {
            print_stored(&stored, output)?;
        }
        activate(to, text(&stored, "digest"), None, self.accept_changes, output).await
    }
}

fn component_file(file: &Path) -> Result<Vec<u8>, CliError> {
    let source = Source::named(file);
    match source.read().map_err(|error| explain(&error, &source))? {
        Text::Component(bytes) => Ok(bytes.to_vec()),
        Text::Bundle(_) => Err(CliError::new(
            format!("`{}` is text, and a service takes the file that is built of it", file.display()),
            format!("portreeve policy build {} -o policy.wasm", file.display()),
        )),
    }
}

fn print_stored(stored: &Value, output: &Output) -> Result<(), CliError> {
    let manifest = stored.get("manifest").cloned().unwrap_or_default();
    output.line(format_args!(
        "{}  {} {} ({})",
        output.paint(Tone::Good, text(stored, "digest")),
        tame(text(&manifest, "name")),
        tame(text(&manifest, "version")),
        text(stored, "action"),
    ))
}

async fn activate(
    to: &Transport,
    digest: &str,
    expected: Option<i64>,
    accept_changes: u32,
    output: &Output,
) -> Result<ExitCode, CliError> {
    let expected = match expected {
        Some(epoch) => epoch,
        None => {
            let listed = to.call("component_list", fields(json!({"limit": 1}))).await?;
            listed.get("epoch").and_then(Value::as_i64).unwrap_or_default()
        }
    };
    let waiting = Waiting::new(output, "the service weighs the component");
    let input = json!({"digest": digest, "expected_epoch": expected, "accept_changes": accept_changes});
    let body = to.call("component_activate", fields(input)).await?;
    drop(waiting);
    let epoch = body.get("epoch").and_then(Value::as_i64).unwrap_or_default();
    if body.get("success") != Some(&Value::Bool(true)) {
        let cause = format!("refused: {}: {}", text(&body, "reason"), text(&body, "detail"));
        let next = match text(&body, "reason") {
            "epoch_moved" => "look at what is in force (portreeve policy list), then activate again",
            "wider" | "not_comparable" => {
                "portreeve policy diff A B shows where; the gate refuse_wider is the service's"
            }
            "not_trusted" | "older_version" => "portreeve policy sign FILE --key KEY --version N, then push that file",
            "replay_differs" => "portreeve policy replay shows which; accept so many: --accept-changes N",
            "tests_missing" => "write decision tables: policies/README.md",
            _ => "the component in force stays; portreeve policy show shows this one",
        };
        return Err(CliError::new(cause, next).with_exit(EXIT_REFUSED).with_body(&body));
    }
    if output.json {
        output.json(&body)?;
    } else {
        output.line(format_args!("in force as epoch {}", output.paint(Tone::Good, epoch)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The digest that somebody means by its first digits.
async fn resolve(to: &Transport, named: &str) -> Result<String, CliError> {
    let digits = named.strip_prefix("sha256:").unwrap_or(named).to_ascii_lowercase();
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) || digits.len() < DIGITS_MIN {
        return Err(CliError::new(
            format!("`{}` is no digest", tame(named)),
            "give at least eight of its digits; portreeve policy list shows them",
        ));
    }
    if digits.len() == 64 {
        return Ok(format!("sha256:{digits}"));
    }
    let listed = to.call("component_list", fields(json!({"limit": 1000}))).await?;
    let wanted = format!("sha256:{digits}");
    let found: Vec<&str> = items(&listed, "components")
        .iter()
        .map(|entry| text(entry, "digest"))
        .filter(|digest| digest.starts_with(&wanted))
        .collect();
    match found.as_slice() {
        [one] => Ok((*one).to_owned()),
        [] => Err(CliError::new(format!("no stored component begins with {wanted}"), "portreeve policy push FILE")),
        _ => Err(CliError::new(format!("{} stored components begin with {wanted}", found.len()), "give more digits")),
    }
}

fn short(digest: &str) -> &str {
    digest.get(.."sha256:".len().saturating_add(12)).unwrap_or(digest)
}

impl Activate {
    pub(super) async fn run(self, output: &Output) -> Result<ExitCode, CliError> {
        let transport = self.place.connect(output).await?;
        let ended = match resolve(&transport, &self.digest).await {
            Ok(digest) => activate(&transport, &digest, self.expected_epoch, self.accept_changes, output).await,
            Err(error) => Err(error),
        };
        transport.close().await;
        ended
    }
}

impl List {
    pub(super) async fn run(self, output: &Output) -> Result<ExitCode, CliError> {
        let transport = self.place.connect(output).await?;
        let listed = transport.call("component_list", fields(json!({"limit": self.limit}))).await;
        transport.close().await;
        let body = listed?;
        if output.json {
            return output.json(&body).map(|()| ExitCode::SUCCESS);
        }
        let rows = items(&body, "components").iter().map(|entry| {
            let is = |name: &str| entry.get(name) == Some(&Value::Bool(true));
            let state = match (is("active"), is("shadow")) {
                (true, _) => "in force",
                (false, true) => "shadow",
                (false, false) => "",
            };
            let number =
                |name: &str| entry.get(name).and_then(Value::as_i64).map(|n| n.to_string()).unwrap_or_default();
            [
                short(text(entry, "digest")).to_owned(),
                format!("{} {}", text(entry, "name"), text(entry, "version")),
                state.to_owned(),
                number("epoch"),
                short_time(text(entry, "activated_at")),
                text(entry, "activated_by").to_owned(),
                short_time(text(entry, "stored_at")),
                text(entry, "stored_by").to_owned(),
                [text(entry, "signed_by"), &number("signed_version")].join(" ").trim().to_owned(),
            ]
        });
        let header = ["COMPONENT", "POLICY", "STATE", "EPOCH", "ACTIVATED", "BY", "STORED", "BY", "SIGNED (VERSION)"];
        output.table(&header, rows)?;
        if let Some(hint) = hint(&body) {
            output.note(hint);
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Show {
    pub(super) async fn run(self, output: &Output) -> Result<ExitCode, CliError> {
        let transport = self.place.connect(output).await?;
        let found = ask(&transport, "component_get", &self.digest, json!({})).await;
        transport.close().await;
        let body = found?;
        if output.json {
            return output.json(&body).map(|()| ExitCode::SUCCESS);
        }
        for (name, value) in body.as_object().into_iter().flatten().filter(|(name, _)| *name != "manifest") {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            output.line(format_args!("{name:15} {}", tame(&value)))?;
        }
        let manifest = body.get("manifest").cloned().unwrap_or_default();
        for list in ["operations", "profiles", "patterns", "policies", "network_rules"] {
            output.line(format_args!("{list:15} {}", items(&manifest, list).len()))?;
        }
        output.note("--json shows the manifest whole");
        Ok(ExitCode::SUCCESS)
    }
}

async fn ask(to: &Transport, name: &str, digest: &str, more: Value) -> Result<Value, CliError> {
    let mut input = fields(more);
    input.insert("digest".to_owned(), Value::from(resolve(to, digest).await?));
    to.call(name, input).await
}

impl Shadow {
    pub(super) async fn run(self, output: &Output) -> Result<ExitCode, CliError> {
        let transport = self.place.connect(output).await?;
        let answered = ask(&transport, "component_shadow", &self.digest, json!({"enabled": !self.off})).await;
        transport.close().await;
        let body = answered?;
        if body.get("success") != Some(&Value::Bool(true)) {
            let cause = "that component is not asked beside the one in force";
            return Err(CliError::new(cause, "portreeve policy list shows which one is")
                .with_exit(EXIT_REFUSED)
                .with_body(&body));
        }
        if output.json {
            output.json(&body)?;
        } else if self.off {
            output.line("nothing is asked beside the component in force any more")?;
        } else {
            output.line(format_args!("{} is asked beside the component in force", text(&body, "shadow")))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Report {
    pub(super) async fn run(self, output: &Output) -> Result<ExitCode, CliError> {
        let transport = self.place.connect(output).await?;
        let found = ask(&transport, "component_report", &self.digest, json!({})).await;
        transport.close().await;
        let body = found?;
        if output.json {
            return output.json(&body).map(|()| ExitCode::SUCCESS);
        }
        if body.get("shadow") != Some(&Value::Bool(true)) {
            output.line("this host does not ask it; portreeve policy shadow DIGEST begins")?;
            return Ok(ExitCode::SUCCESS);
        }
        let count = |value: &Value, name: &str| value.get(name).and_then(Value::as_u64).unwrap_or_default();
        output.line(format_args!(
            "{} compared since {}, {} differ, {} not answered, {} passed over",
            count(&body, "compared"),
            short_time(text(&body, "since")),
            count(&body, "differing"),
            count(&body, "unanswered"),
            count(&body, "passed_over"),
        ))?;
        let rows = items(&body, "kinds").iter().map(|kind| {
            [
                count(kind, "count").to_string(),
                text(kind, "profile").to_owned(),
                text(kind, "operation").to_owned(),
                text(kind, "active").to_owned(),
                text(kind, "candidate").to_owned(),
            ]
        });
        if !items(&body, "kinds").is_empty() {
            output.table(&["COUNT", "PROFILE", "OPERATION", "IN FORCE", "CANDIDATE"], rows)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
