//! A policy's way from text to the file that decides, with the program that its author runs.

use std::fs;
use std::path::{Path, PathBuf};

use portreeve::engine::{default_bundle, digest_of};
use serde_json::Value;
use tempfile::TempDir;

use crate::harness::cli::cli;

/// A folder with a policy of somebody's own.
struct Author {
    _dir: TempDir,
    folder: PathBuf,
}

impl Author {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("acme");
        let said = cli(["policy", "new"]).arg(&folder).told(0);
        assert!(said.contains("the policy `acme`"), "{said}");
        Self { _dir: dir, folder }
    }

    fn edit(&self, file: &str, change: impl FnOnce(&str) -> String) {
        let path = self.folder.join(file);
        let text = fs::read_to_string(&path).unwrap_or_default();
        let changed = change(&text);
        assert_ne!(text, changed, "{file} does not change");
        fs::write(path, changed).unwrap();
    }

    fn told(&self, command: &str, words: &[&str], code: i32) -> String {
        cli(["policy", command]).arg(&self.folder).args(words).told(code)
    }

    fn json(&self, command: &str, words: &[&str], code: i32) -> Value {
        cli(["policy", command]).arg(&self.folder).args(words).json(code)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.parent().unwrap().join(name)
    }

    fn build(&self, name: &str, code: i32) -> Value {
        cli(["policy", "build"]).arg(&self.folder).arg("-o").arg(self.file(name)).json(code)
    }
}

fn text_of(folder: &Path, file: &str) -> String {
    fs::read_to_string(folder.join(file)).unwrap()
}

#[test]
fn a_new_policy_is_the_default_one_under_its_own_name() {
    let author = Author::new();
    for file in default_bundle() {
        if file.path != "bundle.toml" {
            assert_eq!(text_of(&author.folder, &file.path), file.text, "{}", file.path);
        }
    }
    let header = text_of(&author.folder, "bundle.toml");
    assert!(header.contains("name = \"acme\"") && header.contains("version = \"0.1.0\""), "{header}");
    assert!(author.folder.join("README.md").is_file());
    assert!(author.told("check", &[], 0).contains("no problem"));
    assert!(author.told("fmt", &["--check"], 0).is_empty());
    // Nothing of somebody's is written over.
    assert!(author.told("new", &[], 1).contains("holds something already"));
    assert!(cli(["policy", "new", "x", "--name", "No Name"]).told(2).contains("not a name"));
}

#[test]
fn check_tells_all_problems_at_once_with_their_places() {
    let author = Author::new();
    author.edit("profiles/admin.toml", |text| format!("{text}grants = [\"check_guardrails\"]\n"));
    author.edit("network.toml", |text| {
        format!("{text}\n[[rule]]\ndomain = \"github.com\"\nallow = true\nid = \"again\"\n")
    });
    author.edit("cedar/access.cedar", |text| {
        format!(
            "{text}\n@id(\"x\") @reason(\"x\") permit (principal, action, resource) when {{ principal.age > 3 }};\n"
        )
    });
    author.edit("guardrails/git.toml", |text| text.replacen("'\\bgit", "'(\\bgit", 1));
    let found = author.json("check", &[], 1);
    assert_eq!(found["valid"], false);
    let problems = found["problems"].as_array().unwrap();
    for (file, part) in [
        ("profiles/admin.toml", "trust 4 is enough"),
        ("network.toml", "can never match"),
        ("cedar/access.cedar", "age"),
        ("guardrails/git.toml", "not a regular expression"),
    ] {
        let told = problems.iter().find(|problem| {
            problem["file"] == file && problem["message"].as_str().is_some_and(|message| message.contains(part))
        });
        let told = told.unwrap_or_else(|| panic!("no `{part}` in {found:#}"));
        assert!(told["line"].is_u64(), "{told}");
    }
    // For people: file, line and column, as editors follow them.
    let said = author.told("check", &[], 1);
    assert!(said.contains("acme/profiles/admin.toml:5:11"), "{said}");
}

#[test]
fn the_layout_is_put_right_and_nothing_else() {
    let author = Author::new();
    author.edit("network.toml", |text| text.replace(" = ", "="));
    author.edit("cedar/guardrails.cedar", |text| text.replace("unless { ", "unless{"));
    assert_eq!(author.json("fmt", &["--check"], 1)["changed"].as_array().unwrap().len(), 2);
    assert!(text_of(&author.folder, "network.toml").contains("allow=true"), "--check writes nothing");
    assert_eq!(author.json("fmt", &[], 0)["changed"].as_array().unwrap().len(), 2);
    for file in ["network.toml", "cedar/guardrails.cedar"] {
        let own = default_bundle().into_iter().find(|other| other.path == file).unwrap().text;
        assert_eq!(text_of(&author.folder, file), own);
    }
    author.edit("network.toml", |text| format!("{text}\n[[rule\n"));
    assert!(author.told("fmt", &[], 1).contains("network.toml"));
}

