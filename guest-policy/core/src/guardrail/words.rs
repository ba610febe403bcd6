//! The words of commands, brought into the form that patterns read.

/// Git's options before its subcommand that take the next word as their value.
const GIT_OPTIONS_WITH_VALUE: [&[u8]; 8] =
    [b"-C", b"-c", b"--git-dir", b"--work-tree", b"--namespace", b"--super-prefix", b"--config-env", b"--attr-source"];

/// Words before a command that only say how it is run.
const RUNNERS: [&[u8]; 8] = [b"sudo", b"doas", b"env", b"command", b"exec", b"nohup", b"time", b"builtin"];

/// Collects words of the current command and writes finished commands as lines.
#[derive(Debug, Default)]
pub(crate) struct Words {
    /// The words of the current command, one after the other.
    buffer: Vec<u8>,
    /// Where each finished word of the buffer ends.
    ends: Vec<usize>,
    lines: Vec<u8>,
}

impl Words {
    pub(crate) fn with_capacity(capacity: usize) -> Self {
        Self { lines: Vec::with_capacity(capacity.saturating_add(1)), ..Self::default() }
    }

    pub(crate) fn push(&mut self, byte: u8) {
        self.buffer.push(byte);
    }

    pub(crate) fn end_word(&mut self) {
        let start = self.ends.last().copied().unwrap_or(0);
        match self.buffer.get(start..) {
            None | Some([]) => {}
            // Braces that stand alone group commands; `{}` and `${HOME}` are words.
            Some([b'{' | b'}']) => {
                self.buffer.truncate(start);
                self.end_command();
            }
            Some(_) => self.ends.push(self.buffer.len()),
        }
    }

    pub(crate) fn end_command(&mut self) {
        let start = self.ends.last().copied().unwrap_or(0);
        match self.buffer.get(start..) {
            None | Some([]) => {}
            Some([b'{' | b'}']) => self.buffer.truncate(start),
            Some(_) => self.ends.push(self.buffer.len()),
        }
        self.write_line();
        self.buffer.clear();
        self.ends.clear();
    }

    pub(crate) fn into_lines(self) -> Vec<u8> {
        self.lines
    }

    fn write_line(&mut self) {
        let mut start = 0;
        let words = self.ends.iter().map(|end| {
            let word = self.buffer.get(start..*end).unwrap_or_default();
            start = *end;
            word
        });
        let mut words = words.peekable();
        skip_prefix(&mut words);
        let mut first = true;
        while let Some(word) = words.next() {
            if !first {
                self.lines.push(b' ');
            }
            first = false;
            self.lines.extend_from_slice(word);
            if base_name(word) == b"git" {
                skip_git_options(&mut words);
            }
        }
        if !first {
            self.lines.push(b'\n');
        }
    }
}

/// Drops `sudo -n`, `env A=1 B=2`, `A=1` and the like.
fn skip_prefix<'a>(words: &mut std::iter::Peekable<impl Iterator<Item = &'a [u8]>>) {
    let mut after_runner = false;
    while let Some(word) = words.peek() {
        let runner = RUNNERS.contains(&base_name(word));
        let option = after_runner && word.starts_with(b"-");
        if !runner && !option && !is_assignment(word) {
            return;
        }
        after_runner |= runner;
        words.next();
    }
}

fn skip_git_options<'a>(words: &mut std::iter::Peekable<impl Iterator<Item = &'a [u8]>>) {
    while let Some(option) = words.next_if(|word| word.starts_with(b"-")) {
        if GIT_OPTIONS_WITH_VALUE.contains(&option) {
            words.next();
        }
    }
}

fn base_name(word: &[u8]) -> &[u8] {
    word.rsplit(|byte| *byte == b'/').next().unwrap_or(word)
}

fn is_assignment(word: &[u8]) -> bool {
    let Some(equals) = word.iter().position(|byte| *byte == b'=') else { return false };
    let name = word.get(..equals).unwrap_or_default();
    !name.is_empty()
        && name.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
        && !name.first().is_some_and(u8::is_ascii_digit)
}
