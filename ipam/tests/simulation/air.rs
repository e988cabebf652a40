//! The wire: who speaks for which address, and what a round of probes hears of it.
//!
//! A parent does not hear its own children's answers, but it sees what they say of themselves leave.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use berth_ipam::evidence::Claim;
use berth_ipam::mac::Mac;
use berth_ipam::time::Time;

const FOREIGN: Mac = Mac([2, 0, 0, 0, 0, 9]);

#[derive(Debug, Default)]
pub struct Air {
    /// Addresses for which a foreign host answers.
    answering: BTreeSet<IpAddr>,
    /// Those for which one ever answered.
    foreign: BTreeSet<IpAddr>,
    announcements: Vec<(IpAddr, Claim)>,
    /// With how many announcements there were before.
    rounds: BTreeMap<u64, (usize, Vec<IpAddr>)>,
}

impl Air {
    /// A foreign host takes an address.
    pub fn answer(&mut self, address: IpAddr) {
        self.answering.insert(address);
        self.foreign.insert(address);
    }

    /// All foreign hosts leave.
    pub fn fall_silent(&mut self) {
        self.answering.clear();
    }

    /// Whether a foreign host ever had it.
    pub fn is_foreign(&self, address: IpAddr) -> bool {
        self.foreign.contains(&address)
    }

    /// An interface of this node's says that it has an address.
    pub fn announced(&mut self, at: Time, address: IpAddr, mac: Mac) {
        self.announcements.push((address, Claim { mac, at }));
    }

    /// The machine is rebooted: no socket hears what its interfaces said before.
    pub fn forget_own(&mut self) {
        self.announcements.clear();
    }

    /// A round begins.
    pub fn begin(&mut self, id: u64, addresses: Vec<IpAddr>) {
        self.rounds.insert(id, (self.announcements.len(), addresses));
    }

    /// What a round heard from its beginning to now. `leaves`: the foreign hosts that answered leave.
    pub fn end(&mut self, now: Time, id: u64, leaves: bool) -> Vec<(IpAddr, Vec<Claim>)> {
        let (from, addresses) = self.rounds.remove(&id).unwrap_or_default();
        let said = self.announcements.get(from..).unwrap_or_default();
        let claims = addresses.iter().map(|address| {
            let own = said.iter().filter(|(of, _)| of == address);
            let foreign = self.answering.contains(address).then_some(Claim { mac: FOREIGN, at: now });
            (*address, own.map(|(_, claim)| *claim).chain(foreign).collect())
        });
        let claims = claims.collect();
        if leaves {
            self.answering.retain(|address| !addresses.contains(address));
        }
        claims
    }
}