#[test]
fn test_tells_what_differs_and_what_no_case_exercises() {
    let author = Author::new();
    assert!(author.told("test", &[], 0).contains("cases as promised"));
    // Evaluators may force a push now: by the rules over the profiles, not by Cedar's policies, and against a case.
    author.edit("profiles/evaluator.toml", |text| text.replace("trust = 2", "trust = 1"));
    let ran = author.json("test", &[], 1);
    let failed: Vec<&Value> =
        ran["cases"].as_array().unwrap().iter().filter(|case| case["failures"] != Value::Array(Vec::new())).collect();
    assert!(!failed.is_empty());
    for case in &failed {
        assert!(case["line"].as_u64().unwrap() > 0);
        let deciders: Vec<&str> =
            case["failures"].as_array().unwrap().iter().map(|failure| failure["decider"].as_str().unwrap()).collect();
        for decider in ["native", "cedar", "both", "component"] {
            assert!(deciders.contains(&decider), "{case:#}");
        }
    }
    let said = author.told("test", &[], 1);
    assert!(said.contains("FAIL") && said.contains("decisions/profiles.toml:"), "{said}");
    assert!(said.contains("component") && said.contains("trust_below_write"), "{said}");
    let junit = author.told("test", &["--format", "junit"], 1);
    assert!(
        junit.starts_with("<?xml") && junit.contains("<failure") && junit.contains("decisions/profiles.toml"),
        "{junit}"
    );
}

#[test]
fn coverage_names_the_rules_that_no_case_exercises() {
    let author = Author::new();
    let before = author.json("test", &[], 0)["coverage"].clone();
    author.edit("network.toml", |text| format!("{text}\n[[rule]]\ndomain = \"docs.example\"\nallow = true\n"));
    author.edit("cedar/access.cedar", |text| {
        format!("{text}\n@id(\"forbid_fridays\")\n@reason(\"friday\")\nforbid (principal is Agent, action, resource)\nwhen {{ context.operation == \"friday\" }};\n")
    });
    author.edit("guardrails/git.toml", |text| {
        let pattern = "[[pattern]]\nname = \"git_gc\"\ncategory = \"git\"\nseverity = \"warn\"\nmin_trust = 2\ndescription = \"x\"\nremedy = \"x\"\nmatch = ['\\bgit gc\\b']\nmatches = [\"git gc\"]\npasses = []\n";
        format!("{text}\n{pattern}")
    });
    author.edit("profiles/new.toml", |_| {
        "name = \"new\"\ndescription = \"\"\nagent_types = [\"x\"]\ntrust = 2\nblocked_operations = [\"recall\"]\n"
            .into()
    });
    let ran = author.json("test", &[], 0);
    let coverage = &ran["coverage"];
    let names = |list: &str, name: &str| coverage[list].as_array().unwrap().iter().any(|rule| rule == name);
    assert!(names("network_rules", "docs.example"), "{coverage:#}");
    assert!(names("policies", "forbid_fridays"), "{coverage:#}");
    assert!(names("patterns", "git_gc"), "{coverage:#}");
    assert!(names("profile_rules", "new: blocks recall") && names("profile_rules", "new: agent types"), "{coverage:#}");
    let added = |of: &Value, field: &str| of[field].as_u64().unwrap();
    assert_eq!(added(coverage, "rules") - added(&before, "rules"), 6);
    assert_eq!(added(coverage, "exercised"), added(&before, "exercised"));
    assert!(author.told("test", &["--min-coverage", "100"], 1).contains("are asked for"));
}

#[test]
fn what_is_built_carries_its_text_and_is_the_same_again() {
    let author = Author::new();
    let built = author.build("one.wasm", 0);
    let bytes = fs::read(author.file("one.wasm")).unwrap();
    assert_eq!(built["component"], Value::String(digest_of(&bytes)));
    assert_eq!(built["manifest"]["name"], "acme");
    // In another cache, so that it is really made again.
    let cache = tempfile::tempdir().unwrap();
    let again = cli(["policy", "build"]).arg(&author.folder).arg("-o").arg(author.file("two.wasm"));
    again.arg("--cache").arg(cache.path().join("cache")).json(0);
    assert_eq!(fs::read(author.file("two.wasm")).unwrap(), bytes);

    let described = cli(["policy", "describe"]).arg(author.file("one.wasm")).json(0);
    assert_eq!(described["manifest"], built["manifest"]);
    assert!(described["files"].as_array().unwrap().iter().any(|file| file == "decisions/profiles.toml"));
    let out = author.file("out");
    let extract = || cli(["policy", "extract"]).arg(author.file("one.wasm")).arg(&out);
    assert_eq!(extract().arg("--verify").json(0)["verified"], true);
    for file in default_bundle() {
        assert_eq!(text_of(&out, &file.path), text_of(&author.folder, &file.path));
    }
    assert!(extract().told(1).contains("holds something already"));
    assert!(cli(["policy", "test"]).arg(author.file("one.wasm")).told(0).contains("cases as promised"));
}

