//! The end of an attachment with a link that left the sight of every search.
//!
//! The kernel reported that the link moved; the end of its attachment is wanted, or its namespace ended; and
//! no namespace that can be named holds the link. A namespace that a socket or a descriptor in flight holds
//! cannot be named. So the address stays taken until the port heard nothing of it for [`SILENCE`] without a
//! gap, while rounds of probes that the links under the parent heard got no answer. A search that is asked
//! for afterwards follows, and frees the address only if the parent's list of MACs shows no link that the
//! search did not find. Left out: what the list explains (`sight.rs`).

use std::time::Duration;

use super::Ledger;
use super::hearing::Span;
use super::io::{Observation, ProbeResult, SearchOutcome};
use super::wire::ProbePurpose;
use crate::attachment::AttachmentKey;
use crate::evidence::{Epoch, WireFact};
use crate::name::IfName;
use crate::time::Time;

/// The time for which nothing may be heard of the address.
const SILENCE: Duration = Duration::from_secs(10);
/// From one round of probes to the next.
const AGAIN: Duration = Duration::from_secs(2);
/// Minimum number of silent rounds in the proof; they may be further apart while many others wait for the
/// wire.
const ROUNDS: u32 = 5;
/// From one round to the next, and from the last one to the request for the search, at most.
const COUNTS: Duration = Duration::from_secs(30);

/// The state of the proof.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Listening {
    /// No round of probes has ended.
    #[default]
    Unasked,
    /// The links under the parent heard all rounds since, and were silent.
    Silent(Silent),
    /// The last round proved nothing, for this reason.
    Failed(String),
}

/// Rounds of probes in a row that the links under the parent heard without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silent {
    /// The end of the first round.
    since: Time,
    /// The end of the last one.
    until: Time,
    rounds: u32,
    /// The end of the round that made them long enough.
    proved: Option<Time>,
    /// The port's hearing.
    span: Span,
}

impl Silent {
    /// A round has ended.
    fn one_more(self, now: Time) -> Self {
        let rounds = self.rounds + 1;
        let long_enough = rounds >= ROUNDS && now.since(self.since) >= SILENCE;
        Self { until: now, rounds, proved: self.proved.or_else(|| long_enough.then_some(now)), ..self }
    }
}

impl Listening {
    /// The reason why the last round proved nothing.
    pub fn failure(&self) -> Option<&str> {
        match self {
            Self::Failed(why) => Some(why),
            Self::Unasked | Self::Silent(_) => None,
        }
    }

    /// True if reads that were asked for at that time began after a silence that is long enough, on a port
    /// that hears as it did then.
    fn is_proved(&self, asked: Time, span: Option<Span>) -> bool {
        let Self::Silent(silent) = self else { return false };
        let after = silent.proved.is_some_and(|proved| asked >= proved);
        after && asked.since(silent.until) < COUNTS && span == Some(silent.span)
    }

    /// A silent round that the links heard has ended.
    fn goes_on(&self, now: Time, span: Span) -> Silent {
        match self {
            Self::Silent(silent) if silent.span == span && now.since(silent.until) < COUNTS => {
                silent.one_more(now)
            }
            _ => Silent { since: now, until: now, rounds: 1, proved: None, span },
        }
    }
}

impl Ledger {
    /// The word of the wire on an attachment's addresses. A silence of links under the parent counts together with a
    /// search that was asked for after it.
    pub(super) fn wire_fact(&self, asked: Time, seen: &Observation) -> WireFact {
        let Some(slot) = self.slots.get(&seen.key) else { return WireFact::NotAsked };
        if slot.epoch(&self.me.boot_id, &self.me.machine_id) != Epoch::Same {
            return slot.live.wire;
        }
        let span = self.device_of(&seen.key).and_then(|device| self.hearings.span(&device));
        let searched = seen.search == Some(SearchOutcome::NotFound);
        let proved = searched && slot.live.listening.is_proved(asked, span);
        if proved { WireFact::ChildrenSilent } else { slot.live.wire }
    }

    /// Asks the links under the parent about the addresses of an attachment.
    pub(super) fn probe_children(&mut self, now: Time, key: &AttachmentKey) {
        let asks = |purpose: &ProbePurpose| matches!(purpose, ProbePurpose::Hidden(other) if other == key);
        if self.probes.values().any(asks) {
            return;
        }
        let Some(device) = self.device_of(key) else { return };
        if let Some(why) = self.hearings.deaf(&device) {
            let why = format!("{device} hears nothing: {why}");
            return self.children_unproved(now, key, why);
        }
        let Some(slot) = self.slots.get(key) else { return };
        let addresses = slot.entry.addresses();
        self.ask(device, ProbePurpose::Hidden(key.clone()), addresses, false);
    }

    /// A round of probes that the links under the parent were to hear is over. `reached`: they heard all of it.
    pub(super) fn probed_children(
        &mut self,
        now: Time,
        device: &IfName,
        key: &AttachmentKey,
        result: ProbeResult,
        reached: bool,
    ) {
        let (claims, span) = match (result, self.hearings.span(device)) {
            (ProbeResult::Heard(claims), Some(span)) => (claims, span),
            (ProbeResult::Failed(why), _) => return self.children_unproved(now, key, why),
            (ProbeResult::Heard(_), None) => {
                return self.children_unproved(now, key, format!("{device} hears nothing"));
            }
        };
        let mut answers = Vec::new();
        for (address, claims) in claims {
            if let Some(held) = self.slots.get(key).and_then(|slot| slot.entry.held_key(address)) {
                answers.extend(self.vetoes(&held, &claims).into_iter().map(|mac| (mac, address)));
            }
        }
        if let Some((mac, address)) = answers.first() {
            let why = format!("{} answers for {address}", self.names_of(&[*mac]));
            return self.children_unproved(now, key, why);
        }
        if !reached {
            let why = format!("the links under {device} hear no probe; programs in the kernel have to run");
            return self.children_unproved(now, key, why);
        }
        let Some(slot) = self.slots.get_mut(key) else { return };
        let silent = slot.live.listening.goes_on(now, span);
        slot.live.listening = Listening::Silent(silent);
        if silent.proved.is_some() {
            self.gather(key.clone(), true);
        } else {
            slot.live.recheck_at = Some(now + AGAIN);
        }
    }

    /// A host spoke for an address that an attachment holds: silence begins again.
    pub(super) fn children_spoke(&mut self, key: &AttachmentKey, what: impl FnOnce() -> String) {
        if let Some(slot) = self.slots.get_mut(key)
            && matches!(slot.live.listening, Listening::Silent(_))
        {
            slot.live.listening = Listening::Failed(what());
        }
    }

    fn children_unproved(&mut self, now: Time, key: &AttachmentKey, why: String) {
        if let Some(slot) = self.slots.get_mut(key) {
            slot.live.listening = Listening::Failed(why);
            slot.live.recheck_at = Some(now + AGAIN);
        }
    }
}
