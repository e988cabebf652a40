//! Guests behind pods' links, as virtual machines are: each has an address that no interface shows. It announces the
//! address, and answers for it when it hears a probe.
//!
//! Links under a parent hear the agent's probes only if a program of the agent's hands these back to the parent, which
//! the world decides for each round by chance. Checked is: from the moment at which the ledger keeps the address of a
//! guest from all pods, no other pod gets it while the guest has it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use berth_ipam::ledger::view::View;
use berth_ipam::name::IfName;
use berth_ipam::record::LeaseRecord;

use crate::world::{Link, World};

#[derive(Debug, Default)]
pub struct Guests {
    /// By the link's index: whether the ledger kept the address.
    kept: BTreeMap<(u32, IpAddr), bool>,
    /// Rounds of which links under the device hear the probes: the device, and what is asked for.
    reached: BTreeMap<u64, (IfName, Vec<IpAddr>)>,
    /// From now on links hear every round.
    always: bool,
}

impl Guests {
    pub fn has(&self, link: &Link, address: IpAddr) -> bool {
        self.kept.contains_key(&(link.ifindex, address))
    }

    pub fn always_hear(&mut self) {
        self.always = true;
    }

    /// The agent's memory was lost.
    pub fn forget(&mut self) {
        self.kept.values_mut().for_each(|kept| *kept = false);
        self.reached.clear();
    }
}

impl World {
    pub fn guest(&mut self, pod: u8, address: IpAddr, comes: bool) {
        let Some((_, key)) = self.pods.get(&pod).cloned() else { return };
        let runs = |link: &&Link| link.key == key && link.up && !link.addresses.contains(&address);
        let Some(link) = self.links.iter().find(runs) else { return };
        let (parent, mac, place) = (link.parent.clone(), link.mac, (link.ifindex, address));
        if comes {
            self.guests.kept.entry(place).or_default();
            self.local.speaks(address);
            self.announce(&parent, &[address], mac);
        } else {
            self.guests.kept.retain(|(ifindex, _), _| *ifindex != place.0);
        }
    }

    /// A round begins.
    pub fn reach(&mut self, id: u64, device: &IfName, addresses: &[IpAddr]) {
        if self.guests.always || self.chance(3) == 0 {
            self.guests.reached.insert(id, (device.clone(), addresses.to_vec()));
        }
    }

    /// A round ends: the links that heard it answer. What they heard it for; empty if they did not.
    pub fn reached(&mut self, id: u64) -> BTreeSet<IpAddr> {
        let Some((device, addresses)) = self.guests.reached.remove(&id) else { return BTreeSet::new() };
        let mut answers = Vec::new();
        for link in self.links.iter().filter(|link| link.up && link.parent == device) {
            let has = |address: &&IpAddr| self.has_address(link, **address);
            answers.extend(addresses.iter().filter(has).map(|address| (*address, link.mac)));
        }
        for (address, mac) in answers {
            self.announce(&device, &[address], mac);
        }
        addresses.into_iter().collect()
    }

    /// Whether a link's pod has an address, in whatever way.
    pub fn has_address(&self, link: &Link, address: IpAddr) -> bool {
        link.addresses.contains(&address) || link.vips.contains(&address) || self.guests.has(link, address)
    }

    /// The ledger was told who speaks for an address.
    pub fn note_kept(&mut self, address: IpAddr) {
        let Some(ledger) = &self.ledger else { return };
        let mut told = BTreeSet::new();
        for view in ledger.leases() {
            if let View::Shut(shut) = view
                && shut.key.address == address
            {
                // Another guest of the same address may never have been heard.
                told.extend(shut.macs.iter().copied());
            }
        }
        for link in self.links.iter().filter(|link| told.contains(&link.mac)) {
            if let Some(kept) = self.guests.kept.get_mut(&(link.ifindex, address)) {
                *kept = true;
            }
        }
    }

    /// No pod gets an address that the ledger kept for another one's guest, which has it still.
    pub fn check_guests(&self, record: &LeaseRecord) {
        let network = self.declared.networks.get(&record.key.network);
        let on_it = |link: &&Link| network.is_some_and(|network| network.link.device() == link.parent);
        for link in self.links.iter().filter(on_it).filter(|link| link.up && link.key != record.key) {
            let kept = self.guests.kept.get(&(link.ifindex, record.address)).copied();
            assert!(
                kept != Some(true),
                "{} is given to {}, and a guest of {} has it",
                record.address,
                record.key,
                link.key
            );
        }
    }
}
