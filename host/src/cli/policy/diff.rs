//! `portreeve policy diff`: what a change of the policy means.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::solver::explain;
use crate::authoring::diff::{
    self, Change, DiffError, Direction, Environment, Matrix, Only, Report, Section, Side, Verdict, Witness,
};
use crate::authoring::solver::{self, Solver};
use crate::authoring::source::{Bundle, Policy as Text, Source};
use crate::cli::error::CliError;
use crate::cli::folders;
use crate::cli::output::{Output, Tone, tame};
use crate::cli::progress::{Progress, Proving};
use crate::engine::{Cage, Engine, EngineError};
use crate::store::audit::name_of;

/// The second bundle is wider, or nobody can tell.
const EXIT_NOT_NARROWER: u8 = 3;

/// Compare two policy bundles: is the second one wider?
///
/// A and B are folders with a bundle, files that were built of one, or `default` for the one that the program carries; a file is
/// made again of the text that it carries, and must come out the same. Profiles, operations, guardrails and
/// network rules are compared item by item, the decisions of the authorization matrix cell by cell, and the Cedar policies by
/// proof, for every request there can be: where B allows more, such a request is shown. What cannot be proven counts as wider.
/// The proof needs a solver: portreeve policy solver install.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  portreeve policy diff default ./policies\n  portreeve policy diff ./policies.old ./policies --json\n\nExit codes:\n  0  B allows what A allows, or less\n  1  error: no solver, a bundle with problems; nothing is known\n  2  the command line is not understood\n  3  B is wider, incomparable, or it is not proven that it is not"
)]
pub(super) struct Diff {
    /// The policy to compare with: a folder, a component file, or `default`
    #[arg(value_name = "A")]
    a: PathBuf,
    /// The policy that is to replace it
    #[arg(value_name = "B")]
    b: PathBuf,
    /// Seconds that the solver may take for one question
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    limit: u32,
    /// Believe the text that a component file carries, without making the component again of it: for files that another
    /// version of the program built
    #[arg(long)]
    unverified: bool,
    /// Where the solver is looked for, and compiled policies are kept [env: PORTREEVE_CACHE] [default: ~/.cache/portreeve]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
}

impl Diff {
    pub(super) async fn run(self, output: &Output) -> Result<ExitCode, CliError> {
        let cache = folders::cache(self.cache.clone())?;
        let (a, b) = (self.read(&self.a, &cache, output)?, self.read(&self.b, &cache, output)?);
        let folder = solver::folder(&cache);
        let program = solver::find(&folder).map_err(|error| explain(&error))?;
        let solver = Solver { program, limit: Duration::from_secs(self.limit.into()) };
        let bar = Proving::new(output);
        let compared = diff::compare(&a, &b, &solver, &|at, of| bar.show(at, of)).await;
        drop(bar);
        let report = compared.map_err(|error| failed(&error))?;
        if output.json {
            output.json(&report)?;
        } else {
            print(&report, output)?;
        }
        Ok(if report.verdict.is_not_wider() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_NOT_NARROWER) })
    }

    /// The text of a policy; of a component file, if the component is made of it.
    fn read(&self, argument: &Path, cache: &Path, output: &Output) -> Result<Bundle, CliError> {
        let source = Source::named(argument);
        let explained = |error: EngineError| super::explain(&error, &source);
        let Text::Component(bytes) = source.read().map_err(explained)? else {
            return Bundle::named(argument).map_err(explained);
        };
        if self.unverified {
            return Bundle::named(argument).map_err(explained);
        }
        let engine = Engine::open(cache, Cage::default()).map_err(explained)?;
        let progress = Progress::new(output);
        let name = argument.display().to_string();
        tokio::task::block_in_place(|| Bundle::made_into(&bytes, name, &engine, &|stage| progress.show(stage)))
            .map_err(|error| match error {
                EngineError::Source(_) => CliError::new(
                    format!("`{}`: {error}", argument.display()),
                    "compare the folder it was built of; or with --unverified what it says of itself, if you trust who made it",
                ),
                error => explained(error),
            })
    }
}

fn failed(error: &DiffError) -> CliError {
    match error {
        DiffError::Solver(error) => explain(error),
        _ => CliError::new(error.to_string(), "this is a fault of the program or of the solver; nothing was proven"),
    }
}

fn print(report: &Report, output: &Output) -> Result<(), CliError> {
    for (name, side) in [("A", &report.a), ("B", &report.b)] {
        let Side { argument, name: bundle, version, bundle_digest } = side;
        output.line(format_args!("{name}  {}  {bundle} {}  {bundle_digest}", tame(argument), tame(version)))?;
    }
    print_changes(&report.changes, output)?;
    print_matrix(&report.matrix, output)?;
    print_proof(&report.environments, output)?;
    let tone = if report.verdict.is_not_wider() { Tone::Good } else { Tone::Bad };
    output.line(format_args!("\nB is {}", output.paint(tone, verdict_word(report.verdict))))
}

fn heading(output: &Output, text: impl std::fmt::Display) -> Result<(), CliError> {
    output.line(format_args!("\n{}", output.paint(Tone::Strong, text)))
}

const fn direction_word(direction: Direction) -> &'static str {
    match direction {
        Direction::Neither => "neither",
        Direction::Narrower => "narrower",
        Direction::Wider => "wider",
        Direction::MayBeWider => "may be wider",
    }
}

const fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Equivalent => "equivalent",
        Verdict::Narrower => "narrower",
        Verdict::Wider => "wider",
        Verdict::Incomparable => "incomparable: wider here, narrower there",
        Verdict::NotProven => "not proven to be no wider",
    }
}

