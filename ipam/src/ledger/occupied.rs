//! Addresses that are on interfaces of this node, and by what evidence.
//!
//! A parent hears neither itself nor its own children, so the wire's silence says nothing of an address that
//! the node itself has, or a link under the parent: the kernel's own lists of addresses say it. Facts come
//! from surveys, which replace what they covered, and from events, which only add: an address that an
//! event took away counts as there until a survey that was asked for afterwards says otherwise. Left out:
//! what follows for ADDs and holders (`survey.rs`). Invariant: a survey that could not look removes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::RangeBounds;

use crate::alloc::check_requested;
use crate::config::{Config, Wire};
use crate::identity::Nsid;
use crate::mac::Mac;
use crate::name::{IfName, PoolName};
use crate::record::AddressKey;
use crate::time::Time;

/// Number of addresses that are known by events alone; a survey reads those that do not fit.
const EVENTS_MAX: usize = 4096;

/// Place of an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The number of its namespace; `None`: the agent's own.
    pub at: Option<Nsid>,
    /// Its index there.
    pub ifindex: u32,
}

/// An interface as a survey found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Interface {
    /// Place of the interface.
    pub place: Place,
    /// Its name; chosen by the pod, if it is in one.
    pub name: String,
    /// MAC of the interface.
    pub mac: Option<Mac>,
    /// The wires that it is on; empty for an interface of the agent's own namespace, which counts on all.
    pub wires: BTreeSet<Wire>,
    /// True if its parent's list of MACs shows it while it is up.
    pub listed: bool,
    /// Its addresses, and those of interfaces of its namespace that are on no wire; `None`: they could not
    /// be read completely.
    pub addresses: Option<BTreeSet<IpAddr>>,
}

/// Results of a survey. A part that could not be read completely is absent, never short.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Survey {
    /// The number of the order.
    pub number: u64,
    /// The interfaces of the agent's own namespace; `None`: they could not be read completely.
    pub own: Option<Vec<Interface>>,
    /// Links under the ordered devices, wherever the survey looked.
    pub children: Vec<Interface>,
    /// The namespaces with links that were all read.
    pub looked: BTreeSet<Nsid>,
    /// The devices of which the lists of MACs were read completely.
    pub lists: BTreeMap<IfName, BTreeSet<Mac>>,
    /// Every nameable namespace was looked for; whether all of them were looked into. `None`: not asked for.
    pub searched: Option<bool>,
}

/// An interface that has an address of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occupant {
    /// Key of the address.
    pub key: AddressKey,
    /// Pool of the address.
    pub pool: PoolName,
    /// Place of the interface.
    pub place: Place,
    /// Name of the interface.
    pub name: String,
    /// MAC of the interface.
    pub mac: Option<Mac>,
    /// Since when that is known.
    pub since: Time,
    /// True if a survey read it there; else an event alone reported it, perhaps late.
    pub is_read: bool,
}

impl std::fmt::Display for Occupant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { place: Place { at, ifindex }, name, .. } = self;
        match at {
            None => write!(f, "interface {name} of the node"),
            Some(at) => write!(f, "interface {name} (link {ifindex} in the namespace of number {at})"),
        }
    }
}

/// See the module's head.
#[derive(Debug, Clone, Default)]
pub struct Occupied {
    own: Option<BTreeMap<Place, Interface>>,
    children: BTreeMap<Place, Interface>,
    /// Addresses that an event reported, with the last survey that was asked for by then.
    events: BTreeMap<(Place, IpAddr), (u64, BTreeSet<Wire>)>,
    by_address: BTreeMap<AddressKey, Vec<Occupant>>,
    /// The devices under which a search has looked.
    covered: BTreeSet<IfName>,
}

impl Occupied {
    /// True if the addresses of the node and of the links under a device were ever read.
    pub fn covers(&self, device: &IfName) -> bool {
        self.own.is_some() && self.covered.contains(device)
    }

    /// The interfaces that have an address.
    pub fn of(&self, key: &AddressKey) -> &[Occupant] {
        self.by_address.get(key).map(Vec::as_slice).unwrap_or_default()
    }

    /// Every address of a pool that an interface has.
    pub fn keys(&self) -> impl Iterator<Item = &AddressKey> {
        self.by_address.keys()
    }

    /// Those of a range.
    pub fn range(&self, span: impl RangeBounds<AddressKey>) -> impl Iterator<Item = &AddressKey> {
        self.by_address.range(span).map(|(key, _)| key)
    }

