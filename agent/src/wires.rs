//! The wires: for each device that networks use, one thread that probes, and listens where no
//! program in the kernel does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use berth_ipam::config::Wire;
use berth_ipam::ledger::io::{HeardOnWire, Hearing, Input, ProbeResult};
use berth_ipam::mac::Mac;
use berth_ipam::name::IfName;
use berth_underlay::random;
use berth_underlay::wire::listener::{ParentWire, WireEvent};
use berth_underlay::wire::probe::{Limits, Outcome, Priority};
use berth_underlay::wire::socket::Direction;

use crate::committer::chain;
use crate::hints::Feed;

/// See the module's head.
#[derive(Debug)]
pub struct Wires {
    by_device: BTreeMap<IfName, ParentWire>,
    /// The networks' ports of each declared device.
    places: BTreeMap<IfName, BTreeSet<Wire>>,
    /// The parents on which a program in the kernel listens.
    watched: Vec<IfName>,
    refused: BTreeMap<IfName, String>,
    /// Mark of probes that must reach the links under a device. Random: a pod that knew it could have its own
    /// frames handed back to the parent.
    mark: u32,
    feed: Feed,
}

impl Wires {
    /// State without wires.
    pub fn new(feed: Feed) -> Result<Self, berth_underlay::error::Error> {
        Ok(Self {
            by_device: BTreeMap::new(),
            places: BTreeMap::new(),
            watched: Vec::new(),
            refused: BTreeMap::new(),
            // Zero is the mark of all other frames.
            mark: u32::from_ne_bytes(random::bytes()?).max(1),
            feed,
        })
    }

    /// Mark by which the programs identify probes that must reach the links under a device.
    pub fn mark(&self) -> u32 {
        self.mark
    }

    /// Listens on these devices, each with the wires that it is on, and on no others.
    pub fn listen(&mut self, places: BTreeMap<IfName, BTreeSet<Wire>>) {
        let closed: Vec<_> =
            self.by_device.extract_if(.., |device, _| !places.contains_key(device)).collect();
        for (device, wire) in closed {
            // Its thread ends first, so that this is its last event.
            drop(wire);
            self.tell(&device, Hearing::Down("no network is declared on it".to_owned()));
        }
        self.refused.retain(|device, _| places.contains_key(device));
        self.places = places;
        for device in self.places.keys().cloned().collect::<Vec<_>>() {
            self.open(&device);
        }
    }

    fn tell(&self, device: &IfName, hearing: Hearing) {
        // Without a receiver the agent is ending.
        let _ = self.feed.answer(Input::Hearing(device.clone(), hearing));
    }

    /// On these parents a program listens: there the socket needs to receive replies only. If a program
    /// stopped listening, statements may have been missed before the socket listens.
    pub fn watched(&mut self, parents: Vec<IfName>) {
        if self.watched == parents {
            return;
        }
        let devices: Vec<_> = self.by_device.keys().cloned().collect();
        let before: Vec<_> = devices.iter().filter(|device| self.is_watched(device)).cloned().collect();
        self.watched = parents;
        for device in devices {
            let watched = self.is_watched(&device);
            if let Some(wire) = self.by_device.get(&device) {
                wire.answers_only(watched);
            }
            if !watched && before.contains(&device) {
                self.tell(&device, Hearing::Missed("the program in the kernel left the wire".to_owned()));
            }
        }
    }

    /// Inputs after a loss of events on ports where programs listen.
    pub fn missed(&self) -> Vec<Input> {
        let why = || Hearing::Missed("the ring of the program in the kernel overran".to_owned());
        let watched = self.by_device.keys().filter(|device| self.is_watched(device));
        watched.map(|device| Input::Hearing(device.clone(), why())).collect()
    }

    fn is_watched(&self, device: &IfName) -> bool {
        let places = self.places.get(device);
        places.is_some_and(|places| places.iter().all(|place| self.watched.contains(&place.parent)))
    }

    /// Reason why a device could not be opened; `None`: it is open, or was not tried.
    pub fn refused(&self, device: &IfName) -> Option<&str> {
        self.refused.get(device).map(String::as_str)
    }

