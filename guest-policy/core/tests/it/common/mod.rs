//! The default bundle, read from the folder that authors edit.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use policy_core::{BundleFile, Policy, Principal, Request, Target};

/// The files of the default bundle.
pub(crate) fn files() -> Vec<BundleFile> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../policies");
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            // Beside the bundle, not part of it: policies that are programs, with files of their own kind.
            if path == root.join("examples") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
                files.push(BundleFile { path: name, text: fs::read_to_string(&path).unwrap() });
            }
        }
    }
    files
}

/// The default bundle, loaded once.
pub(crate) fn policy() -> &'static Policy {
    static POLICY: OnceLock<Policy> = OnceLock::new();
    POLICY.get_or_init(|| Policy::load(&files()).unwrap_or_else(|problems| panic!("{problems:#?}")))
}

/// A request of an agent with a profile.
pub(crate) fn request(agent_type: &str, profile: &str, operation: &str, target: Target) -> Request {
    Request {
        principal: Principal {
            agent_id: "agent-1".into(),
            agent_type: agent_type.into(),
            profile: profile.into(),
            suspended: false,
        },
        operation: operation.into(),
        target,
        texts: Vec::new(),
    }
}
