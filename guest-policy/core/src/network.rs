//! Network rules: which names may be connected to.

use std::net::Ipv6Addr;
use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;

use crate::decision::NetworkRuleInfo;
use crate::problem::Reporter;

/// A rule as authors write it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RuleEntry {
    domain: Spanned<String>,
    allow: bool,
    #[serde(default)]
    priority: i32,
    /// Defaults to the domain pattern.
    id: Option<String>,
}

impl RuleEntry {
    /// Where its domain is written.
    pub(crate) fn span(&self) -> Range<usize> {
        self.domain.span()
    }
}

/// A rule, ready to be tried.
#[derive(Debug)]
pub(crate) struct NetworkRule {
    pub(crate) info: NetworkRuleInfo,
    matcher: Matcher,
}

#[derive(Debug)]
enum Matcher {
    /// Any name.
    Any,
    /// Exactly this name.
    Name(String),
    /// Any name below this one; kept with its leading dot.
    Below(String),
}

impl Matcher {
    /// Whether this matches all that the other matches.
    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) => true,
            (Self::Name(own), Self::Name(name)) => own == name,
            // With their leading dots: a name that only ends alike has another label there.
            (Self::Below(own), Self::Name(name)) => name.len() > own.len() && name.ends_with(own.as_str()),
            (Self::Below(own), Self::Below(parent)) => parent.ends_with(own.as_str()),
            _ => false,
        }
    }
}

/// What the rules say about a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NetworkOutcome {
    /// This rule allows it.
    Allowed(String),
    /// This rule denies it.
    Denied(String),
    /// No rule speaks for it.
    NotAllowed,
    /// Not a name.
    Invalid,
}

impl NetworkOutcome {
    /// The word that Cedar policies see.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Allowed(_) => "allowed",
            Self::Denied(_) => "denied",
            Self::NotAllowed => "not_allowed",
            Self::Invalid => "invalid",
        }
    }

    /// The rule that matched.
    pub(crate) fn rule(&self) -> Option<&str> {
        match self {
            Self::Allowed(rule) | Self::Denied(rule) => Some(rule),
            Self::NotAllowed | Self::Invalid => None,
        }
    }
}

impl NetworkRule {
    /// Compiles rules and puts them in the order in which they are tried: by
    /// priority, highest first, then deny before allow.
    pub(crate) fn compile(entries: Vec<RuleEntry>, profile: Option<&str>, report: &mut Reporter<'_>) -> Vec<Self> {
        let mut rules: Vec<(Self, Range<usize>)> = Vec::new();
        for entry in entries {
            let span = entry.domain.span();
            match Self::from_entry(entry, profile) {
                Ok(rule) if rules.iter().any(|(known, _)| known.info.id == rule.info.id) => {
                    let message = format!("network rule `{}` is defined twice", rule.info.id);
                    report.at_with_help(span, message, "give one of them an `id` of its own");
                }
                Ok(rule) => rules.push((rule, span)),
                Err(pattern) => report.at_with_help(
                    span,
                    format!("`{pattern}` is not a domain pattern"),
                    "write a name, `*.` and a name for everything below it, or `*`",
                ),
            }
        }
        rules.sort_by_key(|(rule, _)| (std::cmp::Reverse(rule.info.priority), rule.info.allow));
        tell_idle(&rules, report);
        rules.into_iter().map(|(rule, _)| rule).collect()
    }

    fn from_entry(entry: RuleEntry, profile: Option<&str>) -> Result<Self, String> {
        let pattern = entry.domain.into_inner();
        let matcher = match pattern.strip_prefix("*.") {
            _ if pattern == "*" => Matcher::Any,
            Some(parent) => Matcher::Below(format!(".{}", name_of_rule(parent).ok_or(&pattern)?)),
            None => Matcher::Name(name_of_rule(&pattern).ok_or(&pattern)?),
        };
        let id = entry.id.unwrap_or_else(|| pattern.clone());
        let id = profile.map_or(id.clone(), |profile| format!("{profile}/{id}"));
        let info = NetworkRuleInfo {
            id,
            pattern,
            allow: entry.allow,
            priority: entry.priority,
            profile: profile.map(str::to_owned),
        };
        Ok(Self { info, matcher })
    }

