//! The conformance suite as a test target: `cargo xtask test` runs it with all others, and
//! `cargo xtask test cni` has flags for it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use berth_testbed::conformance::{self, Settings};
use berth_testbed::lab::Options;

fn main() -> ExitCode {
    // Of libtest's arguments only the filter has a meaning here.
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filter = arguments.iter().find(|argument| !argument.starts_with('-')).cloned();
    if arguments.iter().any(|argument| argument == "--list") {
        return ExitCode::SUCCESS;
    }
    if Options::of_tests(1.0).is_none() {
        // A test that skips counts as passed in libtest's line, and xtask takes it off again.
        println!(
            "running 1 test\ntest cni ... ok\n\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured"
        );
        return ExitCode::SUCCESS;
    }
    let binaries = PathBuf::from(std::env::var_os("BERTH_BIN_DIR").unwrap_or_default());
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/conformance.md");
    match conformance::run(&Settings { binaries, other: None, filter, document, write: false, outside: None })
    {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {}", error.chain());
            ExitCode::FAILURE
        }
    }
}
