//! The parents' lists of unicast MACs: who is up on the underlay, in whatever namespace.

use std::collections::HashSet;

use berth_ipam::mac::Mac;
use berth_ipam::name::IfName;
use berth_underlay::error::{Checked, Unknown};
use berth_underlay::read::{LinkRead, Reader};

/// The unicast MACs on a parent. A parent that is gone by that name may have been renamed: then
/// every device's list is read.
pub fn fdb_of(reader: &mut Reader, parent: &IfName) -> Checked<HashSet<Mac>> {
    match reader.link_by_name(None, parent) {
        LinkRead::Found(facts) => reader.fdb(facts.ifindex),
        LinkRead::NoDevice => {
            let mut all = HashSet::new();
            for link in reader.links(None)? {
                all.extend(reader.fdb(link.ifindex)?);
            }
            Ok(all)
        }
        LinkRead::NoNamespace => {
            Err(Unknown("the kernel does not know the agent's own namespace".to_owned()))
        }
        LinkRead::Unknown(unknown) => Err(unknown),
    }
}
