//! SHA-256 as text.

use std::fmt::Write as _;
use std::hash::Hasher;

use sha2::{Digest as _, Sha256};

/// The digest of bytes, as `sha256:` and 64 hexadecimal digits.
#[must_use]
pub fn digest_of(bytes: &[u8]) -> String {
    format!("sha256:{}", hex_of(bytes))
}

pub(super) fn hex_of(bytes: &[u8]) -> String {
    to_hex(&Sha256::digest(bytes))
}

fn to_hex(bytes: &[u8]) -> String {
    let mut hex = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a `String` does not fail.
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// A name for what was made from several parts; no two lists of parts share one.
#[derive(Default)]
pub(super) struct Key(Sha256);

impl Key {
    pub(super) fn part(mut self, bytes: &[u8]) -> Self {
        self.0.update(bytes.len().to_le_bytes());
        self.0.update(bytes);
        self
    }

    pub(super) fn hashed(mut self, value: impl std::hash::Hash) -> Self {
        value.hash(&mut self);
        self
    }

    pub(super) fn finish_hex(self) -> String {
        to_hex(&self.0.finalize())
    }
}

impl Hasher for Key {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Not asked for: the key is the whole digest.
    fn finish(&self) -> u64 {
        0
    }
}
