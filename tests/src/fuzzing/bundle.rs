//! Files of a bundle, as an author writes them.

use std::sync::LazyLock;

use policy_core::{BundleFile, Policy, Problem};
use portreeve::authoring::format::format;
use portreeve::engine::types::BundleFile as HostFile;

use super::Outcome;
use super::decision::core_files;

/// The default bundle without its promises: what an input is put into has to load quickly.
static BASE: LazyLock<Vec<BundleFile>> =
    LazyLock::new(|| core_files().into_iter().filter(|file| !file.path.starts_with("decisions/")).collect());

/// The path of a file in the first line, its text in the others, in place of such a file of the default bundle: every problem
/// has its place, and what loads means the same in the one layout.
pub fn bundle_file(data: &[u8]) -> Outcome {
    let Ok(given) = std::str::from_utf8(data) else { return Outcome::Refused };
    let Some((path, text)) = given.split_once('\n') else { return Outcome::Refused };
    let files = with(path, text);
    let loaded = Policy::load(&files);
    let strict = Policy::load_strict(&files);
    let layout = format(&HostFile { path: path.to_owned(), text: text.to_owned() });
    if let Ok(once) = &layout {
        let twice = format(&HostFile { path: path.to_owned(), text: once.clone() });
        assert_eq!(twice.as_ref(), Ok(once), "a layout that is not final");
    }
    match loaded {
        Err(problems) => {
            check(&problems, &files);
            let again = Policy::load(&files).err();
            assert_eq!(again, Some(problems), "other problems the second time");
            check(&strict.expect_err("what does not load is no more in order for its author"), &files);
            Outcome::Refused
        }
        Ok(policy) => {
            match strict {
                Ok(strict) => assert_eq!(strict.manifest(), policy.manifest()),
                Err(problems) => check(&problems, &files),
            }
            assert_eq!(
                Policy::load(&files).ok().map(|again| again.manifest().clone()).as_ref(),
                Some(policy.manifest())
            );
            // The formatter's parsers are not those of the loader; what they do not understand is not touched.
            let Ok(once) = layout else { return Outcome::Accepted };
            let laid_out = Policy::load(&with(path, &once));
            let laid_out = laid_out.unwrap_or_else(|problems| panic!("the layout broke it: {problems:?}"));
            let mut manifest = laid_out.manifest().clone();
            manifest.bundle_digest.clone_from(&policy.manifest().bundle_digest);
            assert_eq!(&manifest, policy.manifest(), "the layout changed what it says");
            Outcome::Accepted
        }
    }
}

fn with(path: &str, text: &str) -> Vec<BundleFile> {
    let others = BASE.iter().filter(|file| file.path != path).cloned();
    others.chain([BundleFile { path: path.to_owned(), text: text.to_owned() }]).collect()
}

/// Problems say what is wrong, and where: at a place that there is.
fn check(problems: &[Problem], files: &[BundleFile]) {
    assert!(!problems.is_empty());
    for problem in problems {
        assert!(!problem.message.trim().is_empty(), "{problem:?}");
        assert_eq!(problem.line.is_some(), problem.column.is_some(), "{problem:?}");
        let (Some(line), Some(column)) = (problem.line, problem.column) else { continue };
        let file = files.iter().find(|file| file.path == problem.file);
        let file = file.unwrap_or_else(|| panic!("a place in a file that is not there: {problem:?}"));
        let text = (line as usize).checked_sub(1).and_then(|line| file.text.split('\n').nth(line));
        let text = text.unwrap_or_else(|| panic!("no such line: {problem:?}"));
        assert!((1..=text.chars().count() + 1).contains(&(column as usize)), "no such column: {problem:?}");
    }
}
