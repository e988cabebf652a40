//! Links and MACs on the parents that look like Berth's and that no entry explains.
//!
//! One with known addresses blocks these addresses and nothing else. One with addresses that are not known
//! blocks its device: no search finds the link, or it has Berth's mark and no address, as the interface of a
//! virtual machine. A pod's root can make either kind, so all of them are named with what ends them. The
//! invariant: an address that a known stray carries is not given until a search no longer shows it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Ledger;
use super::io::{Action, NoteKind, Stray};
use crate::mac::Mac;
use crate::name::{IfName, SegmentName};
use crate::record::AddressKey;
use crate::time::Time;

/// Time until strays are looked for again, while one of them blocks its device, and while they block
/// addresses only.
const AGAIN_DEVICE: Duration = Duration::from_millis(500);
const AGAIN_ADDRESSES: Duration = Duration::from_secs(10);
/// Number of strays of one device that are remembered one by one; with more of them the device is blocked.
const OF_DEVICE_MAX: usize = 256;
/// Number of addresses of one stray that are remembered; one with more blocks its device.
const ADDRESSES_MAX: usize = 256;
/// Number of strays that are named to an operator.
const NAMED_MAX: usize = 8;

/// See the module's head.
#[derive(Debug, Clone, Default)]
pub struct Strays {
    by_device: BTreeMap<IfName, BTreeMap<Mac, Block>>,
    /// The list before.
    former: BTreeMap<IfName, BTreeMap<Mac, Block>>,
    blocked: BTreeSet<AddressKey>,
    again: Option<Time>,
}

/// Block that one stray causes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Block {
    /// Its addresses; `None`: they are not known, and it blocks its device.
    addresses: Option<BTreeSet<AddressKey>>,
    /// Place of the link, in words; `None`: no search found it.
    place: Option<String>,
}

impl Strays {
    /// True if a stray carries this address.
    pub fn carry(&self, key: &AddressKey) -> bool {
        self.blocked.contains(key)
    }

    /// Addresses of a span that strays carry.
    pub fn carried(
        &self,
        span: std::ops::RangeInclusive<AddressKey>,
    ) -> impl Iterator<Item = std::net::IpAddr> + '_ {
        self.blocked.range(span).map(|key| key.address)
    }

    /// True if a stray blocks every address on the device.
    pub fn block(&self, device: &IfName) -> bool {
        self.of(device).any(|(_, block)| block.addresses.is_none())
    }

    /// The devices that have some.
    pub fn devices(&self) -> impl Iterator<Item = &IfName> {
        self.by_device.keys()
    }

    /// Time of the next search for them.
    pub const fn wakes_at(&self) -> Option<Time> {
        self.again
    }

    /// They are to be looked for now, if there are any.
    pub fn look(&mut self, now: Time) {
        if self.again.is_some() {
            self.again = Some(now);
        }
    }

    fn of(&self, device: &IfName) -> impl Iterator<Item = (&Mac, &Block)> {
        self.by_device.get(device).into_iter().flatten()
    }

    /// True if the same was reported before.
    fn is_told(&self, device: &IfName, mac: Mac, block: &Block) -> bool {
        let former = self.former.get(device).and_then(|of| of.get(&mac));
        former.or_else(|| self.by_device.get(device)?.get(&mac)) == Some(block)
    }

    /// Begins a list; the former one is kept to detect new entries. Returns the addresses that it blocked.
    fn begin(&mut self) -> BTreeSet<AddressKey> {
        self.former = std::mem::take(&mut self.by_device);
        self.again = None;
        std::mem::take(&mut self.blocked)
    }

    fn add(&mut self, now: Time, device: IfName, mac: Mac, block: Block) {
        let of_device = self.by_device.entry(device).or_default();
        let room = of_device.len() < OF_DEVICE_MAX;
        let block = if room { block } else { Block { addresses: None, ..block } };
        self.blocked.extend(block.addresses.iter().flatten().cloned());
        if room || of_device.values().all(|other| other.addresses.is_some()) {
            of_device.insert(mac, block);
        }
        let pause = |block: &Block| if block.addresses.is_none() { AGAIN_DEVICE } else { AGAIN_ADDRESSES };
        let next = self.by_device.values().flat_map(BTreeMap::values).map(pause).min();
        self.again = next.map(|pause| now + pause);
    }

    /// Lines for ADDs and operators, one for each stray, a bounded number of them.
    pub fn lines(&self) -> Vec<String> {
        let all = self.by_device.iter().flat_map(|(device, of)| of.iter().map(move |stray| (device, stray)));
        let count = self.by_device.values().map(BTreeMap::len).sum::<usize>();
        let mut lines: Vec<_> =
            all.take(NAMED_MAX).map(|(device, (mac, block))| block.line(device, *mac)).collect();
        if count > NAMED_MAX {
            lines.push(format!("and {} more unexplained MACs", count - NAMED_MAX));
        }
        lines
    }
}

