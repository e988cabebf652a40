//! The demo: all cases in order, with progress lines, and the table and `report.json` at the end.

use std::path::PathBuf;
use std::sync::Arc;

use crate::cases;
use crate::cleanup;
use crate::error::{Error, Result};
use crate::lab::{Binaries, Options};
use crate::narrate::Narrator;
use crate::outside::Outside;
use crate::report::Report;

/// Parameters of a run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder with `berth`, `berth-agent` and `berthctl`, built with fault points.
    pub binaries: PathBuf,
    /// Path of `report.json`.
    pub report: PathBuf,
    /// Multiplies every bound in time.
    pub slack: f64,
    /// Multiplies the number of attachments.
    pub scale: f64,
    /// IDs of the cases; empty: all.
    pub cases: Vec<u32>,
    /// Attach mode of the agents for teardowns (`--rung`); `None`: their choice.
    pub rung: Option<String>,
    /// The cluster in which they are played; `None`: on a machine alone.
    pub outside: Option<Arc<dyn Outside>>,
}

/// Runs the cases; returns whether all held. Every created object is removed in any case.
pub fn run(settings: &Settings) -> Result<bool> {
    cleanup::watch_signals()?;
    let binaries = Binaries::of(&settings.binaries);
    binaries.present()?;
    let options = Options {
        binaries,
        slack: settings.slack,
        scale: settings.scale,
        rung: settings.rung.clone(),
        deaf: Vec::new(),
        outside: settings.outside.clone(),
        tell: Narrator::default(),
    };
    let wanted = |id: u32| settings.cases.is_empty() || settings.cases.contains(&id);
    let mut report = Report::default();
    let mut interrupted = false;
    for script in cases::ALL.iter().filter(|script| wanted(script.id)) {
        match script.run(&options) {
            Ok(case) => report.cases.push(case),
            Err(Error::Interrupted) => {
                interrupted = true;
                break;
            }
            Err(error) => return Err(error),
        }
    }
    report.write(&settings.report)?;
    println!("\n{}", report.table());
    println!("report: {}", settings.report.display());
    if interrupted { Err(Error::Interrupted) } else { Ok(report.ok()) }
}
