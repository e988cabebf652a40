//! A proof of the attach mode in use while the agent works, without waiting.
//!
//! The canary is created on a separate thread; its end is found among the events that are drained anyway.
//! Invariant: at most one proof is running, and each ends, with a verdict or by time.

use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use crate::attachments::Attachments;
use crate::canary::{Canary, PATIENCE};
use crate::error::Error;
use crate::event::Raw;
use crate::ladder::Rung;

/// Result of a proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The canary's end was reported in full.
    Proved,
    /// It was not reported, or incorrectly, although the canary ended.
    Refuted(String),
    /// The canary was not created, or did not end in time: that proves nothing about the programs.
    Unknown(String),
}

/// Time limit for the creation and the deletion, which wait for concurrent changes of devices.
const KERNEL: Duration = Duration::from_secs(15);

/// See the module's head.
#[derive(Debug)]
pub(crate) struct Proof {
    rung: Rung,
    stage: Stage,
    began: Instant,
}

#[derive(Debug)]
enum Stage {
    Hatching(Receiver<Result<Canary, String>>),
    Waiting { canary: Canary, heard: Option<Result<(), String>>, gone_at: Option<Instant> },
}

impl Proof {
    /// Lets a canary of that number hatch.
    pub(crate) fn begin(rung: Rung, number: u64) -> Result<Self, String> {
        let (tell, born) = channel();
        std::thread::Builder::new()
            .name("berth-hatch".to_owned())
            .spawn(move || drop(tell.send(Canary::hatch(number))))
            .map_err(|error| format!("start a thread: {error}"))?;
        Ok(Self { rung, stage: Stage::Hatching(born), began: Instant::now() })
    }

    /// Checks whether an event is the awaited one.
    pub(crate) fn hear(&mut self, raw: &Raw) {
        if let Stage::Waiting { canary, heard, .. } = &mut self.stage
            && heard.is_none()
        {
            *heard = canary.verdict(self.rung, raw);
        }
    }

    /// Advances as far as possible; a verdict ends it.
    pub(crate) fn advance(&mut self, attachments: &mut Attachments) -> Result<Option<Verdict>, Error> {
        let late = self.began.elapsed() > KERNEL;
        match &mut self.stage {
            Stage::Hatching(born) => {
                let canary = match born.try_recv() {
                    Err(TryRecvError::Empty) if !late => return Ok(None),
                    Err(_) => return Ok(Some(Verdict::Unknown("no canary hatched in time".to_owned()))),
                    Ok(Err(reason)) => return Ok(Some(Verdict::Unknown(format!("no canary: {reason}")))),
                    Ok(Ok(canary)) => canary,
                };
                attachments.follow_canary(&canary)?;
                canary.release();
                self.stage = Stage::Waiting { canary, heard: None, gone_at: None };
                Ok(None)
            }
            Stage::Waiting { canary, heard, gone_at } => {
                let ended = if gone_at.is_none() { canary.ended() } else { None };
                if let Some(Ok(())) = ended {
                    *gone_at = Some(Instant::now());
                }
                let verdict = match (heard.take(), ended) {
                    (Some(heard), _) => verdict_of(Some(heard), Ok(())),
                    (None, Some(Err(reason))) => verdict_of(None, Err(reason)),
                    (None, _) if gone_at.is_some_and(|at| at.elapsed() > PATIENCE) => {
                        verdict_of(None, Ok(()))
                    }
                    (None, _) if gone_at.is_none() && late => {
                        verdict_of(None, Err("it was not deleted in time".to_owned()))
                    }
                    _ => return Ok(None),
                };
                attachments.forget_canary(canary.number)?;
                Ok(Some(verdict))
            }
        }
    }
}

/// Verdict from the event of a canary's end and the result of its deletion.
pub(crate) fn verdict_of(heard: Option<Result<(), String>>, ended: Result<(), String>) -> Verdict {
    match (heard, ended) {
        (Some(Ok(())), _) => Verdict::Proved,
        (Some(Err(wrong)), _) => Verdict::Refuted(format!("of the canary's end {wrong}")),
        (None, Ok(())) => Verdict::Refuted("the canary's end was not reported within a second".to_owned()),
        (None, Err(reason)) => Verdict::Unknown(format!("the canary: {reason}")),
    }
}

impl Drop for Proof {
    fn drop(&mut self) {
        let (_, nobody) = channel();
        // The end of a canary waits for the kernel; the drop of the proof does not.
        let stage = std::mem::replace(&mut self.stage, Stage::Hatching(nobody));
        let ended = std::thread::Builder::new().name("berth-hatch".to_owned()).spawn(move || drop(stage));
        drop(ended);
    }
}