    fn matches(&self, name: &str) -> bool {
        match &self.matcher {
            Matcher::Any => true,
            Matcher::Name(own) => own == name,
            // The label before the dot must not be empty, which `Name::parse` has seen to.
            Matcher::Below(parent) => name.len() > parent.len() && name.ends_with(parent),
        }
    }
}

/// Tells of rules that come after one which matches all that they match.
fn tell_idle(rules: &[(NetworkRule, Range<usize>)], report: &mut Reporter<'_>) {
    for (at, (rule, span)) in rules.iter().enumerate() {
        if let Some((earlier, _)) = rules.iter().take(at).find(|(earlier, _)| earlier.matcher.covers(&rule.matcher)) {
            report.idle(
                span.clone(),
                format!("network rule `{}` can never match: `{}` comes first", rule.info.id, earlier.info.id),
                "rules go by `priority`, highest first, then deny before allow",
            );
        }
    }
}

fn name_of_rule(pattern: &str) -> Option<String> {
    match Host::parse(pattern) {
        Some(Host::Name(name)) => Some(name),
        _ => None,
    }
}

/// Asks the profile's rules before the bundle's; the first that matches decides.
pub(crate) fn check(domain: &str, profile: &[NetworkRule], bundle: &[NetworkRule]) -> NetworkOutcome {
    let name = match Host::parse(domain) {
        None => return NetworkOutcome::Invalid,
        // Rules speak about names: an address would go around them.
        Some(Host::Address) => return NetworkOutcome::NotAllowed,
        Some(Host::Name(name)) => name,
    };
    match profile.iter().chain(bundle).find(|rule| rule.matches(&name)) {
        Some(rule) if rule.info.allow => NetworkOutcome::Allowed(rule.info.id.clone()),
        Some(rule) => NetworkOutcome::Denied(rule.info.id.clone()),
        None => NetworkOutcome::NotAllowed,
    }
}

/// What a domain text stands for.
#[derive(Debug, PartialEq, Eq)]
enum Host {
    /// A name in lower case and ASCII form, without the root's dot.
    Name(String),
    /// An address, in any spelling.
    Address,
}

impl Host {
    fn parse(text: &str) -> Option<Self> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if bare.parse::<Ipv6Addr>().is_ok() {
            return Some(Self::Address);
        }
        if text.len() > 1_024 {
            return None;
        }
        let ascii = idna::domain_to_ascii_cow(text.as_bytes(), idna::AsciiDenyList::EMPTY).ok()?;
        let name = ascii.strip_suffix('.').unwrap_or(&ascii);
        if name.len() > 253 || !name.split('.').all(is_label) {
            return None;
        }
        // A last label that is a number makes an address: `127.0.0.1`, `0x7f.1`, `2130706433`.
        let last = name.rsplit('.').next().unwrap_or_default();
        Some(if is_number(last) { Self::Address } else { Self::Name(name.to_ascii_lowercase()) })
    }
}

/// Letters, digits, inner hyphens, and the underscore that service names use.
fn is_label(label: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=63).contains(&label.len()) && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
}

