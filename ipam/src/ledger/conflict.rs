//! Claims for an address that an attachment holds: the holder's own, or a second holder's.
//!
//! A MAC in a frame proves nothing. The attachment is read before anything is reported: its link may have
//! been given another MAC, as the plugin `tuning` does, and while a read shows that MAC on it, claims by it
//! are the holder's.

use std::time::Duration;

use super::Ledger;
use super::entry::{Held, Phase, Slot};
use super::io::{HeardOnWire, NoteKind, Observation};
use crate::attachment::AttachmentKey;
use crate::evidence::{LinkFact, NetnsFact};
use crate::mac::Mac;
use crate::record::AddressKey;
use crate::time::Time;

/// Time in which a read of the link's MAC holds for claims; later ones wait for another read.
const READ_COUNTS: Duration = Duration::from_secs(1);
/// Number of MACs with claims to addresses of one attachment that are remembered. A host that sends frames
/// chooses them.
const RIVALS_MAX: usize = 8;

/// The MAC that a read showed on an attachment's link in place of the one that was bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MacRead {
    /// MAC that was read.
    pub mac: Mac,
    /// Time of the read.
    at: Time,
}

/// A claim by a MAC that is not known to be the holder's, until the attachment is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    address: AddressKey,
    mac: Mac,
}

impl Ledger {
    /// Takes a claim to a held address: by its holder, by another interface of its namespace, or by a MAC for
    /// which the attachment is read first. True if it may be a second holder.
    pub(super) fn heard_holder(
        &mut self,
        now: Time,
        holder: &AttachmentKey,
        key: &AddressKey,
        heard: &HeardOnWire,
    ) -> bool {
        let Some(slot) = self.slots.get(holder) else { return false };
        let cookie = slot.entry.netns.cookie;
        let mine = match (slot.live.mac_read, slot.entry.mac) {
            (Some(read), _) => read.mac == heard.mac && now.since(read.at) < READ_COUNTS,
            (None, Some(mac)) => mac == heard.mac,
            (None, None) => heard.mac.belongs_to(holder),
        };
        let same_namespace = self.slots.iter().any(|(other_key, other)| {
            let known = other.entry.mac == Some(heard.mac);
            other_key != holder && other.entry.netns.cookie == cookie && known
        });
        // Without a MAC on record (a delegate's link) nothing can be distinguished from the holder.
        let former = self.answers.is_former(key, heard.claim());
        if mine || same_namespace || slot.entry.macs().is_empty() || former {
            return false;
        }
        let phase = slot.entry.phase;
        let readable = self.target(holder, false).is_some();
        let Some(slot) = self.slots.get_mut(holder) else { return true };
        if matches!(phase, Phase::Intent | Phase::Reserved) {
            // It is on no interface yet, and comes on none.
            slot.live.disputed = Some(key.address);
            self.answers.add(heard.mac, key.clone());
        }
        if phase == Phase::Intent {
            // It was not given yet: there is not a second holder to report.
            return true;
        }
        let Some(slot) = self.slots.get_mut(holder) else { return true };
        let claimed = Claimed { address: key.clone(), mac: heard.mac };
        if readable {
            slot.live.claimed.get_or_insert(claimed);
            self.gather_for_hint(now, holder, false);
        } else {
            self.second_holder(now, holder, &claimed);
        }
        true
    }

    /// A read of an attachment is in. A MAC that its link was given is reported once. A claim that waited is
    /// the holder's if the link has its MAC, or else a second holder's.
    pub(super) fn compare_macs(&mut self, now: Time, seen: &Observation) {
        let Some(slot) = self.slots.get_mut(&seen.key) else { return };
        let before = slot.live.mac_read.map(|read| read.mac);
        match (seen.link, seen.learnt) {
            (LinkFact::OtherMac, Some((ifindex, mac)))
                if seen.netns == NetnsFact::Alive && slot.entry.ifindex == Some(ifindex) =>
            {
                slot.live.mac_read = Some(MacRead { mac, at: now });
            }
            (LinkFact::Unknown, _) => {}
            _ => slot.live.mac_read = None,
        }
        let after = slot.live.mac_read.map(|read| read.mac);
        let own = if seen.link == LinkFact::Present { slot.entry.mac } else { after };
        let claimed = slot.live.claimed.take().filter(|claimed| own != Some(claimed.mac));
        let (bound, addresses) = (slot.entry.mac, slot.entry.addresses());
        if let (Some(mac), Some((ifindex, _))) = (after.filter(|_| after != before), seen.learnt) {
            let bound = bound.map_or_else(|| "none".to_owned(), |mac| mac.to_string());
            let text = format!("link {ifindex} has the MAC {mac} now; it was bound with {bound}");
            self.note(NoteKind::Observation, "link-mac-changed", addresses, Some(&seen.key), text);
        }
        if let Some(claimed) = claimed {
            self.second_holder(now, &seen.key, &claimed);
        }
    }

    /// The links under a parent of this node that spoke for a held address beside its holder. The parent does not
    /// hear its children, so that their silence after the holder's end says nothing.
    pub(super) fn local_rivals(&self, slot: &Slot, held: &Held) -> Vec<Mac> {
        let rivals = slot.live.rivals.iter().filter(|(key, _)| *key == held.key()).map(|(_, mac)| *mac);
        self.local_among(self.pool_now(&held.pool, &held.key()), rivals)
    }

    fn second_holder(&mut self, now: Time, holder: &AttachmentKey, claimed: &Claimed) {
        let Claimed { address, mac } = claimed;
        let Some(slot) = self.slots.get_mut(holder) else { return };
        slot.live.disputed = Some(address.address);
        if slot.live.rivals.len() < RIVALS_MAX {
            slot.live.rivals.insert((address.clone(), *mac));
        }
        let own = slot.live.mac_read.map(|read| read.mac).or(slot.entry.mac);
        if !self.answers.is_news(now, address, *mac) {
            return;
        }
        let own = own.map_or_else(|| "no MAC yet".to_owned(), |mac| mac.to_string());
        let who = self.names_of(&[*mac]);
        let text = format!("{who} speaks for an address that {holder} holds with {own}; nothing is freed");
        self.note(NoteKind::Warning, "second-holder", vec![address.address], Some(holder), text);
    }
}
