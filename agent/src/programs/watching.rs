//! The addresses that the watcher observes, and the parents to which it is attached.
//!
//! Watched are: every address with a holder, every one in quarantine, every one that is about to be probed or
//! was found silent, and the whole of each pool that is small enough. The map is keyed by the parent's index,
//! so it is filled again for a parent that comes back under its name. Invariant: a segment counts as watched
//! only while the programs are attached to it first in order, see the frames that a socket receives, and have
//! all its addresses in their map; otherwise a socket listens.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use berth_ipam::attachment::AttachmentKey;
use berth_ipam::config::Wire;
use berth_ipam::interval::Family;
use berth_ipam::ledger::Ledger;
use berth_ipam::ledger::io::HeardOnWire;
use berth_ipam::ledger::view::View;
use berth_ipam::mac::Mac;
use berth_ipam::name::{IfName, PoolName};
use berth_ipam::time::Time;
use berth_probes::wire::Seat;
use berth_probes::{Error, Probes, watch};
use berth_underlay::wire::device::Device;

use crate::committer::chain;

/// An address on a wire.
pub type Place = (Wire, IpAddr);

/// Pools are watched as a whole as long as that takes no more room than this of the map.
const WHOLE_POOLS_MAX: usize = 8192;

/// Delay before a refused parent is tried again; one on which the program missed frames of a socket, after
/// [`DEAF`].
const REFUSED: Duration = Duration::from_secs(5);
const DEAF: Duration = Duration::from_mins(1);
/// Interval at which the watcher's attachment is checked.
const LOOK: Duration = Duration::from_secs(5);
/// Maximum age of the program's observation of a frame that a socket received.
const HEARD_BY_BOTH: Duration = Duration::from_secs(2);
/// Number of statements in a row, over a span of time, that only a socket received: the program does not see
/// the frames.
const STRIKES: u32 = 3;
const STRIKES_SPAN: Duration = Duration::from_secs(1);

/// State of the watcher on a parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chair {
    /// It is attached to the device of this index.
    Taken(u32, Seat),
    /// It does not, for this reason.
    Refused(String),
}

/// One parent of the declared networks.
#[derive(Debug)]
pub struct Parent {
    /// State of the watcher there.
    pub chair: Chair,
    /// Addresses on it that the map did not take: a socket has to listen for them.
    unplaced: bool,
    strikes: Strikes,
    next_look: Time,
}

/// Statements that only a socket received since the last one that the program saw too.
///
/// Statements from before the program was attached, or before an address was in its map, are not evidence
/// against it. In a flood of such statements the next ones are seen by both: so they count only over a span
/// of time.
#[derive(Debug, Default)]
struct Strikes {
    /// Time at which the program was attached.
    seated: Time,
    first: Option<Time>,
    count: u32,
}

impl Strikes {
    fn seated(now: Time) -> Self {
        Self { seated: now, ..Self::default() }
    }

    fn both_heard(&mut self) {
        (self.first, self.count) = (None, 0);
    }

    /// Records a frame of that time that only a socket received. Returns true if the program misses frames.
    fn socket_alone_heard(&mut self, at: Time) -> bool {
        if at < self.seated {
            return false;
        }
        let first = *self.first.get_or_insert(at);
        self.count = self.count.saturating_add(1);
        self.count >= STRIKES && at.since(first) >= STRIKES_SPAN
    }
}

impl Parent {
    fn new() -> Self {
        let chair = Chair::Refused("not tried yet".to_owned());
        Self { chair, unplaced: false, strikes: Strikes::default(), next_look: Time(0) }
    }
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Watching {
    wanted: BTreeMap<Place, Option<(AttachmentKey, Mac)>>,
    parents: BTreeMap<IfName, Parent>,
}

/// The segments on which this node assigns a pool's addresses.
pub fn wires_of(ledger: &Ledger, pool: &PoolName) -> Vec<Wire> {
    let networks = ledger.served().filter(|(_, network)| network.pools.contains(pool));
    networks.map(|(_, network)| network.link.wire()).collect()
}

impl Watching {
    /// Adds an address to the watched ones, for its holder if it has one.
    pub fn want(&mut self, place: Place, holder: Option<(AttachmentKey, Mac)>) {
        self.wanted.insert(place, holder);
    }

    /// True if it is watched.
    pub fn has(&self, place: &Place) -> bool {
        self.wanted.contains_key(place)
    }

