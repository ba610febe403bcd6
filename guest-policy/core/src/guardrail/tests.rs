//! The shell reading of texts.

use super::shell::commands;

fn lines(text: &str) -> Vec<String> {
    let view = String::from_utf8(commands(text)).unwrap().replace('\u{1}', "_");
    view.lines().map(str::to_owned).collect()
}

/// The reading holds this command.
fn assert_reads(text: &str, command: &str) {
    assert!(lines(text).iter().any(|line| line == command), "{text:?}: {:?}", lines(text));
}

#[test]
fn commands_end_where_a_shell_ends_them() {
    let text = "a b;c&&d||e|f&g\nh $(i) `j` (k) { l; }";
    assert_eq!(lines(text), ["a b", "c", "d", "e", "f", "g", "h $", "i", "j", "k", "l"]);
}

#[test]
fn quotes_and_escapes_are_taken_out() {
    for text in [
        "git \"push\" -f",
        "git pu''sh -f",
        "g\\it push -f",
        "git $'push' -f",
        "git \\\n push -f",
        "git pu\\\nsh -f",
        "git \\\r\n push -f",
        "git\t push   -f",
        "git${IFS}push$IFS-f",
    ] {
        assert_reads(text, "git push -f");
    }
}

#[test]
fn what_is_quoted_stays_a_word_and_is_read_as_a_script() {
    assert_eq!(lines("sh -c 'a b; c'")[..3], ["sh -c a_b;_c", "a b", "c"]);
    assert_reads("sh -c \"sh -c \\\"git push -f\\\"\"", "git push -f");
    assert_reads("echo \"$(git push -f)\"", "git push -f");
    assert_reads("rm \"a;b c\" -rf", "rm a;b_c -rf");
}

#[test]
fn unbalanced_quotes_hide_nothing() {
    for text in [
        "don't do this: git push -f",
        "it's \"fine\nto git push -f",
        "say \" and\ngit push -f",
        "don't\ngit push -f\nand don't",
        "'\ngit push -f",
    ] {
        let found = lines(text).iter().any(|line| line.contains("git push -f"));
        assert!(found, "{text:?}: {:?}", lines(text));
    }
}

#[test]
fn prefixes_and_options_of_git_are_dropped() {
    for text in [
        "sudo git push -f",
        "sudo -n git push -f",
        "env A=1 B=2 git push -f",
        "A=1 git push -f",
        "git -C /x push -f",
        "git -c a=b --no-pager push -f",
        "git --git-dir=/x push -f",
        "nohup time git push -f",
        "git --git-dir /x --work-tree /y push -f",
    ] {
        assert_reads(text, "git push -f");
    }
    assert_reads("/usr/bin/git -C x push", "/usr/bin/git push");
}

#[test]
fn redirections_do_not_end_commands() {
    assert_reads("git push 2>&1 -f", "git push 2 1 -f");
    assert_reads("git push >log -f", "git push log -f");
    assert_reads("git push &>log -f", "git push log -f");
    assert_reads("git push >|log -f", "git push log -f");
}

#[test]
fn words_keep_their_braces() {
    assert_reads("find . -exec rm {} \\;", "find . -exec rm {} ;");
    assert_reads("rm -rf ${HOME}", "rm -rf ${HOME}");
}

#[test]
fn depth_and_length_are_bounded() {
    let mut text = "git push -f".to_owned();
    for _ in 0..12 {
        text = format!("sh -c {text:?}");
    }
    // Deeper scripts are still found, with the quotes taken out.
    assert!(lines(&text).iter().any(|line| line.ends_with("git push -f")));
    for unit in ["'", "\"", "\\", "a'b ", "\" '"] {
        let view = commands(&unit.repeat(100_000));
        assert!(view.len() <= 8 * unit.len() * 100_000);
    }
}
