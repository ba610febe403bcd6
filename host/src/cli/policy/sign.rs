//! `portreeve policy keygen` and `sign`.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::build::write;
use crate::authoring::source::{Policy as Text, Source};
use crate::cli::error::CliError;
use crate::cli::output::{Output, Tone};
use crate::engine::digest_of;
use crate::signature::{KeyError, PrivateKey};

use super::explain;

/// Make a key to sign components with
///
/// Writes the private key (PKCS #8 in PEM, for its owner only to read) and beside it the public one (FILE.pub), which a
/// service trusts when its gates name it.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  portreeve policy keygen -o release.key")]
pub(super) struct Keygen {
    /// The file to write the private key to; it must not be there
    #[arg(short, long = "out", value_name = "FILE")]
    out: PathBuf,
}

/// Sign a component file under a version
///
/// The version is the signer's own count: a service that trusts signers refuses one that is below a version that was in force.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  portreeve policy sign policy.wasm --key release.key --version 12 -o policy.signed.wasm"
)]
pub(super) struct Sign {
    /// The component file
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The private key (Ed25519, PEM)
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// The version that the signature is about
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=i64::MAX.unsigned_abs()))]
    version: u64,
    /// The file to write
    #[arg(short, long = "out", value_name = "FILE")]
    out: PathBuf,
}

impl Keygen {
    pub(super) fn run(self, output: &Output) -> Result<ExitCode, CliError> {
        let key = PrivateKey::generate().map_err(|error| of_key(&error))?;
        let public = PathBuf::from(format!("{}.pub", self.out.display()));
        let (private_pem, public_pem) =
            key.to_pem().and_then(|private| Ok((private, key.public().to_pem()?))).map_err(|error| of_key(&error))?;
        let unwritable = |path: &PathBuf, error: &std::io::Error| {
            CliError::new(format!("cannot write `{}`: {error}", path.display()), "name a file that is not there yet")
        };
        let mut new = fs::OpenOptions::new();
        new.write(true).create_new(true);
        let written =
            new.clone().mode(0o600).open(&self.out).and_then(|mut file| file.write_all(private_pem.as_bytes()));
        written.map_err(|error| unwritable(&self.out, &error))?;
        let written = new.open(&public).and_then(|mut file| file.write_all(public_pem.as_bytes()));
        written.map_err(|error| unwritable(&public, &error))?;
        let id = key.public().id();
        if output.json {
            output.json(&json!({"id": id, "private_key": self.out, "public_key": public}))?;
        } else {
            output.line(format_args!("key          {}", output.paint(Tone::Good, &id)))?;
            output.line(format_args!("private key  {}", self.out.display()))?;
            output.line(format_args!("public key   {}", public.display()))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Sign {
    pub(super) fn run(self, output: &Output) -> Result<ExitCode, CliError> {
        let key = PrivateKey::read(&self.key).map_err(|error| of_key(&error))?;
        let source = Source::named(&self.file);
        let Text::Component(bytes) = source.read().map_err(|error| explain(&error, &source))? else {
            let cause = format!("`{}` is text, and a component file is signed", self.file.display());
            return Err(CliError::new(cause, "build it first: portreeve policy build DIR -o policy.wasm"));
        };
        // Only what can be read as a component is worth a signature.
        crate::engine::source_of(&bytes).map_err(|error| explain(&error, &source))?;
        let signed = key.sign(&bytes, self.version);
        write(&self.out, &signed)?;
        let (id, digest) = (key.public().id(), digest_of(&signed));
        if output.json {
            output.json(&json!({
                "file": self.out, "component": digest, "signed_by": id, "signed_version": self.version,
            }))?;
        } else {
            output.line(format_args!("{}  version {} by {id}", self.out.display(), self.version))?;
            output.line(format_args!("component  {}", output.paint(Tone::Good, digest)))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn of_key(error: &KeyError) -> CliError {
    let next = match error {
        KeyError::Unreadable { .. } => "name the file that `portreeve policy keygen` wrote",
        KeyError::Malformed { .. } => {
            "use a key of `portreeve policy keygen`, or of `openssl genpkey -algorithm ed25519`"
        }
        KeyError::Random(_) => "look at the system",
    };
    CliError::new(error.to_string(), next)
}
