//! What is wrong with a bundle is said, all at once and with its place.

use policy_core::{BundleFile, Policy, Problem, Target};

use crate::common::{files, policy, request};

/// The problems of the default bundle with one file changed.
fn problems(path: &str, change: impl FnOnce(&str) -> String) -> Vec<Problem> {
    let mut files = files();
    match files.iter_mut().find(|file| file.path == path) {
        Some(file) => file.text = change(&file.text),
        None => files.push(BundleFile { path: path.into(), text: change("") }),
    }
    Policy::load(&files).err().unwrap_or_default()
}

fn assert_problem(path: &str, part: &str, change: impl FnOnce(&str) -> String) -> Problem {
    let found = problems(path, change);
    let problem = found.iter().find(|problem| problem.file == path && problem.message.contains(part));
    problem.unwrap_or_else(|| panic!("no `{part}` in {found:#?}")).clone()
}

fn append(more: &str) -> impl FnOnce(&str) -> String + '_ {
    move |text| format!("{text}\n{more}")
}

#[test]
fn digests_do_not_depend_on_order_or_notes() {
    let mut files = files();
    files.reverse();
    files.push(BundleFile { path: "notes.md".into(), text: "x".into() });
    let other = Policy::load(&files).unwrap();
    assert_eq!(other.manifest(), policy().manifest());
    let changed = files.iter_mut().find(|file| file.path == "network.toml").unwrap();
    changed.text.push('\n');
    let digest = &Policy::load(&files).unwrap().manifest().bundle_digest.clone();
    assert_ne!(*digest, policy().manifest().bundle_digest);
    assert!(digest.starts_with("sha256:") && digest.len() == 71);
}

#[test]
fn profiles_are_checked() {
    let file = "profiles/admin.toml";
    assert_problem(file, "unknown field `trusts`", |text| format!("trusts = 1\n{text}"));
    assert_problem(file, "missing field `trust`", |text| text.replace("trust = 4", ""));
    assert_problem(file, "out of range", |text| text.replace("trust = 4", "trust = 5"));
    assert_problem(file, "not a name", |text| text.replace("\"admin\"", "\"Admin\""));
    assert_problem(file, "no agent type", |text| text.replace("[\"operator\"]", "[]"));
    let unknown = "blocked_operations = [\"fly\"]";
    let problem = assert_problem(file, "unknown operation `fly`", append(unknown));
    assert_eq!((problem.line, problem.column), (Some(6), Some(23)));
    let grant = assert_problem(file, "cannot be granted", append("grants = [\"acquire_lock\"]"));
    assert!(grant.help.is_some());
    assert_problem(file, "not a glob", append("[paths]\ndeny = [\"a[\"]"));
    assert_problem(file, "not a domain pattern", append("[[network]]\ndomain = \"a b\"\nallow = true"));
    assert_problem("profiles/twin.toml", "defined twice", |_| {
        "name = \"system\"\ndescription = \"\"\nagent_types = [\"x\"]\ntrust = 1".into()
    });
}

#[test]
fn operations_and_patterns_are_checked() {
    let twice = "[[operation]]\nname = \"recall\"\nclass = \"read\"\ntarget = \"memory\"\ndescription = \"\"";
    assert_problem("operations.toml", "defined twice", append(twice));
    let grantable =
        "[[operation]]\nname = \"x\"\nclass = \"admin\"\ntarget = \"memory\"\ngrantable = true\ndescription = \"\"";
    assert_problem("operations.toml", "cannot be grantable", append(grantable));
    let pattern = |extra: &str| {
        format!(
            "[[pattern]]\nname = \"x\"\ncategory = \"c\"\nseverity = \"block\"\nmin_trust = 3\ndescription = \"\"\nremedy = \"\"\n{extra}"
        )
    };
    let file = "guardrails/x.toml";
    assert_problem(file, "not a regular expression", |_| pattern("match = ['(']\nmatches = ['a']\npasses = []"));
    let problem =
        assert_problem(file, "does not match its example", |_| pattern("match = ['a']\nmatches = ['b']\npasses = []"));
    assert_eq!(problem.line, Some(9));
    assert_problem(file, "should pass", |_| pattern("match = ['a']\nmatches = ['a']\npasses = ['a']"));
    assert_problem(file, "never matches", |_| pattern("match = []\nmatches = ['a']\npasses = []"));
    assert_problem(file, "unknown variant `refuse`", |_| {
        pattern("match = ['a']\nmatches = ['a']\npasses = []").replace("block", "refuse")
    });
    assert_problem("guardrails/twin.toml", "defined twice", |_| {
        pattern("match = ['a']\nmatches = ['a']\npasses = []").replace("\"x\"", "\"rm_rf\"")
    });
}

