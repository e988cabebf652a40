//! Surveys of the node's interfaces: their timing, and their consequences for pools and holders.
//!
//! An address that is on an interface of this node is not free, unless that interface is its holder's. If
//! another one takes a holder's address, that is reported and frees nothing. One survey is under way at a
//! time, and all that is wanted meanwhile goes together into the next, so that an event costs a bounded
//! amount of work.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::Ledger;
use super::entry::{Entry, Quarantined, Slot};
use super::io::{Action, LeaseRequest, NoteKind, Observation};
use super::occupied::{Interface, Occupant, Place, Survey};
use super::sight::Where;
use crate::alloc::check_requested;
use crate::config::{LinkSpec, Wire};
use crate::evidence::{LinkFact, NetnsFact};
use crate::identity::Nsid;
use crate::mac::Mac;
use crate::name::{IfName, PoolName};
use crate::record::AddressKey;
use crate::time::Time;

/// From one survey to the next at least; a search of all namespaces costs more.
const SOON: Duration = Duration::from_millis(100);
const SEARCH_SOON: Duration = Duration::from_secs(1);
/// The node's own addresses and the parents' lists of MACs are read this often, all namespaces are searched
/// this often, without any event.
const LOOK: Duration = Duration::from_secs(5);
const SEARCH: Duration = Duration::from_mins(5);
/// Number of addresses that an error or a diagnosis names.
const NAMED: usize = 8;

/// Order of the next survey, in addition to the node's own addresses and the lists of MACs.
#[derive(Debug, Clone, Default)]
struct Wanted {
    /// The node's own addresses, out of turn.
    own: bool,
    /// Links and addresses of these namespaces.
    at: BTreeSet<Nsid>,
    /// True to search all namespaces.
    search: bool,
}

/// The surveys of one ledger.
#[derive(Debug, Clone, Default)]
pub struct Surveys {
    wanted: Wanted,
    number: u64,
    /// The devices of the one under way.
    under_way: Option<BTreeSet<IfName>>,
    asked_at: Option<Time>,
    searched_at: Option<Time>,
    /// MACs on a parent that belong to no link that a search found.
    puzzling: BTreeSet<Mac>,
    /// Links that a search found although no list of MACs shows them: they are down, or went meanwhile.
    unlisted: BTreeSet<Place>,
    /// Conflicts that were reported and go on.
    conflicts: BTreeSet<(AddressKey, Place)>,
}

impl Surveys {
    /// All namespaces are to be searched: events were lost, or the links under the devices are not known.
    pub fn want_search(&mut self) {
        self.wanted.search = true;
    }

    fn want(&mut self, at: Option<Nsid>) {
        self.wanted.own |= at.is_none();
        self.wanted.at.extend(at);
    }

    /// Time at which the next survey is due.
    pub fn wakes_at(&self) -> Option<Time> {
        if self.under_way.is_some() {
            return None;
        }
        let after = |last: Option<Time>, pause| last.map_or(Time(0), |last| last + pause);
        let search = after(self.searched_at, if self.wanted.search { SEARCH_SOON } else { SEARCH });
        let soon = self.wanted.own || !self.wanted.at.is_empty();
        Some(search.min(after(self.asked_at, if soon { SOON } else { LOOK })))
    }
}

impl Ledger {
    /// Asks for the survey that is due.
    pub(super) fn survey_if_due(&mut self, now: Time) {
        let devices = self.devices_to_survey();
        if devices.is_empty() || self.surveys.wakes_at().is_none_or(|at| at > now) {
            return;
        }
        let surveys = &mut self.surveys;
        let due = |pause| surveys.searched_at.is_none_or(|at| now.since(at) >= pause);
        let search = due(if surveys.wanted.search { SEARCH_SOON } else { SEARCH });
        let at = std::mem::take(&mut surveys.wanted.at);
        surveys.wanted.own = false;
        surveys.wanted.search &= !search;
        surveys.number += 1;
        surveys.asked_at = Some(now);
        if search {
            surveys.searched_at = Some(now);
        }
        surveys.under_way = Some(devices.keys().cloned().collect());
        let number = surveys.number;
        self.out.push(Action::Survey { number, devices, at, search });
    }

