//! What has no effect is told to an author, and keeps nobody from loading the bundle.

use policy_core::{BundleFile, Policy, Problem};

use crate::common::files;

/// What a strict load adds to the default bundle with more text at the end of one file.
fn idle(path: &str, more: &str) -> Vec<Problem> {
    changed(path, |text| format!("{text}\n{more}"))
}

fn changed(path: &str, change: impl FnOnce(&str) -> String) -> Vec<Problem> {
    let mut files = files();
    match files.iter_mut().find(|file| file.path == path) {
        Some(file) => file.text = change(&file.text),
        None => files.push(BundleFile { path: path.into(), text: change("") }),
    }
    assert!(Policy::load(&files).is_ok(), "it loads: {:#?}", Policy::load(&files).err());
    Policy::load_strict(&files).err().unwrap_or_default()
}

fn assert_idle(path: &str, part: &str, found: &[Problem]) {
    let told = found.iter().find(|problem| problem.file == path && problem.message.contains(part));
    let told = told.unwrap_or_else(|| panic!("no `{part}` in {found:#?}"));
    assert!(told.line.is_some(), "{told:?}");
}

#[test]
fn the_default_bundle_has_nothing_without_effect() {
    assert_eq!(Policy::load_strict(&files()).err(), None);
}

#[test]
fn entries_of_a_profile_that_change_nothing_are_told() {
    let file = "profiles/new.toml";
    let profile = |rest: &str| {
        let trust = if rest.contains("trust =") { "" } else { "trust = 2\n" };
        changed(file, |_| format!("name = \"new\"\ndescription = \"\"\nagent_types = [\"x\"]\n{trust}{rest}\n"))
    };
    assert_eq!(profile("allowed_operations = [\"recall\"]"), []);
    assert_idle(file, "stands here twice", &profile("blocked_operations = [\"recall\", \"recall\"]"));
    let both = profile("allowed_operations = [\"recall\", \"remember\"]\nblocked_operations = [\"recall\"]");
    assert_idle(file, "`recall` is blocked below", &both);
    assert_idle(file, "needs more trust than 2", &profile("allowed_operations = [\"force_push\"]"));
    let outside = profile("allowed_operations = [\"recall\"]\nblocked_operations = [\"remember\"]");
    assert_idle(file, "not allowed in the first place", &outside);
    assert_idle(file, "trust 2 is enough", &profile("grants = [\"check_guardrails\"]"));
    let granted = "trust = 1\nallowed_operations = [\"recall\"]\ngrants = [\"check_guardrails\"]";
    assert_idle(file, "granted and yet not allowed", &profile(granted));
    let reader = "allowed_operations = [\"recall\"]\n";
    assert_idle(file, "nothing to a path", &profile(&format!("{reader}[paths]\ndeny = [\"*.key\"]")));
    let network = format!("{reader}[[network]]\ndomain = \"a.example\"\nallow = true");
    assert_idle(file, "may not connect", &profile(&network));
    assert_idle(file, "may change no task", &profile(&format!("{reader}task_types = [\"review\"]")));
    assert_eq!(profile("task_types = [\"review\"]\n[paths]\ndeny = [\"*.key\"]"), []);
    // Nothing that a suspended profile says matters, and that is its point.
    assert_eq!(profile("trust = 0\nallowed_operations = [\"recall\"]"), []);
}

#[test]
fn rules_that_can_never_match_are_told() {
    let rule = |domain: &str, allow: bool| format!("[[rule]]\ndomain = \"{domain}\"\nallow = {allow}\n");
    let twice = format!("{}{}id = \"other\"\n", rule("a.example", false), rule("a.example", true));
    assert_idle("network.toml", "`other` can never match: `a.example` comes first", &idle("network.toml", &twice));
    let policy = |scope: &str, when: &str| {
        format!("@id(\"mine\")\n@reason(\"mine\")\nforbid (principal is Agent, {scope}) when {{ {when} }};\n")
    };
    let file = "cedar/mine.cedar";
    let found =
        idle(file, &policy("action == Action::\"acquire_lock\", resource is LockKey", "principal.trust_level < 3"));
    assert_eq!(found, []);
    let found = idle(file, &policy("action == Action::\"acquire_lock\", resource is LockKey", "false"));
    assert_idle(file, "mine", &found);
    let found = idle(file, &policy("action == Action::\"acquire_lock\", resource is Domain", "true"));
    assert_idle(file, "mine", &found);
}

#[test]
fn cases_about_what_is_not_there_are_told() {
    let case = |name: &str, profile: &str, operation: &str, expect: &str| {
        format!(
            "[[case]]\nname = \"{name}\"\nprincipal = {{ agent_type = \"x\", profile = \"{profile}\" }}\n\
             operation = \"{operation}\"\ntarget = {{ lock_key = \"a\" }}\nexpect = {{ {expect} }}\n"
        )
    };
    let file = "decisions/mine.toml";
    let deny = |reason: &str, more: &str| format!("effect = \"deny\", reason = \"{reason}\"{more}");
    let one = case("a", "admin", "fly", &deny("suspended", ""));
    assert_idle(file, "no operation `fly`", &idle(file, &one));
    assert_eq!(idle(file, &case("a", "admin", "fly", &deny("unknown_operation", ""))), []);
    let one = case("a", "nobody", "check_locks", &deny("suspended", ""));
    assert_idle(file, "no profile `nobody`", &idle(file, &one));
    assert_eq!(idle(file, &case("a", "nobody", "check_locks", &deny("unknown_profile", ""))), []);
    let one = case("a", "admin", "check_locks", &deny("suspended", ", policies = [\"no_such\", \"native:suspended\"]"));
    assert_idle(file, "no Cedar policy `no_such`", &idle(file, &one));
    let one = case("a", "admin", "check_locks", &deny("suspended", ", violations = [\"no_such\"]"));
    assert_idle(file, "no pattern `no_such`", &idle(file, &one));
    let one = case("a", "admin", "check_locks", &deny("suspended", ""));
    assert_idle(file, "two cases are called `a`", &idle(file, &format!("{one}{one}")));
}

#[test]
fn a_profile_that_may_never_call_is_refused() {
    let mut files = files();
    let profile = files.iter_mut().find(|file| file.path == "profiles/admin.toml").unwrap();
    profile.text += "\n[limits]\ncalls_per_minute = 0\n";
    let found = Policy::load(&files).err().unwrap();
    assert_eq!((found.len(), found[0].file.as_str()), (1, "profiles/admin.toml"), "{found:#?}");
    assert!(found[0].message.contains("no call a minute") && found[0].line.is_some(), "{found:#?}");
}

#[test]
fn all_is_told_at_once() {
    let mut files = files();
    for (path, more) in [
        ("network.toml", "[[rule]]\ndomain = \"github.com\"\nallow = true\nid = \"again\"\n"),
        (
            "cedar/access.cedar",
            "@id(\"mine\") @reason(\"mine\") forbid (principal is Agent, action, resource) when { false };",
        ),
        ("profiles/admin.toml", "grants = [\"check_guardrails\"]"),
        ("guardrails/git.toml", "[[pattern]]\n"),
    ] {
        files.iter_mut().find(|file| file.path == path).unwrap().text += &format!("\n{more}\n");
    }
    let found = Policy::load_strict(&files).err().unwrap();
    let places: std::collections::BTreeSet<&str> = found.iter().map(|problem| problem.file.as_str()).collect();
    assert_eq!(places.len(), 4, "{found:#?}");
}
