//! Signatures on component files: who vouches for one, and which of two is the later.
//!
//! The last section of a signed file holds a version, the signer's public key and an Ed25519 signature (RFC 8032) over the
//! version and the SHA-256 of all bytes before that section. The version is the signer's own count: whoever trusts signers
//! takes no component of a version that is below one that was in force, so that an old file, however well signed, cannot be
//! put back (as The Update Framework has it).

use std::path::Path;

use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, KeypairBytes};
use ed25519_dalek::{Signature as Ed25519, Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha256};

/// What the signature is about begins with this, so that it is good for nothing else.
const DOMAIN: &[u8] = b"portreeve component signature 1\0";
/// Identifier, length, and length of the name of the custom section, then its name.
const HEAD: &[u8] = b"\x00\x7c\x13portreeve:signature";
const VERSION_BYTES: usize = 8;
const KEY_BYTES: usize = 32;
const SIGNATURE_BYTES: usize = 64;
/// Bytes of the whole section.
const SECTION_BYTES: usize = HEAD.len() + VERSION_BYTES + KEY_BYTES + SIGNATURE_BYTES;

/// The key of somebody whose components are trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

/// The key that makes signatures.
pub struct PrivateKey(SigningKey);

impl std::fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PrivateKey").field("id", &self.public().id()).finish_non_exhaustive()
    }
}

/// What is wrong with a key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read.
    #[error("cannot read the key `{path}`: {cause}")]
    Unreadable {
        /// Which file.
        path: String,
        /// Why.
        cause: std::io::Error,
    },
    /// The text is not such a key.
    #[error("not an Ed25519 {what} key in PEM: {cause}")]
    Malformed {
        /// Public or private.
        what: &'static str,
        /// What is wrong with it. The text itself is not repeated.
        cause: String,
    },
    /// There is no randomness to make one of.
    #[error("the system gives no random bytes: {0}")]
    Random(String),
}

impl PublicKey {
    /// Reads a key in PEM (SubjectPublicKeyInfo, as `openssl pkey -pubout` writes it).
    ///
    /// # Errors
    /// [`KeyError::Malformed`].
    pub fn parse(pem: &str) -> Result<Self, KeyError> {
        let key = VerifyingKey::from_public_key_pem(pem.trim());
        key.map(Self).map_err(|error| KeyError::Malformed { what: "public", cause: error.to_string() })
    }

    /// Reads a key's file.
    ///
    /// # Errors
    /// When it cannot be read, or is no public key.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        read(path).and_then(|pem| Self::parse(&pem))
    }

    /// The key in PEM.
    ///
    /// # Errors
    /// Never for a key that was read or made.
    pub fn to_pem(&self) -> Result<String, KeyError> {
        let pem = self.0.to_public_key_pem(LineEnding::LF);
        pem.map_err(|error| KeyError::Malformed { what: "public", cause: error.to_string() })
    }

    /// What the key is called in lists and in the audit log: `ed25519:` and the first 16 hexadecimal digits of its SHA-256.
    #[must_use]
    pub fn id(&self) -> String {
        let digest = Sha256::digest(self.0.as_bytes());
        digest.iter().take(8).fold("ed25519:".to_owned(), |id, byte| format!("{id}{byte:02x}"))
    }
}

impl PrivateKey {
    /// Makes a key.
    ///
    /// # Errors
    /// [`KeyError::Random`].
    pub fn generate() -> Result<Self, KeyError> {
        let mut seed = [0_u8; KEY_BYTES];
        getrandom::fill(&mut seed).map_err(|error| KeyError::Random(error.to_string()))?;
        Ok(Self(SigningKey::from_bytes(&seed)))
    }

    /// Reads a key in PEM (PKCS #8, as `openssl genpkey -algorithm ed25519` writes it).
    ///
    /// # Errors
    /// [`KeyError::Malformed`].
    pub fn parse(pem: &str) -> Result<Self, KeyError> {
        let key = SigningKey::from_pkcs8_pem(pem.trim());
        key.map(Self).map_err(|error| KeyError::Malformed { what: "private", cause: error.to_string() })
    }

    /// Reads a key's file.
    ///
    /// # Errors
    /// When it cannot be read, or is no private key.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        read(path).and_then(|pem| Self::parse(&pem))
    }

    /// The key in PEM.
    ///
    /// # Errors
    /// Never for a key that was read or made.
    pub fn to_pem(&self) -> Result<String, KeyError> {
        // Without the public key, which OpenSSL 3 does not read beside the private one.
        let pair = KeypairBytes { secret_key: self.0.to_bytes(), public_key: None };
        let pem = pair.to_pkcs8_pem(LineEnding::LF).map(|pem| pem.to_string());
        pem.map_err(|error| KeyError::Malformed { what: "private", cause: error.to_string() })
    }

    /// The key that others verify with.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// The file with a signature under `version`, in place of one that it had.
    #[must_use]
    pub fn sign(&self, component: &[u8], version: u64) -> Vec<u8> {
        let component = unsigned(component);
        let signature = self.0.sign(&message(component, version));
        let parts = [HEAD, &version.to_le_bytes(), self.public().0.as_bytes(), &signature.to_bytes()].concat();
        [component, &parts].concat()
    }
}

fn read(path: &Path) -> Result<String, KeyError> {
    std::fs::read_to_string(path).map_err(|cause| KeyError::Unreadable { path: path.display().to_string(), cause })
}