fn print_changes(changes: &[Change], output: &Output) -> Result<(), CliError> {
    heading(output, "Changes")?;
    if changes.is_empty() {
        return output.line("none");
    }
    let rows = changes.iter().map(|change| {
        let direction = match change.section {
            Section::Cedar => "see the proof",
            _ => direction_word(change.direction),
        };
        [direction.to_owned(), name_of(&change.section), change.item.clone(), change.text.clone()]
    });
    output.table(&["B IS", "WHAT", "NAME", "CHANGE"], rows)
}

/// Cells that changed alike are one line: first who, then what they act on. What became allowed comes first.
fn print_matrix(matrix: &Matrix, output: &Output) -> Result<(), CliError> {
    let count = matrix.changed.len();
    heading(output, format_args!("Authorization matrix: {count} of {} cells changed", matrix.cells))?;
    let mut by_target: BTreeMap<[String; 4], Vec<String>> = BTreeMap::new();
    for cell in &matrix.changed {
        let word = |decided: &diff::Decided| {
            if decided.allowed { "allow".to_owned() } else { format!("deny {}", decided.reason) }
        };
        let (mark, rank) = if cell.direction() == Direction::Wider { ("! ", "0") } else { ("", "1") };
        let who = if cell.suspended { format!("{} (suspended)", cell.profile) } else { cell.profile.clone() };
        let change = format!("{mark}{} → {}", word(&cell.a), word(&cell.b));
        let key = [rank.to_owned(), change, cell.operation.clone(), target_word(&cell.target)];
        by_target.entry(key).or_default().push(who);
    }
    let mut alike: BTreeMap<([String; 3], Vec<String>), Vec<String>> = BTreeMap::new();
    for ([rank, change, operation, target], mut who) in by_target {
        who.dedup();
        alike.entry(([rank, change, operation], who)).or_default().push(target);
    }
    if alike.is_empty() {
        return Ok(());
    }
    let rows = alike
        .into_iter()
        .map(|(([_, change, operation], who), targets)| [change, operation, targets.join(", "), who.join(" ")]);
    output.table(&["CHANGE", "OPERATION", "TARGET", "PROFILES"], rows)
}

/// `lock_key src/a.rs`
fn target_word(target: &impl serde::Serialize) -> String {
    match serde_json::to_value(target).unwrap_or_default() {
        Value::Object(fields) => fields
            .iter()
            .map(|(kind, value)| {
                let name =
                    value.as_str().or_else(|| value.get("task_type").and_then(Value::as_str)).unwrap_or_default();
                format!("{kind} {}", if name.is_empty() { "(any)" } else { name })
            })
            .collect(),
        Value::String(kind) => kind,
        other => other.to_string(),
    }
}

fn print_proof(environments: &[Environment], output: &Output) -> Result<(), CliError> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for environment in environments {
        let count = counts.entry(short_word(environment.verdict)).or_default();
        *count = count.saturating_add(1);
    }
    let counts: Vec<String> = counts.into_iter().map(|(word, count)| format!("{count} {word}")).collect();
    heading(
        output,
        format_args!("Cedar policies, by proof: {} environments, {}", environments.len(), counts.join(", ")),
    )?;
    let telling = |one: &&Environment| one.verdict != Verdict::Equivalent || !one.notes.is_empty();
    for environment in environments.iter().filter(telling) {
        print_environment(environment, output)?;
    }
    Ok(())
}

const fn short_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Incomparable => "incomparable",
        Verdict::NotProven => "not proven",
        _ => verdict_word(verdict),
    }
}

fn print_environment(environment: &Environment, output: &Output) -> Result<(), CliError> {
    let tone = if environment.verdict.is_not_wider() { Tone::Good } else { Tone::Bad };
    let only = match environment.only_in {
        Some(Only::A) => "  (only in A)",
        Some(Only::B) => "  (only in B)",
        None => "",
    };
    let Environment { operation, principal, resource, .. } = environment;
    let word = output.paint(tone, short_word(environment.verdict));
    output.line(format_args!("{word}  {principal}, {operation}, {resource}{only}"))?;
    for note in &environment.notes {
        output.line(format_args!("    {}", tame(note)))?;
    }
    for erring in &environment.erring {
        output.line(format_args!("    policy `{}` fails at", tame(&erring.policy)))?;
        print_request(&erring.request, output)?;
    }
    if let Some(request) = &environment.wider {
        output.line("    B allows what A denies (both asked of Cedar's authorizer):")?;
        print_request(request, output)?;
    }
    if let Some(request) = &environment.narrower {
        output.line("    A allows what B denies (both asked of Cedar's authorizer):")?;
        print_request(request, output)?;
    }
    Ok(())
}

fn print_request(request: &Witness, output: &Output) -> Result<(), CliError> {
    let Witness { principal, action, resource, context, entities } = request;
    for (what, text) in [("principal", principal), ("action", action), ("resource", resource)] {
        output.line(format_args!("        {what:9} {}", tame(text)))?;
    }
    output.line(format_args!("        {:9} {}", "context", tame(&context.to_string())))?;
    for entity in entities {
        let part = |name: &str| entity.get(name).cloned().unwrap_or_default();
        let name = |uid: &Value| {
            let text = |name: &str| uid.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            format!("{}::{:?}", text("type"), text("id"))
        };
        let parents: Vec<String> = part("parents").as_array().into_iter().flatten().map(name).collect();
        let parents = if parents.is_empty() { String::new() } else { format!(" in {}", parents.join(", ")) };
        let line = format!("{} {}{parents}", name(&part("uid")), part("attrs"));
        output.line(format_args!("        {:9} {}", "entity", tame(&line)))?;
    }
    Ok(())
}