    /// Listens on a device that appeared after its network was declared. An open one stays unchanged.
    pub fn open(&mut self, device: &IfName) {
        if self.by_device.contains_key(device) {
            return;
        }
        let feed = self.feed.clone();
        let name = device.clone();
        let places = self.places.get(device).cloned().unwrap_or_default();
        let report = move |event| match event {
            // Other nodes probe the same candidates at the same time: a probe claims nothing.
            WireEvent::Heard(heard) if !heard.kind.is_claim() => {}
            WireEvent::Heard(heard) => {
                for wire in places.iter().filter_map(|place| tagged(place, heard.vlan)) {
                    let outgoing = heard.direction == Direction::Out;
                    let heard =
                        HeardOnWire { wire, address: heard.address, mac: heard.mac, outgoing, at: heard.at };
                    let _ = feed.hint(Input::Heard(heard));
                }
            }
            other => {
                if let Some(hearing) = hearing(&name, other) {
                    let _ = feed.answer(Input::Hearing(name.clone(), hearing));
                }
            }
        };
        match ParentWire::open(device.as_str(), Limits::default(), report) {
            Ok(wire) => {
                self.refused.remove(device);
                wire.answers_only(self.is_watched(device));
                self.by_device.insert(device.clone(), wire);
            }
            Err(error) => drop(self.refused.insert(device.clone(), chain(&error))),
        }
    }

    /// True if the thread of a device's wire has not run since the machine or the agent was stopped.
    pub fn stands_still(&self, device: &IfName) -> bool {
        self.by_device.get(device).is_some_and(ParentWire::stands_still)
    }

    /// Announces these addresses at these MACs on a device's segment.
    pub fn announce(&self, device: &IfName, claims: Vec<(IpAddr, Mac)>) {
        if let Some(wire) = self.by_device.get(device) {
            wire.announce(claims);
        }
    }

    /// Probes on a declared device; the result comes as [`Input::Probed`]. `reach`: the probes must reach the
    /// links under the device; where they did, [`Input::Reached`] comes before.
    pub fn probe(
        &mut self,
        id: u64,
        device: &IfName,
        addresses: Vec<IpAddr>,
        priority: Priority,
        reach: bool,
    ) {
        self.open(device);
        let feed = self.feed.clone();
        let Some(wire) = self.by_device.get(device) else {
            let why = self.refused.get(device).cloned().unwrap_or_default();
            let _ = feed.answer(Input::Probed(id, ProbeResult::Failed(why)));
            return;
        };
        let mark = Some(self.mark).filter(|_| reach);
        wire.probe(addresses, priority, mark, move |results| {
            let all_in = results.iter().filter(|result| result.reached);
            let reached: BTreeSet<_> = all_in.map(|result| result.address).collect();
            if !reached.is_empty() {
                let _ = feed.answer(Input::Reached(id, reached));
            }
            let mut answers = Vec::new();
            let mut failed = None;
            for result in results {
                match result.outcome {
                    Outcome::Silent => answers.push((result.address, Vec::new())),
                    Outcome::Answered(macs) => answers.push((result.address, macs)),
                    Outcome::Unknown(why) => failed = Some(why),
                }
            }
            // A round with an unknown part has no verdict.
            let result = failed.map_or(ProbeResult::Heard(answers), ProbeResult::Failed);
            let _ = feed.answer(Input::Probed(id, result));
        });
    }
}

/// Effect of an event on the reception of a device's port.
fn hearing(device: &IfName, event: WireEvent) -> Option<Hearing> {
    match event {
        WireEvent::Heard(_) => None,
        WireEvent::Up { ifindex, .. } => {
            tracing::info!(%device, ifindex, "the wire is up");
            Some(Hearing::Up)
        }
        WireEvent::Down(reason) => {
            tracing::warn!(%device, reason, "the wire is down");
            Some(Hearing::Down(reason))
        }
        WireEvent::Gap(reason) => {
            tracing::warn!(%device, reason, "the hearing of the wire had a gap");
            Some(Hearing::Gap(reason))
        }
        WireEvent::Lost(frames) => {
            tracing::debug!(%device, frames, "frames were lost");
            Some(Hearing::Missed(format!("{frames} frames came faster than they were read")))
        }
    }
}

/// Port of a frame that was received on a device; `None`: a nested tag, which belongs to no network here.
pub fn tagged(place: &Wire, vlan: Option<u16>) -> Option<Wire> {
    match (place.vlan, vlan) {
        (_, None) => Some(place.clone()),
        (None, Some(_)) => Some(Wire { parent: place.parent.clone(), vlan }),
        (Some(_), Some(_)) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tagged_frame_is_of_another_wire_than_its_parents_own() {
        let own = Wire { parent: "eth1".parse().unwrap(), vlan: None };
        let five = Wire { vlan: Some(5), ..own.clone() };
        assert_eq!(tagged(&own, None), Some(own.clone()));
        assert_eq!(tagged(&own, Some(5)), Some(five.clone()));
        assert_eq!(tagged(&five, None), Some(five.clone()));
        assert_eq!(tagged(&five, Some(6)), None);
    }
}
