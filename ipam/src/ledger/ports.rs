//! Service on the node's ports: the networks that are left out, and the meaning of an address on a port.
//!
//! An attachment stays on the port on which it was made, whatever is declared later. So an address that
//! an attachment has on a port is in use for every segment that is served there.

use std::net::{IpAddr, Ipv6Addr};
use std::ops::Bound;

use super::Ledger;
use super::entry::{Entry, Held};
use super::io::NoteKind;
use super::line::Stage;
use super::wire::ProbePurpose;
use crate::alloc::gives;
use crate::attachment::AttachmentKey;
use crate::config::{Network, Wire};
use crate::name::{IfName, NetworkName, PoolName, SegmentName};
use crate::ports::{Interfaces, LeftOut, Ports};
use crate::record::AddressKey;
use crate::time::Time;

/// The greatest address in the order of [`AddressKey`].
const LAST: IpAddr = IpAddr::V6(Ipv6Addr::from_bits(u128::MAX));

impl Ledger {
    /// The networks that are served on this node.
    pub fn served(&self) -> impl Iterator<Item = (&NetworkName, &Network)> {
        self.config.networks.iter().filter(|(name, _)| self.left_out(name).is_none())
    }

    /// Reason why a declared network is not served on this node, if so.
    pub fn left_out(&self, network: &NetworkName) -> Option<&LeftOut> {
        self.ports.left_out().get(network)
    }

    /// The segment that is served on a wire.
    pub fn segment_on(&self, wire: &Wire) -> Option<&SegmentName> {
        self.ports.segment(&self.ports.port_of(wire))
    }

    /// Names of devices as the agent read them last.
    pub fn interfaces(&self) -> &Interfaces {
        self.ports.interfaces()
    }

    /// The names of devices of which the ledger wants to know what the node has under them.
    pub fn named_devices(&self) -> impl Iterator<Item = &IfName> {
        let declared = self.config.networks.values().map(|network| network.link.parent());
        declared.chain(self.slots.values().filter_map(|slot| slot.entry.fdb_parent.as_ref()))
    }

    /// The agent read what the names of devices stand for.
    pub(super) fn interfaces_read(&mut self, now: Time, interfaces: Interfaces) {
        if *self.ports.interfaces() == interfaces {
            return;
        }
        let before = std::mem::replace(&mut self.ports, Ports::new(&self.config, interfaces));
        if before.left_out() != self.ports.left_out() {
            self.choose_again();
            for state in self.pools.values_mut() {
                state.probing.clear();
            }
            self.hearings.forget();
            self.next_refill = Some(now);
        }
        self.tell_left_out(&before);
        self.serve_line(now);
    }

    /// The ports of an edited configuration.
    pub(super) fn redeclare_ports(&mut self) {
        let ports = Ports::new(&self.config, self.ports.interfaces().clone());
        let before = std::mem::replace(&mut self.ports, ports);
        self.tell_left_out(&before);
    }

    /// The addresses that the wire is asked about for ADDs, and ahead of them, have no holder yet. Those ADDs
    /// choose again, and answers that come late count for nothing.
    pub(super) fn choose_again(&mut self) {
        let asked =
            |purpose: &ProbePurpose| matches!(purpose, ProbePurpose::Add { .. } | ProbePurpose::Ahead(_));
        let over: Vec<_> = self.probes.extract_if(.., |_, purpose| asked(purpose)).collect();
        for waiter in self.line.iter_mut().filter(|waiter| waiter.stage == Stage::Probing) {
            waiter.stage = Stage::InLine;
        }
        for (_, purpose) in over {
            if let ProbePurpose::Add { picks, .. } = purpose {
                for pick in picks {
                    self.return_unused(&pick.key);
                }
            }
        }
    }

    /// Says which networks are left out from now on, and which are served again.
    pub(super) fn tell_left_out(&mut self, before: &Ports) {
        let now = self.ports.left_out().clone();
        for (network, why) in &now {
            if before.left_out().get(network) != Some(why) {
                let text =
                    format!("network {network} is left out on this node: {why}; its attachments are kept");
                self.note(NoteKind::Warning, "network-left-out", Vec::new(), None, text);
            }
        }
        for network in before.left_out().keys().filter(|network| !now.contains_key(*network)) {
            if self.config.networks.contains_key(network) {
                let text = format!("network {network} is served on this node again");
                self.note(NoteKind::Action, "network-served", Vec::new(), None, text);
            }
        }
    }