    /// Every interface that has an address of a pool.
    pub fn all(&self) -> impl Iterator<Item = &Occupant> {
        self.by_address.values().flatten()
    }

    /// The link on one of these wires, or on any, that has a MAC.
    pub fn child(&self, mac: Mac, wires: Option<&BTreeSet<Wire>>) -> Option<&Interface> {
        let on_one = |link: &Interface| wires.is_none_or(|wires| !link.wires.is_disjoint(wires));
        self.children.values().find(|link| link.mac == Some(mac) && on_one(link))
    }

    /// The MACs of the known links.
    pub fn macs(&self) -> impl Iterator<Item = Mac> {
        self.children.values().filter_map(|link| link.mac)
    }

    /// True if a known link is missing from a namespace into which a survey looked, or every link of one in
    /// which an event reported an address.
    pub fn misses(&self, survey: &Survey) -> bool {
        let looked = |place: &&Place| place.at.is_some_and(|at| survey.looked.contains(&at));
        let links: BTreeSet<_> = survey.children.iter().map(|link| link.place).collect();
        let spaces: BTreeSet<_> = links.iter().map(|place| place.at).collect();
        let mut told = self.events.keys().map(|(place, _)| place).filter(looked);
        self.children.keys().filter(looked).any(|place| !links.contains(place))
            || told.any(|place| !spaces.contains(&place.at))
    }

    /// The links that the parents' lists of MACs would show if they were up, and do not.
    pub fn unlisted(&self, listed: &BTreeSet<Mac>) -> BTreeSet<Place> {
        let shows = |link: &&Interface| link.mac.is_some_and(|mac| listed.contains(&mac));
        let links = self.children.values().filter(|link| link.listed && !shows(link));
        links.map(|link| link.place).collect()
    }

    /// Follows a link with addresses that no survey read yet.
    pub fn follow(&mut self, link: Interface) {
        self.children.entry(link.place).or_insert(link);
    }

    /// True if a namespace has a known link under a device.
    pub fn is_followed(&self, at: Nsid) -> bool {
        self.children.keys().any(|place| place.at == Some(at))
    }

    /// The namespaces that have a known link under a device.
    pub fn spaces(&self) -> impl Iterator<Item = Nsid> {
        self.children.keys().filter_map(|place| place.at)
    }

    /// True if a link or an address is known to be at a place.
    pub fn knows(&self, place: Place) -> bool {
        self.children.contains_key(&place) || self.events.keys().any(|(other, _)| *other == place)
    }

    /// An interface got an address. `wires`: those of the attachments in its namespace. `asked`: the number of
    /// the last survey that was asked for.
    pub fn seen(&mut self, place: Place, address: IpAddr, mut wires: BTreeSet<Wire>, asked: u64) {
        let same = self.children.values().filter(|link| link.place.at == place.at);
        wires.extend(same.flat_map(|link| link.wires.iter().cloned()));
        if self.events.len() < EVENTS_MAX {
            self.events.insert((place, address), (asked, wires));
        }
    }

    /// True if any evidence puts an address at a place.
    pub fn has(&self, place: Place, address: IpAddr) -> bool {
        let interface = match place.at {
            None => self.own.as_ref().and_then(|own| own.get(&place)),
            Some(_) => self.children.get(&place),
        };
        let listed = interface.and_then(|interface| interface.addresses.as_ref());
        let beside = || self.children.values().any(|link| link.place.at == place.at && has(link, address));
        listed.is_some_and(|all| all.contains(&address))
            || (place.at.is_some() && beside())
            || self.events.contains_key(&(place, address))
    }

