//! The veto on a MAC that an ADD in role main asks for.
//!
//! Two stations with one MAC take each other's frames, whatever their addresses are. So the MAC must be of
//! nothing else on the segment: neither of the gateway, of a proxy, of a neighbour that answers, nor of the
//! interface of another workload, and none that Berth derives for another attachment. Evidence comes from
//! declarations, records and the wire, which is asked at once for the gateways and for what the MAC spoke for
//! before. A predecessor of the same workload is waited for.
//!
//! Invariant: of the living leases of a segment, no two of different attachments were granted one requested MAC.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::Ledger;
use super::entry::{Entry, Phase};
use super::io::{LeaseRequest, LedgerError, ProbeResult, Step};
use super::line::{Stage, Waiter};
use super::wire::{ASK_AGAIN, ProbePurpose};
use crate::attachment::{AttachmentKey, PodRef, Role};
use crate::identity::TxnId;
use crate::mac::Mac;
use crate::name::SegmentName;
use crate::record::AddressKey;
use crate::time::Time;

/// Time for which an answer of the wire about a MAC counts.
const CLEAR_FOR: Duration = Duration::from_secs(30);
/// Speakers remembered in each of two generations. Any station chooses the MACs of its frames.
const SPEAKERS_MAX: usize = 2048;
/// Number of gateways with MACs that are remembered.
const GATEWAYS_MAX: usize = 1024;
/// Addresses that the wire is asked about for one MAC.
const ASKED_MAX: usize = 16;

/// MACs that spoke on the wire, and for which address last.
#[derive(Debug, Clone, Default)]
pub(super) struct Speakers {
    /// Those of late, until there are too many.
    young: BTreeMap<(SegmentName, Mac), IpAddr>,
    /// Those before them.
    old: BTreeMap<(SegmentName, Mac), IpAddr>,
    /// The MAC that spoke last for a gateway.
    gateways: BTreeMap<AddressKey, Mac>,
}

impl Speakers {
    fn note(&mut self, key: &AddressKey, mac: Mac, is_gateway: bool) {
        let speaker = (key.segment.clone(), mac);
        if self.young.len() >= SPEAKERS_MAX && !self.young.contains_key(&speaker) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(speaker, key.address);
        if is_gateway {
            if self.gateways.len() >= GATEWAYS_MAX && !self.gateways.contains_key(key) {
                self.gateways.pop_first();
            }
            self.gateways.insert(key.clone(), mac);
        }
    }

    /// The addresses for which a MAC spoke.
    fn of(&self, segment: &SegmentName, mac: Mac) -> BTreeSet<IpAddr> {
        let speaker = (segment.clone(), mac);
        [&self.young, &self.old].into_iter().filter_map(|heard| heard.get(&speaker).copied()).collect()
    }

    fn is_gateways(&self, key: &AddressKey, mac: Mac) -> bool {
        self.gateways.get(key) == Some(&mac)
    }
}

/// Holder of a MAC that an ADD asks for.
enum Holder {
    /// An attachment of the same workload, on this node if its key is known.
    Predecessor(Option<AttachmentKey>, String),
    /// A workload other than the requester's.
    Other(String),
}

/// True if two attachments serve one workload: the same pod, or the next one of its name.
fn is_same_workload(one: Option<&PodRef>, other: Option<&PodRef>) -> bool {
    let (Some(one), Some(other)) = (one, other) else { return false };
    let same_uid = one.uid.is_some() && one.uid == other.uid;
    same_uid || (one.namespace == other.namespace && one.name == other.name)
}

/// The MAC that a request decides on. In the other roles the interface has its MAC already.
fn requested(request: &LeaseRequest) -> Option<Mac> {
    request.mac.filter(|_| request.role == Role::Main && !request.adopt)
}

fn is_living(entry: &Entry) -> bool {
    !matches!(entry.phase, Phase::Held | Phase::Releasing)
}

/// True if the wire had nothing against a waiter's MAC of late.
fn is_clear(now: Time, waiter: &Waiter) -> bool {
    waiter.mac_clear_at().is_some_and(|at| now.since(at) < CLEAR_FOR)
}

fn name_of(entry: &Entry) -> String {
    let addresses: Vec<_> = entry.addresses().iter().map(ToString::to_string).collect();
    let who = entry.pod.as_ref();
    let who = who.map_or_else(|| entry.key.to_string(), |pod| format!("pod {}/{}", pod.namespace, pod.name));
    format!("{who} on this node, which has {}", addresses.join(" and "))
}

