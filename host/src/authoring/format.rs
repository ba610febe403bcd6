//! The one layout of a bundle's files. What the files mean does not change, nor any comment.

use std::str::FromStr;

use cedar_policy::PolicySet;
use cedar_policy_formatter::{Config, policies_str_to_pretty};
use taplo::formatter::{Options, format_syntax};

use crate::engine::types::{BundleFile, Problem};

/// Longest line that is not broken.
const LINE_WIDTH: usize = 120;
/// The same for Cedar, whose scopes read better broken.
const CEDAR_LINE_WIDTH: usize = 80;
const INDENT: isize = 4;

/// A file in the one layout.
///
/// # Errors
/// Where the file cannot be parsed: what is not understood is not touched.
pub fn format(file: &BundleFile) -> Result<String, Problem> {
    let ending = file.path.rsplit('.').next().unwrap_or_default();
    match ending {
        "toml" => toml(file),
        "cedar" => cedar(file),
        // Cedar has no formatter of schemas that keeps comments.
        _ => Ok(tidy(&file.text)),
    }
}

fn toml(file: &BundleFile) -> Result<String, Problem> {
    let parsed = taplo::parser::parse(&file.text);
    if let Some(error) = parsed.errors.first() {
        let offset = usize::from(error.range.start());
        let line = file.text.get(..offset).unwrap_or_default().matches('\n').count() + 1;
        return Err(problem(file, u32::try_from(line).ok(), error.message.clone()));
    }
    let options = Options {
        column_width: LINE_WIDTH,
        indent_string: " ".repeat(INDENT.unsigned_abs()),
        array_auto_collapse: false,
        array_auto_expand: false,
        allowed_blank_lines: 1,
        trailing_newline: true,
        ..Options::default()
    };
    let text = format_syntax(parsed.into_syntax(), options);
    let before = file.text.parse::<toml::Table>();
    let before = before.map_err(|error| problem(file, None, error.message().to_owned()))?;
    same(file, text, |text| text.parse::<toml::Table>().is_ok_and(|after| after == before))
}

fn cedar(file: &BundleFile) -> Result<String, Problem> {
    let config = Config { line_width: CEDAR_LINE_WIDTH, indent_width: INDENT };
    let (notes, policies) = notes_of(&file.text);
    // It parses what it wrote, and refuses to have changed its meaning.
    let text = policies_str_to_pretty(policies, &config).map_err(|error| problem(file, None, error.to_string()))?;
    let text = if notes.is_empty() { text } else { format!("{}\n\n{text}", notes.trim_end()) };
    let before = PolicySet::from_str(&file.text).map_err(|error| problem(file, None, error.to_string()))?;
    same(file, text, |text| PolicySet::from_str(text).is_ok_and(|after| after == before))
}

/// A text in its layout, if it still says the same: white space at the end of a line may be inside of a text, and then stays.
fn same(file: &BundleFile, text: String, is_same: impl Fn(&str) -> bool) -> Result<String, Problem> {
    let laid_out = [tidy(&text), text].into_iter().find(|text| is_same(text));
    laid_out.ok_or_else(|| problem(file, None, "the layout would change what it says".to_owned()))
}

/// Comments about the whole file, up to the first empty line; the formatter would give them to the first policy.
fn notes_of(text: &str) -> (&str, &str) {
    let mut end = 0;
    for line in text.split_inclusive('\n') {
        match line.trim() {
            "" if end > 0 => return text.split_at(end),
            line if line.starts_with("//") => {}
            _ => break,
        }
        end += line.len();
    }
    ("", text)
}

/// No white space at the ends of lines, one line feed at the end.
fn tidy(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    let mut tidied = lines.join("\n").trim_end().to_owned();
    tidied.push('\n');
    tidied
}

fn problem(file: &BundleFile, line: Option<u32>, message: String) -> Problem {
    Problem { file: file.path.clone(), line, column: None, message, help: None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::default_bundle;

    #[test]
    fn the_default_bundle_has_the_layout() {
        for file in default_bundle() {
            assert_eq!(format(&file).unwrap(), file.text, "{}", file.path);
        }
    }

    #[test]
    fn a_layout_is_final_and_keeps_comments() {
        let toml = "# why\nname='x'   # kept\n\n\n\ntask_types = [ \"a\",\n \"b\" ]\n";
        let cedar = "// why\n@id(\"a\")@reason(\"b\")forbid(principal,action,resource)when{true};// kept";
        for (path, text) in [("profiles/a.toml", toml), ("cedar/a.cedar", cedar)] {
            let once = format(&BundleFile { path: path.to_owned(), text: text.to_owned() }).unwrap();
            assert_ne!(once, text);
            assert!(once.contains("why") && once.contains("kept"), "{once}");
            let twice = format(&BundleFile { path: path.to_owned(), text: once.clone() }).unwrap();
            assert_eq!(once, twice);
        }
    }

    #[test]
    fn white_space_inside_of_a_text_is_no_layout() {
        let toml = "name = \"a\"   \ndescription = \"\"\"one  \ntwo\"\"\"\n";
        let cedar = "@id(\"a\")@remedy(\"one  \ntwo\")forbid(principal,action,resource);   \n";
        for (path, text) in [("profiles/a.toml", toml), ("cedar/a.cedar", cedar)] {
            let once = format(&BundleFile { path: path.to_owned(), text: text.to_owned() }).unwrap();
            assert!(once.contains("one  \ntwo"), "{once}");
            assert_eq!(format(&BundleFile { path: path.to_owned(), text: once.clone() }).unwrap(), once);
        }
    }

    #[test]
    fn what_does_not_parse_is_not_touched() {
        for (path, text) in [("network.toml", "a = ["), ("cedar/a.cedar", "permit (")] {
            assert!(format(&BundleFile { path: path.to_owned(), text: text.to_owned() }).is_err());
        }
    }
}