    /// Takes over what a survey read of these devices.
    pub fn survey(&mut self, survey: Survey, devices: &BTreeSet<IfName>) {
        let Survey { number, own, children, looked, lists, searched } = survey;
        let own_read = own.is_some();
        if let Some(own) = own {
            self.own = Some(own.into_iter().map(|interface| (interface.place, interface)).collect());
        }
        let found: BTreeMap<_, _> = children.into_iter().map(|link| (link.place, link)).collect();
        if let Some(complete) = searched {
            let is_listed = |link: &Interface| {
                let known = devices.iter().all(|device| lists.contains_key(device));
                !known || lists.values().any(|list| link.mac.is_some_and(|mac| list.contains(&mac)))
            };
            // A link that is up is in its parent's list: one that is in none and was found nowhere is over.
            self.children.retain(|place, link| {
                found.contains_key(place) || !(complete || (link.listed && !is_listed(link)))
            });
            self.covered.clone_from(devices);
        }
        let has_links: BTreeSet<_> = found.keys().filter_map(|place| place.at).collect();
        for (place, mut link) in found {
            if link.addresses.is_none() {
                link.addresses = self.children.get(&place).and_then(|known| known.addresses.clone());
            }
            self.children.insert(place, link);
        }
        self.events.retain(|(place, _), (asked, _)| {
            let read = match place.at {
                None => own_read,
                // A link that is missing took its addresses along, and a search shows where to. A complete
                // search also proves that a namespace without a look at it is gone.
                Some(at) => searched == Some(true) || (looked.contains(&at) && has_links.contains(&at)),
            };
            *asked >= number || !read
        });
    }

    /// The links that are known at a place, or have one of these MACs, are over, with all their addresses; where
    /// the whole namespace is, so is everything in it. Returns the addresses that are on no interface now.
    pub fn forget(
        &mut self,
        at: Nsid,
        ifindex: Option<u32>,
        macs: &[Mac],
        whole_namespace: bool,
    ) -> Vec<AddressKey> {
        let over: BTreeSet<Place> = self
            .children
            .values()
            .map(|link| (link.place, link.mac))
            .chain(self.events.keys().map(|(place, _)| (*place, None)))
            .filter(|(place, mac)| {
                let here = place.at == Some(at) && (whole_namespace || Some(place.ifindex) == ifindex);
                here || mac.is_some_and(|mac| macs.contains(&mac))
            })
            .map(|(place, _)| place)
            .collect();
        self.children.retain(|place, _| !over.contains(place));
        // What else is in the namespace was on the wire by its links alone.
        let others = self.is_followed(at);
        self.events.retain(|(place, _), _| !over.contains(place) && (others || place.at != Some(at)));
        self.drop_occupants(|occupant| over.contains(&occupant.place))
    }

    /// An address is on no interface of a namespace, as a complete list of them says.
    pub fn gone(&mut self, at: Nsid, address: IpAddr) -> Vec<AddressKey> {
        for link in self.children.values_mut().filter(|link| link.place.at == Some(at)) {
            if let Some(addresses) = &mut link.addresses {
                addresses.remove(&address);
            }
        }
        self.events.retain(|(place, other), _| place.at != Some(at) || *other != address);
        self.drop_occupants(|occupant| occupant.place.at == Some(at) && occupant.key.address == address)
    }

    fn drop_occupants(&mut self, over: impl Fn(&Occupant) -> bool) -> Vec<AddressKey> {
        let mut free = Vec::new();
        self.by_address.retain(|key, occupants| {
            occupants.retain(|occupant| !over(occupant));
            if occupants.is_empty() {
                free.push(key.clone());
            }
            !occupants.is_empty()
        });
        free
    }

    /// Finds the pools' addresses among all that is known. Returns those that no interface has any longer, and
    /// those that one has now and had not before.
    pub fn index(&mut self, now: Time, config: &Config) -> (Vec<AddressKey>, Vec<AddressKey>) {
        let mut by_address: BTreeMap<AddressKey, Vec<Occupant>> = BTreeMap::new();
        for (place, address, wires) in self.facts() {
            for (pool, key) in members(config, address, wires) {
                let known = self.of(&key).iter().find(|known| known.place == place);
                let since = known.map_or(now, |known| known.since);
                let interface = self.children.get(&place).or_else(|| self.own.as_ref()?.get(&place));
                let name =
                    interface.map_or_else(|| format!("of index {}", place.ifindex), |i| i.name.clone());
                let mac = interface.and_then(|interface| interface.mac);
                let all = by_address.entry(key.clone()).or_default();
                if all.iter().all(|other| other.place != place) {
                    let is_read = interface.is_some_and(|interface| has(interface, address));
                    all.push(Occupant { key, pool, place, name, mac, since, is_read });
                }
            }
        }
        let gone = self.by_address.keys().filter(|key| !by_address.contains_key(*key)).cloned().collect();
        let new = by_address.keys().filter(|key| !self.by_address.contains_key(*key)).cloned().collect();
        self.by_address = by_address;
        (gone, new)
    }