    /// Derives the watched addresses from the ledger. Returns the places that changed.
    pub fn rebuild(&mut self, ledger: &Ledger) -> Vec<Place> {
        let config = ledger.config();
        let wanted = wanted(ledger);
        let gone = self.wanted.keys().filter(|place| !wanted.contains_key(place)).cloned();
        let other = wanted.iter().filter(|(place, holder)| self.wanted.get(place) != Some(holder));
        let changed = gone.chain(other.map(|(place, _)| place.clone())).collect();
        self.wanted = wanted;
        // Each parent once: networks share parents, and the second would find its state taken out.
        let parents: BTreeSet<_> = config.networks.values().map(|network| network.link.parent()).collect();
        self.parents = parents
            .into_iter()
            .map(|parent| (parent.clone(), self.parents.remove(parent).unwrap_or_else(Parent::new)))
            .collect();
        changed
    }

    /// Writes everything into the map, and removes the rest. The first refusal is returned, and stops
    /// nothing.
    pub fn refresh(&mut self, probes: &mut Probes) -> Result<(), Error> {
        let keys: BTreeSet<_> =
            self.wanted.keys().filter_map(|(wire, address)| Some((self.seat(wire)?, *address))).collect();
        let cleared = probes.watches().retain(|wire, address| keys.contains(&(wire, address)));
        for parent in self.parents.values_mut() {
            parent.unplaced = false;
        }
        let places: Vec<_> = self.wanted.keys().cloned().collect();
        cleared.and(self.put(probes, &places))
    }

    /// Writes these places into the map, or removes them, as wanted. The first refusal is returned.
    pub fn put(&mut self, probes: &mut Probes, places: &[Place]) -> Result<(), Error> {
        let mut first = Ok(());
        for (wire, address) in places {
            let Some(key) = self.seat(wire) else { continue };
            let put = match self.wanted.get(&(wire.clone(), *address)) {
                Some(holder) => {
                    probes.watches().watch(key, *address, holder.as_ref().map(|(key, mac)| (key, *mac)))
                }
                None => probes.watches().unwatch(key, *address),
            };
            if let Err(error) = put {
                if let Some(parent) = self.parents.get_mut(&wire.parent) {
                    parent.unplaced = true;
                }
                first = first.and(Err(error));
            }
        }
        first
    }

    /// The segment in the kernel's terms, if the watcher is attached there.
    pub fn seat(&self, wire: &Wire) -> Option<watch::Wire> {
        match self.parents.get(&wire.parent)?.chair {
            Chair::Taken(parent, _) => Some(watch::Wire { parent, vlan: wire.vlan }),
            Chair::Refused(_) => None,
        }
    }

    /// The wire that an event names by the parent's index.
    pub fn wire_of(&self, index: u32, vlan: Option<u16>) -> Option<Wire> {
        let mut parents = self.parents.iter();
        let here = |parent: &Parent| matches!(parent.chair, Chair::Taken(own, _) if own == index);
        let (name, _) = parents.find(|(_, parent)| here(parent))?;
        Some(Wire { parent: name.clone(), vlan })
    }

    /// Attaches the watcher to every existing parent, and again to one that came back as another device or
    /// lost the watcher to another process.
    pub fn take_seats(&mut self, probes: &mut Probes, now: Time) -> Result<(), Error> {
        let seated: Vec<IfName> = probes.wires().into_iter().map(|(device, _)| device.clone()).collect();
        for device in seated.iter().filter(|device| !self.parents.contains_key(device)) {
            probes.unwatch_wire(device);
        }
        let mut fresh = BTreeSet::new();
        for (name, parent) in &mut self.parents {
            let index = match Device::by_name(name.as_str()) {
                Ok(device) => device.ifindex,
                Err(error) => {
                    parent.chair = Chair::Refused(chain(&error));
                    parent.next_look = Time(0);
                    continue;
                }
            };
            let same = matches!(parent.chair, Chair::Taken(own, _) if own == index) && seated.contains(name);
            if now < parent.next_look && (same || matches!(parent.chair, Chair::Refused(_))) {
                continue;
            }
            parent.next_look = now + LOOK;
            if same && probes.is_watching(name) != Some(false) {
                continue;
            }
            parent.strikes = Strikes::seated(now);
            parent.chair = match probes.watch_wire(name) {
                Ok(seat) => {
                    tracing::info!(parent = %name, ?seat, "the watcher sits on the wire");
                    fresh.insert(name.clone());
                    Chair::Taken(index, seat)
                }
                Err(error) => {
                    parent.next_look = now + REFUSED;
                    Chair::Refused(chain(&error))
                }
            };
        }
        if fresh.is_empty() {
            return Ok(());
        }
        let places: Vec<_> =
            self.wanted.keys().filter(|(wire, _)| fresh.contains(&wire.parent)).cloned().collect();
        self.put(probes, &places)
    }