#[test]
fn cedar_is_checked() {
    let file = "cedar/extra.cedar";
    let rule = "@id(\"x\") @reason(\"y\")\nforbid (principal is Agent, action, resource)";
    assert!(problems(file, |_| format!("{rule};")).is_empty());
    assert_problem(file, "no `@id`", |_| "@reason(\"y\") forbid (principal, action, resource);".into());
    assert_problem(file, "no `@reason`", |_| "@id(\"y\") forbid (principal, action, resource);".into());
    let twice = rule.replace("\"x\"", "\"permit_read\"");
    assert_problem(file, "defined twice", |_| format!("{twice};"));
    let typo = assert_problem(file, "trust_levle", |_| {
        format!("{rule};\n{} when {{ principal.trust_levle > 1 }};", rule.replace("\"x\"", "\"z\""))
    });
    assert_eq!(typo.line, Some(4));
    let broken = assert_problem(file, "unexpected token", |_| format!("{rule}\nwhen {{ 1 + }};"));
    assert_eq!(broken.line, Some(3));
    assert_problem(file, "templates", |_| {
        "@id(\"x\") @reason(\"y\") forbid (principal == ?principal, action, resource);".into()
    });
    let schema = "schema.cedarschema";
    assert_problem(schema, "unexpected", append("entity"));
    assert_problem(schema, "not an operation", append("action fly;"));
    assert_problem(schema, "no action `expire_leases`", |text| text.replace("\"expire_leases\"", "\"x\""));
    assert_problem(schema, "must apply to", |text| text.replace("resource: AuditLog", "resource: [AuditLog, File]"));
    assert!(!problems(schema, |text| text.replace("trust_level: Long", "trust_level: String")).is_empty());
    assert!(
        !problems(schema, |text| text.replace("grants: Set<String>,", "grants: Set<String>, more: Long,")).is_empty()
    );
}

#[test]
fn all_problems_come_at_once() {
    let mut files = files();
    files.retain(|file| file.path != "bundle.toml");
    files.push(BundleFile { path: "policy.exe".into(), text: String::new() });
    files.push(BundleFile { path: "profiles/x.toml".into(), text: "a = ".into() });
    files.push(BundleFile { path: "cedar/x.cedar".into(), text: "permit".into() });
    files.push(files[0].clone());
    let found = Policy::load(&files).unwrap_err();
    assert!(found.len() >= 5, "{found:#?}");
    assert!(found.is_sorted_by_key(|problem| problem.file.clone()));
    assert!(!Policy::load(&[]).unwrap_err().is_empty());
}

#[test]
fn a_failing_case_is_told() {
    let mut files = files();
    files.push(BundleFile {
        path: "decisions/wrong.toml".into(),
        text: "[[case]]\nname = \"n\"\nprincipal = { agent_type = \"codex\", profile = \"codex_remote\" }\n\
               operation = \"recall\"\ntarget = { memory = \"m\" }\nexpect = { effect = \"deny\", reason = \"x\" }"
            .into(),
    });
    let report = Policy::load(&files).unwrap().run_tests();
    assert_eq!(report.failures.len(), 3);
    assert!(report.failures[0].name.starts_with("decisions/wrong.toml: n"));
    assert!(report.passed > 500, "{}", report.passed);
}

/// The default bundle with another Cedar file, and an engine.
fn with_cedar(engine: &str, cedar: &str) -> Policy {
    let mut files = files();
    files.push(BundleFile { path: "cedar/extra.cedar".into(), text: cedar.into() });
    for file in &mut files {
        if file.path == "bundle.toml" {
            file.text = file.text.replace("\"both\"", &format!("\"{engine}\""));
        }
    }
    Policy::load(&files).unwrap()
}

#[test]
fn engines_that_disagree_deny() {
    let rule = "@id(\"x\") @reason(\"no_codex\") @remedy(\"wait for Monday\")\n\
                forbid (principal in AgentType::\"codex\", action == Action::\"recall\", resource);";
    let asked = request("codex", "codex_remote", "recall", Target::Memory("m".into()));
    let both = with_cedar("both", rule).decide(&asked);
    assert_eq!(both.reason, "engines_disagree");
    assert_eq!(both.diagnostics, ["native says `allowed`, Cedar says `no_codex`"]);
    let cedar = with_cedar("cedar", rule).decide(&asked);
    assert_eq!((cedar.reason.as_str(), cedar.remedy.as_str()), ("no_codex", "wait for Monday"));
    assert_eq!(cedar.deciding, ["x"]);
    assert_eq!(with_cedar("native", rule).decide(&asked).reason, "allowed");
}

#[test]
fn a_policy_that_cannot_be_evaluated_denies() {
    // Another agent has no attributes here, and `?` of a forbid must not let through.
    let rule = "@id(\"x\") @reason(\"y\")\n\
                forbid (principal, action == Action::\"manage_agents\", resource)\n\
                when { resource.trust_level > 3 };";
    let asked = request("operator", "admin", "manage_agents", Target::Agent("other".into()));
    for engine in ["cedar", "both"] {
        let decision = with_cedar(engine, rule).decide(&asked);
        assert_eq!(decision.reason, "evaluation_error");
        assert_eq!(decision.diagnostics.len(), 1);
    }
}