#[test]
fn a_component_with_foreign_text_is_found_out() {
    let author = Author::new();
    author.build("one.wasm", 0);
    let mut bytes = fs::read(author.file("one.wasm")).unwrap();
    // The text says that strangers are denied what the rules inside allow.
    let (from, to) = (b"Evaluates and reviews what others did.", b"Evaluates and reviews what nobody did.");
    let at = bytes.windows(from.len()).rposition(|window| window == from).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to);
    fs::write(author.file("forged.wasm"), bytes).unwrap();
    let out = author.file("out");
    let said = cli(["policy", "extract"]).arg(author.file("forged.wasm")).arg(&out).arg("--verify").told(4);
    assert!(said.contains("not what this program makes"), "{said}");
    assert!(!out.exists());
}

#[test]
fn a_component_is_not_compared_by_what_it_says_of_itself() {
    let author = Author::new();
    author.build("one.wasm", 0);
    // The same section with the text, behind rules that nobody has seen.
    let mut other = fs::read(author.file("one.wasm")).unwrap();
    let at = other.windows(7).position(|window| window == b"suspend").unwrap();
    other[at] = b'S';
    fs::write(author.file("liar.wasm"), other).unwrap();
    let diff = |words: &[&str]| cli(["policy", "diff"]).arg(&author.folder).args(words).arg(author.file("liar.wasm"));
    let said = diff(&[]).told(1);
    assert!(said.contains("not what this program makes") && said.contains("--unverified"), "{said}");
    assert!(diff(&["--unverified"]).told(0).contains("B is equivalent"));
    let honest = cli(["policy", "diff"]).arg(&author.folder).arg(author.file("one.wasm"));
    assert!(honest.told(0).contains("B is equivalent"));
}

#[test]
fn nothing_of_a_bundle_is_left_out_in_silence() {
    let author = Author::new();
    for name in ["profiles/evil.yaml", "profiles/codex_local.TOML", "cedar/notes.txt"] {
        fs::write(author.folder.join(name), "").unwrap();
        let said = author.told("check", &[], 1);
        assert!(said.contains(name) && said.contains("not a file of a bundle"), "{said}");
        fs::remove_file(author.folder.join(name)).unwrap();
    }
    fs::write(author.folder.join("LICENSE.txt"), "ours").unwrap();
    author.told("check", &[], 0);
    fs::rename(author.folder.join("guardrails"), author.file("elsewhere")).unwrap();
    std::os::unix::fs::symlink(author.file("elsewhere"), author.folder.join("guardrails")).unwrap();
    let said = author.told("check", &[], 1);
    assert!(said.contains("guardrails") && said.contains("not a link"), "{said}");
}

#[test]
fn only_a_file_is_written_over() {
    let author = Author::new();
    let link = author.file("link.wasm");
    std::os::unix::fs::symlink("/dev/null", &link).unwrap();
    let said = cli(["policy", "build"]).arg(&author.folder).arg("-o").arg(&link).told(1);
    assert!(said.contains("no file") && fs::read_link(&link).is_ok(), "{said}");
}

#[test]
fn a_policy_that_fails_its_own_tests_is_not_built() {
    let author = Author::new();
    author.edit("profiles/evaluator.toml", |text| text.replace("trust = 2", "trust = 1"));
    let said = cli(["policy", "build"]).arg(&author.folder).arg("-o").arg(author.file("bad.wasm")).told(1);
    assert!(said.contains("its own tests"), "{said}");
    assert!(!author.file("bad.wasm").exists());
}

#[test]
fn what_is_no_policy_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (text, empty) = (dir.path().join("a.wasm"), dir.path().join("empty"));
    fs::write(&text, "hello").unwrap();
    fs::create_dir(&empty).unwrap();
    for (path, part) in
        [(&text, "not a component"), (&dir.path().join("none.wasm"), "cannot read"), (&empty, "bundle.toml")]
    {
        for command in ["check", "test", "describe"] {
            let said = cli(["policy", command]).arg(path).told(1);
            assert!(said.contains(part), "{command} {}: {said}", path.display());
        }
    }
}
