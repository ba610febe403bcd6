//! Loading a bundle: every file is read and every problem reported at once.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};
use toml::Spanned;

use crate::cedar::CedarEngine;
use crate::decide::Policy;
use crate::decision::{EngineMode, Manifest};
use crate::guardrail::{self, Guardrails, Pattern};
use crate::network::{NetworkRule, RuleEntry};
use crate::operation::Operations;
use crate::problem::{BundleFile, Care, Problem, Reporter, missing};
use crate::profile::Profile;
use crate::tables::{Case, Known};

/// Largest file of a bundle.
const MAX_FILE_BYTES: usize = 1 << 20;

pub(crate) const NAME_HELP: &str =
    "a name has 1 to 64 lower-case letters, digits and underscores, and starts with a letter";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BundleToml {
    name: Spanned<String>,
    version: String,
    #[serde(default)]
    engine: EngineMode,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NetworkToml {
    #[serde(default)]
    rule: Vec<RuleEntry>,
}

/// The files of a bundle by path, and the problems found in them so far.
struct Loader<'a> {
    files: BTreeMap<&'a str, &'a str>,
    care: Care,
    problems: Vec<Problem>,
}

/// Loads a bundle.
pub(crate) fn load(files: &[BundleFile], care: Care) -> Result<Policy, Vec<Problem>> {
    let mut loader = Loader::new(files, care);
    let policy = loader.load();
    match policy {
        Some(policy) if loader.problems.is_empty() => Ok(policy),
        _ => {
            loader.problems.sort_by(|a, b| (&a.file, a.line, a.column).cmp(&(&b.file, b.line, b.column)));
            Err(loader.problems)
        }
    }
}

impl<'a> Loader<'a> {
    fn new(files: &'a [BundleFile], care: Care) -> Self {
        let mut loader = Self { files: BTreeMap::new(), care, problems: Vec::new() };
        for file in files {
            // Notes for people mean nothing to the policy.
            if file.path.ends_with(".md") {
                continue;
            }
            if !is_known(&file.path) {
                loader.problems.push(missing(&file.path, "not a file of a bundle"));
            } else if file.text.len() > MAX_FILE_BYTES {
                loader.problems.push(missing(&file.path, "the file is larger than 1 MiB"));
            } else if loader.files.insert(&file.path, &file.text).is_some() {
                loader.problems.push(missing(&file.path, "the file is given twice"));
            }
        }
        loader
    }

    fn load(&mut self) -> Option<Policy> {
        let header = self.one("bundle.toml", |text, report| {
            let header = parse_toml::<BundleToml>(text, report)?;
            if !is_name(header.name.get_ref()) {
                let message = format!("`{}` is not a name", header.name.get_ref());
                report.at_with_help(header.name.span(), message, NAME_HELP);
            }
            Some(header)
        });
        let operations = self.one("operations.toml", |text, report| Some(Operations::read(text, report)))?;
        let profiles = self.profiles(&operations);
        let network = self.one("network.toml", |text, report| {
            let file = parse_toml::<NetworkToml>(text, report)?;
            Some(NetworkRule::compile(file.rule, None, report))
        });
        let guardrails = self.guardrails();
        let cases = self.cases();
        let cedar = self.cedar(&operations, &profiles);
        let (header, guardrails) = (header?, guardrails?);
        let (network, cedar) = (network?, cedar?);
        if self.care == Care::Strict && self.loads() {
            let patterns: BTreeSet<&str> = guardrails.patterns().map(|pattern| pattern.info.name.as_str()).collect();
            let policies: BTreeSet<&str> = cedar.policies().iter().map(|policy| policy.id.as_str()).collect();
            let known = Known { operations: &operations, profiles: &profiles, patterns, policies };
            self.problems.extend(cases.iter().flat_map(|case| known.problems(case)));
        }
        let manifest = Manifest {
            name: header.name.into_inner(),
            version: header.version,
            bundle_digest: digest(&self.files),
            engine: header.engine,
            operations: operations.iter().map(|operation| operation.info.clone()).collect(),
            profiles: profiles.values().map(|profile| profile.info.clone()).collect(),
            patterns: guardrails.patterns().map(|pattern| pattern.info.clone()).collect(),
            policies: cedar.policies().to_vec(),
            network_rules: network
                .iter()
                .chain(profiles.values().flat_map(|profile| &profile.network))
                .map(|rule| rule.info.clone())
                .collect(),
            test_cases: u32::try_from(cases.len()).unwrap_or(u32::MAX),
        };
        Some(Policy { manifest, operations, profiles, network, guardrails, cedar, cases })
    }