fn is_number(label: &str) -> bool {
    let hexadecimal = label.strip_prefix("0x").or_else(|| label.strip_prefix("0X"));
    match hexadecimal {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => label.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Care;

    fn rules(list: &[(&str, bool, i32)]) -> Vec<NetworkRule> {
        let entries = list.iter().enumerate().map(|(at, (domain, allow, priority))| RuleEntry {
            domain: Spanned::new(0..0, (*domain).to_owned()),
            allow: *allow,
            priority: *priority,
            id: Some(format!("r{at}")),
        });
        let mut problems = Vec::new();
        let rules =
            NetworkRule::compile(entries.collect(), None, &mut Reporter::new("", "", Care::Loading, &mut problems));
        assert!(problems.is_empty(), "{problems:?}");
        rules
    }

    fn word(domain: &str, list: &[(&str, bool, i32)]) -> &'static str {
        check(domain, &[], &rules(list)).word()
    }

    #[test]
    fn names_compare_as_labels() {
        let list = [("github.com", true, 0), ("*.github.com", true, 0), ("*.bücher.example", true, 0)];
        for domain in [
            "github.com",
            "GitHub.COM",
            "github.com.",
            "api.github.com",
            "a.b.github.com",
            "www.xn--bcher-kva.example",
            "www.BÜCHER.example",
            "api。github.com",
        ] {
            assert_eq!(word(domain, &list), "allowed", "{domain}");
        }
        for domain in ["evilgithub.com", "github.com.evil.example", "com", "bücher.example", "githüb.com"] {
            assert_eq!(word(domain, &list), "not_allowed", "{domain}");
        }
    }

    #[test]
    fn a_wildcard_does_not_match_its_own_name() {
        assert_eq!(word("github.com", &[("*.github.com", true, 0)]), "not_allowed");
    }

    #[test]
    fn what_is_no_name_is_invalid() {
        let list = [("*", true, 0)];
        for domain in [
            "",
            ".",
            "..",
            "a..b",
            ".a",
            "github.com:443",
            "https://github.com",
            "github.com/x",
            "u@github.com",
            "github.com ",
            " github.com",
            "github.com..",
            "git hub.com",
            "-a.com",
            "a-.com",
            "a%2eb",
            "gith\0ub.com",
            "xn--a",
            "a\nb",
        ] {
            assert_eq!(word(domain, &list), "invalid", "{domain:?}");
        }
        assert_eq!(word(&"a".repeat(64), &list), "invalid");
        assert_eq!(word(&"a.".repeat(200), &list), "invalid");
    }

    #[test]
    fn addresses_match_no_rule() {
        let list = [("*", true, 0)];
        for domain in [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "0x7f.1",
            "::1",
            "[::1]",
            "fe80::1",
            "1.2.3.4.",
            "127。0。0。1",
            "１２７.0.0.1",
            "::ffff:1.2.3.4",
        ] {
            assert_eq!(word(domain, &list), "not_allowed", "{domain}");
        }
    }

    #[test]
    fn priority_then_deny_decides() {
        assert_eq!(word("a.x.org", &[("*.x.org", true, 0), ("a.x.org", false, 0)]), "denied");
        assert_eq!(word("a.x.org", &[("*.x.org", true, 5), ("a.x.org", false, 0)]), "allowed");
        let (own, bundle) = (rules(&[("x.org", true, 0)]), rules(&[("x.org", false, 9)]));
        assert_eq!(check("x.org", &own, &bundle).word(), "allowed");
    }

    #[test]
    fn broken_patterns_are_problems() {
        for pattern in ["", "*.", "*.*", "a.*", "1.2.3.4", "a b", "https://x"] {
            let entry =
                RuleEntry { domain: Spanned::new(0..0, pattern.to_owned()), allow: true, priority: 0, id: None };
            let mut problems = Vec::new();
            NetworkRule::compile(vec![entry], None, &mut Reporter::new("", "", Care::Loading, &mut problems));
            assert_eq!(problems.len(), 1, "{pattern}");
        }
    }

    #[test]
    fn rules_behind_one_that_matches_as_much_are_told() {
        let idle = |list: &[(&str, bool, i32)]| {
            let entries = list.iter().map(|(domain, allow, priority)| RuleEntry {
                domain: Spanned::new(0..0, (*domain).to_owned()),
                allow: *allow,
                priority: *priority,
                id: Some(format!("{domain} {allow}")),
            });
            let mut problems = Vec::new();
            let mut report = Reporter::new("", "", Care::Strict, &mut problems);
            NetworkRule::compile(entries.collect(), None, &mut report);
            problems.len()
        };
        assert_eq!(idle(&[("a.example", true, 0), ("*.a.example", true, 0), ("b.example", false, 0)]), 0);
        assert_eq!(idle(&[("a.example", true, 0), ("a.example", false, 0)]), 1, "deny before allow");
        assert_eq!(idle(&[("x.a.example", false, 0), ("*.a.example", true, 9)]), 1, "priority");
        assert_eq!(idle(&[("x.a.example", false, 9), ("*.a.example", true, 0)]), 0, "an exception");
        assert_eq!(idle(&[("*", true, 1), ("*.a.example", true, 0), ("b.example", true, 0)]), 2);
        assert_eq!(idle(&[("*.a.example", true, 1), ("*.b.a.example", true, 0), ("*.ba.example", true, 0)]), 1);
    }
}
