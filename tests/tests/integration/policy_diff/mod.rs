//! `portreeve policy diff`: what is equivalent, narrower or wider, and that nothing passes without a proof.
//!
//! The solver is the one that `portreeve policy solver install` puts into the cache that all tests share.

mod lists;
mod solvers;

use std::path::Path;

use portreeve::engine::default_bundle;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::cli::{Cli, cli};

/// A text of the default bundle's file, and what is there instead; an empty text is the end of the file.
pub(super) type Edit<'a> = (&'a str, &'a str, &'a str);

/// The default bundle with some changes, as a folder.
pub(super) fn bundle(edits: &[Edit<'_>]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for mut file in default_bundle() {
        for (_, from, to) in edits.iter().filter(|(path, ..)| *path == file.path) {
            assert!(file.text.contains(from), "{} has no `{from}`", file.path);
            file.text = if from.is_empty() { file.text + to } else { file.text.replace(from, to) };
        }
        write(dir.path(), &file.path, &file.text);
    }
    dir
}

fn write(dir: &Path, path: &str, text: &str) {
    let file = dir.join(path);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, text).unwrap();
}

pub(super) fn diff(a: impl AsRef<Path>, b: impl AsRef<Path>) -> Cli {
    cli(["policy", "diff"]).arg(a.as_ref()).arg(b.as_ref())
}

/// What was found out about an operation.
fn environment<'a>(report: &'a Value, operation: &str) -> &'a Value {
    let all = report["environments"].as_array().unwrap();
    all.iter().find(|one| one["operation"] == operation).unwrap_or_else(|| panic!("{operation} is not in {report}"))
}

/// How many environments came out how.
fn verdicts(report: &Value, verdict: &str) -> Vec<String> {
    let all = report["environments"].as_array().unwrap().iter().filter(|one| one["verdict"] == verdict);
    all.map(|one| one["operation"].as_str().unwrap().to_owned()).collect()
}

/// An attribute of the entity that a request names as its `principal` or `resource`.
fn attribute(request: &Value, role: &str, name: &str) -> Value {
    let uid = |entity: &Value| format!("{}::{}", entity["uid"]["type"].as_str().unwrap(), entity["uid"]["id"]);
    let entities = request["entities"].as_array().unwrap();
    entities.iter().find(|entity| request[role] == uid(entity).as_str()).unwrap()["attrs"][name].clone()
}

#[test]
fn the_default_bundle_is_equivalent_to_itself() {
    let report = diff("default", "default").json(0);
    assert_eq!(report["verdict"], "equivalent");
    assert_eq!((&report["changes"], &report["matrix"]["changed"]), (&json!([]), &json!([])));
    assert!(report["matrix"]["cells"].as_u64().unwrap() > 1_000, "{}", report["matrix"]["cells"]);
    let operations = include_str!("../../../../policies/operations.toml").matches("[[operation]]").count();
    assert_eq!(verdicts(&report, "equivalent").len(), operations);
    let told = diff("default", "default").told(0);
    assert!(told.contains("B is equivalent"), "{told}");
}

const REWRITTEN: [Edit<'_>; 5] = [
    ("cedar/access.cedar", "when { principal.trust_level >= 1 }", "when { principal.trust_level > 0 }"),
    ("cedar/access.cedar", "when { principal.trust_level >= 3 }", "unless { principal.trust_level < 3 }"),
    (
        "cedar/access.cedar",
        "    principal.agent_types.contains(principal.agent_type) ||\n    principal.agent_types.contains(\"*\")",
        "    principal.agent_types.containsAny([\"*\", principal.agent_type])",
    ),
    // One policy becomes two, in another order.
    (
        "cedar/resources.cedar",
        "when { resource.path_rule == \"denied\" };\n\n@id(\"forbid_files_not_allowed\")",
        "when { \"denied\" == resource.path_rule && principal.trust_level > 0 };\n\n@id(\"forbid_files_not_allowed\")",
    ),
    (
        "cedar/resources.cedar",
        "",
        "\n@id(\"forbid_denied_files_of_nobody\")\n@reason(\"path_denied\")\nforbid (principal is Agent, action, resource is File)\n\
         when { resource.path_rule == \"denied\" && principal.trust_level <= 0 };\n",
    ),
];

