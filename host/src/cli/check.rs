//! `portreeve check`: what policy says to a text, before anybody runs it.
//! The same component as the service's, without a store.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use super::body::{read_whole, unreadable};
use super::error::CliError;
use super::output::{Output, Tone, tame};
use super::progress::Progress;
use super::serve::bundle_of;
use super::{failure, folders};
use crate::command::plain;
use crate::command::policy::target_of;
use crate::engine::types::{
    Effect, EngineMode, Manifest, OperationInfo, PolicyPrincipal, PolicyRequest, ProfileInfo, TargetKind, Violation,
};
use crate::engine::{Cage, Engine, PolicyComponent};
use crate::telemetry;

/// Exit code of a denial.
const EXIT_DENY: u8 = 2;
/// Exit code when there is no decision.
pub(super) const EXIT_ERROR: u8 = 3;

/// Ask policy about a command or any other text, without a server
///
/// The text is an argument, a file or stdin; the guardrails read all of it. Exits with 0 when it is allowed, 2 when it is
/// denied and 3 when there is no decision.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  portreeve check 'git push --force origin main'\n  git diff | portreeve check -\n  portreeve check --file deploy.sh --profile claude_code_local --json"
)]
pub(super) struct Check {
    /// The text; several arguments are joined by spaces; `-` or none reads stdin
    #[arg(value_name = "TEXT", conflicts_with = "file")]
    text: Vec<String>,
    /// Read the text from a file
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The profile to decide under
    #[arg(long, default_value = "claude_code_remote")]
    profile: String,
    /// The operation to decide about
    #[arg(long, default_value = "run_command")]
    operation: String,
    /// What it is done to: a path, a domain, a branch … [default: the text's first line, unless the operation runs a command]
    #[arg(long, value_name = "NAME")]
    resource: Option<String>,
    /// A policy bundle, instead of the one that the program carries
    #[arg(long, value_name = "DIR")]
    policies: Option<PathBuf>,
    /// Where compiled policies are kept [env: PORTREEVE_CACHE] [default: ~/.cache/portreeve]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

/// What policy says, as it is printed.
#[derive(Debug, Serialize)]
struct Verdict {
    allowed: bool,
    reason: String,
    detail: String,
    remedy: String,
    operation: String,
    profile: String,
    agent_type: String,
    trust_level: u8,
    violations: Vec<Violation>,
    deciding: Vec<String>,
    diagnostics: Vec<String>,
    engine: EngineMode,
    bundle: String,
    component: String,
}

impl Check {
    pub(super) async fn run(self, output: &Output) -> Result<ExitCode, CliError> {
        telemetry::init_logs("warn");
        self.decide(output).await.map_err(|error| error.with_exit(EXIT_ERROR))
    }

    async fn decide(self, output: &Output) -> Result<ExitCode, CliError> {
        let cage = Cage::default();
        let text = self.read_text(cage.request_bytes_max)?;
        let component = load(self.policies.as_deref(), self.cache.clone(), cage, output)?;
        let manifest = component.manifest();
        let profile = profile_of(manifest, &self.profile)?;
        let operation = operation_of(manifest, &self.operation)?;
        let agent_type = profile.agent_types.first().filter(|name| *name != "*").cloned();
        let principal = PolicyPrincipal {
            agent_id: "check".to_owned(),
            agent_type: agent_type.unwrap_or_else(|| "agent".to_owned()),
            profile: profile.name.clone(),
            suspended: false,
        };
        let resource = self.resource.unwrap_or_else(|| resource_of(operation.target, &text));
        let request = PolicyRequest {
            principal,
            operation: operation.name.clone(),
            target: target_of(operation.target, &resource),
            texts: plain(&[("text", Some(&text))]),
        };
        let agent_type = request.principal.agent_type.clone();
        let decided = component.decide_async(request).await;
        let decision = decided.map_err(|error| failure::engine(&error, None))?.decision;
        let verdict = Verdict {
            allowed: decision.effect == Effect::Allow,
            reason: decision.reason,
            detail: decision.detail,
            remedy: decision.remedy,
            operation: operation.name.clone(),
            profile: profile.name.clone(),
            agent_type,
            trust_level: decision.trust_level,
            violations: decision.violations,
            deciding: decision.deciding,
            diagnostics: decision.diagnostics,
            engine: decision.engine,
            bundle: format!("{} {}", manifest.name, manifest.version),
            component: component.digest().to_owned(),
        };
        verdict.print(output)?;
        Ok(if verdict.allowed { ExitCode::SUCCESS } else { ExitCode::from(EXIT_DENY) })
    }

