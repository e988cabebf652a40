//! Runs cases with the binaries in `BERTH_BIN_DIR`, without a build: `play [ID]...`, for work on a case.
//!
//! `BERTH_PLAY_RUNG` names an attach mode. `cargo xtask demo` is the complete form: it builds, installs
//! missing tools and has the flags.

use std::path::PathBuf;
use std::process::ExitCode;

use berth_testbed::demo::{self, Settings};

fn main() -> ExitCode {
    let binaries = std::env::var_os("BERTH_BIN_DIR").map_or_else(|| "target/demo/bin".into(), PathBuf::from);
    let cases = std::env::args().skip(1).filter_map(|id| id.parse().ok()).collect();
    let report = std::env::temp_dir().join("berth-play.json");
    let rung = std::env::var("BERTH_PLAY_RUNG").ok();
    match demo::run(&Settings { binaries, report, slack: 1.0, scale: 1.0, cases, rung, outside: None }) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {}", error.chain());
            ExitCode::FAILURE
        }
    }
}
