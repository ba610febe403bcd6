//! Nothing that is nested can exhaust a stack, in a thread with a small one.

use policy_core::{Policy, Problem};

use crate::common::{files, policy};

const SIZES: [usize; 7] = [10, 24, 60, 199, 1_000, 10_000, 100_000];

fn small_stack<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::Builder::new().stack_size(512 << 10).spawn(run).unwrap().join().unwrap()
}

fn policy_text(condition: &str) -> String {
    format!("@id(\"x\") @reason(\"y\") forbid (principal is Agent, action, resource) when {{ {condition} }};")
}

fn shapes(size: usize) -> Vec<String> {
    let trust = "principal.trust_level";
    vec![
        format!("{}true{}", "(".repeat(size), ")".repeat(size)),
        format!("{}1{}.isEmpty()", "[".repeat(size), "]".repeat(size)),
        format!("{}true{} has a", "{a: ".repeat(size), "}".repeat(size)),
        format!("{}true", "!".repeat(size)),
        format!("{}1 == 1", "-".repeat(size)),
        format!("{}true", "true && ".repeat(size)),
        format!("{}true", "false || ".repeat(size)),
        format!("{}true", format!("{trust} > 1 && ").repeat(size)),
        format!("{}true", "if true then true else ".repeat(size)),
        format!("{}true{}", "if ".repeat(size), " then true else true".repeat(size)),
        format!("{trust}{} == 1", ".a".repeat(size)),
        format!("{trust}{} == 1", "[\"a\"]".repeat(size)),
        format!("{trust} == 1{}", " + 1".repeat(size)),
        format!("{trust} == 1{}", " * 1".repeat(size)),
        format!("principal is {}Agent", "A::".repeat(size)),
        format!("principal.agent_type like \"{}\"", "*a".repeat(size)),
        format!("principal has {}a", "a.".repeat(size)),
        format!("{}\"", "(".repeat(size)),
        format!("{}", "\"".repeat(size)),
    ]
}

#[test]
fn policies_of_any_depth_are_judged_or_refused() {
    for size in SIZES {
        for shape in shapes(size) {
            let text = policy_text(&shape);
            let found = small_stack(move || policy().validate(&text));
            if size >= 1_000 && !shape.contains("like") {
                assert!(!found.is_empty(), "accepted {size} of {}", &shape[..20]);
            }
            assert!(found.iter().all(|problem| !problem.message.is_empty()));
        }
    }
}

#[test]
fn what_the_bounds_accept_is_also_evaluated() {
    let access = "principal.agent_type == principal.profile || ";
    let clauses = "} when { principal.trust_level > 0 ";
    for condition in [
        format!("{}true", "principal.trust_level > 0 && ".repeat(47)),
        format!("{}true", access.repeat(47)),
        format!("true {}", clauses.repeat(47)),
        format!("{}false{}", "(".repeat(23), ")".repeat(23)),
        format!("{}false", "if false then true else ".repeat(47)),
        format!("{}true{}", "(if true then ".repeat(23), " else false)".repeat(23)),
        format!("{}true{}", "!(".repeat(22), ")".repeat(22)),
        format!("{}1{} == 1", "{a: ".repeat(12), "}.a".repeat(12)),
    ] {
        let shown = condition.chars().take(40).collect::<String>();
        let reason = small_stack(move || {
            let mut files = files();
            let text = policy_text(&condition);
            files.push(policy_core::BundleFile { path: "cedar/x.cedar".into(), text });
            let loaded = Policy::load(&files).unwrap_or_else(|found| panic!("{found:#?}"));
            let target = policy_core::Target::AuditLog;
            let asked = crate::common::request("codex", "codex_remote", "query_audit", target);
            loaded.decide_with(policy_core::EngineMode::Cedar, &asked).reason
        });
        assert!(["y", "allowed"].contains(&reason.as_str()), "{reason}: {shown}");
    }
}

#[test]
fn schemas_and_tables_of_any_depth_are_refused() {
    let load = |path: &'static str, more: String| -> Vec<Problem> {
        small_stack(move || {
            let mut files = files();
            for file in &mut files {
                if file.path == path {
                    file.text.push_str(&more);
                }
            }
            Policy::load(&files).err().unwrap_or_default()
        })
    };
    for size in [1_000, 100_000] {
        let sets = format!("entity X {{ a: {}String{} }};", "Set<".repeat(size), ">".repeat(size));
        assert!(!load("schema.cedarschema", sets).is_empty());
        let records = format!("entity X {{ a: {}String{} }};", "{a: ".repeat(size), "}".repeat(size));
        assert!(!load("schema.cedarschema", records).is_empty());
        let array = format!("\nx = {}{}", "[".repeat(size), "]".repeat(size));
        assert!(!load("bundle.toml", array).is_empty());
        let keys = format!("\n{}x = 1", "a.".repeat(size));
        assert!(!load("bundle.toml", keys).is_empty());
    }
    let regex = format!(
        "\n[[pattern]]\nname = \"x\"\ncategory = \"c\"\nseverity = \"log\"\nmin_trust = 1\ndescription = \"\"\n\
         remedy = \"\"\nmatch = ['{}a{}']\nmatches = ['a']\npasses = []",
        "(".repeat(100_000),
        ")".repeat(100_000)
    );
    assert!(!load("guardrails/git.toml", regex).is_empty());
}