    fn read_text(&self, bytes_max: usize) -> Result<String, CliError> {
        match (&self.file, self.text.as_slice()) {
            (Some(path), _) => {
                let file =
                    std::fs::File::open(path).map_err(|error| unreadable(&path.display().to_string(), &error))?;
                read_whole(file, &path.display().to_string(), bytes_max)
            }
            (None, [dash]) if dash == "-" => read_whole(io::stdin().lock(), "stdin", bytes_max),
            (None, []) if !io::stdin().is_terminal() => read_whole(io::stdin().lock(), "stdin", bytes_max),
            (None, []) => {
                Err(CliError::new("there is no text to check", "portreeve check 'git push --force origin main'"))
            }
            (None, words) => Ok(words.join(" ")),
        }
    }
}

/// What the text is about, when nobody says. A command is read whole as a text; as the target it would be reported twice.
fn resource_of(kind: TargetKind, text: &str) -> String {
    match kind {
        TargetKind::Command => String::new(),
        _ => text.lines().next().unwrap_or_default().trim().to_owned(),
    }
}

/// Prepares a component of a bundle.
pub(super) fn load(
    policies: Option<&Path>,
    cache: Option<PathBuf>,
    cage: Cage,
    output: &Output,
) -> Result<Arc<PolicyComponent>, CliError> {
    let bundle = bundle_of(policies)?;
    let cache = folders::cache(cache)?;
    let progress = Progress::new(output);
    let loaded = Engine::open(&cache, cage)
        .and_then(|engine| tokio::task::block_in_place(|| engine.load_bundle(&bundle, &|stage| progress.show(stage))));
    loaded.map_err(|error| failure::engine(&error, policies))
}

fn profile_of<'a>(manifest: &'a Manifest, name: &str) -> Result<&'a ProfileInfo, CliError> {
    manifest.profiles.iter().find(|info| info.name == name).ok_or_else(|| {
        let names = manifest.profiles.iter().map(|info| info.name.as_str()).collect::<Vec<_>>().join(", ");
        CliError::new(format!("`{name}` is not a profile of the policy"), format!("choose one of {names}"))
    })
}

fn operation_of<'a>(manifest: &'a Manifest, name: &str) -> Result<&'a OperationInfo, CliError> {
    manifest.operations.iter().find(|info| info.name == name).ok_or_else(|| {
        let names = manifest.operations.iter().map(|info| info.name.as_str()).collect::<Vec<_>>().join(", ");
        CliError::new(format!("`{name}` is not an operation of the policy"), format!("choose one of {names}"))
    })
}

impl Verdict {
    fn print(&self, output: &Output) -> Result<(), CliError> {
        if output.json {
            return output.json(self);
        }
        if self.allowed {
            output.line(output.paint(Tone::Good, "allow"))?;
        } else {
            let reason = tame(&format!("{}: {}", self.reason, self.detail));
            output.line(format_args!("{} {reason}", output.paint(Tone::Bad, "deny")))?;
        }
        for violation in &self.violations {
            self.print_violation(violation, output)?;
        }
        if !self.allowed && !self.remedy.is_empty() {
            output.line(format_args!("remedy: {}", tame(&self.remedy)))?;
        }
        Ok(())
    }

    fn print_violation(&self, violation: &Violation, output: &Output) -> Result<(), CliError> {
        let (tone, effect) = match (violation.blocked, violation.passed_by_trust) {
            (true, _) => (Tone::Bad, "blocks"),
            (false, true) => (Tone::Faint, "passed by trust"),
            (false, false) => (Tone::Notice, "warns"),
        };
        let matched = tame(&violation.matched_text).replace('\n', "\\n");
        let effect = output.paint(tone, effect);
        output.line(format_args!("  {} ({}) {effect}: `{matched}`", violation.pattern_name, violation.category))?;
        if !violation.remedy.is_empty() && violation.remedy != self.remedy {
            output.line(format_args!("    {}", tame(&violation.remedy)))?;
        }
        Ok(())
    }
}
