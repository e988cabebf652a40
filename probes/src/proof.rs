//! A proof of the rung in use while the agent works: nobody waits for it.
//!
//! The canary hatches on a thread of its own; its end is looked for among the events that are drained
//! anyhow. The invariant: at most one proof is under way, and each ends: with a verdict, or by time.

use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Instant;

use crate::attachments::Attachments;
use crate::canary::{Canary, PATIENCE};
use crate::error::Error;
use crate::event::Raw;
use crate::ladder::Rung;

/// What came of a proof: nothing is wrong, or what is.
pub type Verdict = Result<(), String>;

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Proof {
    rung: Rung,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    Hatching(Receiver<Result<Canary, String>>),
    Waiting { canary: Canary, until: Instant, heard: Option<Verdict> },
}

impl Proof {
    /// Lets a canary of that number hatch.
    pub(crate) fn begin(rung: Rung, number: u64) -> Result<Self, String> {
        let (tell, born) = channel();
        std::thread::Builder::new()
            .name("berth-hatch".to_owned())
            .spawn(move || drop(tell.send(Canary::hatch(number))))
            .map_err(|error| format!("start a thread: {error}"))?;
        Ok(Self { rung, stage: Stage::Hatching(born) })
    }

    /// Looks whether an event is the one that is waited for.
    pub(crate) fn hear(&mut self, raw: &Raw) {
        if let Stage::Waiting { canary, heard, .. } = &mut self.stage
            && heard.is_none()
        {
            *heard = canary.verdict(self.rung, raw);
        }
    }

    /// Goes on as far as it can; a verdict ends it.
    pub(crate) fn advance(&mut self, attachments: &mut Attachments) -> Result<Option<Verdict>, Error> {
        match &mut self.stage {
            Stage::Hatching(born) => {
                let canary = match born.try_recv() {
                    Err(TryRecvError::Empty) => return Ok(None),
                    Err(TryRecvError::Disconnected) => return Ok(Some(Err("no canary".to_owned()))),
                    Ok(Err(reason)) => return Ok(Some(Err(format!("no canary: {reason}")))),
                    Ok(Ok(canary)) => canary,
                };
                attachments.follow_canary(&canary)?;
                canary.release();
                let until = Instant::now() + PATIENCE;
                self.stage = Stage::Waiting { canary, until, heard: None };
                Ok(None)
            }
            Stage::Waiting { canary, until, heard } => {
                let verdict = match heard.take() {
                    Some(verdict) => verdict.map_err(|wrong| format!("of the canary's end {wrong}")),
                    None if Instant::now() < *until => return Ok(None),
                    None => Err(unheard(canary)),
                };
                attachments.forget_canary(canary.number)?;
                Ok(Some(verdict))
            }
        }
    }
}

impl Drop for Proof {
    fn drop(&mut self) {
        let (_, nobody) = channel();
        // The end of a canary waits for the kernel's; that is no business of whoever drops the proof.
        let stage = std::mem::replace(&mut self.stage, Stage::Hatching(nobody));
        let ended = std::thread::Builder::new().name("berth-hatch".to_owned()).spawn(move || drop(stage));
        drop(ended);
    }
}

/// Why the end of a canary was not told.
pub(crate) fn unheard(canary: &Canary) -> String {
    match canary.ended() {
        Err(reason) => format!("the canary: {reason}"),
        Ok(()) => "the canary's end was not told within a second".to_owned(),
    }
}
