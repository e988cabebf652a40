//! The end of an attachment with a link that left the sight of every search.
//!
//! The kernel told that the link moved; its attachment is meant to be over, or its namespace ended; and no namespace
//! that can be named holds the link. A namespace that a socket or a descriptor in flight holds cannot be named. So the
//! address stays taken until the port heard nothing of it for [`SILENCE`] without a gap, while rounds of probes that
//! the links under the parent heard got no answer. A search follows, and frees the address only if the parent's list of
//! MACs shows no link that the search did not find. Left out: what the list explains (`sight.rs`).

use std::time::Duration;

use super::Ledger;
use super::hearing::Span;
use super::io::ProbeResult;
use super::wire::ProbePurpose;
use crate::attachment::AttachmentKey;
use crate::evidence::{Epoch, WireFact};
use crate::name::IfName;
use crate::record::AddressKey;
use crate::time::Time;

/// The time for which nothing may be heard of the address.
const SILENCE: Duration = Duration::from_secs(10);
/// From one round of probes to the next.
const AGAIN: Duration = Duration::from_secs(2);
/// The time for which a silence counts: the next round, or the reads that follow the last one, are over by then.
const COUNTS: Duration = Duration::from_secs(5);

/// The state of the proof.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Listening {
    /// No round of probes has ended.
    #[default]
    Unasked,
    /// All rounds since this time were heard by the links under the parent, and silent.
    Silent {
        /// The end of the first round.
        since: Time,
        /// The end of the last one.
        until: Time,
        /// The port's hearing.
        span: Span,
    },
    /// The last round proved nothing, for this reason.
    Failed(String),
}

impl Listening {
    /// The reason why the last round proved nothing.
    pub fn failure(&self) -> Option<&str> {
        match self {
            Self::Failed(why) => Some(why),
            Self::Unasked | Self::Silent { .. } => None,
        }
    }

    /// Whether the silence lasts long enough, on a port that hears as it did then.
    fn is_proved(&self, now: Time, span: Option<Span>) -> bool {
        match self {
            Self::Silent { since, until, span: of } => {
                until.since(*since) >= SILENCE && now.since(*until) < COUNTS && span == Some(*of)
            }
            Self::Unasked | Self::Failed(_) => false,
        }
    }

    /// A silent round that the links heard has ended.
    fn goes_on(&self, now: Time, span: Span) -> Self {
        match self {
            Self::Silent { since, until, span: of } if *of == span && now.since(*until) < COUNTS => {
                Self::Silent { since: *since, until: now, span }
            }
            _ => Self::Silent { since: now, until: now, span },
        }
    }
}

impl Ledger {
    /// The word of the wire on an attachment's addresses.
    pub(super) fn wire_fact(&self, now: Time, key: &AttachmentKey) -> WireFact {
        let Some(slot) = self.slots.get(key) else { return WireFact::NotAsked };
        if slot.epoch(&self.me.boot_id, &self.me.machine_id) != Epoch::Same {
            return slot.live.wire;
        }
        let span = self.port_asked_about(key).and_then(|device| self.hearings.span(&device));
        if slot.live.listening.is_proved(now, span) { WireFact::ChildrenSilent } else { slot.live.wire }
    }

    /// The device on which the wire is asked about an attachment.
    pub(super) fn port_asked_about(&self, key: &AttachmentKey) -> Option<IfName> {
        let device = self.config.networks.get(&key.network).map(|network| network.link.device());
        device.or_else(|| self.slots.get(key)?.entry.fdb_parent.clone())
    }

    /// Asks the links under the parent about the addresses of an attachment.
    pub(super) fn probe_children(&mut self, now: Time, key: &AttachmentKey) {
        let asks = |purpose: &ProbePurpose| matches!(purpose, ProbePurpose::Hidden(other) if other == key);
        if self.probes.values().any(asks) {
            return;
        }
        let Some(device) = self.port_asked_about(key) else { return };
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
            if let Some(held) = self.held_key(key, address) {
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
        slot.live.listening = slot.live.listening.goes_on(now, span);
        if slot.live.listening.is_proved(now, Some(span)) {
            self.gather(key.clone(), true);
        } else {
            slot.live.recheck_at = Some(now + AGAIN);
        }
    }

    /// An address that an attachment holds, with its segment.
    pub(super) fn held_key(&self, key: &AttachmentKey, address: std::net::IpAddr) -> Option<AddressKey> {
        let held = &self.slots.get(key)?.entry.held;
        held.iter().find(|held| held.address == address).map(super::entry::Held::key)
    }

    /// A host spoke for an address that an attachment holds: silence begins again.
    pub(super) fn children_spoke(&mut self, key: &AttachmentKey, what: impl FnOnce() -> String) {
        if let Some(slot) = self.slots.get_mut(key)
            && matches!(slot.live.listening, Listening::Silent { .. })
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
