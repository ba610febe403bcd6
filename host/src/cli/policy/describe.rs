//! `portreeve policy describe`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::{Cache, component};
use crate::authoring::source::Source;
use crate::cli::error::CliError;
use crate::cli::output::{Output, Tone, tame};
use crate::engine::PolicyComponent;
use crate::engine::source_of;
use crate::engine::types::{Manifest, ProfileInfo};
use crate::store::audit::name_of;

/// Show a policy's profiles, operations, guardrails and network rules
///
/// Loads it as `serve` would, so every problem in it is told.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  portreeve policy describe\n  portreeve policy describe ./policies\n  portreeve policy describe policy.wasm --json"
)]
pub(super) struct Describe {
    /// The folder of the policy, or a component file
    #[arg(value_name = "POLICY", default_value = "default")]
    policy: PathBuf,
    #[command(flatten)]
    cache: Cache,
}

impl Describe {
    pub(super) fn run(self, output: &Output) -> Result<ExitCode, CliError> {
        let engine = self.cache.engine()?;
        let component = tokio::task::block_in_place(|| component(&engine, &Source::named(&self.policy), output))?;
        print(&component, output)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn print(component: &PolicyComponent, output: &Output) -> Result<(), CliError> {
    let manifest = component.manifest();
    if output.json {
        let text = source_of(component.bytes()).ok().flatten();
        let files = text.map(|files| files.into_iter().map(|file| file.path).collect::<Vec<_>>());
        return output.json(&json!({"component": component.digest(), "manifest": manifest, "files": files}));
    }
    output.line(format_args!("bundle     {} {}", tame(&manifest.name), tame(&manifest.version)))?;
    output.line(format_args!("engine     {}", name_of(&manifest.engine)))?;
    output.line(format_args!("component  {}", component.digest()))?;
    output.line(format_args!("files      {}", manifest.bundle_digest))?;
    let text = match source_of(component.bytes()).ok().flatten() {
        Some(files) => format!("{} files; portreeve policy extract FILE DIR", files.len()),
        None => "none: a component of somebody's own making".to_owned(),
    };
    output.line(format_args!("its text   {text}"))?;
    output.line(format_args!("own tests  {} case(s)", manifest.test_cases))?;
    print_profiles(manifest, output)?;
    print_operations(manifest, output)?;
    print_patterns(manifest, output)?;
    print_policies(manifest, output)?;
    print_network(manifest, output)
}

fn heading(output: &Output, text: &str) -> Result<(), CliError> {
    output.line(format_args!("\n{}", output.paint(Tone::Strong, text)))
}

fn print_profiles(manifest: &Manifest, output: &Output) -> Result<(), CliError> {
    heading(output, "Profiles")?;
    let rows = manifest.profiles.iter().map(|info| {
        [
            info.name.clone(),
            info.trust_level.to_string(),
            info.agent_types.join(" "),
            rules_of(info),
            limits_of(info),
            info.description.clone(),
        ]
    });
    output.table(&["PROFILE", "TRUST", "AGENT TYPES", "BEYOND ITS TRUST", "LIMITS", "DESCRIPTION"], rows)
}

/// What a profile adds to, or takes from, what its trust allows.
fn rules_of(info: &ProfileInfo) -> String {
    let parts = [
        ("only", &info.allowed_operations),
        ("never", &info.blocked_operations),
        ("also", &info.grants),
        ("task types", &info.task_types),
        ("paths", &info.paths_allow),
        ("not paths", &info.paths_deny),
    ];
    let said = parts.iter().filter(|(_, names)| !names.is_empty()).map(|(word, names)| match names.len() {
        1..=3 => format!("{word} {}", names.join(" ")),
        count => format!("{word} {count} (see --json)"),
    });
    said.collect::<Vec<_>>().join("; ")
}

fn limits_of(info: &ProfileInfo) -> String {
    let limits = [
        ("min a lock", info.limits.max_ttl_minutes),
        ("locks", info.limits.max_locks_held),
        ("open tasks", info.limits.max_open_tasks),
        ("calls a min", info.limits.max_calls_per_minute),
    ];
    let said = limits.iter().filter_map(|(what, limit)| limit.map(|limit| format!("{limit} {what}")));
    said.collect::<Vec<_>>().join(", ")
}

fn print_operations(manifest: &Manifest, output: &Output) -> Result<(), CliError> {
    heading(output, "Operations")?;
    let rows = manifest
        .operations
        .iter()
        .map(|info| [info.name.clone(), name_of(&info.class), name_of(&info.target), info.description.clone()]);
    output.table(&["OPERATION", "CLASS", "ACTS ON", "DESCRIPTION"], rows)
}

fn print_patterns(manifest: &Manifest, output: &Output) -> Result<(), CliError> {
    heading(output, "Guardrails")?;
    let rows = manifest.patterns.iter().map(|info| {
        let trust = info.min_trust.to_string();
        [info.name.clone(), info.category.clone(), name_of(&info.severity), trust, info.description.clone()]
    });
    output.table(&["PATTERN", "CATEGORY", "SEVERITY", "PASSED FROM TRUST", "DESCRIPTION"], rows)
}

fn print_policies(manifest: &Manifest, output: &Output) -> Result<(), CliError> {
    heading(output, "Cedar policies")?;
    let rows = manifest.policies.iter().map(|info| [info.id.clone(), name_of(&info.effect), info.reason.clone()]);
    output.table(&["POLICY", "EFFECT", "REASON"], rows)
}

fn print_network(manifest: &Manifest, output: &Output) -> Result<(), CliError> {
    heading(output, "Network rules")?;
    let rows = manifest.network_rules.iter().map(|info| {
        let word = if info.allow { "allow" } else { "deny" };
        let profile = info.profile.clone().unwrap_or_else(|| "(all)".to_owned());
        [info.id.clone(), word.to_owned(), info.pattern.clone(), info.priority.to_string(), profile]
    });
    output.table(&["RULE", "EFFECT", "DOMAIN", "PRIORITY", "PROFILE"], rows)
}