impl Ledger {
    /// True if the MAC that a waiter asks for is free to be used; if not, the waiter was refused or waits.
    pub(super) fn is_mac_clear(&mut self, now: Time, index: usize, request: &LeaseRequest) -> bool {
        let (Some(mac), Some(segment)) = (requested(request), self.segment_of(request)) else { return true };
        let refusal = self.mac_declared(mac, &segment, request);
        let holder = self.mac_holder(mac, &segment, request);
        let taken = match &holder {
            Some(Holder::Other(holder)) => Some(holder.clone()),
            Some(Holder::Predecessor(..)) | None => None,
        };
        if let Some(why) = refusal.or(taken) {
            self.refuse_mac(index, mac, why);
            return false;
        }
        if !self.line.get(index).is_some_and(|waiter| is_clear(now, waiter)) {
            return self.ask_about_mac(now, index, mac, &segment, request);
        }
        if let Some(Holder::Predecessor(key, _)) = holder {
            if let Some(key) = key {
                self.gather(key, false);
            }
            return false;
        }
        true
    }

    /// True if another attachment than `giver`, which is proven over, has the MAC of a request. It may have
    /// come by it since the last look at the line.
    pub(super) fn is_mac_held(&self, request: &LeaseRequest, giver: Option<&AttachmentKey>) -> bool {
        let (Some(mac), Some(segment)) = (requested(request), self.segment_of(request)) else { return false };
        match self.mac_holder(mac, &segment, request) {
            None => false,
            Some(Holder::Predecessor(Some(key), _)) => Some(&key) != giver,
            Some(Holder::Predecessor(None, _) | Holder::Other(_)) => true,
        }
    }

    /// True if a waiter may inherit from `giver` as far as its MAC is concerned.
    pub(super) fn may_inherit_with_mac(&self, now: Time, index: usize, giver: &AttachmentKey) -> bool {
        self.line.get(index).is_some_and(|waiter| {
            requested(&waiter.request).is_none()
                || (is_clear(now, waiter) && !self.is_mac_held(&waiter.request, Some(giver)))
        })
    }

    /// The reason for which a request waited in vain, if it is its MAC.
    pub(super) fn mac_in_use(&self, request: &LeaseRequest, waited: Duration) -> Option<LedgerError> {
        let (mac, segment) = (requested(request)?, self.segment_of(request)?);
        match self.mac_holder(mac, &segment, request)? {
            Holder::Predecessor(_, holder) | Holder::Other(holder) => {
                Some(LedgerError::MacInUse { mac, holder, waited_ms: waited.as_millis() })
            }
        }
    }

    /// Notes the MAC that claims an address, for later questions about that MAC.
    pub(super) fn note_speaker(&mut self, key: &AddressKey, mac: Mac) {
        let is_gateway = self.gateways_of(&key.segment).contains(&key.address);
        self.speakers.note(key, mac, is_gateway);
    }

    /// The wire was asked about the MAC of an ADD.
    pub(super) fn probed_mac(&mut self, now: Time, txn: &TxnId, result: ProbeResult) {
        let Some(index) = self.line.iter().position(|waiter| waiter.request.txn == *txn) else { return };
        let request = self.line[index].request.clone();
        let (Some(mac), Some(segment)) = (requested(&request), self.segment_of(&request)) else { return };
        let answers = match result {
            ProbeResult::Heard(answers) => answers,
            ProbeResult::Failed(why) => return self.line[index].ask_later(now + ASK_AGAIN, why),
        };
        let mut answered = None;
        for (address, claims) in answers {
            let key = AddressKey { segment: segment.clone(), address };
            for claim in
                claims.into_iter().filter(|claim| !self.answers.is_former(&key, *claim)).collect::<Vec<_>>()
            {
                self.note_speaker(&key, claim.mac);
                answered = answered.or((claim.mac == mac).then_some(address));
            }
        }
        let gateways = self.gateways_of(&segment);
        let spoke = gateways.iter().find(|address| {
            self.speakers.is_gateways(&AddressKey { segment: segment.clone(), address: **address }, mac)
        });
        if let Some(gateway) = spoke {
            return self.refuse_mac(index, mac, format!("it is the MAC of the gateway {gateway}"));
        }
        if let Some(address) = answered {
            return self.refuse_mac(
                index,
                mac,
                format!("it answers on the wire for {address}, which is not this pod's"),
            );
        }
        if let Some(waiter) = self.line.get_mut(index) {
            waiter.stage = Stage::InLine;
            waiter.clear_mac(now);
        }
        self.try_serve(now, index);
    }

    fn refuse_mac(&mut self, index: usize, mac: Mac, why: String) {
        if let Some(waiter) = self.line.remove(index) {
            self.reply(waiter.caller, Step::Lease, Err(LedgerError::MacRefused { mac, why }));
        }
    }

