//! The memory of a component: answers laid out as the canonical ABI asks.

/// Where the result of `describe` stands: one byte says whether it is an error.
pub(in crate::hostile) const DESCRIPTION: usize = 1024;
/// Where the manifest stands in it.
pub(in crate::hostile) const MANIFEST: usize = DESCRIPTION + 4;
/// Where the decision stands.
pub(in crate::hostile) const DECISION: usize = 4096;
/// From here on, what the answers point to.
const POINTED_TO: usize = 8192;

/// Bytes of one data segment.
const SEGMENT: usize = 64;

/// Offsets in a decision.
pub(in crate::hostile) mod decision {
    pub(in crate::hostile) const EFFECT: usize = 0;
    pub(in crate::hostile) const REASON: usize = 4;
    pub(in crate::hostile) const DETAIL: usize = 12;
    pub(in crate::hostile) const TRUST_LEVEL: usize = 29;
    pub(in crate::hostile) const DECIDING: usize = 32;
}

/// Offsets in a manifest.
pub(in crate::hostile) mod manifest {
    pub(in crate::hostile) const NAME: usize = 0;
    pub(in crate::hostile) const VERSION: usize = 8;
    pub(in crate::hostile) const BUNDLE_DIGEST: usize = 16;
    pub(in crate::hostile) const PROFILES: usize = 36;
    pub(in crate::hostile) const PROFILE_SIZE: usize = 108;
    pub(in crate::hostile) const PROFILE_TRUST: usize = 24;
}

/// Bytes of a linear memory, from address 0.
pub(in crate::hostile) struct Image(Vec<u8>);

impl Image {
    /// Sets a byte.
    pub(in crate::hostile) fn u8(&mut self, at: usize, value: u8) {
        self.0[at] = value;
    }

    /// Sets a string or a list: where it stands and how long it is.
    pub(in crate::hostile) fn pair(&mut self, at: usize, address: u32, len: u32) {
        self.0[at..at + 4].copy_from_slice(&address.to_le_bytes());
        self.0[at + 4..at + 8].copy_from_slice(&len.to_le_bytes());
    }

    /// Sets a string.
    pub(in crate::hostile) fn string(&mut self, at: usize, text: &str) {
        self.bytes(at, text.as_bytes());
    }

    /// Sets a string, well-formed or not.
    pub(in crate::hostile) fn bytes(&mut self, at: usize, text: &[u8]) {
        let address = self.place(text);
        self.pair(at, address, len32(text.len()));
    }

    /// Puts bytes at the end; gives their address.
    pub(in crate::hostile) fn place(&mut self, bytes: &[u8]) -> u32 {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        let address = len32(self.0.len());
        self.0.extend_from_slice(bytes);
        address
    }

    /// Its parts as data segments of the text format; memory is zero where none is.
    pub(in crate::hostile) fn segments(&self) -> String {
        use std::fmt::Write as _;
        let (mut text, mut at) = (String::new(), 0);
        for part in self.0.chunks(SEGMENT) {
            if part.iter().any(|byte| *byte != 0) {
                let _ = write!(text, "(data (i32.const {at}) \"");
                for byte in part {
                    let _ = write!(text, "\\{byte:02x}");
                }
                text.push_str("\")\n");
            }
            at += part.len();
        }
        text
    }
}

fn len32(len: usize) -> u32 {
    u32::try_from(len).expect("an image is small")
}

/// A manifest that says little and a decision that allows.
pub(in crate::hostile) fn honest() -> Image {
    let mut image = Image(vec![0; POINTED_TO]);
    image.string(MANIFEST + manifest::NAME, "hostile");
    image.string(MANIFEST + manifest::VERSION, "1");
    let digest = format!("sha256:{}", "0".repeat(64));
    image.string(MANIFEST + manifest::BUNDLE_DIGEST, &digest);
    image.string(DECISION + decision::REASON, "allowed");
    image
}
