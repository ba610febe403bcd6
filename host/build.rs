//! Builds the policy component, so that `cargo build` needs no step before it.
//!
//! `guest-policy` is compiled for `wasm32-unknown-unknown`, where the standard
//! library has nothing to import, and is then wrapped as a component. The
//! result is `OUT_DIR/policy_engine.wasm`.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use wit_component::ComponentEncoder;

const TARGET: &str = "wasm32-unknown-unknown";
const PROFILE: &str = "guest";

/// What the component and the embedded bundle are made of, relative to the workspace.
const INPUTS: [&str; 6] = ["guest-policy", "wit", "policies", "Cargo.lock", "Cargo.toml", "rust-toolchain.toml"];

/// What this build's environment must not change about the guest's: flags,
/// wrappers (`cargo clippy` sets one) and settings meant for the host.
const FOREIGN: [&str; 12] = [
    "RUSTFLAGS",
    "RUSTDOCFLAGS",
    "RUSTC_WRAPPER",
    "RUSTC_WORKSPACE_WRAPPER",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_INCREMENTAL",
    "CLIPPY_ARGS",
    "TARGET",
    "HOST",
    "PROFILE",
    "OPT_LEVEL",
    "DEBUG",
];

/// The same, by the beginning of the name.
const FOREIGN_PREFIXES: [&str; 7] = [
    "CARGO_BUILD_",
    "CARGO_TARGET_",
    "CARGO_PROFILE_",
    "CARGO_CFG_",
    "CARGO_FEATURE_",
    "CARGO_PKG_",
    "CARGO_UNSTABLE_",
];

fn main() -> Result<(), Box<dyn Error>> {
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    let workspace = workspace_dir()?;
    for input in INPUTS {
        println!("cargo::rerun-if-changed={}", workspace.join(input).display());
    }
    require_wasm_target()?;
    let module = build_guest(&workspace, &guest_target_dir(&out_dir)?)?;
    let component = componentize(&module)?;
    fs::write(out_dir.join("policy_engine.wasm"), component)?;
    Ok(())
}

fn workspace_dir() -> Result<PathBuf, Box<dyn Error>> {
    let host = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    Ok(host.parent().ok_or("the host has a workspace")?.to_owned())
}

/// A target folder of the guest's own: sharing the outer one would wait for the
/// lock that the outer cargo holds. All profiles of the host share it.
fn guest_target_dir(out_dir: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let root = out_dir
        .ancestors()
        .find(|dir| dir.join("CACHEDIR.TAG").is_file())
        .or_else(|| out_dir.ancestors().nth(4))
        .ok_or("OUT_DIR lies in a target folder")?;
    Ok(root.join("guest"))
}

fn require_wasm_target() -> Result<(), Box<dyn Error>> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]).output()?;
    let libdir = String::from_utf8(output.stdout)?;
    if output.status.success() && Path::new(libdir.trim()).is_dir() {
        return Ok(());
    }
    Err(format!(
        "the policy component is compiled for {TARGET}, which this Rust toolchain lacks; \
         install it with `rustup target add {TARGET}`"
    )
    .into())
}

fn build_guest(workspace: &Path, target_dir: &Path) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(is_foreign) {
            cargo.env_remove(name);
        }
    }
    cargo
        .current_dir(workspace)
        .args(["build", "--package", "guest-policy", "--target", TARGET])
        .args(["--profile", PROFILE])
        .arg("--target-dir")
        .arg(target_dir);
    cargo.env("CARGO_ENCODED_RUSTFLAGS", without_places(workspace).join("\u{1f}"));
    if workspace.join("Cargo.lock").is_file() {
        cargo.arg("--locked");
    }
    if !cargo.status()?.success() {
        return Err("the policy component did not build; cargo's messages are above".into());
    }
    let module = target_dir.join(TARGET).join(PROFILE).join("guest_policy.wasm");
    Ok(fs::read(module)?)
}

/// Panic messages name source files. Where those lie on this machine is nobody's business, and would give the same
/// sources another component, and so another digest and policy epoch, in every checkout.
fn without_places(workspace: &Path) -> Vec<String> {
    let home = env::var_os("HOME").map(|home| Path::new(&home).join(".cargo"));
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from).or(home);
    let mut flags = vec![format!("--remap-path-prefix={}=portreeve", workspace.display())];
    flags.extend(cargo_home.map(|home| format!("--remap-path-prefix={}=cargo", home.display())));
    flags
}

fn is_foreign(name: &str) -> bool {
    FOREIGN.contains(&name) || FOREIGN_PREFIXES.iter().any(|p| name.starts_with(p))
}

fn componentize(module: &[u8]) -> Result<Vec<u8>, Box<dyn Error>> {
    let component = ComponentEncoder::default().validate(true).module(module)?.encode()?;
    Ok(component)
}
