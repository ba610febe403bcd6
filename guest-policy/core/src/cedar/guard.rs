//! Bounds on Cedar text, checked before it is parsed.
//!
//! Cedar's parser, type checker and evaluator recurse along an expression. They
//! stop early where they can measure the stack, which they cannot in wasm. These
//! bounds hold in both places, so both refuse the same texts.

/// Longest text.
pub(crate) const MAX_BYTES: usize = 256 << 10;

/// Deepest nesting of brackets.
const MAX_DEPTH: usize = 24;

/// Most operators and clauses in one policy: each may be one level of its
/// expression. With the other bounds this keeps evaluation within half a
/// megabyte of stack.
const MAX_OPERATORS: usize = 48;

/// Longest chain of accesses, as in `a.b["c"].d`.
const MAX_CHAIN: usize = 12;

/// Longest path of names joined with `::`.
const MAX_PATH: usize = 16;

/// What is too much, and where.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooMuch {
    pub(crate) offset: usize,
    pub(crate) message: String,
}

/// Which language a text is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    /// Policies.
    Policies,
    /// A schema, in which `<` and `>` are brackets.
    Schema,
}

/// Checks a text; answers where each statement of it starts.
pub(crate) fn check(text: &str, language: Language) -> Result<Vec<usize>, TooMuch> {
    if text.len() > MAX_BYTES {
        let message = format!("the text is longer than {MAX_BYTES} bytes");
        return Err(TooMuch { offset: 0, message });
    }
    let mut guard = Guard { language, ..Guard::default() };
    let mut tokens = Tokens { text: text.as_bytes(), at: 0 };
    while let Some((offset, token)) = tokens.next() {
        guard.read(offset, token).map_err(|message| TooMuch { offset, message })?;
    }
    Ok(guard.starts)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Open,
    /// Opens; after a value it is an access.
    Index,
    Access,
    Close,
    Less,
    Greater,
    Operator,
    Keyword,
    Word,
    Text,
    PathSeparator,
    End,
    Other,
}

impl Default for Guard {
    fn default() -> Self {
        Self {
            language: Language::Policies,
            depth: 0,
            operators: 0,
            path: 0,
            chain: 0,
            between: true,
            starts: Vec::new(),
        }
    }
}

struct Guard {
    language: Language,
    depth: usize,
    operators: usize,
    path: usize,
    chain: usize,
    /// Between two statements.
    between: bool,
    starts: Vec<usize>,
}

impl Guard {
    fn read(&mut self, offset: usize, token: Token) -> Result<(), String> {
        if self.between {
            self.starts.push(offset);
            self.between = false;
        }
        let generic = self.language == Language::Schema;
        match token {
            Token::Open | Token::Index => self.depth = self.depth.saturating_add(1),
            Token::Less if generic => self.depth = self.depth.saturating_add(1),
            Token::Close => self.depth = self.depth.saturating_sub(1),
            Token::Greater if generic => self.depth = self.depth.saturating_sub(1),
            Token::Operator | Token::Keyword => self.operators = self.operators.saturating_add(1),
            Token::End if self.depth == 0 => {
                self.operators = 0;
                self.between = true;
            }
            _ => {}
        }
        self.chain = match token {
            Token::Access | Token::Index => self.chain.saturating_add(1),
            Token::Open | Token::Close | Token::Word | Token::Text | Token::PathSeparator => self.chain,
            _ => 0,
        };
        self.path = match token {
            Token::PathSeparator => self.path.saturating_add(1),
            Token::Word => self.path,
            _ => 0,
        };
        self.within_bounds()
    }

    fn within_bounds(&self) -> Result<(), String> {
        if self.depth > MAX_DEPTH {
            return Err(format!("brackets are nested deeper than {MAX_DEPTH}"));
        }
        if self.operators > MAX_OPERATORS && self.language == Language::Policies {
            return Err(format!("one policy has more than {MAX_OPERATORS} operators"));
        }
        if self.chain > MAX_CHAIN && self.language == Language::Policies {
            return Err(format!("one value is reached through more than {MAX_CHAIN} accesses"));
        }
        if self.path > MAX_PATH {
            return Err(format!("a name has more than {MAX_PATH} parts"));
        }
        Ok(())
    }
}

struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
}

impl Tokens<'_> {
    fn rest(&self) -> &[u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn skip_while(&mut self, wanted: impl Fn(u8) -> bool) {
        let count = self.rest().iter().take_while(|byte| wanted(**byte)).count();
        self.at = self.at.saturating_add(count);
    }

    fn next(&mut self) -> Option<(usize, Token)> {
        loop {
            self.skip_while(|byte| byte.is_ascii_whitespace());
            if !self.rest().starts_with(b"//") {
                break;
            }
            self.skip_while(|byte| byte != b'\n' && byte != b'\r');
        }
        let start = self.at;
        let byte = *self.text.get(start)?;
        self.at = start.saturating_add(1);
        let token = match byte {
            b'[' => Token::Index,
            b'(' | b'{' => Token::Open,
            b')' | b']' | b'}' => Token::Close,
            b'<' => Token::Less,
            b'>' => Token::Greater,
            b';' => Token::End,
            b'"' => self.string(),
            b':' if self.rest().starts_with(b":") => self.second(Token::PathSeparator),
            b'&' | b'|' => self.second(Token::Operator),
            b'.' => Token::Access,
            b'!' | b'-' | b'+' | b'*' | b'/' | b'%' => Token::Operator,
            byte if is_word(byte) => self.word(start),
            _ => Token::Other,
        };
        Some((start, token))
    }

    fn second(&mut self, token: Token) -> Token {
        self.at = self.at.saturating_add(1);
        token
    }

    fn string(&mut self) -> Token {
        while let Some(byte) = self.rest().first().copied() {
            self.at = self.at.saturating_add(if byte == b'\\' { 2 } else { 1 });
            if byte == b'"' {
                break;
            }
        }
        Token::Text
    }

    fn word(&mut self, start: usize) -> Token {
        self.skip_while(is_word);
        match self.text.get(start..self.at) {
            Some(b"if" | b"when" | b"unless") => Token::Keyword,
            _ => Token::Word,
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_are_found() {
        let text = "// first\npermit(principal, action, resource);\n @id(\"a;b\") forbid (a) when { x };";
        let starts = check(text, Language::Policies).unwrap();
        assert_eq!(starts, [9, 47]);
    }

    #[test]
    fn what_is_in_strings_and_comments_does_not_count() {
        let text = format!("permit(a) when {{ b == \"{}\\\"(\" }}; // {}", "(".repeat(99), "[".repeat(99));
        assert!(check(&text, Language::Policies).is_ok());
    }

    #[test]
    fn bounds_hold() {
        for text in [
            "(".repeat(25),
            "[".repeat(25),
            "{".repeat(25),
            "!".repeat(49),
            "-".repeat(49),
            ".a".repeat(13),
            "[\"a\"]".repeat(13),
            "a && ".repeat(49),
            "if a then b else ".repeat(49),
            "when { a } ".repeat(49),
            "a::".repeat(17),
        ] {
            assert!(check(&text, Language::Policies).is_err(), "{text}");
        }
        for text in ["a.b == c.d, ".repeat(99), "[a, b], ".repeat(12), "a::b, ".repeat(99)] {
            assert_eq!(check(&text, Language::Policies), Ok(vec![0]), "{text}");
        }
        assert!(check(&"Set<".repeat(25), Language::Schema).is_err());
        assert!(check(&" ".repeat(MAX_BYTES + 1), Language::Policies).is_err());
    }
}
