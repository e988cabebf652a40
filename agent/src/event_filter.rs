//! Filter of the kernel events that the ledger may need. The reading thread drops all others.
//!
//! An unprivileged process can cause events without end in its own namespace: links and addresses that come
//! and go. The kernel reports each of them here as soon as that namespace has an nsid. An event passes if the
//! ledger would find an attachment for it (`ledger/judgement.rs`), or if it is about an address of a pool on
//! the node's own interfaces or in a namespace with a link under a parent (`ledger/survey.rs`). Invariants:
//! the filter passes everything until the ledger's attachments are set; an attachment passes from its first
//! journal write to its last; a link with an unknown index passes by its namespace alone.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use berth_ipam::attachment::AttachmentKey;
use berth_ipam::config::{Config, Pool};
use berth_ipam::identity::Nsid;
use berth_ipam::ledger::Ledger;
use berth_ipam::ledger::entry::Entry;
use berth_ipam::ledger::io::{JournalWrite, KernelHint};
use berth_ipam::ledger::view::View;
use berth_ipam::mac::Mac;

/// The handle that the main loop and the observer's thread share.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    wanted: Arc<RwLock<Wanted>>,
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Wanted {
    /// True if the ledger's attachments are set.
    closed: bool,
    places: HashMap<Nsid, BTreeMap<AttachmentKey, Place>>,
    macs: HashMap<Mac, usize>,
    by_key: HashMap<AttachmentKey, (Nsid, Option<Mac>)>,
    /// The declared pools.
    pools: Vec<Pool>,
    /// Namespaces with a link of another runtime's under a parent.
    spaces: HashSet<Nsid>,
}

/// Place of an attachment's link in its namespace.
#[derive(Debug)]
struct Place {
    ifindex: Option<u32>,
    addresses: Vec<IpAddr>,
}

impl EventFilter {
    /// Takes over the ledger's attachments after its start, and closes the filter.
    pub fn adopt(&self, ledger: &Ledger) {
        let mut wanted = self.write();
        for view in ledger.leases() {
            if let View::Held { slot, .. } = view {
                wanted.put(&slot.entry);
            }
        }
        wanted.pools = ledger.config().pools.values().cloned().collect();
        wanted.closed = true;
    }

    /// Takes over the pools in force: their addresses pass, of the agent's own namespace and of those with a
    /// link under a parent.
    pub fn declared(&self, config: &Config) {
        self.write().pools = config.pools.values().cloned().collect();
    }

    /// Takes over the namespaces in which a survey found links under the parents.
    pub fn surveyed(&self, ledger: &Ledger) {
        self.write().spaces = ledger.surveyed_spaces().collect();
    }

    /// Takes over what the ledger wrote down.
    pub fn journaled(&self, writes: &[JournalWrite]) {
        let about_attachments =
            |write: &JournalWrite| matches!(write, JournalWrite::Put(_) | JournalWrite::Remove(_));
        if !writes.iter().any(about_attachments) {
            return;
        }
        let mut wanted = self.write();
        for write in writes {
            match write {
                JournalWrite::Put(entry) => wanted.put(entry),
                JournalWrite::Remove(key) => wanted.remove(key),
                JournalWrite::Quarantine(_) | JournalWrite::Unquarantine(_) => {}
            }
        }
    }

    /// Passes every link of the attachment's namespace: a bind is about to name its link.
    pub fn binding(&self, key: &AttachmentKey) {
        let mut wanted = self.write();
        let Some((at, _)) = wanted.by_key.get(key).copied() else { return };
        if let Some(place) = wanted.places.get_mut(&at).and_then(|places| places.get_mut(key)) {
            place.ifindex = None;
        }
    }