#[test]
fn policies_that_say_the_same_otherwise_are_equivalent() {
    let rewritten = bundle(&REWRITTEN);
    for (a, b) in [(Path::new("default"), rewritten.path()), (rewritten.path(), Path::new("default"))] {
        let report = diff(a, b).json(0);
        assert_eq!(report["verdict"], "equivalent", "{report}");
        assert_eq!(report["changes"].as_array().unwrap().len(), 5, "{report}");
        assert_eq!(verdicts(&report, "equivalent").len(), report["environments"].as_array().unwrap().len());
    }
}

#[test]
fn what_no_request_is_makes_no_difference() {
    // The words of the rules, trust from 0 to 4, the operation's own name.
    let said = bundle(&[
        (
            "cedar/resources.cedar",
            "    resource is File\n)\nwhen { resource.path_rule == \"not_allowed\" };",
            "    resource is File\n)\n\
             unless { resource.path_rule == \"allowed\" || resource.path_rule == \"denied\" };",
        ),
        ("cedar/access.cedar", "when { principal.trust_level >= 4 }", "when { principal.trust_level == 4 }"),
        (
            "cedar/guardrails.cedar",
            "unless { context.blocking_patterns.isEmpty() };",
            "unless { context.blocking_patterns.isEmpty() || context.operation == \"nothing\" };",
        ),
        // It would overflow where no request is.
        (
            "cedar/trust.cedar",
            "",
            "\n@id(\"far_away\")\n@reason(\"x\")\nforbid (principal is Agent, action, resource is Task)\n\
             when { resource.priority * 1000 + principal.trust_level < 0 };\n",
        ),
    ]);
    for (a, b) in [(Path::new("default"), said.path()), (said.path(), Path::new("default"))] {
        assert_eq!(diff(a, b).json(0)["verdict"], "equivalent");
    }
}

/// Elevated agents are enough for what administrators did.
const WIDER: [Edit<'_>; 2] = [
    ("cedar/access.cedar", "when { principal.trust_level >= 4 }", "when { principal.trust_level >= 3 }"),
    ("cedar/trust.cedar", "when { principal.trust_level < 4 }", "when { principal.trust_level < 3 }"),
];

#[test]
fn what_is_wider_is_shown_by_a_request() {
    let wider = bundle(&WIDER);
    let report = diff("default", wider.path()).json(3);
    assert_eq!(report["verdict"], "wider", "{report}");
    assert_eq!(verdicts(&report, "wider"), ["activate_component", "expire_leases", "manage_agents"]);
    for operation in verdicts(&report, "wider") {
        let found = environment(&report, &operation);
        assert_eq!(found["narrower"], Value::Null);
        assert_eq!(found["wider"]["action"], format!("Action::\"{operation}\""));
        // The only trust that one allows and the other does not.
        assert_eq!(attribute(&found["wider"], "principal", "trust_level"), 3, "{found}");
    }
    let told = diff("default", wider.path()).told(3);
    assert!(told.contains("B is wider") && told.contains("B allows what A denies"), "{told}");
    assert!(told.contains("\"trust_level\":3"), "{told}");
}

#[test]
fn what_is_narrower_passes() {
    let report = diff(bundle(&WIDER).path(), "default").json(0);
    assert_eq!(report["verdict"], "narrower", "{report}");
    let found = environment(&report, "manage_agents");
    assert_eq!((&found["verdict"], &found["wider"]), (&json!("narrower"), &Value::Null));
    assert_eq!(attribute(&found["narrower"], "principal", "trust_level"), 3);
}

#[test]
fn wider_here_and_narrower_there_is_incomparable() {
    let mixed = bundle(&[
        ("cedar/access.cedar", "when { principal.trust_level >= 4 }", "when { principal.trust_level == 3 }"),
        ("cedar/trust.cedar", "when { principal.trust_level < 4 }", "when { principal.trust_level != 3 }"),
    ]);
    let report = diff("default", mixed.path()).json(3);
    assert_eq!(report["verdict"], "incomparable");
    let found = environment(&report, "manage_agents");
    assert_eq!(found["verdict"], "incomparable");
    assert_eq!(attribute(&found["wider"], "principal", "trust_level"), 3);
    assert_eq!(attribute(&found["narrower"], "principal", "trust_level"), 4, "{found}");
}

