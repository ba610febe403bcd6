//! The program `portreeve`.

use std::process::ExitCode;
use std::time::Duration;

/// A request allocates some hundred times, in many threads: this allocator takes a third of the system's time for it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long work that cannot be interrupted may take once the command has ended.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_millis(100);

pub(crate) fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            portreeve::cli::cannot_start(&error);
            return ExitCode::FAILURE;
        }
    };
    let ended = runtime.block_on(portreeve::cli::main());
    runtime.shutdown_timeout(SHUTDOWN_TIMEOUT);
    ended
}