    /// A socket received this. If the program on that segment repeatedly missed such frames, it does not see
    /// them (another program takes them first), and the socket listens instead.
    pub fn confirm(&mut self, probes: &mut Probes, now: Time, heard: &HeardOnWire) {
        let place = (heard.wire.clone(), heard.address);
        let (Some(key), true) = (self.seat(&heard.wire), self.wanted.contains_key(&place)) else { return };
        let Ok(Some(known)) = probes.watched(key, heard.address) else { return };
        let seen = if heard.outgoing { known.heard_out } else { known.heard_in };
        let Some(parent) = self.parents.get_mut(&heard.wire.parent) else { return };
        if seen.is_some_and(|at| now.since(at) <= HEARD_BY_BOTH) {
            parent.strikes.both_heard();
            return;
        }
        if parent.strikes.socket_alone_heard(heard.at) {
            let why = "a packet socket hears frames there that the program does not see";
            tracing::warn!(parent = %heard.wire.parent, why, "the watcher leaves the wire");
            parent.chair = Chair::Refused(why.to_owned());
            parent.next_look = now + DEAF;
            probes.unwatch_wire(&heard.wire.parent);
        }
    }

    /// Parents on which it sees all wanted frames.
    pub fn seated(&self) -> Vec<IfName> {
        let taken = |parent: &Parent| matches!(parent.chair, Chair::Taken(..)) && !parent.unplaced;
        self.parents.iter().filter(|(_, parent)| taken(parent)).map(|(name, _)| name.clone()).collect()
    }

    /// Every parent, with the state of the watcher, and true if the map took all addresses on it.
    pub fn chairs(&self) -> impl Iterator<Item = (&IfName, &Chair, bool)> {
        self.parents.iter().map(|(name, parent)| (name, &parent.chair, !parent.unplaced))
    }

    /// Number of watched addresses.
    pub fn len(&self) -> usize {
        self.wanted.len()
    }