    /// Whether nothing is wrong but what has no effect. What did not load is missing, and would be missed by every case.
    fn loads(&self) -> bool {
        let mut loader = Self { files: self.files.clone(), care: Care::Loading, problems: Vec::new() };
        self.problems.is_empty() || (loader.load().is_some() && loader.problems.is_empty())
    }

    /// Reads a file that every bundle has.
    fn one<T>(&mut self, path: &str, read: impl FnOnce(&str, &mut Reporter<'_>) -> Option<T>) -> Option<T> {
        let Some(text) = self.files.get(path) else {
            self.problems.push(missing(path, "the file is missing"));
            return None;
        };
        read(text, &mut Reporter::new(path, text, self.care, &mut self.problems))
    }

    /// Reads each file of a folder.
    fn each(&mut self, folder: &str, mut read: impl FnMut(&str, &str, &mut Reporter<'_>)) {
        for (path, text) in self.files.iter().filter(|(path, _)| path.starts_with(folder)) {
            read(path, text, &mut Reporter::new(path, text, self.care, &mut self.problems));
        }
    }

    fn profiles(&mut self, operations: &Operations) -> BTreeMap<String, Profile> {
        let mut profiles: BTreeMap<String, Profile> = BTreeMap::new();
        self.each("profiles/", |_, text, report| {
            let Some(profile) = Profile::read(text, operations, report) else { return };
            let name = profile.info.name.clone();
            if profiles.insert(name.clone(), profile).is_some() {
                report.record(None, format!("profile `{name}` is defined twice"), None);
            }
        });
        if profiles.is_empty() {
            self.problems.push(missing("profiles", "no profile is defined"));
        }
        profiles
    }

    fn guardrails(&mut self) -> Option<Guardrails> {
        let mut patterns: Vec<Pattern> = Vec::new();
        let mut names = BTreeSet::new();
        self.each("guardrails/", |_, text, report| {
            for pattern in guardrail::read(text, report) {
                if !names.insert(pattern.info.name.clone()) {
                    let message = format!("pattern `{}` is defined twice", pattern.info.name);
                    report.record(None, message, None);
                }
                patterns.push(pattern);
            }
        });
        Guardrails::new(patterns)
            .inspect_err(|error| {
                let message = format!("the patterns are too large together: {error}");
                self.problems.push(missing("guardrails", message));
            })
            .ok()
    }

    fn cases(&mut self) -> Vec<Case> {
        let mut cases = Vec::new();
        self.each("decisions/", |path, text, report| cases.extend(Case::read(path, text, report)));
        cases
    }

    fn cedar(&mut self, operations: &Operations, profiles: &BTreeMap<String, Profile>) -> Option<CedarEngine> {
        let Some(schema) = self.files.get("schema.cedarschema") else {
            self.problems.push(missing("schema.cedarschema", "the file is missing"));
            return None;
        };
        let policies: Vec<(&str, &str)> = self
            .files
            .iter()
            .filter(|(path, _)| path.starts_with("cedar/"))
            .map(|(path, text)| (*path, *text))
            .collect();
        CedarEngine::load(schema, &policies, operations, profiles, self.care, &mut self.problems)
    }
}

fn is_known(path: &str) -> bool {
    const FILES: [&str; 4] = ["bundle.toml", "operations.toml", "network.toml", "schema.cedarschema"];
    const FOLDERS: [(&str, &str); 4] =
        [("profiles/", ".toml"), ("guardrails/", ".toml"), ("decisions/", ".toml"), ("cedar/", ".cedar")];
    let in_folder = |(folder, ending): &(&str, &str)| path.starts_with(folder) && path.ends_with(ending);
    FILES.contains(&path) || FOLDERS.iter().any(in_folder)
}

/// The digest of the files that mean something, in the order of their paths.
/// Lengths frame them, so that no two bundles run together to the same bytes.
fn digest(files: &BTreeMap<&str, &str>) -> String {
    let mut hasher = Sha256::new();
    for part in files.iter().flat_map(|(path, text)| [path, text]) {
        hasher.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hasher.update(part.as_bytes());
    }
    let bytes = hasher.finalize();
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

/// Parses a TOML file, or records why it does not parse.
pub(crate) fn parse_toml<T: DeserializeOwned>(text: &str, report: &mut Reporter<'_>) -> Option<T> {
    match toml::from_str(text) {
        Ok(value) => Some(value),
        Err(error) => {
            let offset = error.span().map(|span| span.start);
            report.record(offset, error.message().to_owned(), None);
            None
        }
    }
}

/// Names are what identifiers in most languages are.
pub(crate) fn is_name(text: &str) -> bool {
    text.len() <= 64
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}
