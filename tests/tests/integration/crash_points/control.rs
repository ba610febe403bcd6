//! The file that tells a running service at which step to die, and the one in which it says which step it reached.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};

/// A step, and at which time of reaching it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) name: String,
    pub(super) nth: usize,
}

/// How a process ends that aborts: by this signal.
const ABORTED: i32 = 6;

pub(super) struct Control {
    path: PathBuf,
}

impl Control {
    pub(super) fn new(data: &Path) -> Self {
        Self { path: data.join("crash-point") }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn beside(&self) -> PathBuf {
        self.path.with_file_name("crash-point.reached")
    }

    /// Notes from now on each step that is reached.
    pub(super) fn trace(&self) {
        drop(std::fs::remove_file(self.beside()));
        self.say("trace");
    }

    /// Dies at a step.
    pub(super) fn arm(&self, step: &Step) {
        drop(std::fs::remove_file(self.beside()));
        self.say(&format!("{} {}", step.name, step.nth));
    }

    /// A reader sees the old text or the new one, never half of it.
    fn say(&self, text: &str) {
        let new = self.path.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, &self.path).unwrap();
    }

    /// Nobody dies any more.
    pub(super) fn disarm(&self) {
        drop(std::fs::remove_file(&self.path));
    }

    fn reached(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.beside()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// The steps that were reached since [`Self::trace`], each with how often it had been.
    pub(super) fn steps(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = Vec::new();
        for name in self.reached() {
            let nth = steps.iter().filter(|step| step.name == name).count() + 1;
            steps.push(Step { name, nth });
        }
        steps
    }

    /// Waits until a step was noted: what follows an answer may come a moment later.
    pub(super) async fn wait_for(&self, name: &str) {
        let start = Instant::now();
        while !self.reached().iter().any(|reached| reached == name) {
            assert!(start.elapsed() < Duration::from_secs(20), "{name} was not reached: {:?}", self.reached());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// That a process ended at the very step it was told to, and by no other cause.
    #[track_caller]
    pub(super) fn assert_died(&self, status: ExitStatus, step: &Step) {
        assert_eq!(status.signal(), Some(ABORTED), "{step:?}: {status}");
        assert_eq!(self.reached(), [step.name.as_str()], "{step:?}");
        self.disarm();
    }
}
