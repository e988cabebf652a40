//! Silence that an open ADD rests on, and its confirmation.
//!
//! An address is chosen because its port heard no other host that has it. From then until the plugin puts it
//! on the link, records are written and links are made, the agent may end and start again, and the port may
//! lose its hearing. So a bind is answered only in the span of hearing that the choice rests on; in another
//! one, the wire is asked again first. An address that another host or another interface of the node has by
//! then is refused, and the plugin undoes its ADD. Left out: addresses that a plugin has used already, for
//! which a conflict is reported (`attend.rs`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::Ledger;
use super::entry::{Entry, Held, Phase};
use super::hearing::Span;
use super::io::{Caller, LedgerError, ProbeResult, Step};
use super::pools::Pick;
use super::reason::Reason;
use super::wire::{ASK_AGAIN, ProbePurpose};
use crate::attachment::AttachmentKey;
use crate::config::Network;
use crate::mac::Mac;
use crate::name::IfName;
use crate::record::AddressKey;
use crate::time::Time;

/// Time for which a bind waits for a port that hears; its plugin waits for 10 s.
const PATIENCE: Duration = Duration::from_secs(5);

/// Ground on which no other host has the addresses of an open ADD.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Silence {
    /// The end of a former holder, or a network without a wire.
    NotNeeded,
    /// The silence of a port in this span of its hearing.
    Heard(Span),
    /// Silence that an agent before this one heard.
    Former,
}

/// A bind that waits for the wire.
#[derive(Debug, Clone)]
pub struct Binding {
    caller: Caller,
    ifindex: u32,
    mac: Mac,
    since: Time,
    /// Time of the next round; `None`: one is under way.
    again: Option<Time>,
}

impl Binding {
    /// Time at which it needs a tick.
    pub fn wakes_at(&self) -> Option<Time> {
        self.again
    }
}

impl Ledger {
    /// The silence that picks rest on.
    pub(super) fn silence_behind(&self, network: &Network, picks: &[Pick]) -> Silence {
        match network.link.wire_device().filter(|_| picks.iter().any(|pick| pick.from.is_none())) {
            None => Silence::NotNeeded,
            Some(port) => self.hearings.span(&port).map_or(Silence::Former, Silence::Heard),
        }
    }

    /// An address of an attachment that another interface of the node has.
    pub(super) fn occupied_beside(&self, entry: &Entry) -> Option<(IpAddr, String)> {
        entry.held.iter().find_map(|held| Some((held.address, self.occupier_beside(&held.key(), entry)?)))
    }

    /// The host or interface that has an address of an open ADD, in words.
    fn rival(&self, key: &AttachmentKey) -> Option<(IpAddr, String)> {
        let slot = self.slots.get(key)?;
        let heard = slot.live.disputed.map(|address| {
            let held = slot.entry.held_key(address);
            let macs = held.map(|held| self.answers.of(&held)).unwrap_or_default();
            (address, if macs.is_empty() { "another host".to_owned() } else { self.names_of(&macs) })
        });
        let read = |held: &Held| Some((held.address, self.read_beside(&held.key(), &slot.entry)?));
        heard.or_else(|| slot.entry.held.iter().find_map(read))
    }

    /// True until a survey has read an interface on which an event reported an address of an open ADD. The event may
    /// be about the former holder's link, and late.
    fn is_unread(&self, key: &AttachmentKey) -> bool {
        let Some(slot) = self.slots.get(key) else { return false };
        slot.entry.held.iter().any(|held| self.is_reported_beside(&held.key(), &slot.entry))
    }

    /// True if a bind may go on at once. If not, it is answered or waits for the wire.
    pub(super) fn is_confirmed(
        &mut self,
        now: Time,
        caller: Caller,
        key: &AttachmentKey,
        (ifindex, mac): (u32, Mac),
    ) -> bool {
        if let Some((address, by)) = self.rival(key) {
            self.refuse_bind(caller, key, address, by);
            return false;
        }
        let unread = self.is_unread(key);
        let Some(port) = self.device_of(key) else { return true };
        let Some(slot) = self.slots.get_mut(key) else { return false };
        let confirmed = match slot.live.silence {
            _ if unread => false,
            Silence::NotNeeded => true,
            Silence::Heard(span) => self.hearings.span(&port) == Some(span),
            Silence::Former => false,
        };
        if !confirmed {
            let new = Binding { caller, ifindex, mac, since: now, again: Some(now) };
            let before = slot.live.binding.take();
            // A repeated call waits for the round that is under way.
            let again = before.as_ref().map_or(new.again, |before| before.again);
            let since = before.map_or(now, |before| before.since);
            slot.live.binding = Some(Binding { since, again, ..new });
            self.confirm_due(now);
        }
        confirmed
    }

