//! A port that hears again: every attachment on it is probed, and announced where no other host answers.
//!
//! While nothing was heard another host may have taken an address that a pod has, and neighbours may have
//! learnt its MAC. So each attachment is probed first, some at a time. An answer of another MAC is an address
//! conflict: it is reported, and that address is not announced. Nothing is freed here.

use std::net::IpAddr;
use std::time::Duration;

use super::Ledger;
use super::confirm::Silence;
use super::entry::Phase;
use super::hearing::{After, Change, Span};
use super::io::{Action, HeardOnWire, Hearing, NoteKind, ProbeResult};
use super::wire::ProbePurpose;
use crate::attachment::AttachmentKey;
use crate::evidence::{Claim, Epoch};
use crate::name::IfName;
use crate::time::Time;

/// Number of attachments that one round probes. The next round begins when it is over, so that all of a
/// node's attachments cause no storm.
const ATTENDED_AT_ONCE: usize = 16;
/// A round that proved nothing is repeated after this long.
const ATTEND_AGAIN: Duration = Duration::from_secs(1);

/// The attachments of one round, and the span of hearing in which it began.
#[derive(Debug, Clone)]
pub struct Attended {
    keys: Vec<(AttachmentKey, After)>,
    span: Option<Span>,
}

impl Ledger {
    /// Takes a change of the hearing of the port on a device.
    pub(super) fn hearing(&mut self, now: Time, device: &IfName, hearing: &Hearing) {
        let change = self.hearings.report(now, device, hearing);
        let after = match change {
            Change::None => return,
            Change::Begins => Some(After::Start),
            Change::Returns | Change::Gap => Some(After::Gap),
            Change::Ends | Change::Missed => None,
        };
        self.tell_port(device, change, hearing);
        if let Some(after) = after {
            let keys = self.attached_on(device).into_iter().map(|key| (key, after));
            self.hearings.attend(device, now, keys);
        }
        // Addresses that were silent are asked for again, and ADDs that wait for them are served then.
        self.next_refill = Some(now);
        self.serve_line(now);
    }

    fn tell_port(&mut self, device: &IfName, change: Change, hearing: &Hearing) {
        let (kind, code, text) = match (change, hearing) {
            (Change::Ends, Hearing::Down(why)) => {
                let text = format!("{device}: {why}; nothing is silent there, and ADDs wait");
                (NoteKind::Warning, "port-deaf", text)
            }
            (Change::Returns, _) => {
                let text = format!("{device} hears again: its attachments are probed, then announced");
                (NoteKind::Observation, "port-hears", text)
            }
            (Change::Gap, Hearing::Gap(why)) => {
                let text = format!("{device}: {why}; what was silent there is probed again");
                (NoteKind::Warning, "hearing-gap", text)
            }
            // Of these there may be many in a flood; the port's view shows the last one.
            _ => return,
        };
        self.note(kind, code, Vec::new(), None, text);
    }

    /// The closed attachments of this boot that send their frames through a device.
    fn attached_on(&self, device: &IfName) -> Vec<AttachmentKey> {
        let here = self.slots.keys().filter(|key| self.device_of(key).as_ref() == Some(device));
        here.filter(|key| self.may_announce(key)).cloned().collect()
    }

    /// The port on which an attachment's addresses are claimed.
    pub(super) fn device_of(&self, key: &AttachmentKey) -> Option<IfName> {
        let network = self.config.networks.get(&key.network);
        match network {
            Some(network) => network.link.wire_device(),
            None => self.slots.get(key)?.entry.fdb_parent.clone(),
        }
    }

    /// Has the attachment probed for a conflict if its plugin used its addresses while this agent was not
    /// there, or if another host claims one of them.
    pub(super) fn attend_if_unconfirmed(&mut self, now: Time, key: &AttachmentKey) {
        let unsure = self
            .slots
            .get(key)
            .is_some_and(|slot| slot.live.silence == Silence::Former || slot.live.disputed.is_some());
        if let Some(device) = self.device_of(key).filter(|_| unsure) {
            self.hearings.attend(&device, now, [(key.clone(), After::Start)]);
        }
    }

    fn may_announce(&self, key: &AttachmentKey) -> bool {
        self.slots.get(key).is_some_and(|slot| {
            slot.entry.phase == Phase::Done
                && !slot.entry.del_seen
                && slot.epoch(&self.me.boot_id, &self.me.machine_id) == Epoch::Same
        })
    }

    /// Probes the next attachments of each port that hears again.
    pub(super) fn attend_due(&mut self, now: Time) {
        for device in self.hearings.to_attend(now) {
            let mut keys = self.hearings.take_unattended(&device, ATTENDED_AT_ONCE);
            keys.retain(|(key, _)| self.may_announce(key));
            let addresses: Vec<IpAddr> =
                keys.iter().flat_map(|(key, _)| self.slots[key].entry.addresses()).collect();
            if addresses.is_empty() {
                self.hearings.attend_more(&device, now);
                continue;
            }
            let attended = Attended { keys, span: self.hearings.span(&device) };
            self.ask(device, ProbePurpose::Attend(attended), addresses, false);
        }
    }

    /// A round about attachments is over.
    pub(super) fn attended(&mut self, now: Time, device: &IfName, attended: Attended, result: ProbeResult) {
        let Attended { keys, span } = attended;
        let answers = match result {
            ProbeResult::Heard(answers) => answers,
            // After another gap all are on the list again.
            ProbeResult::Failed(_) if span != self.hearings.span(device) => return,
            ProbeResult::Failed(_) => return self.hearings.attend(device, now + ATTEND_AGAIN, keys),
        };
        let mut claims = Vec::new();
        for (key, after) in keys {
            let mut alone = true;
            for address in self.slots.get(&key).map(|slot| slot.entry.addresses()).unwrap_or_default() {
                let answer = answers.iter().find(|(asked, _)| *asked == address);
                let others =
                    answer.is_some_and(|(_, claims)| self.answered_beside(now, &key, address, claims));
                alone &= answer.is_some() && !others;
                let mac = self.slots.get(&key).and_then(|slot| slot.entry.mac);
                if let Some(mac) = mac.filter(|_| answer.is_some() && !others && after == After::Gap) {
                    claims.push((address, mac));
                }
            }
            if let Some(slot) = self.slots.get_mut(&key).filter(|_| alone) {
                slot.live.heard_alone = span;
            }
        }
        if !claims.is_empty() {
            self.out.push(Action::Announce { device: device.clone(), claims });
        }
        self.hearings.attend_more(device, now);
    }

    /// True if a MAC that is not the holder's answered for its address; that is reported as a conflict.
    fn answered_beside(&mut self, now: Time, key: &AttachmentKey, address: IpAddr, claims: &[Claim]) -> bool {
        let Some(wire) = self.config.networks.get(&key.network).map(|network| network.link.wire()) else {
            return !claims.is_empty();
        };
        let Some(slot) = self.slots.get(key) else { return false };
        let Some(held) = slot.entry.held_key(address) else { return false };
        let mut others = false;
        for mac in self.vetoes(&held, claims) {
            let heard = HeardOnWire { wire: wire.clone(), address, mac, outgoing: false, at: now };
            others |= self.heard_holder(now, key, &held, &heard);
        }
        others
    }
}
