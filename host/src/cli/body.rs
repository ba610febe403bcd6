//! Small readers and writers of what goes to the service and comes back.

use std::io::{self, Read};

use serde_json::{Map, Value};

use super::error::CliError;

/// The fields of an input that are given.
pub(super) fn fields(input: Value) -> Map<String, Value> {
    match input {
        Value::Object(map) => map.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        _ => Map::new(),
    }
}

/// A text of an answer; empty when it is absent or null.
pub(super) fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

/// A list of an answer; empty when it is absent.
pub(super) fn items<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// A time as a table shows it: to the second.
pub(super) fn short_time(time: &str) -> String {
    time.split_once('.').map_or_else(|| time.to_owned(), |(seconds, _)| format!("{seconds}Z"))
}

/// What a list says of the entries that it left out.
pub(super) fn hint(body: &Value) -> Option<String> {
    Some(text(body, "hint")).filter(|hint| !hint.is_empty()).map(|hint| format!("There are more; {hint}."))
}

/// Reads all of a text, or says why not: a file or stdin may have no end, and what is cut off would be another text.
pub(super) fn read_whole(from: impl Read, name: &str, bytes_max: usize) -> Result<String, CliError> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    from.take(limit).read_to_end(&mut bytes).map_err(|error| unreadable(name, &error))?;
    if bytes.len() > bytes_max {
        let cause = format!("{name} holds more than {bytes_max} bytes, the most that is taken");
        return Err(CliError::new(cause, "split it into parts"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        CliError::new(format!("{name} is not UTF-8 text (byte {at})"), "convert it first, for instance with iconv")
    })
}

/// A file that cannot be read.
pub(super) fn unreadable(name: &str, error: &io::Error) -> CliError {
    CliError::new(format!("cannot read {name}: {error}"), "name a file that you may read, or pass the text on stdin")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_read_whole_or_not_at_all() {
        assert_eq!(read_whole(&b"abc"[..], "x", 3).unwrap(), "abc");
        assert!(read_whole(&b"abcd"[..], "x", 3).unwrap_err().cause.contains("more than 3 bytes"));
        assert!(read_whole(&b"ab\xff"[..], "x", 3).unwrap_err().cause.contains("byte 2"));
        assert!(read_whole(io::repeat(b'a'), "x", 1000).is_err());
    }
}
