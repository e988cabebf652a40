//! `berthctl`: requests of an operator to the agent, printed as text or JSON.
//!
//! It keeps no state: every answer comes from the agent, over the agent's socket. Two verbs need no agent:
//! they install Berth's files in the runtime's folders and remove them; an agent may not write there. Exit
//! codes: 0 done, 1 refused or unhealthy, 2 wrong usage, 3 no agent.

mod conflist;
mod flags;
mod node;
mod render;
mod table;
mod verbs;

use std::error::Error;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use flags::Flags;
use verbs::{CtlError, Verdict};

fn main() -> ExitCode {
    let flags = Flags::parse();
    let stdout = io::stdout();
    match verbs::run(&flags, &mut stdout.lock()) {
        Ok(Verdict::Well) => ExitCode::SUCCESS,
        Ok(Verdict::Unwell) => ExitCode::from(1),
        // The reader has closed the pipe, as in `berthctl leases | head`.
        Err(CtlError::Print(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            // Without a stderr the exit code has to do.
            let _ = complain(&error);
            ExitCode::from(error.exit_code())
        }
    }
}

/// The error, its causes, and what to do about it.
fn complain(error: &CtlError) -> io::Result<()> {
    let mut stderr = io::stderr().lock();
    write!(stderr, "berthctl: {error}")?;
    let mut cause = error.source();
    while let Some(source) = cause {
        write!(stderr, ": {source}")?;
        cause = source.source();
    }
    writeln!(stderr)?;
    match error.hint() {
        Some(hint) => writeln!(stderr, "{hint}"),
        None => Ok(()),
    }
}
