//! The addresses that the watcher on the wires looks for, and the parents that it sits on.
//!
//! Watched are: every address with a holder, every one in quarantine, every one that is about to be
//! asked for, and the whole of each pool that is small enough. The map is keyed by the parent's
//! index, so a parent that comes back under its name is filled in anew.

use std::collections::BTreeMap;
use std::net::IpAddr;

use berth_ipam::attachment::AttachmentKey;
use berth_ipam::config::{Config, Wire};
use berth_ipam::interval::Family;
use berth_ipam::ledger::Ledger;
use berth_ipam::ledger::view::View;
use berth_ipam::mac::Mac;
use berth_ipam::name::{IfName, PoolName};
use berth_probes::wire::Seat;
use berth_probes::{Error, Probes, watch};
use berth_underlay::wire::device::Device;

use crate::committer::chain;

/// An address on a wire.
pub type Place = (Wire, IpAddr);

/// Pools are watched as a whole as long as that takes no more room than this of the map.
const WHOLE_POOLS_MAX: usize = 8192;

/// One parent of the declared networks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chair {
    /// The watcher sits on the device of this index.
    Taken(u32, Seat),
    /// It does not, for this reason.
    Refused(String),
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Watching {
    wanted: BTreeMap<Place, Option<(AttachmentKey, Mac)>>,
    parents: BTreeMap<IfName, Chair>,
}

/// The wires on which a pool's addresses are.
pub fn wires_of(config: &Config, pool: &PoolName) -> Vec<Wire> {
    let networks = config.networks.values().filter(|network| network.pools.contains(pool));
    networks.map(|network| network.link.wire()).collect()
}

impl Watching {
    /// Wants an address watched, for its holder if it has one.
    pub fn want(&mut self, place: Place, holder: Option<(AttachmentKey, Mac)>) {
        self.wanted.insert(place, holder);
    }

    /// Whether it is watched.
    pub fn has(&self, place: &Place) -> bool {
        self.wanted.contains_key(place)
    }

    /// All that is wanted, from the ledger.
    pub fn rebuild(&mut self, ledger: &Ledger) {
        let config = ledger.config();
        let mut wanted = BTreeMap::new();
        for network in config.networks.values() {
            let pools = network.pools.iter().filter_map(|name| config.pools.get(name));
            for pool in pools {
                let room = WHOLE_POOLS_MAX.saturating_sub(wanted.len());
                if usize::try_from(pool.members.len()).is_ok_and(|size| size <= room) {
                    let all = pool.members.addresses(Family::of(pool.subnet.ip()));
                    wanted.extend(all.map(|address| ((network.link.wire(), address), None)));
                }
            }
        }
        for view in ledger.leases() {
            match view {
                View::Held { slot, held, .. } => {
                    let Some(network) = config.networks.get(&slot.entry.key.network) else { continue };
                    let holder = slot.entry.mac.map(|mac| (slot.entry.key.clone(), mac));
                    wanted.insert((network.link.wire(), held.address), holder);
                }
                View::Shut(shut) => {
                    for wire in wires_of(config, &shut.pool) {
                        wanted.insert((wire, shut.key.address), None);
                    }
                }
            }
        }
        self.wanted = wanted;
        let parents = config.networks.values().map(|network| network.link.parent());
        let unseated = || Chair::Refused("not tried yet".to_owned());
        self.parents = parents
            .map(|parent| (parent.clone(), self.parents.remove(parent).unwrap_or_else(unseated)))
            .collect();
    }

    /// Everything into the map, and what nobody wants out of it.
    pub fn refresh(&mut self, probes: &mut Probes) -> Result<(), Error> {
        self.take_seats(probes)?;
        let wanted: std::collections::BTreeSet<_> =
            self.wanted.keys().filter_map(|(wire, address)| Some((self.key(wire)?, *address))).collect();
        probes.watches().retain(|wire, address| wanted.contains(&(wire, address)))?;
        self.wanted.keys().try_for_each(|place| self.put(probes, place))
    }

    /// One address into the map, if the watcher sits on its wire.
    pub fn put(&self, probes: &mut Probes, place: &Place) -> Result<(), Error> {
        let (Some(wire), Some(holder)) = (self.key(&place.0), self.wanted.get(place)) else { return Ok(()) };
        probes.watches().watch(wire, place.1, holder.as_ref().map(|(key, mac)| (key, *mac)))
    }

    fn key(&self, wire: &Wire) -> Option<watch::Wire> {
        match self.parents.get(&wire.parent)? {
            Chair::Taken(parent, _) => Some(watch::Wire { parent: *parent, vlan: wire.vlan }),
            Chair::Refused(_) => None,
        }
    }

    /// The wire that an event names by the parent's index.
    pub fn wire_of(&self, index: u32, vlan: Option<u16>) -> Option<Wire> {
        let mut taken = self.parents.iter();
        let parent = taken.find(|(_, chair)| matches!(chair, Chair::Taken(own, _) if *own == index))?;
        Some(Wire { parent: parent.0.clone(), vlan })
    }

    /// Sits on every parent that is there, and again on one that came back as another device. The
    /// watcher was taken off by the kernel with the former one.
    pub fn take_seats(&mut self, probes: &mut Probes) -> Result<(), Error> {
        let seated: Vec<IfName> = probes.wires().into_iter().map(|(device, _)| device.clone()).collect();
        for device in seated.iter().filter(|device| !self.parents.contains_key(device)) {
            probes.unwatch_wire(device);
        }
        let mut fresh = Vec::new();
        for (parent, chair) in &mut self.parents {
            let index = match Device::by_name(parent.as_str()) {
                Ok(device) => device.ifindex,
                Err(error) => {
                    *chair = Chair::Refused(chain(&error));
                    continue;
                }
            };
            if matches!(chair, Chair::Taken(own, _) if *own == index) && seated.contains(parent) {
                continue;
            }
            *chair = match probes.watch_wire(parent) {
                Ok(seat) => {
                    tracing::info!(%parent, ?seat, "the watcher sits on the wire");
                    fresh.push(parent.clone());
                    Chair::Taken(index, seat)
                }
                Err(error) => Chair::Refused(chain(&error)),
            };
        }
        let places: Vec<_> =
            self.wanted.keys().filter(|(wire, _)| fresh.contains(&wire.parent)).cloned().collect();
        places.iter().try_for_each(|place| self.put(probes, place))
    }

    /// The parents that it sits on.
    pub fn seated(&self) -> Vec<IfName> {
        let taken = self.parents.iter().filter(|(_, chair)| matches!(chair, Chair::Taken(..)));
        taken.map(|(parent, _)| parent.clone()).collect()
    }

    /// Every parent, and whether it sits there.
    pub fn chairs(&self) -> impl Iterator<Item = (&IfName, &Chair)> {
        self.parents.iter()
    }

    /// How many addresses are watched.
    pub fn len(&self) -> usize {
        self.wanted.len()
    }

    /// What the watcher knows of an address, on each wire that it is on.
    pub fn known(&self, probes: &Probes, address: IpAddr) -> Vec<(Wire, watch::Known)> {
        let places = self.wanted.keys().filter(|(_, other)| *other == address);
        let known = |(wire, _): &Place| {
            let known = probes.watched(self.key(wire)?, address).ok()??;
            Some((wire.clone(), known))
        };
        places.filter_map(known).collect()
    }
}