    /// For a batch of events.
    pub fn read(&self) -> RwLockReadGuard<'_, Wanted> {
        // A panic elsewhere ends the agent; until then a filter that is half changed hides one event at most.
        self.wanted.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Wanted> {
        self.wanted.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wanted {
    /// True if an attachment may need this hint.
    pub fn passes(&self, hint: &KernelHint) -> bool {
        if !self.closed {
            return true;
        }
        match hint {
            KernelHint::LinkGone(at, ifindex, mac) | KernelHint::LinkMoved(at, ifindex, mac) => {
                mac.is_some_and(|mac| self.macs.contains_key(&mac))
                    || at.is_some_and(|at| self.spaces.contains(&at))
                    || at.is_some_and(|at| {
                        self.any(at, |place| place.ifindex.is_none_or(|own| own == *ifindex))
                    })
            }
            KernelHint::NamespaceGone(at) => self.is_followed(*at),
            KernelHint::AddressSeen(at, _, address) | KernelHint::AddressGone(at, _, address) => {
                let held = |at| self.any(at, |place: &Place| place.addresses.contains(address));
                at.is_some_and(held) || (at.is_none_or(|at| self.is_followed(at)) && self.is_pools(*address))
            }
            _ => true,
        }
    }

    fn is_followed(&self, at: Nsid) -> bool {
        self.places.contains_key(&at) || self.spaces.contains(&at)
    }

    fn is_pools(&self, address: IpAddr) -> bool {
        self.pools.iter().any(|pool| pool.subnet.contains(address))
    }

    fn any(&self, at: Nsid, test: impl Fn(&Place) -> bool) -> bool {
        self.places.get(&at).is_some_and(|places| places.values().any(test))
    }

    fn put(&mut self, entry: &Entry) {
        self.remove(&entry.key);
        let place = Place { ifindex: entry.ifindex, addresses: entry.addresses() };
        self.places.entry(entry.at).or_default().insert(entry.key.clone(), place);
        if let Some(mac) = entry.mac {
            *self.macs.entry(mac).or_default() += 1;
        }
        self.by_key.insert(entry.key.clone(), (entry.at, entry.mac));
    }

    fn remove(&mut self, key: &AttachmentKey) {
        let Some((at, mac)) = self.by_key.remove(key) else { return };
        if let Some(places) = self.places.get_mut(&at) {
            places.remove(key);
            if places.is_empty() {
                self.places.remove(&at);
            }
        }
        let count = mac.and_then(|mac| Some((mac, self.macs.get_mut(&mac)?)));
        if let Some((mac, count)) = count {
            *count -= 1;
            if *count == 0 {
                self.macs.remove(&mac);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use berth_ipam::attachment::Role;
    use berth_ipam::identity::{BootId, MachineId, NetnsCookie, NetnsIdentity, TxnId};
    use berth_ipam::interval::{IntervalSet, to_bits};
    use berth_ipam::ledger::entry::{Held, Phase};

    use super::*;

    const MAC: Mac = Mac([0xb2, 0, 0, 0, 0, 1]);
    const OTHER: Mac = Mac([0xb2, 0, 0, 0, 0, 2]);

    fn address(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    fn entry(container: &str, at: i32, ifindex: Option<u32>, mac: Option<Mac>) -> Entry {
        let held = Held {
            pool: "p".parse().unwrap(),
            segment: "default".parse().unwrap(),
            address: address(1),
            generation: 1,
        };
        Entry {
            departure: None,
            moved: None,
            place: None,
            key: AttachmentKey {
                network: "lan".parse().unwrap(),
                container_id: container.parse().unwrap(),
                ifname: "eth0".parse().unwrap(),
            },
            cni_network: "lan".parse().unwrap(),
            role: Role::Main,
            txn: TxnId("t".into()),
            phase: Phase::Done,
            netns: NetnsIdentity { cookie: NetnsCookie(1), inode: 1, nsid: Nsid(at), nsid_is_random: true },
            at: Nsid(at),
            ifindex,
            mac,
            pod: None,
            held: vec![held],
            fdb_parent: None,
            settle: Duration::from_secs(2),
            leaked_after: None,
            del_seen: false,
            inhabited: false,
            exposed: false,
            boot_id: BootId("b".into()),
            machine_id: MachineId("m".into()),
        }
    }

    fn closed() -> EventFilter {
        let filter = EventFilter::default();
        filter.write().closed = true;
        filter
    }

    fn put(filter: &EventFilter, entry: Entry) {
        filter.journaled(&[JournalWrite::Put(Box::new(entry))]);
    }

    #[test]
    fn a_strange_namespaces_events_are_dropped_once_the_attachments_are_known() {
        let strange = Nsid(9);
        let floods = [
            KernelHint::LinkGone(Some(strange), 3, Some(OTHER)),
            KernelHint::LinkMoved(Some(strange), 3, None),
            KernelHint::NamespaceGone(strange),
            KernelHint::AddressSeen(Some(strange), 3, address(1)),
            KernelHint::AddressGone(Some(strange), 3, address(1)),
        ];
        let open = EventFilter::default();
        assert!(floods.iter().all(|hint| open.read().passes(hint)), "nothing is known yet");
        let filter = closed();
        put(&filter, entry("c1", 5, Some(3), Some(MAC)));
        assert!(!floods.iter().any(|hint| filter.read().passes(hint)));
        assert!(filter.read().passes(&KernelHint::Overrun));
    }

    #[test]
    fn addresses_of_pools_pass_where_an_interface_may_take_one() {
        let filter = closed();
        put(&filter, entry("c1", 5, Some(3), Some(MAC)));
        let mut members = IntervalSet::new();
        members.insert(to_bits(address(1)), to_bits(address(9)));
        let pool = Pool {
            segment: "default".parse().unwrap(),
            subnet: "10.0.0.0/24".parse().unwrap(),
            members,
            gateway: None,
            routes: Vec::new(),
            disabled: false,
            access: berth_ipam::access::Access::default(),
        };
        let pools = [("p".parse().unwrap(), pool)].into();
        filter.declared(&Config { pools, ..Config::default() });
        filter.write().spaces.insert(Nsid(6));
        let passes = |at: Option<i32>, address: IpAddr| {
            let at = at.map(Nsid);
            let hints = [KernelHint::AddressSeen(at, 3, address), KernelHint::AddressGone(at, 3, address)];
            hints.iter().all(|hint| filter.read().passes(hint))
        };
        for at in [None, Some(5), Some(6)] {
            assert!(passes(at, address(2)), "{at:?}");
            assert!(!passes(at, [192, 0, 2, 1].into()), "{at:?}");
        }
        assert!(!passes(Some(9), address(2)));
        assert!(filter.read().passes(&KernelHint::NamespaceGone(Nsid(6))));
        assert!(filter.read().passes(&KernelHint::LinkGone(Some(Nsid(6)), 3, None)));
    }

    #[test]
    fn an_attachments_own_events_pass_until_it_is_removed() {
        let filter = closed();
        let own = entry("c1", 5, Some(3), Some(MAC));
        put(&filter, own.clone());
        let passes = |hint: KernelHint| filter.read().passes(&hint);
        let here = Nsid(5);
        assert!(passes(KernelHint::LinkGone(Some(here), 3, None)));
        assert!(passes(KernelHint::LinkGone(Some(Nsid(9)), 7, Some(MAC))), "its MAC, wherever it went");
        assert!(passes(KernelHint::NamespaceGone(here)));
        assert!(passes(KernelHint::AddressGone(Some(here), 8, address(1))), "on whichever link");
        assert!(!passes(KernelHint::LinkGone(Some(here), 4, Some(OTHER))), "another link of the pod");
        assert!(!passes(KernelHint::AddressSeen(Some(here), 3, address(2))), "another address, of no pool");
        // It moves: from then on its new place counts.
        put(&filter, Entry { at: Nsid(6), ..own.clone() });
        assert!(passes(KernelHint::NamespaceGone(Nsid(6))) && !passes(KernelHint::NamespaceGone(here)));
        filter.journaled(&[JournalWrite::Remove(own.key)]);
        assert!(
            !passes(KernelHint::NamespaceGone(Nsid(6))) && !passes(KernelHint::LinkGone(None, 3, Some(MAC)))
        );
        let empty = filter.read();
        assert!(empty.places.is_empty() && empty.macs.is_empty() && empty.by_key.is_empty());
    }

    #[test]
    fn a_link_that_is_not_learnt_or_about_to_be_bound_passes_by_its_namespace() {
        let filter = closed();
        let unlearnt = entry("c1", 5, None, None);
        put(&filter, unlearnt.clone());
        let gone = KernelHint::LinkGone(Some(Nsid(5)), 4, Some(OTHER));
        assert!(filter.read().passes(&gone));
        put(&filter, Entry { ifindex: Some(3), ..unlearnt.clone() });
        assert!(!filter.read().passes(&gone));
        filter.binding(&unlearnt.key);
        assert!(filter.read().passes(&gone));
    }

    #[test]
    fn two_attachments_with_one_mac_are_counted() {
        let filter = closed();
        put(&filter, entry("c1", 5, Some(3), Some(MAC)));
        put(&filter, entry("c2", 6, Some(3), Some(MAC)));
        let gone = KernelHint::LinkGone(Some(Nsid(9)), 7, Some(MAC));
        filter.journaled(&[JournalWrite::Remove(entry("c1", 5, None, None).key)]);
        assert!(filter.read().passes(&gone));
        filter.journaled(&[JournalWrite::Remove(entry("c2", 6, None, None).key)]);
        assert!(!filter.read().passes(&gone));
    }
}
