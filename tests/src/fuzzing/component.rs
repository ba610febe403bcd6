//! Files that somebody hands in as a policy component.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use portreeve::engine::{Cage, Engine, EngineError, Isolation, component_of, digest_of, is_module, source_of};
use portreeve::signature::{Distrust, PrivateKey, Signature, unsigned};
use portreeve::vetting::examine;
use tempfile::TempDir;

use super::Outcome;

/// No input of this size may take longer, on a machine that is busy as well.
const LONGEST: Duration = Duration::from_secs(20);

/// A key of no worth.
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f\n-----END PRIVATE KEY-----";

static SIGNER: LazyLock<PrivateKey> = LazyLock::new(|| PrivateKey::parse(KEY).expect("a key"));

/// An engine with a narrow cage and a cache of its own: what is compiled here is worth nothing to anybody.
static ENGINE: LazyLock<(Engine, TempDir)> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let cage = Cage {
        memory_bytes_max: 8 << 20,
        fuel_decide: 2_000_000,
        fuel_tests: 2_000_000,
        deadline_decide: Duration::from_secs(5),
        deadline_tests: Duration::from_secs(5),
        request_bytes_max: 1 << 20,
        answer_bytes_max: 1 << 20,
        concurrency: 1,
        // What an instance remembers is no part of an answer; here it would be one of the check.
        isolation: Isolation::Fresh,
    };
    (Engine::open(folder.path(), cage).expect("an engine"), folder)
});

/// Bytes as a component, or as a module that becomes one: refused with a reason, or caged; never for long.
pub fn component_bytes(data: &[u8]) -> Outcome {
    let started = Instant::now();
    check_signature(data);
    let made = if is_module(data) { component_of(data).ok() } else { None };
    let accepted = [Some(data), made.as_deref()].into_iter().flatten().any(|bytes| {
        check_source(bytes);
        load(bytes)
    });
    assert!(started.elapsed() < LONGEST, "{:?}", started.elapsed());
    Outcome::accepted_if(accepted)
}

fn check_signature(data: &[u8]) {
    let bare = unsigned(data);
    assert!(data.starts_with(bare));
    assert_eq!(Signature::of(data).is_some(), bare.len() < data.len());
    let trusted = [SIGNER.public()];
    // Nobody but its owner signs with this key, so whatever comes is not signed by it.
    assert!(matches!(
        Signature::verify(data, &trusted),
        Err(Distrust::Unsigned | Distrust::Stranger | Distrust::Wrong)
    ));
    let signed = SIGNER.sign(data, 7);
    assert_eq!(unsigned(&signed), bare);
    let (signature, key) = Signature::verify(&signed, &trusted).expect("a signature that was just made");
    assert_eq!((signature.version, key), (7, trusted[0]));
    assert_eq!(Signature::signer(&signed), Some((key.id(), 7)));
}

/// What a file says of its making leads nowhere else.
fn check_source(bytes: &[u8]) {
    let told = source_of(bytes);
    assert_eq!(format!("{told:?}"), format!("{:?}", source_of(bytes)));
    match told {
        Ok(files) => {
            for file in files.into_iter().flatten() {
                let parts = file.path.split('/').all(|part| !part.is_empty() && !part.starts_with('.'));
                assert!(parts && !file.path.contains(['\\', ':', '\0']), "{:?}", file.path);
            }
        }
        Err(EngineError::NotAComponent(why) | EngineError::Source(why)) => assert!(!why.is_empty()),
        Err(other) => panic!("{other:?}"),
    }
}

/// Whether it is a component of our world. One that is is tried as an upload is.
fn load(bytes: &[u8]) -> bool {
    let engine = &ENGINE.0;
    match engine.load_component(bytes, &|_| ()) {
        Ok(component) => {
            assert_eq!(component.digest(), digest_of(bytes));
            let tried = || examine(&component, component.digest()).map_err(|flaw| flaw.code());
            assert_eq!(tried(), tried(), "it passes once, and not twice");
            true
        }
        Err(error) => {
            let again = engine.load_component(bytes, &|_| ()).err().map(|error| error.to_string());
            assert_eq!(again, Some(error.to_string()), "refused for another reason the second time");
            assert!(!error.code().is_empty() && error.to_string().len() <= 4096, "{error}");
            false
        }
    }
}
