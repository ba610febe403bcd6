//! Changes to a text as the pieces that are put in or taken out: everything else stays byte for byte what it was.

use std::ops::Range;

/// One change: what stands in a range gives way to other text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Splice {
    pub(super) range: Range<usize>,
    pub(super) text: String,
}

impl Splice {
    pub(super) fn insert(at: usize, text: impl Into<String>) -> Self {
        Self { range: at..at, text: text.into() }
    }

    pub(super) fn remove(range: Range<usize>) -> Self {
        Self { range, text: String::new() }
    }
}

/// The text with all changes, which do not overlap.
pub(super) fn apply(text: &str, mut splices: Vec<Splice>) -> String {
    splices.sort_by_key(|splice| splice.range.start);
    let (mut done, mut at) = (String::with_capacity(text.len()), 0);
    for splice in splices {
        done.push_str(text.get(at..splice.range.start).unwrap_or_default());
        done.push_str(&splice.text);
        at = splice.range.end;
    }
    done.push_str(text.get(at..).unwrap_or_default());
    done
}

/// The line end that a text uses: that of its first line.
pub(super) fn newline_of(text: &str) -> &'static str {
    match text.find('\n') {
        Some(at) if text.get(..at).is_some_and(|before| before.ends_with('\r')) => "\r\n",
        _ => "\n",
    }
}

/// The white space that a position's line begins with, if nothing else stands before the position.
pub(super) fn indent_at(text: &str, at: usize) -> Option<&str> {
    let before = text.get(..at)?;
    let line = before.get(before.rfind('\n').map_or(0, |newline| newline + 1)..)?;
    line.chars().all(|c| c == ' ' || c == '\t').then_some(line)
}

/// The white space that a position's line begins with.
pub(super) fn line_indent(text: &str, at: usize) -> &str {
    let start = text.get(..at).and_then(|before| before.rfind('\n')).map_or(0, |newline| newline + 1);
    let line = text.get(start..).unwrap_or_default();
    let end = line.find(|c: char| c != ' ' && c != '\t').unwrap_or(line.len());
    line.get(..end).unwrap_or_default()
}

/// The end of a position's line, after its line end.
pub(super) fn line_end(text: &str, at: usize) -> usize {
    text.get(at..).and_then(|rest| rest.find('\n')).map_or(text.len(), |newline| at + newline + 1)
}

/// What an edit did, small enough to be kept: what it found where its own text now stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trace {
    /// Bytes before it.
    pub(super) prefix: usize,
    /// What stood there.
    pub(super) before: String,
    /// Bytes that stand there now.
    pub(super) after: usize,
}

impl Trace {
    /// The one stretch in which two texts differ.
    pub(super) fn between(old: &str, new: &str) -> Self {
        let same = |(a, b): &(char, char)| a == b;
        let prefix: usize = old.chars().zip(new.chars()).take_while(same).map(|(c, _)| c.len_utf8()).sum();
        let (old_rest, new_rest) = (old.get(prefix..).unwrap_or_default(), new.get(prefix..).unwrap_or_default());
        let pairs = old_rest.chars().rev().zip(new_rest.chars().rev());
        let suffix: usize = pairs.take_while(same).map(|(c, _)| c.len_utf8()).sum();
        let before = old_rest.get(..old_rest.len() - suffix).unwrap_or_default().to_owned();
        Self { prefix, before, after: new_rest.len() - suffix }
    }

    /// The old text, from the new one.
    pub(super) fn undo(&self, new: &str) -> Option<String> {
        let head = new.get(..self.prefix)?;
        let tail = new.get(self.prefix.checked_add(self.after)?..)?;
        Some(format!("{head}{}{tail}", self.before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_leads_back() {
        for (old, new) in [
            ("", "abc"),
            ("abc", "abc"),
            ("{}", "{\"a\": 1}"),
            ("aa", "aaa"),
            ("αβγ", "αxγ"),
            ("a\r\n", "a\r\nb\r\n"),
            ("abab", "ab"),
        ] {
            let trace = Trace::between(old, new);
            assert_eq!(trace.undo(new).as_deref(), Some(old), "{old:?} {new:?} {trace:?}");
        }
        assert_eq!(Trace { prefix: 9, before: String::new(), after: 0 }.undo("short"), None);
    }

    #[test]
    fn line_ends_and_indents_are_those_of_the_text() {
        assert_eq!((newline_of("a\r\nb\n"), newline_of("a\nb\r\n"), newline_of("a")), ("\r\n", "\n", "\n"));
        let text = "{\n\t\"a\": 1,\n}";
        assert_eq!((indent_at(text, 3), indent_at(text, 6)), (Some("\t"), None));
        assert_eq!((line_indent(text, 8), line_end(text, 4)), ("\t", 11));
        let splices = vec![Splice::insert(4, "x"), Splice::remove(0..2)];
        assert_eq!(apply("abcdef", splices), "cdxef");
    }
}
