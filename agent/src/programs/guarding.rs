//! The segments on which pods may claim only addresses leased to their MAC (`sourceGuard: arp`).
//!
//! The maps are derived from the ledger: the MAC of a lease may claim its address before the bind of its link
//! is answered. Invariant: a segment is guarded only while all permitted claims are in the map; otherwise it
//! is open, and `doctor` reports the reason.

use std::collections::BTreeMap;
use std::net::IpAddr;

use berth_ipam::attachment::Role;
use berth_ipam::config::Wire;
use berth_ipam::ledger::Ledger;
use berth_ipam::ledger::entry::Slot;
use berth_ipam::ledger::view::View;
use berth_ipam::mac::Mac;
use berth_probes::guard::Guards;
use berth_probes::{Probes, watch};
use berth_protocol::response::Finding;
use berth_underlay::wire::device::Device;

use super::watching::Watching;
use crate::committer::chain;
use crate::doctor::finding;

/// Permitted claimant of each address: a MAC, or with `None` any.
type Passes = BTreeMap<IpAddr, Option<Mac>>;

/// A wire in the kernel: the device's index, and the VLAN on it.
type Place = watch::Wire;

/// See the module's head.
#[derive(Debug, Default)]
pub struct Guarding {
    guarded: BTreeMap<Place, Mac>,
    passing: BTreeMap<(Place, IpAddr), Option<Mac>>,
    /// Reason why a segment with a declared guard is open.
    open: BTreeMap<Wire, String>,
}

/// Segments with a declared guard, each with its permitted claims.
pub fn wanted(ledger: &Ledger) -> BTreeMap<Wire, Passes> {
    let mut wires: BTreeMap<Wire, Passes> = BTreeMap::new();
    for (_, network) in ledger.served() {
        if let Some(allowed) = &network.source_guard {
            let passes = wires.entry(network.link.wire()).or_default();
            passes.extend(allowed.iter().map(|address| (*address, None)));
        }
    }
    if wires.is_empty() {
        return wires;
    }
    for view in ledger.leases() {
        let address = view.address();
        let (wire, segment, mac) = match &view {
            View::Held { slot, .. } if is_to_come(slot) => continue,
            View::Held { slot, .. } => {
                let network = ledger.config().networks.get(&slot.entry.key.network);
                // The segment of a network that is no longer declared is unknown: it may be any.
                (network.map(|network| network.link.wire()), None, speaker(slot))
            }
            View::Occupied(occupant) => (None, Some(&occupant.key.segment), occupant.mac),
            View::Shut(_) => continue,
        };
        let is_here = |other: &Wire| {
            wire.as_ref().is_none_or(|wire| wire == other)
                && segment.is_none_or(|segment| ledger.segment_on(other) == Some(segment))
        };
        for (_, passes) in wires.iter_mut().filter(|(other, _)| is_here(other)) {
            passes.entry(address).or_insert(mac);
        }
    }
    wires
}

/// True if the link of a lease is bound before it is set up, and is not bound yet.
fn is_to_come(slot: &Slot) -> bool {
    slot.entry.mac.is_none() && slot.entry.role == Role::Main && slot.entry.phase.is_open()
}

/// Permitted claimant of a lease. A MAC that is unknown, or was read to differ from the bound one, permits
/// any.
fn speaker(slot: &Slot) -> Option<Mac> {
    slot.entry.mac.filter(|mac| slot.live.mac_read.is_none_or(|read| read.mac == *mac))
}

impl Guarding {
    /// Writes the ledger's permitted claims into the maps.
    pub fn sync(&mut self, probes: &mut Probes, watching: &Watching, ledger: &Ledger) {
        let wanted = wanted(ledger);
        if wanted.is_empty() && self.guarded.is_empty() && self.passing.is_empty() {
            return self.open.clear();
        }
        let (mut guarded, mut passing, mut open) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let mut names = BTreeMap::new();
        for (wire, passes) in wanted {
            let Some(place) = watching.seat(&wire) else {
                open.insert(wire, "the eBPF watcher does not sit on the parent".to_owned());
                continue;
            };
            match Device::by_name(wire.parent.as_str()) {
                Ok(device) => drop(guarded.insert(place, device.mac)),
                Err(error) => drop(open.insert(wire.clone(), chain(&error))),
            }
            passing.extend(passes.into_iter().map(|(address, mac)| ((place, address), mac)));
            names.insert(place, wire);
        }
        let mut refuse = |place: Place, why: String| {
            if let Some(wire) = names.get(&place) {
                open.entry(wire.clone()).or_insert(why);
            }
        };
        let guards = probes.guards();
        self.fill(guards, &passing, &mut refuse);
        let is_open = |place: &Place| names.get(place).is_none_or(|wire| open.contains_key(wire));
        guarded.retain(|place, _| !is_open(place));
        self.open = open;
        self.set(guards, guarded);
        self.empty(guards, &passing);
    }