    /// Observations of the watcher about an address, on each segment that it covers.
    pub fn known(&self, probes: &Probes, address: IpAddr) -> Vec<(Wire, watch::Known)> {
        let places = self.wanted.keys().filter(|(_, other)| *other == address);
        let known = |(wire, _): &Place| {
            let known = probes.watched(self.seat(wire)?, address).ok()??;
            Some((wire.clone(), known))
        };
        places.filter_map(known).collect()
    }
}

/// Watched addresses from the ledger: small pools as a whole, candidates, addresses with a holder, and those
/// in quarantine.
fn wanted(ledger: &Ledger) -> BTreeMap<Place, Option<(AttachmentKey, Mac)>> {
    let config = ledger.config();
    let mut wanted = BTreeMap::new();
    for (_, network) in ledger.served() {
        let pools = network.pools.iter().filter_map(|name| config.pools.get(name));
        for pool in pools {
            let room = WHOLE_POOLS_MAX.saturating_sub(wanted.len());
            if usize::try_from(pool.members.len()).is_ok_and(|size| size <= room) {
                let all = pool.members.addresses(Family::of(pool.subnet.ip()));
                wanted.extend(all.map(|address| ((network.link.wire(), address), None)));
            }
        }
    }
    for (pool, address) in ledger.candidates() {
        wanted.extend(wires_of(ledger, &pool).into_iter().map(|wire| ((wire, address), None)));
    }
    for view in ledger.leases() {
        match view {
            View::Held { slot, held, .. } => {
                let Some(network) = config.networks.get(&slot.entry.key.network) else { continue };
                let holder = slot.entry.mac.map(|mac| (slot.entry.key.clone(), mac));
                wanted.insert((network.link.wire(), held.address), holder);
            }
            View::Occupied(_) => {}
            View::Shut(shut) => {
                let wires = wires_of(ledger, &shut.pool).into_iter();
                wanted.extend(wires.map(|wire| ((wire, shut.key.address), None)));
            }
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use berth_ipam::config::{Config, LinkSpec, MacvlanMode, Network, Pool};
    use berth_ipam::identity::{BootId, MachineId};
    use berth_ipam::interval::{IntervalSet, to_bits};
    use berth_ipam::ledger::Identity;
    use berth_ipam::ledger::io::{Hearing, Input};

    use super::*;

    /// A ledger of one network with a pool of 10.0.0.1 and this number of further addresses.
    fn ledger(more: u32) -> Ledger {
        let first = IpAddr::from([10, 0, 0, 1]);
        let mut members = IntervalSet::new();
        members.insert(to_bits(first), to_bits(first) + u128::from(more));
        let pool = Pool {
            segment: "default".parse().unwrap(),
            subnet: "10.0.0.0/8".parse().unwrap(),
            members,
            gateway: None,
            routes: Vec::new(),
            disabled: false,
            access: berth_ipam::access::Access::default(),
        };
        let network = Network {
            declared: 0,
            link: LinkSpec::Macvlan { parent: "eth1".parse().unwrap(), mode: MacvlanMode::Bridge, mtu: None },
            pools: vec!["p".parse().unwrap()],
            accept_ra: false,
            add_timeout: Duration::from_secs(1),
            settle: Duration::from_secs(2),
            leaked_after: None,
            proxy_macs: BTreeSet::new(),
            source_guard: None,
        };
        let config = Config {
            networks: BTreeMap::from([("lan".parse().unwrap(), network)]),
            pools: BTreeMap::from([("p".parse().unwrap(), pool)]),
        };
        let me = Identity {
            node: "n1".parse().unwrap(),
            boot_id: BootId("boot".into()),
            machine_id: MachineId("m1".into()),
        };
        let mut ledger = Ledger::new(me, config);
        ledger.step(Time::from_millis(1), Input::Loaded(Box::default()));
        ledger.step(Time::from_millis(2), Input::Hearing("eth1".parse().unwrap(), Hearing::Up));
        ledger.step(Time::from_millis(60_000), Input::Tick);
        ledger
    }

    #[test]
    fn a_program_is_deaf_if_a_socket_alone_hears_for_a_second() {
        let at = Time::from_millis;
        let mut strikes = Strikes::seated(at(5_000));
        // Frames that waited while the programs were loaded, then a flood that both receive.
        assert!(!(0..5_000).any(|millis| strikes.socket_alone_heard(at(millis))));
        assert!(!(5_000..5_500).any(|millis| strikes.socket_alone_heard(at(millis))));
        strikes.both_heard();
        assert!(!(6_000..7_000).any(|millis| strikes.socket_alone_heard(at(millis))));
        assert!(strikes.socket_alone_heard(at(7_000)));
        let mut rare = Strikes::seated(at(0));
        assert!(!rare.socket_alone_heard(at(0)) && !rare.socket_alone_heard(at(60_000)));
        assert!(rare.socket_alone_heard(at(120_000)));
    }

    #[test]
    fn a_small_pool_is_watched_as_a_whole() {
        let mut watching = Watching::default();
        assert_eq!(watching.rebuild(&ledger(99)).len(), 100);
        assert_eq!(watching.len(), 100);
        assert!(watching.rebuild(&ledger(99)).is_empty(), "nothing changed");
        assert_eq!(watching.rebuild(&ledger(9)).len(), 90, "what is wanted no more");
    }

    #[test]
    fn a_parent_of_two_networks_keeps_its_seat_when_the_addresses_are_gone_through() {
        let mut config = ledger(9).config().clone();
        let network = config.networks.values().next().unwrap().clone();
        config.networks.insert("second".parse().unwrap(), network);
        let me = Identity {
            node: "n1".parse().unwrap(),
            boot_id: BootId("boot".into()),
            machine_id: MachineId("m1".into()),
        };
        let ledger = Ledger::new(me, config);
        let mut watching = Watching::default();
        watching.rebuild(&ledger);
        let parent = watching.parents.values_mut().next().unwrap();
        parent.chair = Chair::Taken(3, Seat::Tcx);
        watching.rebuild(&ledger);
        assert!(watching.seated().contains(&"eth1".parse().unwrap()), "{:?}", watching.parents);
    }

    #[test]
    fn of_a_large_pool_every_candidate_stays_watched() {
        let ledger = ledger(1_000_000);
        let candidates = ledger.candidates();
        assert!(!candidates.is_empty());
        let mut watching = Watching::default();
        watching.rebuild(&ledger);
        let wire = Wire { parent: "eth1".parse().unwrap(), vlan: None };
        assert!(candidates.iter().all(|(_, address)| watching.has(&(wire.clone(), *address))));
        assert_eq!(watching.len(), candidates.len());
    }
}
