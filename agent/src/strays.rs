//! Berth's links and MACs on this node, found without any record: for repair after a lost file.
//!
//! Only MACs on this node's own parents count. Other agents' pods (in a test bed) may be visible in nameable
//! namespaces too, and are ignored.
//!
//! One random MAC in 64 has the prefix of Berth's, and a pod's root can create links with such a MAC or with
//! Berth's mark. So the ledger gets the addresses of the link that puts the MAC on the list, and does not
//! assign them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use berth_ipam::ledger::io::{Stray, StrayLink};
use berth_ipam::mac::Mac;
use berth_ipam::name::IfName;
use berth_protocol::alias;
use berth_underlay::facts::LinkFacts;
use berth_underlay::read::Reader;
use berth_underlay::search::{NsSeen, Options, search};

use crate::fdb::{Parent, fdb_of};
use crate::observer::cookie_at;

/// Every MAC in the lists of `devices` that Berth may have derived, or that belongs to a link with an
/// attachment's alias.
pub fn find(reader: &mut Reader, devices: &[IfName]) -> Vec<Stray> {
    let mut on_parents: BTreeMap<Mac, Vec<&IfName>> = BTreeMap::new();
    for device in devices {
        match fdb_of(reader, device) {
            Ok(macs) => {
                for mac in macs {
                    on_parents.entry(mac).or_default().push(device);
                }
            }
            Err(unknown) => tracing::warn!(%unknown, %device, "read the parent's list of MACs"),
        }
    }
    if on_parents.is_empty() {
        return Vec::new();
    }
    let found = search(reader, &Options::default());
    let parents: Vec<_> =
        devices.iter().filter_map(|device| Some((device, Parent::read(reader, device)?))).collect();
    let places: Vec<_> = found
        .iter()
        .filter_map(|(place, link)| Some((link.mac.filter(|mac| on_parents.contains_key(mac))?, place, link)))
        .collect();
    let strays = on_parents.iter().filter_map(|(mac, listed)| {
        let having =
            || places.iter().filter(|(other, ..)| other == mac).map(|&(_, place, link)| (place, link));
        // The list of a VLAN device is copied to its parent's: where the link is at home counts.
        let under = having().find_map(|(place, link)| {
            let listed = parents.iter().filter(|(device, _)| listed.contains(device));
            let home = listed.clone().find(|(_, parent)| parent.is_under(place.nsid, link));
            home.map(|(device, _)| (*device, place, link))
        });
        let place = having().find(|(_, link)| is_marked(link)).or_else(|| having().next());
        let found = place.and_then(|(place, link)| stray_link(reader, place, link));
        let place = under.map(|(_, place, link)| (place, link)).or(place);
        let place = place.map(|(place, link)| {
            format!("link {} ({:?}) in the namespace of {}", link.ifindex, link.name, place.path.display())
        });
        let carried = under.and_then(|(_, place, link)| addresses_of(reader, place, link));
        let marked = under.is_some_and(|(.., link)| is_marked(link));
        // A MAC that a runtime chose counts as Berth's if its link's alias names an attachment.
        let ours = mac.is_berth() || found.as_ref().is_some_and(|found| found.key.is_some());
        let parent = under.map(|(device, ..)| device).or_else(|| listed.last().copied())?;
        ours.then(|| Stray { mac: *mac, parent: Some(parent.clone()), found, carried, marked, place })
    });
    strays.collect()
}

/// True if a link has an alias of Berth's, even one too long to name its attachment.
fn is_marked(link: &LinkFacts) -> bool {
    link.alias.as_deref().is_some_and(|alias| alias.starts_with(alias::PREFIX))
}

fn addresses_of(reader: &mut Reader, place: &NsSeen, link: &LinkFacts) -> Option<Vec<IpAddr>> {
    let addresses = reader.addresses(place.nsid).ok()?;
    let own = addresses.iter().filter(|facts| facts.ifindex == link.ifindex);
    Some(own.map(|facts| facts.address.ip()).collect())
}

fn stray_link(reader: &mut Reader, place: &NsSeen, link: &LinkFacts) -> Option<StrayLink> {
    let at = place.nsid?;
    let key = link.alias.as_deref().and_then(alias::parse).map(|(key, _)| key);
    // That of the namespace itself: a pod's root writes into the alias what it likes.
    let cookie = Some(cookie_at(reader, &place.path, at)?);
    Some(StrayLink {
        key,
        cookie,
        at,
        at_is_random: place.nsid_is_random,
        inode: place.inode,
        ifindex: link.ifindex,
        addresses: addresses_of(reader, place, link)?,
    })
}
