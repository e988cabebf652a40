//! Output of a plugin, with the rules for every output: one JSON document on standard output or nothing, a
//! matching exit code, and no process left with the pipe open.
//!
//! A breach has two texts: a short one, which consists only of the action and the fault, so that it is the
//! same in every run and can be part of a document; and the output itself, for the reader.

use std::fmt::Debug;

use serde_json::Value;

use crate::error::Error;
use crate::plugin::{CniError, Outcome};

/// Reason why a test ended before its end.
#[derive(Debug)]
pub enum Stop {
    /// The plugin broke the rule.
    Broken {
        /// The same in every run.
        short: String,
        /// Text of the observation.
        seen: String,
    },
    /// The rule does not apply to this plugin, for this reason.
    Senseless(&'static str),
    /// The world could not be built or read: the plugin was not tested.
    Could(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Could(error)
    }
}

/// Result of a step of a test.
pub type Play<T = ()> = Result<T, Stop>;

/// A breach, unless `kept`.
pub fn holds(kept: bool, short: &str, seen: &dyn Debug) -> Play {
    if kept { Ok(()) } else { Err(Stop::Broken { short: short.to_owned(), seen: format!("{seen:?}") }) }
}

/// The output of one call.
#[derive(Debug)]
pub struct Answer {
    /// Text of the action, the same in every run.
    what: String,
    /// Exit of the call.
    pub outcome: Outcome,
}

impl Answer {
    pub(super) fn new(what: &str, outcome: Outcome) -> Self {
        Self { what: what.to_owned(), outcome }
    }

    /// A breach in this output.
    pub fn breach(&self, wrong: &str) -> Stop {
        let outcome = &self.outcome;
        let seen = format!("exit {:?} stdout {:?} stderr {:?}", outcome.code, outcome.stdout, outcome.stderr);
        Stop::Broken { short: format!("{}: {wrong}", self.what), seen }
    }

    /// Requires a property of this output.
    pub fn holds(&self, kept: bool, wrong: &str) -> Play {
        if kept { Ok(()) } else { Err(self.breach(wrong)) }
    }

    /// The documents on standard output; a breach if there is other text, or the pipe is kept open.
    fn documents(&self) -> Play<Vec<Value>> {
        self.holds(self.outcome.closed, "a process keeps standard output open")?;
        let stream = serde_json::Deserializer::from_str(&self.outcome.stdout).into_iter::<Value>();
        let documents: Result<Vec<Value>, _> = stream.collect();
        documents.map_err(|_| self.breach("standard output is not JSON alone"))
    }

    fn one(&self) -> Play<Value> {
        let mut documents = self.documents()?;
        match (documents.pop(), documents.len()) {
            (Some(document), 0) => Ok(document),
            (None, _) => Err(self.breach("no JSON document on standard output")),
            (Some(_), _) => Err(self.breach("more than one JSON document on standard output")),
        }
    }

    /// Text of the failure of a call that should have succeeded.
    fn failed(&self) -> Stop {
        if self.outcome.signal.is_some() {
            return self.breach("ended by a signal");
        }
        match self.one() {
            Ok(document) if document["code"].is_u64() => self.breach(&format!("code {}", document["code"])),
            _ => self.breach("failed without an error object"),
        }
    }

    /// The one document of a success.
    pub fn result(&self) -> Play<Value> {
        if !self.outcome.succeeded() {
            return Err(self.failed());
        }
        self.one()
    }

    /// A success that prints nothing.
    pub fn silent(&self) -> Play {
        if !self.outcome.succeeded() {
            return Err(self.failed());
        }
        self.holds(self.outcome.stdout.is_empty(), "a success prints on standard output")
    }

    /// The error object of a failure with one of these codes; an empty list allows any.
    pub fn refused(&self, codes: &[u32]) -> Play<CniError> {
        self.holds(!self.outcome.succeeded(), "succeeded")?;
        self.holds(self.outcome.signal.is_none(), "ended by a signal")?;
        let document = self.one()?;
        let Ok(error) = serde_json::from_value::<CniError>(document) else {
            return Err(self.breach("the error object lacks code or msg"));
        };
        self.holds(!error.msg.is_empty(), "the error object has an empty msg")?;
        if codes.is_empty() || codes.contains(&error.code) {
            return Ok(error);
        }
        Err(self.breach(&format!("code {}", error.code)))
    }
}