/// What a signed file says of its signature, before anybody trusts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signature {
    /// The signer's count.
    pub version: u64,
    key: [u8; KEY_BYTES],
    signature: [u8; SIGNATURE_BYTES],
}

/// Why a signature is not to be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// The file has none.
    #[error("the component is not signed")]
    Unsigned,
    /// None of the trusted keys made it.
    #[error("the component is signed by none of the trusted keys")]
    Stranger,
    /// It is not a signature over this file.
    #[error("the component's signature is not one over this file: it was changed after it was signed")]
    Wrong,
}

impl Signature {
    /// The signature at a file's end; none where there is none.
    #[must_use]
    pub fn of(component: &[u8]) -> Option<Self> {
        let (_, section) = split(component)?;
        let (version, rest) = section.split_first_chunk::<VERSION_BYTES>()?;
        let (key, signature) = rest.split_first_chunk::<KEY_BYTES>()?;
        Some(Self { version: u64::from_le_bytes(*version), key: *key, signature: signature.try_into().ok()? })
    }

    /// The signer, if one of `trusted` made this signature over this file. Keys of small order and encodings that are not
    /// the only one are refused.
    ///
    /// # Errors
    /// [`Distrust`].
    pub fn verify(component: &[u8], trusted: &[PublicKey]) -> Result<(Self, PublicKey), Distrust> {
        let signature = Self::of(component).ok_or(Distrust::Unsigned)?;
        let key = trusted.iter().find(|key| key.0.as_bytes() == &signature.key).ok_or(Distrust::Stranger)?;
        let about = message(unsigned(component), signature.version);
        key.0.verify_strict(&about, &Ed25519::from_bytes(&signature.signature)).map_err(|_| Distrust::Wrong)?;
        Ok((signature, *key))
    }

    /// Whether the signature is over this file, by whomever: the key's name then, which is only as good as the key.
    #[must_use]
    pub fn signer(component: &[u8]) -> Option<(String, u64)> {
        let key = PublicKey(VerifyingKey::from_bytes(&Self::of(component)?.key).ok()?);
        Self::verify(component, &[key]).ok().map(|(signature, key)| (key.id(), signature.version))
    }
}

/// The file without its signature.
#[must_use]
pub fn unsigned(component: &[u8]) -> &[u8] {
    split(component).map_or(component, |(before, _)| before)
}

fn split(component: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = component.len().checked_sub(SECTION_BYTES)?;
    let (before, section) = component.split_at_checked(at)?;
    section.strip_prefix(HEAD).map(|section| (before, section))
}

fn message(component: &[u8], version: u64) -> Vec<u8> {
    [DOMAIN, &version.to_le_bytes(), &Sha256::digest(component)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &[u8] = b"\0asm\x0d\0\x01\0";

    #[test]
    fn a_signature_is_over_version_and_file_and_replaces_an_earlier_one() {
        let (key, other) = (PrivateKey::generate().unwrap(), PrivateKey::generate().unwrap());
        let trusted = [other.public(), key.public()];
        let signed = key.sign(FILE, 7);
        let (signature, by) = Signature::verify(&signed, &trusted).unwrap();
        assert_eq!((signature.version, by), (7, key.public()));
        assert_eq!(unsigned(&signed), FILE);
        assert_eq!(Signature::of(&key.sign(&signed, 8)).unwrap().version, 8);
        assert_eq!(unsigned(&key.sign(&signed, 8)), FILE);
        assert_eq!(Signature::signer(&signed), Some((key.public().id(), 7)));
        assert_eq!(Signature::verify(FILE, &trusted), Err(Distrust::Unsigned));
        assert_eq!(Signature::verify(&signed, &[other.public()]), Err(Distrust::Stranger));
        for at in 0..signed.len() {
            let mut changed = signed.clone();
            changed[at] ^= 1;
            assert!(Signature::verify(&changed, &trusted).is_err(), "byte {at}");
        }
        // The signer's key in the file is not what makes it trusted.
        let mut renamed = other.sign(FILE, 7);
        let at = renamed.len() - SIGNATURE_BYTES - KEY_BYTES;
        renamed[at..at + KEY_BYTES].copy_from_slice(key.public().0.as_bytes());
        assert_eq!(Signature::verify(&renamed, &trusted), Err(Distrust::Wrong));
    }

    #[test]
    fn the_section_is_one_that_readers_of_wasm_pass_over() {
        use wasmparser::{Parser, Payload};
        let signed = PrivateKey::generate().unwrap().sign(FILE, u64::MAX);
        let sections: Vec<_> = Parser::new(0).parse_all(&signed).map(Result::unwrap).collect();
        let ours = sections.iter().any(
            |payload| matches!(payload, Payload::CustomSection(section) if section.name() == "portreeve:signature"),
        );
        assert!(ours, "{sections:?}");
    }

    #[test]
    fn keys_are_read_as_they_are_written_and_nothing_else_is_one() {
        let key = PrivateKey::generate().unwrap();
        let again = PrivateKey::parse(&key.to_pem().unwrap()).unwrap();
        assert_eq!(again.public(), key.public());
        assert_eq!(PublicKey::parse(&key.public().to_pem().unwrap()).unwrap(), key.public());
        assert!(PublicKey::parse(&key.to_pem().unwrap()).is_err());
        assert!(PrivateKey::parse(&key.public().to_pem().unwrap()).is_err());
        assert!(PublicKey::parse("").is_err());
    }
}
