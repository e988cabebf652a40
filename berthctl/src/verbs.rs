//! One verb: calls the agent, prints its response.

use std::io::{self, Write};
use std::time::Duration;

use berth_protocol::{CallError, Client, Request, Response};
use serde::Serialize;

use crate::flags::{DoctorAt, Flags, Output, Verb};
use crate::node::{self, NodeError};
use crate::render;

/// Time limit for a connection to the agent.
const CONNECT_WITHIN: Duration = Duration::from_secs(2);

/// Time limit for a response. The slowest request probes the segment and reads every process.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Result of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Well,
    /// `doctor` found a problem that requires action.
    Unwell,
}

/// Reason why a verb was not carried out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CtlError {
    /// The call to the agent failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The node's files were not changed.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The agent answered another question.
    #[error("unexpected response from the agent; install berthctl and berth-agent of the same release")]
    Unfitting,
    /// The response cannot be shown as JSON.
    #[error("cannot write the response as JSON")]
    Encode(#[source] serde_json::Error),
    /// Standard output does not take it.
    #[error("cannot print the response")]
    Print(#[source] io::Error),
}

impl CtlError {
    /// 1 for what the agent refused, 3 where no agent was reached.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Call(CallError::Absent { .. } | CallError::Silent { .. } | CallError::Unusable { .. }) => 3,
            Self::Call(_) | Self::Node(_) | Self::Unfitting | Self::Encode(_) | Self::Print(_) => 1,
        }
    }

    /// Advice for the operator, if the message holds none.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Call(CallError::Unusable { cause, .. })
                if cause.kind() == io::ErrorKind::PermissionDenied =>
            {
                Some("run berthctl as root")
            }
            Self::Call(CallError::Absent { .. } | CallError::Unusable { .. }) => {
                Some("start berth-agent, or name its socket with --socket")
            }
            Self::Call(CallError::Silent { .. }) => Some("try again; if this lasts, look at the agent's log"),
            Self::Node(error) => error.hint(),
            _ => None,
        }
    }
}

/// Runs the command of the command line.
pub(crate) fn run(flags: &Flags, out: &mut impl Write) -> Result<Verdict, CtlError> {
    let form = flags.output;
    let request = match &flags.verb {
        Verb::InstallNode(args) => {
            show(out, form, &node::install(args)?, |changes| render::changes(changes))?;
            return Ok(Verdict::Well);
        }
        Verb::UninstallNode(args) => {
            show(out, form, &node::uninstall(args)?, |changes| render::changes(changes))?;
            return Ok(Verdict::Well);
        }
        Verb::Events { follow } => return events(&mut connect(flags)?, form, *follow, out),
        Verb::Leases { .. } => Request::Leases,
        Verb::Pools => Request::Pools,
        Verb::Explain { address, segment } => {
            Request::Explain { address: *address, segment: segment.clone() }
        }
        Verb::Release { address, segment, force } => {
            Request::AdminRelease { address: *address, segment: segment.clone(), force: *force }
        }
        Verb::Doctor { at: None } => Request::Doctor,
        Verb::Doctor { at: Some(DoctorAt::Underlay { parent }) } => {
            Request::DoctorUnderlay { parent: parent.clone() }
        }
    };
    let response = connect(flags)?.call(&request, ANSWER_WITHIN)?;
    answered(flags, response, out)
}

fn connect(flags: &Flags) -> Result<Client, CtlError> {
    Ok(Client::connect(&flags.socket, CONNECT_WITHIN)?)
}

/// Prints a response, if it fits the request.
fn answered(flags: &Flags, response: Response, out: &mut impl Write) -> Result<Verdict, CtlError> {
    let form = flags.output;
    match (&flags.verb, response) {
        (Verb::Leases { segment }, Response::Leases(mut rows)) => {
            rows.retain(|row| segment.as_ref().is_none_or(|segment| row.segment == *segment));
            show(out, form, &rows, |rows| render::leases(rows))
        }
        (Verb::Pools, Response::Pools(rows)) => show(out, form, &rows, |rows| render::pools(rows)),
        (Verb::Explain { .. }, Response::Explain(found)) => show(out, form, &found, render::explanation),
        (Verb::Release { .. }, Response::Released { summary }) => {
            let released = Released { summary };
            show(out, form, &released, |released| format!("{}\n", released.summary))
        }
        (Verb::Doctor { .. }, Response::Doctor(found)) => {
            show(out, form, &found, render::diagnosis)?;
            return Ok(if found.healthy { Verdict::Well } else { Verdict::Unwell });
        }
        _ => Err(CtlError::Unfitting),
    }?;
    Ok(Verdict::Well)
}

/// JSON output of `release`.
#[derive(Serialize)]
struct Released {
    summary: String,
}

/// Prints events until the agent ends the list, or for as long as it serves.
fn events(
    client: &mut Client,
    form: Output,
    follow: bool,
    out: &mut impl Write,
) -> Result<Verdict, CtlError> {
    client.send(&Request::Events { follow }, ANSWER_WITHIN)?;
    let within = if follow { None } else { Some(ANSWER_WITHIN) };
    loop {
        let event = match client.next(within)? {
            Response::Event(event) => event,
            Response::Done => return Ok(Verdict::Well),
            _ => return Err(CtlError::Unfitting),
        };
        let line = match form {
            Output::Table => render::event(&event),
            Output::Json => serde_json::to_string(&event).map_err(CtlError::Encode)? + "\n",
        };
        print(out, &line)?;
    }
}

fn show<T: Serialize>(
    out: &mut impl Write,
    form: Output,
    answer: &T,
    in_words: impl FnOnce(&T) -> String,
) -> Result<(), CtlError> {
    let text = match form {
        Output::Table => in_words(answer),
        Output::Json => serde_json::to_string_pretty(answer).map_err(CtlError::Encode)? + "\n",
    };
    print(out, &text)
}

fn print(out: &mut impl Write, text: &str) -> Result<(), CtlError> {
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(CtlError::Print)
}