    /// The devices with links that can have the addresses of networks, each with the names of its wire.
    fn devices_to_survey(&self) -> BTreeMap<IfName, BTreeSet<Wire>> {
        let mut devices = BTreeMap::<_, BTreeSet<_>>::new();
        for link in self.config.networks.values().map(|network| &network.link) {
            // An exclusive VLAN device is a link of its own under the parent.
            let wire = match link {
                LinkSpec::Vlan { exclusive: true, .. } => Wire { parent: link.device(), vlan: None },
                _ => link.wire(),
            };
            devices.entry(link.device()).or_default().insert(wire);
        }
        devices
    }

    /// True if an ADD has to wait for the first survey of its device.
    pub(super) fn is_unsurveyed(&self, request: &LeaseRequest) -> bool {
        let network = self.config.networks.get(&request.key.network);
        network.is_some_and(|network| !self.occupied.covers(&network.link.device()))
    }

    /// Reason, in words, why an ADD waits for the first survey of its device.
    pub(super) fn why_unsurveyed(&self, request: &LeaseRequest) -> Option<String> {
        let device = self.config.networks.get(&request.key.network)?.link.device();
        self.is_unsurveyed(request).then(|| unread(&device))
    }

    /// The devices that surveys in vain tried to cover, in words.
    pub(super) fn unsurveyed(&self) -> impl Iterator<Item = String> + '_ {
        // The first survey is under way right after the start.
        let devices = self.devices_to_survey().into_keys().filter(|_| self.surveys.number > 1);
        devices.filter(|device| !self.occupied.covers(device)).map(|device| unread(&device))
    }

    /// A survey came.
    pub(super) fn surveyed(&mut self, now: Time, survey: Survey) {
        let Some(devices) = self.surveys.under_way.take() else { return };
        if survey.own.is_none() {
            self.surveys.want(None);
        }
        let (lists, searched) = (survey.lists.clone(), survey.searched.is_some());
        if !searched && self.occupied.misses(&survey) {
            self.surveys.want_search();
        }
        self.read_new_links_again(&survey);
        self.occupied.survey(survey, &devices);
        let is_complete = devices.iter().all(|device| lists.contains_key(device));
        let listed = is_complete.then(|| lists.values().flatten().copied().collect());
        let mut puzzling: BTreeSet<Mac> = lists.into_values().flatten().collect();
        for mac in self.slots.values().flat_map(|slot| slot.entry.macs()).chain(self.occupied.macs()) {
            puzzling.remove(&mac);
        }
        let unlisted = listed.map(|listed| self.occupied.unlisted(&listed)).unwrap_or_default();
        if searched {
            (self.surveys.puzzling, self.surveys.unlisted) = (puzzling, unlisted);
        } else {
            let is_known = puzzling.is_subset(&self.surveys.puzzling);
            if !(is_known && unlisted.is_subset(&self.surveys.unlisted)) {
                self.surveys.want_search();
            }
        }
        self.index_occupied(now);
        if self.devices_to_survey().keys().any(|device| !self.occupied.covers(device)) {
            self.surveys.want_search();
        }
        self.serve_line(now);
    }

    /// Events of a namespace are dropped until a survey has found a link there: an address that came between the read
    /// and its report is found by another read.
    fn read_new_links_again(&mut self, survey: &Survey) {
        let new = survey.children.iter().filter_map(|link| link.place.at);
        for at in new.collect::<BTreeSet<_>>() {
            let is_attached = self.slots.values().any(|slot| slot.entry.at == at);
            if !is_attached && !self.occupied.is_followed(at) {
                self.surveys.want(Some(at));
            }
        }
    }

    /// Takes a change of the known interfaces or of the pools.
    pub(super) fn index_occupied(&mut self, now: Time) {
        let (gone, new) = self.occupied.index(now, &self.config);
        for key in &new {
            self.take(key);
            if let Some(text) = self.occupier(key).filter(|_| !self.holders.contains_key(key)) {
                let text = format!("not handed out: it is on {text}");
                self.note(NoteKind::Action, "occupied", vec![key.address], None, text);
            }
        }
        self.tell_conflicts();
        self.no_longer_occupied(now, gone);
    }

    fn no_longer_occupied(&mut self, now: Time, gone: Vec<AddressKey>) {
        for key in gone {
            if !self.is_taken(&key) {
                let text = "no interface of the node has it any longer".to_owned();
                self.note(NoteKind::Action, "occupied-ended", vec![key.address], None, text);
            }
            self.give_back(now, &key);
        }
    }

    /// An interface that is not a holder's has the holder's address.
    fn tell_conflicts(&mut self) {
        let mut conflicts = BTreeSet::new();
        let mut told = Vec::new();
        for occupant in self.occupied.all() {
            let Some(holder) = self.holders.get(&occupant.key).and_then(|key| self.slots.get(key)) else {
                continue;
            };
            if is_own(&holder.entry, occupant) {
                continue;
            }
            let id = (occupant.key.clone(), occupant.place);
            if !self.surveys.conflicts.contains(&id) {
                let text =
                    format!("{occupant} has an address that {} holds; nothing is freed", holder.entry.key);
                told.push((occupant.key.address, holder.entry.key.clone(), text));
            }
            conflicts.insert(id);
        }
        self.surveys.conflicts = conflicts;
        for (address, holder, text) in told {
            self.note(NoteKind::Warning, "second-holder", vec![address], Some(&holder), text);
        }
    }

    fn is_pools(&self, address: IpAddr) -> bool {
        self.config.pools.values().any(|pool| check_requested(pool, address).is_ok())
    }

    /// An interface got an address: taken at once, if it is a pool's and not its holder's own.
    pub(super) fn address_appears(&mut self, now: Time, place: Place, address: IpAddr) {
        if !self.is_pools(address) {
            return;
        }
        let mut wires = BTreeSet::new();
        if let Some(at) = place.at {
            let here: Vec<_> =
                self.slots.values().map(|slot| &slot.entry).filter(|entry| entry.at == at).collect();
            let is_holders = here.iter().any(|entry| entry.addresses().contains(&address));
            if is_holders || (here.is_empty() && !self.occupied.is_followed(at)) {
                return;
            }
            let networks = here.iter().filter_map(|entry| self.config.networks.get(&entry.key.network));
            wires.extend(networks.map(|network| network.link.wire()));
        }
        self.occupied.seen(place, address, wires, self.surveys.number);
        self.surveys.want(place.at);
        self.index_occupied(now);
    }

    /// An interface lost an address: whether another one has it, a survey says.
    pub(super) fn address_disappears(&mut self, place: Place, address: IpAddr) {
        // A survey under way may have read it before.
        let may_be_read = self.surveys.under_way.is_some() && self.is_pools(address);
        if may_be_read || self.occupied.has(place, address) {
            self.surveys.want(place.at);
        }
    }

    /// A link went, or left its namespace: where it is now, if anywhere, a search says.
    pub(super) fn link_disappears(&mut self, place: Place) {
        if self.occupied.knows(place) {
            self.surveys.want_search();
        }
    }

    /// A namespace ended: a link of another runtime in it is over, or went elsewhere before.
    pub(super) fn namespace_disappears(&mut self, at: Nsid) {
        if self.occupied.is_followed(at) && !self.slots.values().any(|slot| slot.entry.at == at) {
            self.surveys.want_search();
        }
    }

    /// The release of an attachment was not proved: what was known of its interfaces is read again.
    pub(super) fn survey_again(&mut self, entry: &Entry) {
        if entry.held.iter().any(|held| !self.occupied.of(&held.key()).is_empty()) {
            self.surveys.want(Some(entry.at));
            self.surveys.want_search();
        }
    }

    /// Orders a read of the addresses of a link that was found in a namespace without events before.
    pub(super) fn survey_at(&mut self, at: Nsid) {
        self.surveys.want(Some(at));
    }

    /// The release of an attachment is forced: its interface may live on, and addresses that the pod adds to
    /// it are reported.
    pub(super) fn follow_forced(&mut self, slot: &Slot) {
        let entry = &slot.entry;
        let (Some(at), Some(ifindex)) = (self.location(slot).nsid(), entry.ifindex) else { return };
        let network = self.config.networks.get(&entry.key.network);
        self.occupied.follow(Interface {
            place: Place { at: Some(at), ifindex },
            name: entry.key.ifname.to_string(),
            mac: entry.mac,
            wires: network.map(|network| network.link.wire()).into_iter().collect(),
            listed: entry.fdb_parent.is_some(),
            addresses: None,
        });
        self.surveys.want(Some(at));
    }

    /// Reads proved the end of an attachment: its links are over, and with its namespace all in it.
    pub(super) fn forget_links_of(&mut self, now: Time, seen: &Observation) {
        // Elsewhere the numbers of namespaces mean others: those surveys go on saying what is there.
        // A number that the kernel gave may be another namespace's by now.
        let here = |slot: &&Slot| match self.location(slot) {
            Where::Number(_) => true,
            Where::Proved(_) => seen.netns == NetnsFact::Alive,
            Where::Sought(_) | Where::Nowhere => false,
        };
        let slot = self.slots.get(&seen.key).filter(here);
        let Some(entry) = slot.map(|slot| slot.entry.clone()) else { return };
        let mut gone = Vec::new();
        if matches!(seen.link, LinkFact::Present | LinkFact::OtherMac) {
            for address in entry.addresses() {
                gone.extend(self.occupied.gone(entry.at, address));
            }
        } else {
            let whole = seen.netns == NetnsFact::Dead;
            gone = self.occupied.forget(entry.at, entry.ifindex, &entry.macs(), whole);
        }
        self.no_longer_occupied(now, gone);
    }

    /// An interface that is to be taken over has its addresses already: they are the interface's own.
    pub(super) fn admit_own(&mut self, now: Time, request: &LeaseRequest) {
        let mut gone = Vec::new();
        for &address in &request.ips {
            gone.extend(self.occupied.gone(request.netns.nsid, address));
        }
        self.no_longer_occupied(now, gone);
    }

    /// The interface that keeps an address from being given, in words.
    fn occupier(&self, key: &AddressKey) -> Option<String> {
        let occupant = self.occupied.of(key).first()?;
        let mut entries = self.slots.values().map(|slot| &slot.entry);
        let pod =
            entries.find(|entry| is_own(entry, occupant)).map(|entry| format!(" of {}", entry.holder()));
        Some(format!("{occupant}{}", pod.unwrap_or_default()))
    }

    /// The namespaces that have a link under a device, as far as surveys found them.
    pub fn surveyed_spaces(&self) -> impl Iterator<Item = Nsid> {
        self.occupied.spaces()
    }

    /// True if an event alone reported an address on an interface that is not the attachment's.
    pub(super) fn is_reported_beside(&self, key: &AddressKey, holder: &Entry) -> bool {
        self.others_with(key, holder).any(|occupant| !occupant.is_read)
    }

    /// The interface of the node that a survey read with an address, in words, except those of an attachment.
    pub(super) fn read_beside(&self, key: &AddressKey, holder: &Entry) -> Option<String> {
        self.others_with(key, holder).find(|occupant| occupant.is_read).map(ToString::to_string)
    }

    /// The interface of the node that has an address, in words, except those of an attachment.
    pub(super) fn occupier_beside(&self, key: &AddressKey, holder: &Entry) -> Option<String> {
        self.others_with(key, holder).next().map(ToString::to_string)
    }

    /// The interfaces of the node that have an address, except those of its holder.
    fn others_with<'a>(&'a self, key: &AddressKey, holder: &'a Entry) -> impl Iterator<Item = &'a Occupant> {
        self.occupied.of(key).iter().filter(|occupant| !is_own(holder, occupant))
    }

    /// The addresses that have no holder and that an interface of the node has, each with that interface in
    /// words.
    pub fn occupied(&self) -> impl Iterator<Item = (&Occupant, String)> {
        self.occupied
            .keys()
            .filter(|key| !self.holders.contains_key(*key))
            .filter_map(|key| Some((self.occupied.of(key).first()?, self.occupier(key)?)))
    }

    /// The interface that has an address without a holder, in words.
    pub(super) fn on_interface(&self, address: IpAddr) -> Option<String> {
        self.occupied().find(|(occupant, _)| occupant.key.address == address).map(|(_, text)| text)
    }

    /// The same of some pools, as an error names them.
    pub(super) fn occupied_in<'a>(
        &'a self,
        pools: &'a [PoolName],
    ) -> impl Iterator<Item = (IpAddr, String)> + 'a {
        let of_pools = |(occupant, _): &(&Occupant, String)| pools.contains(&occupant.pool);
        self.occupied().filter(of_pools).map(|(occupant, text)| (occupant.key.address, format!("on {text}")))
    }

    /// The first of these addresses, in words.
    pub fn occupied_words(&self) -> Option<String> {
        let mut all: Vec<_> =
            self.occupied().map(|(occupant, text)| format!("{} on {text}", occupant.key.address)).collect();
        let more = all.len().saturating_sub(NAMED);
        all.truncate(NAMED);
        if more > 0 {
            all.push(format!("and {more} more"));
        }
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// The link under the parent that spoke for a quarantined address, in words. The parent does not hear what
    /// that link answers, so its silence says nothing.
    pub(super) fn local_speaker(&self, shut: &Quarantined) -> Option<String> {
        if let Some(link) = self.links_of(&shut.pool).find(|link| !self.occupied.covers(&link.device())) {
            return Some(format!("perhaps a link under {}: none was looked for yet", link.device()));
        }
        let wires = self.wires_of(&shut.pool);
        shut.macs.iter().find_map(|mac| self.local_link(*mac, wires.as_ref()))
    }

    /// The wires on which a pool's addresses are given. `None`: no network gives them for now; one that does so again
    /// finds the same links.
    fn wires_of(&self, pool: &PoolName) -> Option<BTreeSet<Wire>> {
        let wires: BTreeSet<_> = self.links_of(pool).map(LinkSpec::wire).collect();
        Some(wires).filter(|wires| !wires.is_empty())
    }

    /// The links of the networks that give a pool's addresses.
    fn links_of<'a>(&'a self, pool: &'a PoolName) -> impl Iterator<Item = &'a LinkSpec> {
        let networks = self.config.networks.values().filter(|network| network.pools.contains(pool));
        networks.map(|network| &network.link)
    }

    /// Those MACs that links under a parent of a pool's networks have.
    pub(super) fn local_among(&self, pool: &PoolName, macs: impl Iterator<Item = Mac>) -> Vec<Mac> {
        let wires = self.wires_of(pool);
        macs.filter(|mac| self.local_link(*mac, wires.as_ref()).is_some()).collect()
    }

    /// The link on one of these wires, or on any, under its parent on this node, that has a MAC, in words. One of a
    /// network that is not declared may be on each.
    pub(super) fn local_link(&self, mac: Mac, wires: Option<&BTreeSet<Wire>>) -> Option<String> {
        let mine = self.slots.values().find(|slot| {
            let network = self.config.networks.get(&slot.entry.key.network);
            slot.entry.macs().contains(&mac)
                && slot.entry.phase != super::entry::Phase::Held
                && wires.is_none_or(|wires| network.is_none_or(|own| wires.contains(&own.link.wire())))
        });
        if let Some(slot) = mine {
            return Some(format!("the interface of {}", slot.entry.holder()));
        }
        let link = self.occupied.child(mac, wires)?;
        let at = link.place.at.map_or_else(|| "of the node".to_owned(), |at| format!("in namespace {at}"));
        Some(format!("link {} {at}", link.name))
    }
}

fn unread(device: &IfName) -> String {
    format!(
        "the addresses of the node and of links under {device} could not be read completely: ADDs there wait"
    )
}

/// True if an interface with a holder's address is the holder's, or another one of its namespace.
fn is_own(holder: &Entry, occupant: &Occupant) -> bool {
    occupant.place.at == Some(holder.at) || occupant.mac.is_some_and(|mac| holder.macs().contains(&mac))
}