    /// Asks the wire for the binds that wait.
    pub(super) fn confirm_due(&mut self, now: Time) {
        let mut due = Vec::new();
        for (key, slot) in &mut self.slots {
            if let Some(binding) = slot.live.binding.as_mut().filter(|b| b.again.is_some_and(|at| at <= now))
            {
                binding.again = None;
                due.push((key.clone(), slot.entry.addresses()));
            }
        }
        for (key, addresses) in due {
            match self.device_of(&key) {
                Some(port) if self.hearings.is_known_deaf(&port) => {
                    let why = self.hearings.deaf(&port).unwrap_or_default().to_owned();
                    self.confirm_later(now, &key, &port, why);
                }
                Some(port) => self.ask(port, ProbePurpose::Bind(key), addresses, true),
                None => self.bind_confirmed(now, &key),
            }
        }
    }

    fn confirm_later(&mut self, now: Time, key: &AttachmentKey, port: &IfName, why: String) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        let Some(binding) = &mut slot.live.binding else { return };
        let (caller, waited) = (binding.caller, now.since(binding.since));
        if waited < PATIENCE {
            binding.again = Some(now + ASK_AGAIN);
            return;
        }
        slot.live.binding = None;
        let error = LedgerError::Wire { device: port.clone(), waited_ms: waited.as_millis(), why };
        self.reply(caller, Step::Bind, Err(error));
    }

    /// The wire was asked about the addresses of a bind.
    pub(super) fn probed_bind(&mut self, now: Time, port: &IfName, key: &AttachmentKey, result: ProbeResult) {
        let answers: BTreeMap<_, _> = match result {
            ProbeResult::Heard(answers) => answers.into_iter().collect(),
            ProbeResult::Failed(why) => return self.confirm_later(now, key, port, why),
        };
        let span = self.hearings.span(port);
        let Some(slot) = self.slots.get(key) else { return };
        let Some(binding) = slot.live.binding.clone() else { return };
        let keys: Vec<AddressKey> = slot.entry.held.iter().map(Held::key).collect();
        if keys.iter().any(|held| !answers.contains_key(&held.address)) {
            // The round was about an ADD before this one.
            return self.confirm_later(now, key, port, "it was asked about other addresses".to_owned());
        }
        let mut rival = None;
        for held in keys {
            let claims = answers.get(&held.address).map(Vec::as_slice).unwrap_or_default();
            let mut macs = self.vetoes(&held, claims);
            // A link of another main plugin is up already.
            macs.retain(|mac| *mac != binding.mac);
            for mac in &macs {
                self.note_speaker(&held, *mac);
                self.answers.add(*mac, held.clone());
            }
            if !macs.is_empty() {
                rival = rival.or(Some((held.address, self.names_of(&macs))));
            }
        }
        let Some(slot) = self.slots.get_mut(key) else { return };
        if let Some((address, by)) = rival {
            slot.live.binding = None;
            slot.live.disputed = Some(address);
            slot.live.quarantine = Some(Reason::Answers);
            return self.refuse_bind(binding.caller, key, address, by);
        }
        (slot.live.silence, slot.live.heard_alone) = (span.map_or(Silence::Former, Silence::Heard), span);
        self.bind_confirmed(now, key);
    }

    fn bind_confirmed(&mut self, now: Time, key: &AttachmentKey) {
        if let Some(port) = self.device_of(key).filter(|_| self.is_unread(key)) {
            let why = "an interface that was reported with the address is not read yet".to_owned();
            return self.confirm_later(now, key, &port, why);
        }
        let Some(slot) = self.slots.get_mut(key) else { return };
        let Some(Binding { caller, ifindex, mac, .. }) = slot.live.binding.take() else { return };
        if let Some((address, by)) = self.rival(key) {
            return self.refuse_bind(caller, key, address, by);
        }
        self.record_bind(now, caller, key, (ifindex, mac));
    }

    fn refuse_bind(&mut self, caller: Caller, key: &AttachmentKey, address: IpAddr, by: String) {
        let error = LedgerError::TakenMeanwhile { key: key.clone(), address, by };
        self.reply(caller, Step::Bind, Err(error));
    }

    /// The ADD of a bind that waits is over.
    pub(super) fn end_binding(&mut self, key: &AttachmentKey) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        if let Some(binding) = slot.live.binding.take() {
            let error = LedgerError::NotOpen(slot.entry.txn.clone(), key.clone());
            self.reply(binding.caller, Step::Bind, Err(error));
        }
    }

    /// True if the addresses of an ADD, which its plugin did not get yet, shall be chosen again: an agent
    /// before this one chose them, or another node or interface may have one by now.
    pub(super) fn must_choose_again(&self, key: &AttachmentKey) -> bool {
        self.slots.get(key).is_some_and(|slot| {
            let untold = matches!(slot.entry.phase, Phase::Intent | Phase::Reserved);
            // Other nodes may have the address by now.
            let contested = self.shared.on && slot.entry.phase == Phase::Intent;
            let stale = slot.live.silence == Silence::Former || self.occupied_beside(&slot.entry).is_some();
            untold && (contested || stale)
        })
    }
}
