//! Statements of SQL inside any text: whether something stands between a match
//! and the end of its statement.
//!
//! All positions are found in one pass, so that a text full of matches costs no
//! more than a long one.

use regex::bytes::Regex;

/// Positions at which excuses and ends of statements stand.
#[derive(Debug)]
pub(crate) struct Statements {
    raw: Positions,
    masked: Positions,
    /// What comments and string literals blanked out.
    holes: Vec<(usize, usize)>,
    text: Vec<u8>,
}

#[derive(Debug)]
struct Positions {
    excuses: Vec<usize>,
    ends: Vec<usize>,
}

impl Statements {
    pub(crate) fn new(text: &[u8], excuse: &Regex, end: &Regex) -> Self {
        let holes = holes(text);
        let mut blanked = text.to_vec();
        for (start, stop) in &holes {
            if let Some(hole) = blanked.get_mut(*start..*stop) {
                hole.fill(b' ');
            }
        }
        let positions = |text: &[u8]| Positions {
            excuses: excuse.find_iter(text).map(|found| found.start()).collect(),
            ends: end.find_iter(text).map(|found| found.start()).collect(),
        };
        Self { raw: positions(text), masked: positions(&blanked), holes, text: text.to_vec() }
    }

    /// Whether an excuse stands after a match, in the same statement.
    pub(crate) fn excuses(&self, start: usize, stop: usize) -> bool {
        // A match inside a string, say the argument of a shell command, is judged by the string.
        let after = self.holes.partition_point(|(_, end)| *end <= start);
        let inside = self.holes.get(after).is_some_and(|(begin, _)| *begin <= start);
        let positions = if inside { &self.raw } else { &self.masked };
        // A match may hold the end of its own statement, which then nothing can follow.
        let mut end = first_from(&positions.ends, start.saturating_add(1)).unwrap_or(usize::MAX);
        if let Some(quote) = self.closing_quote(start) {
            end = end.min(quote);
        }
        first_from(&positions.excuses, stop).is_some_and(|excuse| excuse < end)
    }

    /// Where the quotes end that opened right before a match.
    fn closing_quote(&self, start: usize) -> Option<usize> {
        let before = self.text.get(..start)?;
        let quote = before.iter().rev().copied().find(|byte| !byte.is_ascii_whitespace())?;
        if !matches!(quote, b'"' | b'\'') {
            return None;
        }
        // Bounded, because many matches may each look for a quote that never comes.
        let rest = self.text.get(start..)?.iter().take(4_096);
        let mut previous = 0;
        for (offset, byte) in rest.enumerate() {
            if *byte == quote && previous != b'\\' {
                return start.checked_add(offset);
            }
            previous = *byte;
        }
        None
    }
}

fn first_from(sorted: &[usize], from: usize) -> Option<usize> {
    sorted.get(sorted.partition_point(|at| *at < from)).copied()
}

/// Comments, and string literals where a value is expected.
fn holes(text: &[u8]) -> Vec<(usize, usize)> {
    let mut holes = Vec::new();
    let (mut at, mut last) = (0_usize, 0_u8);
    while let Some(byte) = text.get(at).copied() {
        let rest = text.get(at..).unwrap_or_default();
        let length = match byte {
            b'-' if rest.starts_with(b"--") => Some(length_to(rest, b"\n", 2)),
            b'/' if rest.starts_with(b"/*") => Some(length_to(rest, b"*/", 2)),
            b'\'' if b"=,(<>+|".contains(&last) => string_length(rest),
            _ => None,
        };
        let next = at.saturating_add(length.unwrap_or(1));
        if length.is_some() {
            holes.push((at, next));
        }
        if !byte.is_ascii_whitespace() {
            last = byte;
        }
        at = next;
    }
    holes
}

/// Length up to and with a terminator, or up to the end.
fn length_to(rest: &[u8], terminator: &[u8], from: usize) -> usize {
    let body = rest.get(from..).unwrap_or_default();
    let found = body.windows(terminator.len()).position(|window| window == terminator);
    found.map_or(rest.len(), |at| at.saturating_add(from).saturating_add(terminator.len()))
}

/// Length of a string literal that closes on its line; `''` is a quote in it.
fn string_length(rest: &[u8]) -> Option<usize> {
    let mut bytes = rest.iter().copied().enumerate().skip(1).peekable();
    while let Some((at, byte)) = bytes.next() {
        match byte {
            b'\n' => return None,
            b'\'' if bytes.next_if(|(_, next)| *next == b'\'').is_none() => {
                return at.checked_add(1);
            }
            _ => {}
        }
    }
    None
}
