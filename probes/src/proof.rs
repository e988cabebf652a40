//! A proof of the rung in use while the agent works: nobody waits for it.
//!
//! The canary hatches on a thread of its own; its end is looked for among the events that are drained
//! anyhow. The invariant: at most one proof is under way, and each ends: with a verdict, or by time.

use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

use crate::attachments::Attachments;
use crate::canary::{Canary, PATIENCE};
use crate::error::Error;
use crate::event::Raw;
use crate::ladder::Rung;

/// What came of a proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The canary's end was told in full.
    Proved,
    /// It was not told, or wrongly, although the canary ended.
    Refuted(String),
    /// There was no canary, or it did not end in time: that says nothing of the programs.
    Unknown(String),
}

/// How long hatching and the deletion may take, which wait for everybody else who changes devices.
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

/// What was heard of a canary's end, and how that went, as a verdict.
pub(crate) fn verdict_of(heard: Option<Result<(), String>>, ended: Result<(), String>) -> Verdict {
    match (heard, ended) {
        (Some(Ok(())), _) => Verdict::Proved,
        (Some(Err(wrong)), _) => Verdict::Refuted(format!("of the canary's end {wrong}")),
        (None, Ok(())) => Verdict::Refuted("the canary's end was not told within a second".to_owned()),
        (None, Err(reason)) => Verdict::Unknown(format!("the canary: {reason}")),
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