impl Block {
    fn line(&self, device: &IfName, mac: Mac) -> String {
        let place = match &self.place {
            Some(place) => format!("{place} has {mac} on {device}"),
            None => format!("{mac} is on {device}, by a link that no search finds"),
        };
        let what = match &self.addresses {
            None => "ADDs there wait".to_owned(),
            Some(addresses) if addresses.is_empty() => "it blocks nothing".to_owned(),
            Some(addresses) => {
                let named: Vec<_> =
                    addresses.iter().take(NAMED_MAX).map(|key| key.address.to_string()).collect();
                let more = if addresses.len() > NAMED_MAX { " and more" } else { "" };
                format!("{}{more} are given to nobody", named.join(", "))
            }
        };
        let end = match &self.place {
            Some(_) => "delete that interface, or end its pod",
            None => {
                "`lsns -t net` lists namespaces; end the processes of the one that has it, or take its interface down"
            }
        };
        format!("{place}, and no lease explains it: {what}; {end}")
    }
}

impl Ledger {
    /// A Berth link or MAC that no entry explains: adopted if it says which attachment it is, else it blocks what it carries.
    pub(super) fn adopt_stray(&mut self, now: Time, stray: Stray) {
        if self.explains(stray.mac) {
            return;
        }
        let named = stray.found.as_ref().and_then(|found| found.key.clone().map(|key| (key, found.clone())));
        // Every pod's root can write such an alias: without the derived MAC it names no attachment.
        let named = named.filter(|(key, _)| stray.mac.belongs_to(key));
        if named.is_some_and(|(key, found)| self.adopt_link(now, &key, &stray, &found)) {
            return;
        }
        let Some(device) = stray.parent.clone() else { return };
        let addresses = self.carried_by(&device, &stray);
        if addresses.as_ref().is_some_and(BTreeSet::is_empty) {
            return; // It has nothing that could be given twice.
        }
        for key in addresses.iter().flatten() {
            self.take(key);
        }
        let block = Block { addresses, place: stray.place };
        if !self.strays.is_told(&device, stray.mac, &block) {
            let about = block.addresses.iter().flatten().map(|key| key.address).collect();
            self.note(NoteKind::Warning, "stray-mac", about, None, block.line(&device, stray.mac));
        }
        self.strays.add(now, device, stray.mac, block);
    }

    /// The addresses of a stray, in every segment of its device; `None`: they are not known.
    fn carried_by(&self, device: &IfName, stray: &Stray) -> Option<BTreeSet<AddressKey>> {
        let carried = stray.carried.as_ref()?;
        let named = stray.found.as_ref().filter(|found| found.key.is_some());
        let known = || carried.iter().chain(named.into_iter().flat_map(|found| &found.addresses));
        if known().next().is_none() && (stray.marked || named.is_some()) {
            return None; // A guest may have an address that no interface shows.
        }
        let segments = self.segments_on(device);
        let keys = known().flat_map(|address| {
            segments.iter().map(|segment| AddressKey { segment: segment.clone(), address: *address })
        });
        let keys: BTreeSet<_> = keys.filter(|key| self.is_in_subnet(key)).collect();
        (keys.len() <= ADDRESSES_MAX).then_some(keys)
    }

    fn segments_on(&self, device: &IfName) -> BTreeSet<SegmentName> {
        let networks = self.config.networks.values();
        let networks = networks.filter(|network| self.is_device_on(device, &self.port_of(network)));
        let pools =
            networks.flat_map(|network| &network.pools).filter_map(|name| self.config.pools.get(name));
        pools.map(|pool| pool.segment.clone()).collect()
    }

    fn is_in_subnet(&self, key: &AddressKey) -> bool {
        let mut pools = self.config.pools.values();
        pools.any(|pool| pool.segment == key.segment && pool.subnet.contains(key.address))
    }

    /// True if an unexplained MAC with addresses that are not known is on the device that the network is on.
    pub(super) fn is_blocked_by_strays(&self, network: &crate::name::NetworkName) -> bool {
        let Some(port) = self.config.networks.get(network).map(|network| self.port_of(network)) else {
            return false;
        };
        self.strays.devices().any(|device| self.is_device_on(device, &port) && self.strays.block(device))
    }

    pub(super) fn find_strays_if_due(&mut self, now: Time) {
        if self.strays.again.is_some_and(|at| at <= now) {
            self.strays.again = Some(now + AGAIN_ADDRESSES);
            self.out.push(Action::FindStrays);
        }
    }

    /// The strays that are left.
    pub(super) fn found_strays(&mut self, now: Time, strays: Vec<Stray>) {
        if self.shared.on && !self.shared.read {
            // Whether their records exist is not known before the store was read.
            self.shared.strays = strays;
            return;
        }
        let former = self.strays.begin();
        let before: BTreeSet<_> = self.slots.keys().cloned().collect();
        for stray in strays {
            self.adopt_stray(now, stray);
        }
        for key in former {
            self.give_back(now, &key);
        }
        let adopted: BTreeSet<_> = self.slots.keys().filter(|key| !before.contains(*key)).cloned().collect();
        self.rewrite(|record| adopted.contains(&record.key));
        self.serve_line(now);
    }
}
