//! What is compared item by item, and the matrix.

use serde_json::Value;

use super::{Edit, bundle, diff};

/// The directions of all changes, sorted.
fn directions(report: &Value) -> Vec<&str> {
    let mut all: Vec<&str> =
        report["changes"].as_array().unwrap().iter().map(|change| change["direction"].as_str().unwrap()).collect();
    all.sort_unstable();
    all
}

/// Each change, where it leads, and where the way back does.
#[test]
fn every_list_knows_what_is_wider() {
    let codex = "profiles/codex_local.toml";
    let git = "guardrails/git.toml";
    let cases: [(Edit<'_>, &str, &str); 16] = [
        (("bundle.toml", "engine = \"both\"", "engine = \"native\""), "may_be_wider", "narrower"),
        (("bundle.toml", "version = \"0.1.0\"", "version = \"0.1.1\""), "neither", "neither"),
        ((codex, "trust = 3", "trust = 4"), "wider", "narrower"),
        ((codex, "ttl_minutes = 480", "ttl_minutes = 481"), "wider", "narrower"),
        ((codex, "ttl_minutes = 480", ""), "wider", "narrower"),
        ((codex, "trust = 3", "trust = 3\nblocked_operations = [\"recall\"]"), "narrower", "wider"),
        ((codex, "trust = 3", "trust = 3\nallowed_operations = [\"recall\"]"), "narrower", "wider"),
        ((codex, "trust = 3", "trust = 3\ntask_types = [\"review\"]"), "narrower", "wider"),
        ((codex, "[limits]", "[paths]\ndeny = [\"docs/**\"]\n[limits]"), "narrower", "wider"),
        ((codex, "agent_types = [\"codex\"]", "agent_types = [\"codex\", \"*\"]"), "wider", "narrower"),
        (
            (
                git,
                "name = \"git_clean_force\"\ncategory = \"git\"\nseverity = \"block\"",
                "name = \"git_clean_force\"\ncategory = \"git\"\nseverity = \"warn\"",
            ),
            "wider",
            "narrower",
        ),
        (
            (
                git,
                "    '\\bgit reset(?: \\S+)*? --ha(?:rd?)?(?:[^\\w-]|$)',",
                "    '\\bgit reset(?: \\S+)*? --ha(?:rd?)?(?:[^\\w-]|$)',\n    'never',",
            ),
            "narrower",
            "wider",
        ),
        ((git, "--f(?:o(?:r(?:ce?)?)?)?)(?:[^\\w-]|$)", "--f(?:o(?:r(?:ce?)?)?)?)"), "may_be_wider", "may_be_wider"),
        (("network.toml", "", "\n[[rule]]\ndomain = \"a.example\"\nallow = true\n"), "wider", "narrower"),
        (("network.toml", "", "\n[[rule]]\ndomain = \"a.example\"\nallow = false\n"), "narrower", "wider"),
        (
            (
                "operations.toml",
                "guardrails = \"report\"\ndescription = \"Stores a memory.\"",
                "description = \"Stores a memory.\"",
            ),
            "narrower",
            "wider",
        ),
    ];
    for (edit, there, back) in cases {
        let other = bundle(&[edit]);
        for (a, b, expected) in [("default".as_ref(), other.path(), there), (other.path(), "default".as_ref(), back)] {
            let code = if matches!(expected, "neither" | "narrower") { 0 } else { 3 };
            let report = diff(a, b).json(code);
            assert_eq!(directions(&report), [expected], "{edit:?} {}", report["changes"]);
        }
    }
}

#[test]
fn changed_cells_of_the_matrix_are_listed() {
    let other = bundle(&[("profiles/codex_remote.toml", "trust = 2", "trust = 3")]);
    let report = diff("default", other.path()).json(3);
    let cells = report["matrix"]["changed"].as_array().unwrap();
    assert!(cells.iter().all(|cell| cell["profile"] == "codex_remote" && cell["suspended"] == false), "{report}");
    let branch = cells.iter().find(|cell| cell["operation"] == "force_push").unwrap();
    assert_eq!((&branch["a"]["reason"], &branch["b"]["allowed"]), (&"trust_below_admin".into(), &true.into()));
    let told = diff("default", other.path()).told(3);
    assert!(told.contains("! deny trust_below_admin → allow"), "{told}");
    // Cedar's policies are the same: what changed is what they are asked about.
    assert!(report["environments"].as_array().unwrap().iter().all(|one| one["verdict"] == "equivalent"));
}