    /// True if the link of an attachment is, or may be, on a port.
    fn is_on(&self, entry: &Entry, port: &Wire) -> bool {
        match (&entry.fdb_parent, self.config.networks.get(&entry.key.network)) {
            (Some(device), _) => self.is_device_on(device, port),
            (None, Some(network)) => self.ports.port_of(&network.link.wire()) == *port,
            (None, None) => true,
        }
    }

    pub(super) fn is_device_on(&self, device: &IfName, port: &Wire) -> bool {
        self.ports.of_device(device).is_none_or(|own| own == *port)
    }

    /// The segments in which attachments of this node hold addresses.
    fn segments_held(&self) -> Vec<SegmentName> {
        let mut segments = Vec::new();
        let mut next = self.holders.keys().next();
        while let Some(key) = next {
            segments.push(key.segment.clone());
            let end = AddressKey { segment: key.segment.clone(), address: LAST };
            next = self.holders.range((Bound::Excluded(end), Bound::Unbounded)).next().map(|(key, _)| key);
        }
        segments
    }

    /// The holders that an address has on a port: more than one where segments met on it too late.
    pub(super) fn holders_on(&self, port: &Wire, address: IpAddr) -> Vec<(AddressKey, AttachmentKey)> {
        let keys = self.segments_held().into_iter().map(|segment| AddressKey { segment, address });
        let held = keys.filter_map(|key| Some((self.holders.get(&key)?.clone(), key)));
        let here = held
            .filter(|(holder, _)| self.slots.get(holder).is_some_and(|slot| self.is_on(&slot.entry, port)));
        here.map(|(holder, key)| (key, holder)).collect()
    }

    /// True if an attachment on the port has the address in another segment, or may have it still.
    pub(super) fn is_shadowed(&self, port: &Wire, key: &AddressKey) -> bool {
        let foreign = |segment: &SegmentName| *segment != key.segment;
        let held = self.holders_on(port, key.address).iter().any(|(other, _)| foreign(&other.segment));
        held || self.quarantine.values().any(|shut| {
            let guard =
                shut.guard.as_ref().filter(|_| shut.key.address == key.address && foreign(&shut.key.segment));
            guard.is_some_and(|guard| {
                guard.fdb_parent.as_ref().is_none_or(|device| self.is_device_on(device, port))
            })
        })
    }

    /// Maximum number of addresses that may be shadowed.
    pub(super) fn shadows_at_most(&self, segment: &SegmentName) -> usize {
        let foreign = self.segments_held().iter().any(|held| held != segment);
        let guards = self.quarantine.values().filter(|shut| shut.guard.is_some()).count();
        guards + if foreign { self.holders.len() } else { 0 }
    }

    /// Holders of addresses of these pools on the network's port in other segments, in words.
    pub(super) fn holders_beside(&self, network: &NetworkName, pools: &[PoolName]) -> Vec<String> {
        let Some(port) = self.config.networks.get(network).map(|network| self.port_of(network)) else {
            return Vec::new();
        };
        let pools: Vec<_> = pools.iter().filter_map(|name| self.config.pools.get(name)).collect();
        let given =
            |held: &&Held| pools.iter().any(|pool| pool.segment != held.segment && gives(pool, held.address));
        let here = self.slots.values().filter(|slot| self.is_on(&slot.entry, &port));
        let held = here.flat_map(|slot| slot.entry.held.iter().filter(given).map(move |held| (slot, held)));
        held.map(|(slot, held)| {
            let (key, segment) = (&slot.entry.key, &held.segment);
            format!("{} {key}, of segment {segment}, on {port}", held.address)
        })
        .collect()
    }

    /// The port of a network.
    pub(super) fn port_of(&self, network: &Network) -> Wire {
        self.ports.port_of(&network.link.wire())
    }

    /// The pool that gives an address on a port, and what the address is there.
    pub(super) fn member_on(&self, port: &Wire, address: IpAddr) -> Option<(PoolName, AddressKey)> {
        self.ports.member(&self.config, port, address)
    }

    /// A device on which the wire can be asked about an address of a pool.
    pub(super) fn device_for(&self, pool: &PoolName, segment: &SegmentName) -> Option<IfName> {
        let device = |named: bool| {
            let mut networks = self.served().map(|(_, network)| network).filter(|network| {
                if named {
                    network.pools.contains(pool)
                } else {
                    // The pool was renamed, or is no longer declared.
                    self.ports.segment(&self.port_of(network)) == Some(segment)
                }
            });
            networks.find_map(|network| network.link.wire_device())
        };
        device(true).or_else(|| device(false))
    }
}
