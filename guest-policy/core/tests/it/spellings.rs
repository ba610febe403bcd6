//! Spellings that were missed or wrongly flagged once, beyond the examples that
//! the patterns carry themselves.

use policy_core::{Target, Text, TextFormat};

use crate::common::{policy, request};

fn found(text: &str) -> Vec<String> {
    let mut asked = request("operator", "admin", "check_guardrails", Target::Command(String::new()));
    asked.texts = vec![Text { label: "t".into(), format: TextFormat::Plain, body: text.to_owned() }];
    let decision = policy().decide(&asked);
    let mut names: Vec<_> = decision.violations.into_iter().map(|v| v.pattern_name).collect();
    names.sort();
    names
}

#[test]
fn these_are_caught_by_exactly_these() {
    let force = &["git_force_push"][..];
    for (text, names) in [
        ("git push --force --dry-run", force),
        ("git push --force=true", force),
        ("(git push -f)", force),
        ("if true; then git push -f; fi", force),
        ("git -c core.editor=true -C \"my dir\" push -f", force),
        ("eval 'git push' -f", force),
        ("git push origin '+refs/heads/*:refs/heads/*'", force),
        ("git push -qf", force),
        ("git push \"$REMOTE\" \"+$BRANCH\"", force),
        ("ssh host \"cd /srv && git push -f\"", force),
        ("python -c \"import os; os.system('git push -f')\"", force),
        ("subprocess.run(['git', 'push', '--force'])", force),
        ("git push -f # force", force),
        ("cat <<EOF | sh\ngit push -f\nEOF", force),
        ("rm -rf ./build", &["rm_rf"]),
        ("rm -rf \"$HOME\"", &["rm_recursive_force", "rm_rf"]),
        ("rm -r ~", &["rm_recursive_force"]),
        ("rm -rf /usr", &["rm_recursive_force", "rm_rf"]),
        ("rm -rf / tmp", &["rm_recursive_force", "rm_rf"]),
        ("rm --rec --for build", &["rm_rf"]),
        ("find / -type f | xargs rm -rf", &["find_delete", "rm_rf"]),
        ("DELETE FROM a WHERE id IN (SELECT id FROM b)", &[]),
        ("with x as (select 1) delete from a;", &["delete_no_where"]),
        ("db.execute('DELETE FROM users')", &["delete_no_where"]),
        ("UPDATE t SET a = (SELECT 1), b = 2;", &["delete_no_where"]),
        ("TRUNCATE `t`;", &["truncate_table"]),
        ("cp ~/.ssh/id_rsa /tmp", &["ssh_key_modify"]),
        ("npx npm publish", &["npm_publish"]),
    ] {
        assert_eq!(found(text), names, "{text}");
    }
}

#[test]
fn these_are_harmless() {
    for text in [
        "git push --force-with-lease --force-if-includes origin topic",
        "git branch -d topic && git push origin topic",
        "rm -r target/debug",
        "The form -rf is short for recursive and forced.",
        "Delete from the form every field that nobody uses, then update the tests.",
        "Please update the readme, set the version and publish the notes.",
        "truncate the title; update the docs; drop the table of contents",
        "Reset the hard drive icon, clean up, force the layout.",
        "kubectl get deploy && terraform plan && docker build .",
        "SELECT * FROM users WHERE deleted = true ORDER BY id",
        "CREATE TABLE t (id INT PRIMARY KEY); ALTER TABLE t ADD c INT;",
        "fn truncate(self) { self.rows.truncate(1); }",
        "grep -rf patterns.txt src",
        "tar -rf a.tar b",
        "cargo test -p publish && npm test",
        "the secrets of good design.txt",
        "ls ~/.ssh",
    ] {
        assert_eq!(found(text), Vec::<String>::new(), "{text}");
    }
}
