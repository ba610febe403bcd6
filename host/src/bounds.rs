//! JSON from outside: how much of it is read.
//!
//! A value that is read takes up to a hundred times the room of its text (`[0],` becomes a list of its own), so that a limit of
//! bytes alone would let a small body take a large part of the memory.

/// Most values in one text: members of objects and elements of lists.
pub const VALUES_MAX: usize = 50_000;

/// What is said of a text with more.
pub(crate) const TOO_MANY_VALUES: &str = "the JSON holds more than 50,000 values";

/// Whether a text has few enough values to be read.
pub(crate) fn has_few_values(text: &[u8]) -> bool {
    values_in(text) <= VALUES_MAX
}

/// How many values a text holds at most. It need not be JSON: what separates values is counted outside of strings.
#[must_use]
pub fn values_in(text: &[u8]) -> usize {
    let (mut values, mut is_in_string, mut is_escaped) = (0_usize, false, false);
    for byte in text {
        if is_in_string {
            match byte {
                _ if is_escaped => is_escaped = false,
                b'\\' => is_escaped = true,
                b'"' => is_in_string = false,
                _ => {}
            }
        } else {
            match byte {
                b'"' => is_in_string = true,
                b',' | b'[' | b'{' => values = values.saturating_add(1),
                _ => {}
            }
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_and_texts_are_not() {
        let list = |n: usize| format!("[{}]", "0,".repeat(n));
        assert!(has_few_values(list(VALUES_MAX - 1).as_bytes()));
        assert!(!has_few_values(list(VALUES_MAX).as_bytes()));
        assert!(!has_few_values("[".repeat(VALUES_MAX + 1).as_bytes()));
        let text = serde_json::json!({"a": r#"\\",[{"#.repeat(VALUES_MAX)}).to_string();
        assert!(has_few_values(text.as_bytes()));
        assert!(has_few_values(b"") && has_few_values(b"\"\\"));
    }
}
