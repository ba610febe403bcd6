//! Path rules of a profile: globs over lock keys and edited files.

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use toml::Spanned;

use crate::problem::Reporter;

/// What the path rules of a profile say about a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PathOutcome {
    /// No rule speaks against it.
    Allowed,
    /// This deny glob matches.
    Denied(String),
    /// There are allow globs and none matches.
    NotAllowed,
}

impl PathOutcome {
    /// The word that Cedar policies see.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied(_) => "denied",
            Self::NotAllowed => "not_allowed",
        }
    }
}

/// Compiled path rules.
#[derive(Debug, Default)]
pub(crate) struct PathRules {
    deny: GlobSet,
    deny_text: Vec<String>,
    allow: GlobSet,
}

impl PathRules {
    pub(crate) fn compile(allow: &[Spanned<String>], deny: &[Spanned<String>], report: &mut Reporter<'_>) -> Self {
        Self {
            deny: compile_set(deny, report),
            deny_text: deny.iter().map(|glob| glob.get_ref().clone()).collect(),
            allow: compile_set(allow, report),
        }
    }

    /// Deny globs win; then, if there are allow globs, one must match.
    ///
    /// A deny glob is tried on the path as given and in its plain form, so that
    /// `a/../.env` does not hide `.env`; an allow glob only on the plain form.
    pub(crate) fn check(&self, path: &str) -> PathOutcome {
        if self.deny.is_empty() && self.allow.is_empty() {
            return PathOutcome::Allowed;
        }
        let plain = plain_form(path);
        let denied = self.deny.matches(&plain).into_iter().chain(self.deny.matches(path)).min();
        if let Some(index) = denied {
            return PathOutcome::Denied(self.deny_text.get(index).cloned().unwrap_or_default());
        }
        if self.allow.is_empty() || self.allow.is_match(&plain) {
            PathOutcome::Allowed
        } else {
            PathOutcome::NotAllowed
        }
    }
}

fn compile_set(globs: &[Spanned<String>], report: &mut Reporter<'_>) -> GlobSet {
    let mut set = GlobSetBuilder::new();
    for glob in globs {
        // `*` stays within a folder; `**` crosses.
        match GlobBuilder::new(glob.get_ref()).literal_separator(true).build() {
            Ok(compiled) => {
                set.add(compiled);
            }
            Err(error) => report.at(glob.span(), format!("not a glob: {}", error.kind())),
        }
    }
    set.build().unwrap_or_else(|error| {
        report.record(None, format!("the globs are too large: {error}"), None);
        GlobSet::empty()
    })
}

/// The path without empty, `.` and inner `..` segments, and with `/` for `\`.
fn plain_form(path: &str) -> String {
    let path = path.replace('\\', "/");
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." if segments.last().is_some_and(|last| *last != "..") => {
                segments.pop();
            }
            other => segments.push(other),
        }
    }
    let root = if path.starts_with('/') { "/" } else { "" };
    format!("{root}{}", segments.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Care;

    fn rules(allow: &[&str], deny: &[&str]) -> PathRules {
        let spanned =
            |list: &[&str]| -> Vec<_> { list.iter().map(|glob| Spanned::new(0..0, (*glob).to_owned())).collect() };
        let mut problems = Vec::new();
        let rules = PathRules::compile(
            &spanned(allow),
            &spanned(deny),
            &mut Reporter::new("", "", Care::Loading, &mut problems),
        );
        assert!(problems.is_empty(), "{problems:?}");
        rules
    }

    #[test]
    fn deny_wins_over_allow() {
        let rules = rules(&["src/**"], &["src/secret/**"]);
        assert_eq!(rules.check("src/a.rs"), PathOutcome::Allowed);
        assert_eq!(rules.check("src/secret/k"), PathOutcome::Denied("src/secret/**".into()));
        assert_eq!(rules.check("docs/a.md"), PathOutcome::NotAllowed);
    }

    #[test]
    fn detours_do_not_help() {
        let rules = rules(&["src/**"], &["**/.env"]);
        for path in [".env", "./.env", "src/../.env", "src//.env", "src\\.env"] {
            assert_eq!(rules.check(path), PathOutcome::Denied("**/.env".into()), "{path}");
        }
        assert_eq!(rules.check("src/../../etc/passwd"), PathOutcome::NotAllowed);
        assert_eq!(rules.check("/src/a"), PathOutcome::NotAllowed);
    }

    #[test]
    fn a_star_stays_within_its_folder() {
        let rules = rules(&["src/*"], &[]);
        assert_eq!(rules.check("src/a"), PathOutcome::Allowed);
        assert_eq!(rules.check("src/b/a"), PathOutcome::NotAllowed);
    }
}