    /// New passes, before a wire is guarded.
    fn fill(
        &mut self,
        guards: &mut Guards,
        passing: &BTreeMap<(Place, IpAddr), Option<Mac>>,
        refuse: &mut impl FnMut(Place, String),
    ) {
        for (&(place, address), &mac) in passing {
            if self.passing.get(&(place, address)) == Some(&mac) {
                continue;
            }
            match guards.pass(place, address, mac) {
                Ok(()) => drop(self.passing.insert((place, address), mac)),
                Err(error) => refuse(place, chain(&error)),
            }
        }
    }

    fn set(&mut self, guards: &mut Guards, guarded: BTreeMap<Place, Mac>) {
        let over: Vec<_> =
            self.guarded.keys().filter(|place| !guarded.contains_key(place)).copied().collect();
        for place in over {
            match guards.unguard(place) {
                Ok(()) => drop(self.guarded.remove(&place)),
                Err(error) => tracing::warn!(error = chain(&error), "end a source guard"),
            }
        }
        for (place, own) in guarded {
            if self.guarded.get(&place) == Some(&own) {
                continue;
            }
            match guards.guard(place, own) {
                Ok(()) => drop(self.guarded.insert(place, own)),
                Err(error) => tracing::warn!(error = chain(&error), "begin a source guard"),
            }
        }
    }

    /// Passes that are over.
    fn empty(&mut self, guards: &mut Guards, passing: &BTreeMap<(Place, IpAddr), Option<Mac>>) {
        let over: Vec<_> = self.passing.keys().filter(|key| !passing.contains_key(key)).copied().collect();
        for (place, address) in over {
            match guards.unpass(place, address) {
                Ok(()) => drop(self.passing.remove(&(place, address))),
                Err(error) => tracing::warn!(error = chain(&error), "end a pass of a source guard"),
            }
        }
    }

    /// Each declared guard: what it dropped, or why it is open.
    pub fn findings(&self, probes: Option<&Probes>, watching: &Watching, ledger: &Ledger) -> Vec<Finding> {
        let wires = wanted(ledger).into_keys();
        let findings = wires.map(|wire| {
            let vlan = wire.vlan.map_or_else(String::new, |vlan| format!(".{vlan}"));
            let what = format!("guard.{}{vlan}", wire.parent);
            let why = self.open.get(&wire).cloned();
            let place = watching.seat(&wire).filter(|place| self.guarded.contains_key(place));
            let (Some(probes), Some(place), None) = (probes, place, &why) else {
                let why = why.unwrap_or_else(|| "no eBPF programs run".to_owned());
                let text =
                    format!("sourceGuard is declared and not in force: {why}; see the findings of eBPF");
                return finding(&what, false, true, text);
            };
            match probes.guard_seen(place) {
                Ok(seen) => finding(&what, true, false, words(seen, ledger)),
                Err(error) => finding(&what, false, true, chain(&error)),
            }
        });
        findings.collect()
    }
}

fn words(seen: Option<berth_probes::guard::Seen>, ledger: &Ledger) -> String {
    let dropped = seen.map_or(0, |seen| seen.dropped);
    let last = seen.and_then(|seen| seen.last).map(|(_, mac, address)| {
        let holds = |view: &View<'_>| match view {
            View::Held { slot, .. } if slot.entry.mac == Some(mac) => Some(slot.entry.key.to_string()),
            _ => None,
        };
        let whose = ledger.leases().iter().find_map(holds);
        let whose = whose.map_or_else(String::new, |key| format!(" (the MAC of {key})"));
        format!("; the last one was by {mac}{whose} for {address}")
    });
    format!("in force: {dropped} ARP and ND frames were dropped{}", last.unwrap_or_default())
}

#[cfg(test)]
#[path = "guarding_tests.rs"]
mod tests;
