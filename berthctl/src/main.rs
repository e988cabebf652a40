//! `berthctl`: what an operator asks of the agent, in words or as JSON.
//!
//! It holds no knowledge of its own: every answer is the agent's, over the agent's socket. Two verbs ask
//! nobody: they put Berth's files into the runtime's folders and take them away, where an agent may not
//! write. Exit codes: 0 done, 1 refused or unhealthy, 2 wrong usage, 3 no agent.

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
        // Whoever reads has seen enough, as in `berthctl leases | head`.
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