    /// Asks the wire about a MAC. True if there was nothing to ask, which clears the MAC.
    fn ask_about_mac(
        &mut self,
        now: Time,
        index: usize,
        mac: Mac,
        segment: &SegmentName,
        request: &LeaseRequest,
    ) -> bool {
        let network = self.config.networks.get(&request.key.network);
        let device = network.and_then(|network| network.link.wire_device());
        let spoken_for = self.speakers.of(segment, mac);
        let mut addresses: Vec<IpAddr> = spoken_for.into_iter().chain(self.gateways_of(segment)).collect();
        addresses.sort();
        addresses.dedup();
        addresses.retain(|address| !self.is_own(segment, *address, request));
        addresses.truncate(ASKED_MAX);
        let Some(waiter) = self.line.get_mut(index) else { return false };
        let Some(device) = device.filter(|_| !addresses.is_empty()) else {
            waiter.clear_mac(now);
            return true;
        };
        if self.hearings.deaf(&device).is_some() || waiter.asks_later(now) {
            return false;
        }
        waiter.stage = Stage::Probing;
        self.ask(device, ProbePurpose::Mac(request.txn.clone()), addresses, true);
        false
    }

    /// Declarations that speak against a MAC.
    fn mac_declared(&self, mac: Mac, segment: &SegmentName, request: &LeaseRequest) -> Option<String> {
        if mac.is_berth() && !mac.belongs_to(&request.key) {
            let text = "MACs that begin with b2 are derived from attachments, and this one is of another";
            return Some(text.to_owned());
        }
        let on_segment = |name| self.config.pools.get(name).is_some_and(|pool| pool.segment == *segment);
        let mut networks =
            self.config.networks.iter().filter(|(_, network)| network.pools.iter().any(on_segment));
        let proxy = networks.find(|(_, network)| network.proxy_macs.contains(&mac));
        proxy.map(|(name, _)| format!("network {name} lists it in proxyMACs"))
    }

    /// The living lease of the segment that has the MAC, here or on another node.
    fn mac_holder(&self, mac: Mac, segment: &SegmentName, request: &LeaseRequest) -> Option<Holder> {
        let on_segment = |entry: &Entry| entry.held.iter().any(|held| held.segment == *segment);
        let mut here = self.slots.values().map(|slot| &slot.entry).filter(|entry| {
            entry.mac == Some(mac) && entry.key != request.key && is_living(entry) && on_segment(entry)
        });
        if let Some(entry) = here.next() {
            let name = name_of(entry);
            return Some(if is_same_workload(entry.pod.as_ref(), request.pod.as_ref()) {
                Holder::Predecessor(Some(entry.key.clone()), name)
            } else {
                Holder::Other(name)
            });
        }
        let mut abroad = self.shared.abroad.iter().filter(|(key, abroad)| {
            key.segment == *segment
                && abroad.recorded_mac() == Some(mac)
                && abroad.txn.as_ref() != Some(&request.txn)
        });
        let (key, abroad) = abroad.next()?;
        let name = format!("{}, which has {}", abroad.who, key.address);
        Some(if is_same_workload(abroad.pod.as_ref(), request.pod.as_ref()) {
            Holder::Predecessor(None, name)
        } else {
            Holder::Other(name)
        })
    }

    /// True if an address is held for the workload of a request.
    fn is_own(&self, segment: &SegmentName, address: IpAddr, request: &LeaseRequest) -> bool {
        let key = AddressKey { segment: segment.clone(), address };
        let here = self.holders.get(&key).and_then(|holder| self.slots.get(holder));
        let pod = here.map(|slot| slot.entry.pod.as_ref());
        let pod = pod.or_else(|| self.shared.abroad.get(&key).map(|abroad| abroad.pod.as_ref()));
        pod.is_some_and(|pod| is_same_workload(pod, request.pod.as_ref()))
    }

    /// The segment of a request's network: all of its pools are in one.
    fn segment_of(&self, request: &LeaseRequest) -> Option<SegmentName> {
        let network = self.config.networks.get(&request.key.network)?;
        let mut pools = network.pools.iter().filter_map(|name| self.config.pools.get(name));
        pools.next().map(|pool| pool.segment.clone())
    }

    fn gateways_of(&self, segment: &SegmentName) -> Vec<IpAddr> {
        let pools = self.config.pools.values().filter(|pool| pool.segment == *segment);
        pools.filter_map(|pool| pool.gateway).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_of_speakers_is_bounded_and_a_gateways_mac_outlives_a_flood() {
        let mut speakers = Speakers::default();
        let key = |last: u8| AddressKey {
            segment: "default".parse().unwrap(),
            address: IpAddr::from([10, 0, 0, last]),
        };
        let segment = key(0).segment;
        speakers.note(&key(1), Mac([2; 6]), true);
        for number in 0..20_000_u32 {
            let [_, a, b, c] = number.to_be_bytes();
            speakers.note(&key(9), Mac([2, 1, 0, a, b, c]), false);
            assert!(speakers.young.len() + speakers.old.len() <= 2 * SPEAKERS_MAX);
        }
        assert!(speakers.is_gateways(&key(1), Mac([2; 6])));
        assert!(speakers.of(&segment, Mac([2; 6])).is_empty());
        let [_, a, b, c] = 19_999_u32.to_be_bytes();
        assert_eq!(speakers.of(&segment, Mac([2, 1, 0, a, b, c])), BTreeSet::from([key(9).address]));
    }
}
