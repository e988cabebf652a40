//! The wire: who speaks for which address, and what a round of probes hears of it.
//!
//! A parent does not hear its own children's answers, but it sees what they say of themselves leave.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use berth_ipam::evidence::Claim;
use berth_ipam::mac::Mac;
use berth_ipam::name::IfName;
use berth_ipam::time::Time;

const FOREIGN: Mac = Mac([2, 0, 0, 0, 0, 9]);
pub const NEIGHBOUR: Mac = Mac([2, 0, 0, 0, 0, 8]);

/// An address on the L2 network of a parent.
pub type Place = (IfName, IpAddr);

#[derive(Debug, Default)]
pub struct Air {
    /// Addresses for which a foreign host answers.
    answering: BTreeSet<Place>,
    /// Hosts that stay, and when the agent was told of each in the order of the world's events.
    neighbours: BTreeMap<Place, Option<u64>>,
    /// Those for which one ever answered.
    foreign: BTreeSet<IpAddr>,
    announcements: Vec<(Place, Claim)>,
    /// With how many announcements there were before.
    rounds: BTreeMap<u64, (usize, Vec<Place>)>,
}

impl Air {
    /// A foreign host takes an address.
    pub fn answer(&mut self, place: Place) {
        self.foreign.insert(place.1);
        self.answering.insert(place);
    }

    /// A neighbour takes an address and stays. False if there is one already.
    pub fn join(&mut self, place: Place) -> bool {
        self.foreign.insert(place.1);
        self.neighbours.insert(place, None).is_none()
    }

    /// A neighbour leaves.
    pub fn leave(&mut self, place: &Place) {
        self.neighbours.remove(place);
    }

    /// The agent is told what somebody said.
    pub fn tell(&mut self, now: u64, place: &Place, mac: Mac) {
        if let Some(told) = self.neighbours.get_mut(place).filter(|_| mac == NEIGHBOUR) {
            *told = Some(now);
        }
    }

    /// When the agent was told of a neighbour that is there.
    pub fn told_of(&self, place: &Place) -> Option<u64> {
        self.neighbours.get(place).copied().flatten()
    }

    /// The agent is another one: what its predecessor was told went with it.
    pub fn forget_told(&mut self) {
        self.neighbours.values_mut().for_each(|told| *told = None);
    }

    /// All foreign hosts leave.
    pub fn fall_silent(&mut self) {
        self.answering.clear();
        self.neighbours.clear();
    }

    /// Whether a foreign host ever had it.
    pub fn is_foreign(&self, address: IpAddr) -> bool {
        self.foreign.contains(&address)
    }

    /// An interface of this node's says that it has an address.
    pub fn announced(&mut self, at: Time, place: Place, mac: Mac) {
        self.announcements.push((place, Claim { mac, at }));
    }

    /// The machine is rebooted: no socket hears what its interfaces said before.
    pub fn forget_own(&mut self) {
        self.announcements.clear();
    }

    /// A round begins.
    pub fn begin(&mut self, id: u64, device: &IfName, addresses: Vec<IpAddr>) {
        let places = addresses.into_iter().map(|address| (device.clone(), address));
        self.rounds.insert(id, (self.announcements.len(), places.collect()));
    }

    /// What a round heard from its beginning to now. `leaves`: the foreign hosts that answered leave.
    pub fn end(&mut self, now: Time, id: u64, leaves: bool) -> Vec<(IpAddr, Vec<Claim>)> {
        let (from, places) = self.rounds.remove(&id).unwrap_or_default();
        let said = self.announcements.get(from..).unwrap_or_default();
        let claims = places.iter().map(|place| {
            let own = said.iter().filter(|(of, _)| of == place);
            let foreign = self.answering.contains(place).then_some(Claim { mac: FOREIGN, at: now });
            let neighbour = self.neighbours.contains_key(place).then_some(Claim { mac: NEIGHBOUR, at: now });
            (place.1, own.map(|(_, claim)| *claim).chain(foreign).chain(neighbour).collect())
        });
        let claims = claims.collect();
        if leaves {
            self.answering.retain(|place| !places.contains(place));
        }
        claims
    }
}
