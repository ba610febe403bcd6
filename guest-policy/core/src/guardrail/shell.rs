//! A text as a shell would read it: one simple command a line.
//!
//! Patterns that look for commands must not depend on spelling: `git "push" -f`,
//! `git pu''sh -f`, `git -C x push \⏎ -f` and `bash -c "git push -f"` are one
//! command. The lexer is linear and does not recurse. It is no shell: it expands
//! nothing, and where a text is prose rather than commands it must still read on,
//! so it never stops at an unbalanced quote.
//!
//! Every text is read with its quotes: what is quoted is part of a word, and is
//! read once more on its own, because it may be a script. A text with quotes or
//! backslashes is also read with the quotes taken out, which is right for prose
//! (`don't`), for scripts within scripts, and for lists in other languages.

use super::words::Words;

/// Stands for white space inside a word, so that the word stays one.
pub(crate) const INNER_SPACE: u8 = 1;

/// How deep scripts within scripts are followed.
const MAX_DEPTH: u8 = 4;

/// The commands of a text, one a line, separated by single spaces.
pub(crate) fn commands(text: &str) -> Vec<u8> {
    let mut words = Words::with_capacity(text.len());
    let mut pending: Vec<(Vec<u8>, u8)> = Vec::new();
    Lexer::new(text.as_bytes(), &mut words).run(true, |inner| pending.push((inner, 1)));
    while let Some((script, depth)) = pending.pop() {
        Lexer::new(&script, &mut words).run(true, |inner| {
            if depth < MAX_DEPTH {
                pending.push((inner, depth.saturating_add(1)));
            }
        });
    }
    if text.bytes().any(|byte| matches!(byte, b'\'' | b'"' | b'\\')) {
        Lexer::new(text.as_bytes(), &mut words).run(false, |_| {});
    }
    words.into_lines()
}

struct Lexer<'a> {
    input: &'a [u8],
    at: usize,
    words: &'a mut Words,
    /// No closing quote is left in the input, so looking for one again would
    /// only cost time.
    single_exhausted: bool,
    double_exhausted: bool,
}

impl<'a> Lexer<'a> {
    fn new(input: &'a [u8], words: &'a mut Words) -> Self {
        Self { input, at: 0, words, single_exhausted: false, double_exhausted: false }
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.input.get(self.at.saturating_add(ahead)).copied()
    }

    fn rest_starts_with(&self, prefix: &[u8]) -> bool {
        self.input.get(self.at..).is_some_and(|rest| rest.starts_with(prefix))
    }

    fn run(mut self, quotes: bool, mut script: impl FnMut(Vec<u8>)) {
        while let Some(byte) = self.peek(0) {
            self.at = self.at.saturating_add(1);
            match byte {
                b' ' | b'\t' | b'\r' | 0x0b | 0x0c => self.words.end_word(),
                b'<' | b'>' => self.redirection(),
                b'&' if self.peek(0) == Some(b'>') => self.words.end_word(),
                b'\n' | b';' | b'|' | b'&' | b'(' | b')' | b'`' => self.words.end_command(),
                b'\\' => self.escape(quotes),
                b'\'' if quotes => self.single_quoted(&mut script),
                b'"' if quotes => self.double_quoted(&mut script),
                b'\'' | b'"' => {}
                // Lists in other languages: `['git', 'push', '-f']`.
                b',' | b'[' | b']' if !quotes => self.words.end_word(),
                b'$' => self.dollar(),
                other => self.words.push(other),
            }
        }
        self.words.end_command();
    }

    /// `>`, `2>&1`, `>|`: ends a word, not a command.
    fn redirection(&mut self) {
        self.words.end_word();
        while matches!(self.peek(0), Some(b'<' | b'>' | b'&' | b'|')) {
            self.at = self.at.saturating_add(1);
        }
    }

    fn escape(&mut self, quotes: bool) {
        let skip = match (self.peek(0), self.peek(1)) {
            (Some(b'\n'), _) => 1,
            (Some(b'\r'), Some(b'\n')) => 2,
            (Some(b' ' | b'\t'), _) if quotes => {
                self.words.push(INNER_SPACE);
                1
            }
            // Without quotes a backslash is noise, but it keeps a separator from separating.
            (Some(byte), _) if quotes || b";&|()".contains(&byte) => {
                self.words.push(byte);
                1
            }
            _ => 0,
        };
        self.at = self.at.saturating_add(skip);
    }

    /// A `$` before a quote belongs to the quote; an unquoted `$IFS` is white space.
    fn dollar(&mut self) {
        for name in [b"{IFS}".as_slice(), b"IFS"] {
            if self.rest_starts_with(name) {
                self.at = self.at.saturating_add(name.len());
                return self.words.end_word();
            }
        }
        if !matches!(self.peek(0), Some(b'\'' | b'"')) {
            self.words.push(b'$');
        }
    }

    fn single_quoted(&mut self, script: &mut impl FnMut(Vec<u8>)) {
        let rest = self.input.get(self.at..).unwrap_or_default();
        let close = if self.single_exhausted { None } else { rest.iter().position(|b| *b == b'\'') };
        let Some(length) = close else {
            self.single_exhausted = true;
            return;
        };
        let content = rest.get(..length).unwrap_or_default().to_vec();
        self.at = self.at.saturating_add(length).saturating_add(1);
        self.quoted(content, script);
    }

    fn double_quoted(&mut self, script: &mut impl FnMut(Vec<u8>)) {
        if self.double_exhausted {
            return;
        }
        let mut content = Vec::new();
        let mut rest = self.input.get(self.at..).unwrap_or_default().iter().copied().enumerate();
        while let Some((offset, byte)) = rest.next() {
            match byte {
                b'"' => {
                    self.at = self.at.saturating_add(offset).saturating_add(1);
                    return self.quoted(content, script);
                }
                b'\\' => match rest.next() {
                    Some((_, b'\n')) | None => {}
                    Some((_, escaped @ (b'"' | b'\\' | b'$' | b'`'))) => content.push(escaped),
                    Some((_, other)) => content.extend([b'\\', other]),
                },
                other => content.push(other),
            }
        }
        self.double_exhausted = true;
    }

    fn quoted(&mut self, content: Vec<u8>, script: &mut impl FnMut(Vec<u8>)) {
        for byte in &content {
            self.words.push(if byte.is_ascii_whitespace() { INNER_SPACE } else { *byte });
        }
        // A word without white space holds no command of its own, unless it substitutes one.
        if content.iter().any(|b| b.is_ascii_whitespace() || matches!(b, b'`' | b'$')) {
            script(content);
        }
    }
}
