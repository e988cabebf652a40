//! Berth's links and MACs on this node, found without any record: for repair after a lost file.
//!
//! Only MACs on this node's own parents count. Other agents' pods (in a test bed) may be visible
//! in nameable namespaces too, and are none of this one's business.

use std::collections::BTreeMap;

use berth_ipam::ledger::io::{Stray, StrayLink};
use berth_ipam::mac::Mac;
use berth_ipam::name::IfName;
use berth_protocol::alias;
use berth_underlay::facts::LinkFacts;
use berth_underlay::read::Reader;
use berth_underlay::search::{NsSeen, Options, search};

use crate::fdb::fdb_of;

/// Every MAC in the lists of `devices` that Berth derived or whose link names an attachment.
pub fn find(reader: &mut Reader, devices: &[IfName]) -> Vec<Stray> {
    let mut on_parent: BTreeMap<Mac, IfName> = BTreeMap::new();
    for device in devices {
        match fdb_of(reader, device) {
            Ok(macs) => on_parent.extend(macs.into_iter().map(|mac| (mac, device.clone()))),
            Err(unknown) => tracing::warn!(%unknown, %device, "read the parent's list of MACs"),
        }
    }
    if on_parent.is_empty() {
        return Vec::new();
    }
    let found = search(reader, &Options::default());
    let places: Vec<_> = found
        .iter()
        .filter_map(|(place, link)| Some((link.mac.filter(|mac| on_parent.contains_key(mac))?, place, link)))
        .collect();
    on_parent
        .iter()
        .filter_map(|(mac, parent)| {
            let place = places.iter().find(|(other, ..)| other == mac);
            let found = place.and_then(|(_, place, link)| stray_link(reader, place, link));
            // A MAC that a runtime chose is Berth's business if its link's alias says so.
            let ours = mac.is_berth() || found.as_ref().is_some_and(|found| found.key.is_some());
            ours.then(|| Stray { mac: *mac, parent: Some(parent.clone()), found })
        })
        .collect()
}

fn stray_link(reader: &mut Reader, place: &NsSeen, link: &LinkFacts) -> Option<StrayLink> {
    let at = place.nsid?;
    let addresses = reader.addresses(Some(at)).ok()?;
    let (key, cookie) = link.alias.as_deref().and_then(alias::parse).unzip();
    Some(StrayLink {
        key,
        cookie,
        at,
        at_is_random: place.nsid_is_random,
        inode: place.inode,
        ifindex: link.ifindex,
        addresses: addresses
            .iter()
            .filter(|facts| facts.ifindex == link.ifindex)
            .map(|facts| facts.address.ip())
            .collect(),
    })
}
