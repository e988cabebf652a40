//! Addresses on interfaces of the node that no ADD gave: the node's own, another runtime's macvlan on the
//! parent, what a pod adds to its interface. The parent hears none of them answer.
//!
//! Each knows whether the ledger was told: by an event that arrived, or by a survey that was read since. From
//! then on the address must not be given.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use berth_ipam::attachment::AttachmentKey;
use berth_ipam::config::Wire;
use berth_ipam::identity::Nsid;
use berth_ipam::ledger::io::*;
use berth_ipam::ledger::occupied::{Interface, Place, Survey};
use berth_ipam::ledger::view::View;
use berth_ipam::mac::Mac;
use berth_ipam::name::IfName;

use crate::world::{Event, Link, World};

/// The node's interface on the underlay.
const PARENT: u32 = 2;
const FOREIGN_NAMESPACE: i32 = 60_000;

#[derive(Debug, Default)]
pub struct Local {
    /// Addresses of the node, and whether the ledger was told.
    node: BTreeMap<IpAddr, bool>,
    /// Another runtime's links.
    foreign: BTreeMap<IpAddr, (u32, bool)>,
    /// What pods added, by the pod's link.
    vips: BTreeMap<(u32, IpAddr), bool>,
    /// Addresses that a pod announced although they were not given to it.
    spoken: BTreeSet<IpAddr>,
    made: u32,
    /// A survey that was read and not reported yet. The thread that reads does nothing else meanwhile.
    read: Option<Survey>,
}

fn mac_of(ifindex: u32) -> Mac {
    let [_, a, b, c] = ifindex.to_be_bytes();
    Mac([0x0a, 0, 0, a, b, c])
}

impl Local {
    pub fn has(&self, address: IpAddr) -> bool {
        self.node.contains_key(&address) || self.foreign.contains_key(&address)
    }

    pub fn speaks(&mut self, address: IpAddr) {
        self.spoken.insert(address);
    }

    /// Whether one of another runtime's links has it.
    pub fn has_on_link(&self, address: IpAddr) -> bool {
        self.foreign.contains_key(&address)
    }

    pub fn spoke(&self, address: IpAddr) -> bool {
        self.spoken.contains(&address)
    }

    /// The agent and its memory were lost.
    pub fn forget(&mut self) {
        self.read = None;
        self.untell();
    }

    /// Events were lost: of what they told nobody knows before the next survey.
    pub fn untell(&mut self) {
        let foreign = self.foreign.values_mut().map(|(_, told)| told);
        for told in self.node.values_mut().chain(foreign).chain(self.vips.values_mut()) {
            *told = false;
        }
    }
}

impl World {
    pub fn node_address(&mut self, address: IpAddr, comes: bool) {
        let hint = if comes && self.local.node.insert(address, false).is_none() {
            KernelHint::AddressSeen(None, PARENT, address)
        } else if !comes && self.local.node.remove(&address).is_some() {
            KernelHint::AddressGone(None, PARENT, address)
        } else {
            return;
        };
        self.events.push(Event::ToLedger(Input::Kernel(Source::Netlink, hint)));
    }

    /// A link that no event tells of: its namespace has no number yet.
    pub fn foreign(&mut self, address: IpAddr, comes: bool) {
        if comes && !self.local.foreign.contains_key(&address) {
            self.local.made += 1;
            self.local.foreign.insert(address, (self.local.made, false));
        } else if !comes && let Some((ifindex, _)) = self.local.foreign.remove(&address) {
            let (at, mac) = (Some(Nsid(FOREIGN_NAMESPACE)), Some(mac_of(ifindex)));
            let hint = KernelHint::LinkGone(at, ifindex, mac);
            self.events.push(Event::ToLedger(Input::Kernel(Source::Netlink, hint)));
        }
    }

    pub fn add_vip(&mut self, pod: u8, address: IpAddr, announces: bool) {
        let Some((_, key)) = self.pods.get(&pod).cloned() else { return };
        // A pod runs once its link has its address; another main plugin's is up before.
        let runs = |link: &&mut Link| link.key == key && link.up && !link.addresses.is_empty();
        let Some(link) = self.links.iter_mut().find(runs) else { return };
        if link.vips.contains(&address) || link.addresses.contains(&address) {
            return;
        }
        link.vips.push(address);
        let (at, ifindex, mac, parent) = (link.at, link.ifindex, link.mac, link.parent.clone());
        self.local.vips.insert((ifindex, address), false);
        let hint = KernelHint::AddressSeen(Some(Nsid(at)), ifindex, address);
        self.events.push(Event::ToLedger(Input::Kernel(Source::Netlink, hint)));
        if announces {
            self.local.spoken.insert(address);
            self.announce(&parent, &[address], mac);
        }
    }

    pub fn drop_vips(&mut self, pod: u8) {
        let Some((_, key)) = self.pods.get(&pod).cloned() else { return };
        let Some(link) = self.links.iter_mut().find(|link| link.key == key) else { return };
        let (at, ifindex) = (link.at, link.ifindex);
        for address in std::mem::take(&mut link.vips) {
            self.local.vips.remove(&(ifindex, address));
            let hint = KernelHint::AddressGone(Some(Nsid(at)), ifindex, address);
            self.events.push(Event::ToLedger(Input::Kernel(Source::Netlink, hint)));
        }
    }

