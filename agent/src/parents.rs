//! The parents of networks: checked before an address is leased, and shared VLAN devices, created on demand.
//! Each read also detects that a parent lost its carrier or was replaced since the last one.

use std::collections::{BTreeMap, BTreeSet};

use berth_ipam::config::{LinkSpec, Wire};
use berth_ipam::identity::Nsid;
use berth_ipam::ledger::io::LinkSeen;
use berth_ipam::name::{IfName, NetworkName};
use berth_ipam::ports::{Interface, Interfaces};
use berth_protocol::Failure;
use berth_underlay::change::{Changer, LinkChange, RouteSocket, VlanSpec};
use berth_underlay::facts::LinkFacts;
use berth_underlay::read::{LinkRead, Reader};

use crate::committer::chain;
use crate::failures::{no_parent, no_vlan, unfit_parent};
use crate::observer::ObserverError;

/// Reads and, for shared VLAN devices, changes in the agent's own namespace.
#[derive(Debug)]
pub struct Parents {
    reader: Reader,
    /// Shared VLAN devices that this agent made; only those does it remove.
    made: BTreeSet<IfName>,
    /// Index and changes of carrier of each parent at the last look.
    seen: BTreeMap<IfName, (u32, u32)>,
    /// Reasons why a parent may have missed frames since the last read, until they are taken.
    gaps: BTreeMap<IfName, String>,
}

impl Parents {
    /// `made`: the shared VLAN devices that this agent made in an earlier life.
    pub fn new(made: BTreeSet<IfName>) -> Result<Self, ObserverError> {
        let reader = Reader::new().map_err(ObserverError::Netlink)?;
        Ok(Self { reader, made, seen: BTreeMap::new(), gaps: BTreeMap::new() })
    }

    /// The shared VLAN devices that this agent made.
    pub fn made(&self) -> &BTreeSet<IfName> {
        &self.made
    }

    /// Checks that the parent of a network exists and that links of the network can be created on it. Errors
    /// contain advice.
    pub fn check_fit(&mut self, network: &NetworkName, link: &LinkSpec) -> Result<(), Failure> {
        let facts = self.check(network, link)?;
        let parent = link.parent();
        if let Some(mtu) = link.mtu().filter(|mtu| *mtu > facts.mtu) {
            let why = format!("its MTU of {mtu} is above the {} of its parent {parent}", facts.mtu);
            let advice = "lower the MTU of the UnderlayNetwork, or raise that of the parent";
            return Err(unfit_parent(network.as_str(), &why, advice));
        }
        let taken = facts.master.filter(|_| facts.slave_kind.as_deref() != Some("vrf"));
        if let (LinkSpec::Macvlan { .. }, Some(master)) = (link, taken) {
            let master = match self.reader.link(None, master) {
                LinkRead::Found(master) => master.name,
                _ => format!("link {master}"),
            };
            let why = format!("its parent {parent} is a port of {master}, which takes all of its frames");
            let advice =
                format!("take {parent} out of {master}, or correct spec.link.parent of the UnderlayNetwork");
            return Err(unfit_parent(network.as_str(), &why, &advice));
        }
        Ok(())
    }

    /// Checks that the parent of a network exists. Errors contain advice.
    pub fn check(&mut self, network: &NetworkName, link: &LinkSpec) -> Result<LinkFacts, Failure> {
        let parent = link.parent();
        match self.reader.link_by_name(None, parent) {
            LinkRead::Found(facts) => {
                self.compare(parent, &facts);
                Ok(facts)
            }
            LinkRead::Unknown(unknown) => {
                Err(no_parent(network.as_str(), &format!("the parent {parent} could not be read: {unknown}")))
            }
            _ => {
                Err(no_parent(network.as_str(), &format!("this node has no interface {parent}, its parent")))
            }
        }
    }

    /// Takes note of a gap since the last look.
    fn compare(&mut self, parent: &IfName, facts: &LinkFacts) {
        let now = (facts.ifindex, facts.carrier_changes);
        let before = self.seen.insert(parent.clone(), now);
        let why = if !facts.up {
            format!("{parent} is down")
        } else if facts.carrier == Some(false) {
            format!("{parent} has no carrier")
        } else if before.is_some_and(|before| before.0 != now.0) {
            format!("{parent} was replaced by another device of that name")
        } else if before.is_some_and(|before| before != now) {
            format!("{parent} lost its carrier for a moment")
        } else {
            return;
        };
        self.gaps.insert(parent.clone(), why);
    }

