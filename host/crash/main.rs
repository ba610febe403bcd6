//! The program `portreeve` with the steps of `src/crash.rs` in it, at which tests have it die. It is a program of another
//! name, so that it never lies where the released one is expected.

use std::process::ExitCode;

#[path = "../src/main.rs"]
mod program;

fn main() -> ExitCode {
    program::main()
}