    /// Whether the ledger knows of a link in a namespace. Events of others are not meant for it: what is there
    /// a survey says, once a search has found the link.
    fn is_followed(&self, at: Nsid) -> bool {
        let Some(ledger) = &self.ledger else { return false };
        let holds = |view: &View<'_>| matches!(view, View::Held { slot, .. } if slot.entry.at == at);
        ledger.surveyed_spaces().any(|space| space == at) || ledger.leases().iter().any(holds)
    }

    /// An event arrives.
    pub fn tell(&mut self, input: Input) {
        if let Input::Kernel(_, KernelHint::AddressSeen(at, ifindex, address)) = &input
            && at.is_none_or(|at| self.is_followed(at))
        {
            let told = match at {
                None => self.local.node.get_mut(address),
                Some(_) => self.local.vips.get_mut(&(*ifindex, *address)),
            };
            if let Some(told) = told {
                *told = true;
            }
        }
        self.step(input);
    }

    /// Reads all interfaces.
    pub fn survey(&mut self, number: u64, devices: &[IfName], at: &BTreeSet<Nsid>, search: bool) {
        self.report();
        let main: IfName = "eth1".parse().unwrap();
        let foreign = self.local.foreign.values().map(|(ifindex, _)| mac_of(*ifindex));
        let mut lists = BTreeMap::from([(main.clone(), foreign.collect())]);
        for link in self.links.iter().filter(|link| link.up) {
            lists.entry(link.parent.clone()).or_insert_with(BTreeSet::new).insert(link.mac);
        }
        for device in devices {
            lists.entry(device.clone()).or_default();
        }
        let own = Interface {
            place: Place { at: None, ifindex: PARENT },
            name: "eth1".to_owned(),
            mac: None,
            wires: BTreeSet::new(),
            listed: false,
            addresses: Some(self.local.node.keys().copied().collect()),
        };
        let looked = |nsid: i32| search || at.contains(&Nsid(nsid));
        let child = |parent: &IfName, at: i32, (ifindex, mac): (u32, Mac), addresses| Interface {
            place: Place { at: Some(Nsid(at)), ifindex },
            name: "eth0".to_owned(),
            mac: Some(mac),
            wires: BTreeSet::from([Wire { parent: parent.clone(), vlan: None }]),
            listed: true,
            addresses: Some(addresses),
        };
        let pods = self.links.iter().filter(|link| looked(link.at)).map(|link: &Link| {
            let addresses = link.addresses.iter().chain(&link.vips).copied().collect();
            child(&link.parent, link.at, (link.ifindex, link.mac), addresses)
        });
        let foreign = self.local.foreign.iter().filter(|_| looked(FOREIGN_NAMESPACE));
        let foreign = foreign.map(|(address, (ifindex, _))| {
            child(&main, FOREIGN_NAMESPACE, (*ifindex, mac_of(*ifindex)), BTreeSet::from([*address]))
        });
        let children: Vec<_> = pods.chain(foreign).collect();
        let namespaces = self.namespaces.iter().copied().chain([FOREIGN_NAMESPACE]);
        let survey = Survey {
            number,
            own: Some(vec![own]),
            looked: namespaces.filter(|nsid| looked(*nsid)).map(Nsid).collect(),
            lists,
            searched: search.then_some(true),
            children,
        };
        self.local.read = Some(survey);
        self.events.push(Event::Report);
    }

    /// Hands on what the monitor heard by now, and then what was read before.
    pub fn report(&mut self) {
        let Some(survey) = self.local.read.take() else { return };
        self.drain_hints();
        let own = survey.own.iter().flatten().filter_map(|interface| interface.addresses.as_ref()).flatten();
        for address in own {
            if let Some(told) = self.local.node.get_mut(address) {
                *told = true;
            }
        }
        for (ifindex, told) in self.local.foreign.values_mut() {
            *told |= survey.children.iter().any(|link| link.mac == Some(mac_of(*ifindex)));
        }
        for ((ifindex, address), told) in &mut self.local.vips {
            let has = |link: &Interface| link.addresses.as_ref().is_some_and(|all| all.contains(address));
            *told |= survey.children.iter().any(|link| link.place.ifindex == *ifindex && has(link));
        }
        self.step(Input::Surveyed(survey));
    }

    /// No address is given that the ledger was told to be on another interface of the node.
    pub fn check_grant(&self, write: &StoreWrite) {
        let (StoreWrite::Create(record) | StoreWrite::HandOver { record, .. }) = write else { return };
        self.check_guests(record);
        self.check_unoccupied(&record.key, record.address);
    }

    /// The ledger was not told that another interface of the node has the attachment's address.
    pub fn check_unoccupied(&self, key: &AttachmentKey, address: IpAddr) {
        let others = |ifindex: u32| self.links.iter().any(|link| link.ifindex == ifindex && link.key != *key);
        let vip = self
            .local
            .vips
            .iter()
            .any(|((ifindex, other), told)| *told && *other == address && others(*ifindex));
        let node = self.local.node.get(&address).copied().unwrap_or(false);
        let foreign = self.local.foreign.get(&address).is_some_and(|(_, told)| *told);
        assert!(
            !(vip || node || foreign),
            "{address} is given to {key}, and is on an interface of the node (vip {vip}, node {node}, foreign {foreign})"
        );
    }
}