    /// Reason why a parent may have missed frames until the last read. Returned once.
    pub fn take_gap(&mut self, parent: &IfName) -> Option<String> {
        self.gaps.remove(parent)
    }

    /// A parent's segment is received from now on: its present state is the baseline.
    pub fn hears(&mut self, parent: &IfName) {
        if let LinkRead::Found(facts) = self.reader.link_by_name(None, parent) {
            self.seen.insert(parent.clone(), (facts.ifindex, facts.carrier_changes));
        }
        self.gaps.remove(parent);
    }

    /// Creates the network's shared VLAN device if it has one and it is missing. True if it was created.
    pub async fn ensure_device(&mut self, network: &NetworkName, link: &LinkSpec) -> Result<bool, Failure> {
        let facts = self.check(network, link)?;
        let LinkSpec::Vlan { id, exclusive: false, mtu, .. } = link else { return Ok(false) };
        let device = link.device();
        if let LinkRead::Found(there) = self.reader.link_by_name(None, &device) {
            if there.kind.as_deref() == Some("vlan") && there.vlan_id == Some(*id) {
                return Ok(false);
            }
            let why = format!("{device} is there and is not VLAN {id}: remove or rename it");
            return Err(no_vlan(network.as_str(), &why));
        }
        let wrong = |error: &dyn std::error::Error| no_vlan(network.as_str(), &chain(error));
        let changer = RouteSocket::open().and_then(Changer::start).map_err(|error| wrong(&error))?;
        let spec = VlanSpec { parent_index: facts.ifindex, name: &device, id: *id, mac: None, mtu: *mtu };
        changer.create_vlan(&spec, None).await.map_err(|error| wrong(&error))?;
        let LinkRead::Found(made) = self.reader.link_by_name(None, &device) else {
            return Err(no_vlan(network.as_str(), &format!("{device} was made, and then it was not there")));
        };
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        changer.change_link(made.ifindex, &up).await.map_err(|error| wrong(&error))?;
        self.made.insert(device);
        Ok(true)
    }

    /// Removes shared VLAN devices that this agent made and that nothing uses. True if one went.
    pub async fn remove_unused(&mut self, used: &BTreeSet<IfName>) -> bool {
        let unused: Vec<_> = self.made.difference(used).cloned().collect();
        for device in &unused {
            if let LinkRead::Found(facts) = self.reader.link_by_name(None, device) {
                let removed = match RouteSocket::open().and_then(Changer::start) {
                    Ok(changer) => changer.delete_link(facts.ifindex).await.map(drop),
                    Err(error) => Err(error),
                };
                if let Err(error) = removed {
                    tracing::warn!(%device, error = chain(&error), "remove a shared VLAN device");
                    continue;
                }
            }
            self.made.remove(device);
        }
        !unused.is_empty()
    }

    /// The node's interfaces with these names. An unreadable one keeps its previous state.
    pub fn interfaces(&mut self, names: BTreeSet<IfName>, before: &Interfaces) -> Interfaces {
        let mut interfaces = Interfaces::new();
        for name in names {
            let seen = match self.reader.link_by_name(None, &name) {
                LinkRead::Found(facts) => self.interface(&facts).map(Some),
                LinkRead::NoDevice | LinkRead::NoNamespace => Some(None),
                LinkRead::Unknown(_) => None,
            };
            if let Some(row) = seen.or_else(|| before.get(&name).cloned()) {
                interfaces.insert(name, row);
            }
        }
        interfaces
    }

    /// `None`: it, or the interface under it, could not be read.
    fn interface(&mut self, facts: &LinkFacts) -> Option<Interface> {
        let name = facts.name.parse().ok()?;
        let under = facts.parent_index.filter(|_| facts.parent_nsid.is_none());
        let carries = match (facts.vlan_id, under) {
            (Some(id), Some(under)) => match self.reader.link(None, under) {
                LinkRead::Found(parent) => Some(Wire { parent: parent.name.parse().ok()?, vlan: Some(id) }),
                _ => return None,
            },
            _ => None,
        };
        Some(Interface { name, carries })
    }

    /// The plugin's link, read back.
    pub fn read_back(&mut self, at: Nsid, ifindex: u32) -> LinkSeen {
        match self.reader.link(Some(at), ifindex) {
            LinkRead::Found(facts) => facts.mac.map_or(LinkSeen::Unreadable, LinkSeen::There),
            LinkRead::NoDevice | LinkRead::NoNamespace => LinkSeen::NotThere,
            LinkRead::Unknown(_) => LinkSeen::Unreadable,
        }
    }
}