    fn facts(&self) -> impl Iterator<Item = (Place, IpAddr, &BTreeSet<Wire>)> {
        let interfaces = self.own.iter().flat_map(BTreeMap::values).chain(self.children.values());
        let listed = interfaces.flat_map(|interface| {
            let addresses = interface.addresses.iter().flatten();
            addresses.map(move |address| (interface.place, *address, &interface.wires))
        });
        listed.chain(self.events.iter().map(|((place, address), (_, wires))| (*place, *address, wires)))
    }
}

fn has(link: &Interface, address: IpAddr) -> bool {
    link.addresses.as_ref().is_some_and(|all| all.contains(&address))
}

/// The pools that give an address on one of these wires; without wires, in any segment.
fn members(config: &Config, address: IpAddr, wires: &BTreeSet<Wire>) -> Vec<(PoolName, AddressKey)> {
    let on_wire = |name: &PoolName| {
        let mut networks = config.networks.values().filter(|network| network.pools.contains(name));
        networks.any(|network| wires.contains(&network.link.wire()))
    };
    let mut found: Vec<(PoolName, AddressKey)> = Vec::new();
    for (name, pool) in &config.pools {
        let key = AddressKey { segment: pool.segment.clone(), address };
        let new = found.iter().all(|(_, other)| *other != key);
        if new && check_requested(pool, address).is_ok() && (wires.is_empty() || on_wire(name)) {
            found.push((name.clone(), key));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Nsid = Nsid(5);

    fn address() -> IpAddr {
        [10, 0, 0, 10].into()
    }

    fn link(ifindex: u32, addresses: &[IpAddr]) -> Interface {
        Interface {
            place: Place { at: Some(HERE), ifindex },
            name: "eth0".to_owned(),
            mac: None,
            wires: BTreeSet::new(),
            listed: true,
            addresses: Some(addresses.iter().copied().collect()),
        }
    }

    fn looked(number: u64, children: Vec<Interface>) -> Survey {
        Survey { number, children, looked: BTreeSet::from([HERE]), ..Survey::default() }
    }

    fn told(place: Place, asked: u64) -> Occupied {
        let mut occupied = Occupied::default();
        occupied.seen(place, address(), BTreeSet::new(), asked);
        occupied
    }

    #[test]
    fn a_survey_that_was_asked_for_before_an_event_takes_nothing_of_it_back() {
        let place = Place { at: Some(HERE), ifindex: 2 };
        let mut occupied = told(place, 7);
        occupied.survey(looked(7, vec![link(2, &[])]), &BTreeSet::new());
        assert!(occupied.has(place, address()), "it may have looked before");
        occupied.survey(looked(8, vec![link(2, &[])]), &BTreeSet::new());
        assert!(!occupied.has(place, address()));
        let own = Place { at: None, ifindex: 2 };
        let mut occupied = told(own, 7);
        occupied.survey(Survey { number: 8, ..Survey::default() }, &BTreeSet::new());
        assert!(occupied.has(own, address()), "the node's own addresses were not read");
        occupied.survey(Survey { number: 9, own: Some(Vec::new()), ..Survey::default() }, &BTreeSet::new());
        assert!(!occupied.has(own, address()));
    }

    #[test]
    fn an_address_goes_with_a_link_that_left_and_only_a_search_tells_that_it_is_over() {
        let place = Place { at: Some(HERE), ifindex: 2 };
        let mut occupied = told(place, 1);
        let gone = looked(2, Vec::new());
        assert!(occupied.misses(&gone));
        occupied.survey(gone, &BTreeSet::new());
        assert!(occupied.has(place, address()));
        occupied.survey(Survey { searched: Some(false), ..looked(3, Vec::new()) }, &BTreeSet::new());
        assert!(occupied.has(place, address()), "not everything was searched");
        occupied.survey(Survey { searched: Some(true), ..looked(4, Vec::new()) }, &BTreeSet::new());
        assert!(!occupied.has(place, address()));
    }

    #[test]
    fn a_link_whose_addresses_could_not_be_read_keeps_those_that_are_known() {
        let place = Place { at: Some(HERE), ifindex: 2 };
        let mut occupied = Occupied::default();
        occupied.survey(looked(1, vec![link(2, &[address()])]), &BTreeSet::new());
        let unread = Interface { addresses: None, ..link(2, &[]) };
        occupied.survey(looked(2, vec![unread]), &BTreeSet::new());
        assert!(occupied.has(place, address()));
    }
}