#[test]
fn where_a_policy_may_fail_nothing_is_proven() {
    // It forbids nothing, and denies where it overflows.
    let policy = "\n@id(\"overflows\")\n@reason(\"x\")\nforbid (principal is Agent, action, resource is Task)\n\
        when { principal.trust_level * 4611686018427387904 < 0 };\n";
    let erring = bundle(&[("cedar/resources.cedar", "", policy)]);
    // Who takes it away lets happen what it denied: that the matrix shows, which no proof may hide.
    let there = (Path::new("default"), erring.path(), true, "not_proven");
    let back = (erring.path(), Path::new("default"), false, "wider");
    for (a, b, in_b, verdict) in [there, back] {
        let report = diff(a, b).json(3);
        assert_eq!(report["verdict"], verdict, "{:?}", report["environments"]);
        let found = environment(&report, "get_task");
        assert_eq!(found["verdict"], "not_proven");
        assert_eq!((&found["erring"][0]["policy"], &found["erring"][0]["in_b"]), (&json!("overflows"), &json!(in_b)));
        let trust = attribute(&found["erring"][0]["request"], "principal", "trust_level");
        assert!((2..=4).contains(&trust.as_i64().unwrap()), "{found}");
        assert_eq!(environment(&report, "acquire_lock")["verdict"], "equivalent");
    }
    assert_eq!(diff(erring.path(), erring.path()).json(0)["verdict"], "equivalent");
}

/// A request about another agent comes without that agent's entity: what looks at it fails, and denies. To the prover this
/// policy says nothing at all.
const LOOKS_AT_OTHERS: Edit<'_> = (
    "cedar/access.cedar",
    "",
    "\n@id(\"looks_at_others\")\n@reason(\"x\")\nforbid (principal is Agent, action == Action::\"discover_agents\", resource)\n\
     when { resource.trust_level < 0 && resource.trust_level > 0 };\n",
);

#[test]
fn entities_that_a_request_may_lack_are_not_taken_for_granted() {
    let looks = bundle(&[LOOKS_AT_OTHERS]);
    let report = diff(looks.path(), "default").json(3);
    let found = environment(&report, "discover_agents");
    assert_eq!(found["verdict"], "not_proven", "{found}");
    assert!(found["notes"][0].as_str().unwrap().contains("`looks_at_others` looks at an entity"), "{found}");
    // The matrix has such a request.
    let cells = report["matrix"]["changed"].as_array().unwrap();
    assert!(cells.iter().any(|cell| cell["a"]["allowed"] == false && cell["b"]["allowed"] == true), "{report}");
    let back = diff("default", looks.path()).json(0);
    assert_eq!(environment(&back, "discover_agents")["verdict"], "narrower", "{back}");
}

#[test]
fn another_schema_is_not_comparable() {
    let other = bundle(&[("schema.cedarschema", "entity Session;", "entity Session in [AgentType];")]);
    let report = diff("default", other.path()).json(3);
    assert_eq!(report["verdict"], "not_proven");
    assert_eq!(verdicts(&report, "not_proven"), ["heartbeat", "register_session"], "{report}");
    let note = &environment(&report, "heartbeat")["notes"][0];
    assert_eq!(note, "not comparable: the schema changed");
}

#[test]
fn an_operation_of_one_bundle_alone_is_denied_by_the_other() {
    let operation = "\n[[operation]]\nname = \"read_minutes\"\nclass = \"read\"\ntarget = \"memory\"\ndescription = \"Reads minutes.\"\n";
    let action =
        "\naction \"read_minutes\" in [\"read\"] appliesTo { principal: Agent, resource: Memory, context: Facts };\n";
    let more = bundle(&[("operations.toml", "", operation), ("schema.cedarschema", "", action)]);
    let report = diff("default", more.path()).json(3);
    let found = environment(&report, "read_minutes");
    assert_eq!((&found["verdict"], &found["only_in"]), (&json!("wider"), &json!("b")));
    let back = diff(more.path(), "default").json(0);
    let found = environment(&back, "read_minutes");
    assert_eq!((&found["verdict"], &found["only_in"]), (&json!("narrower"), &json!("a")));
}

#[test]
fn a_bundle_with_problems_is_no_bundle() {
    let broken = bundle(&[("bundle.toml", "version", "verzion")]);
    let told = diff("default", broken.path()).told(1);
    assert!(told.contains("bundle.toml") && told.contains("verzion"), "{told}");
    assert!(diff("default", "/nowhere").told(1).contains("/nowhere"));
}
