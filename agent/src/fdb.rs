//! The parents' lists of unicast MACs: the links that are up on the underlay, in whatever namespace.

use std::collections::{BTreeSet, HashSet};

use berth_ipam::identity::Nsid;
use berth_ipam::mac::Mac;
use berth_ipam::name::IfName;
use berth_underlay::error::{Checked, Unknown};
use berth_underlay::facts::LinkFacts;
use berth_underlay::netns::NetnsFile;
use berth_underlay::read::{LinkRead, Reader};
use berth_underlay::search::SearchResult;
use berth_underlay::wire::device::Device;
use berth_underlay::{nsid, offload};

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

/// The same, if every MAC of an up macvlan is on it: not where the device forwards for its macvlans by itself.
pub fn complete_fdb_of(reader: &mut Reader, parent: &IfName) -> Checked<HashSet<Mac>> {
    if is_blind(parent)? {
        return Err(Unknown(format!("{parent} has l2-fwd-offload on, and lists no MAC of its macvlans")));
    }
    fdb_of(reader, parent)
}

/// True if the absence of a MAC from the parent's list says nothing. A parent that is gone by that name has no
/// macvlans left, or was renamed: then the devices are not distinguished.
pub fn is_blind(parent: &IfName) -> Checked<bool> {
    if Device::by_name(parent.as_str()).is_err() {
        return Ok(false);
    }
    offload::is_on(parent)
}

/// A parent in the agent's own namespace, as links in other namespaces refer to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    ifindex: u32,
    /// The number that the agent's namespace has in itself. It has one as soon as a link elsewhere was
    /// seen with its parent in it: the kernel needed one to say so.
    own: Option<Nsid>,
}

impl Parent {
    /// `None`: it is not there by that name, or could not be read; then no link is known to be on it.
    pub fn read(reader: &mut Reader, name: &IfName) -> Option<Self> {
        let LinkRead::Found(facts) = reader.link_by_name(None, name) else { return None };
        let own = NetnsFile::own().ok()?;
        let own = nsid::read(reader.socket(), &own).ok()?;
        Some(Self { ifindex: facts.ifindex, own })
    }

    /// The parent with this index, and this number of the agent's namespace.
    #[cfg(test)]
    pub fn at(ifindex: u32, own: Option<Nsid>) -> Self {
        Self { ifindex, own }
    }

    /// True if a link in the namespace `at` is under this parent: up or not, listed or not.
    pub fn has_child(self, at: Option<Nsid>, link: &LinkFacts) -> bool {
        let here = match (at, link.parent_nsid) {
            (None, None) => true,
            // A parent of that index in the link's own namespace, or in a third one, is another device.
            (_, None) => false,
            (_, Some(number)) => self.own == Some(number),
        };
        is_stacked(link) && here && link.parent_index == Some(self.ifindex)
    }

    /// True if a link in the namespace `at` is on another device of the agent's own namespace. A macvlan stays on its
    /// parent.
    pub fn is_on_other_device(self, at: Option<Nsid>, link: &LinkFacts) -> bool {
        let is_here = match link.parent_nsid {
            None => at.is_none(),
            number => number == self.own,
        };
        is_here && link.parent_index.is_some_and(|index| index != self.ifindex)
    }

    /// True if a link in the namespace `at` puts its MAC on this parent's list. The kernel sets up only
    /// one macvlan with a MAC on one parent, the next gets `EADDRINUSE`: so if this one is up, no other
    /// macvlan of that MAC is up there.
    pub fn is_under(self, at: Option<Nsid>, link: &LinkFacts) -> bool {
        link.up && matches!(link.kind.as_deref(), Some("macvlan" | "macvtap")) && self.has_child(at, link)
    }
}

/// Links one above another, at most; the kernel allows eight.
const STACK_MAX: usize = 8;

/// The MACs of a parent's list that none of the up links has which a search found above it: those of links out of its
/// sight, and addresses that an operator wrote there. A link passes the MACs of those above it on to the one below: a VLAN
/// device those of its macvlans, a macvlan those of the VLAN devices on it, in whatever namespaces they are.
///
/// Without a parent of that name the list is that of all devices, and every up link explains its MAC.
pub fn unexplained(parent: Option<Parent>, listed: &BTreeSet<Mac>, found: &SearchResult) -> BTreeSet<Mac> {
    let up: Vec<_> = found.links.iter().filter(|(_, link)| link.up).collect();
    let above = parent.map(|parent| above(parent, &up, found));
    let counts =
        |at: usize, link: &LinkFacts| above.as_ref().is_none_or(|all| all.contains(&(at, link.ifindex)));
    let explained: BTreeSet<_> =
        up.iter().filter(|(at, link)| counts(*at, link)).filter_map(|(_, link)| link.mac).collect();
    listed.difference(&explained).copied().collect()
}

/// The links above a parent, by the place of their namespace in the search and their index.
fn above(parent: Parent, up: &[&(usize, LinkFacts)], found: &SearchResult) -> HashSet<(usize, u32)> {
    let place = |nsid: Option<Nsid>| found.namespaces.iter().position(|seen| seen.nsid == nsid);
    let below = |at: usize, link: &LinkFacts| {
        let at = match link.parent_nsid {
            None => Some(at),
            number if number == parent.own => place(None),
            number => place(number),
        };
        Some((at?, link.parent_index?))
    };
    let mut above: HashSet<_> = place(None).map(|own| (own, parent.ifindex)).into_iter().collect();
    for _ in 0..STACK_MAX {
        let more: Vec<_> = up
            .iter()
            .filter(|(at, link)| {
                is_stacked(link) && below(*at, link).is_some_and(|lower| above.contains(&lower))
            })
            .map(|(at, link)| (*at, link.ifindex))
            .collect();
        let before = above.len();
        above.extend(more);
        if above.len() == before {
            break;
        }
    }
    above
}

/// True if the link is of a kind that lies above another one.
fn is_stacked(link: &LinkFacts) -> bool {
    matches!(link.kind.as_deref(), Some("macvlan" | "macvtap" | "ipvlan" | "ipvtap" | "vlan"))
}

#[cfg(test)]
mod tests {
    use berth_underlay::search::NsSeen;

    use super::*;

    #[test]
    fn a_mac_on_the_list_is_explained_by_an_up_link_under_the_parent_or_one_over_that() {
        let parent = Parent { ifindex: 3, own: Some(Nsid(9)) };
        let link = |ifindex, kind: &str, parent_index, parent_nsid: Option<i32>| LinkFacts {
            ifindex,
            mac: Some(Mac([2, 0, 0, 0, 6, u8::try_from(ifindex).unwrap()])),
            kind: Some(kind.to_owned()),
            parent_index: Some(parent_index),
            parent_nsid: parent_nsid.map(Nsid),
            ..facts()
        };
        let space = |nsid: Option<i32>| NsSeen {
            nsid: nsid.map(Nsid),
            nsid_is_random: true,
            cookie: None,
            inode: 5,
            path: "/run/netns/pod".into(),
        };
        let links = [
            (1, link(2, "macvlan", 3, Some(9))),
            (1, link(4, "vlan", 2, None)),
            (1, LinkFacts { up: false, ..link(5, "macvlan", 3, Some(9)) }),
            (1, link(6, "macvlan", 7, Some(9))),
            (1, link(8, "veth", 3, None)),
            (0, link(10, "vlan", 3, None)),
            (1, link(11, "macvlan", 10, Some(9))),
            (2, link(12, "vlan", 2, Some(70_000))),
            (2, link(13, "vlan", 2, Some(70_001))),
        ];
        let listed = links.iter().filter_map(|(_, link)| link.mac).collect();
        let namespaces = vec![space(None), space(Some(70_000)), space(Some(70_001))];
        let found =
            SearchResult { complete: true, namespaces, links: links.to_vec(), ..SearchResult::default() };
        let left =
            |parent| unexplained(parent, &listed, &found).iter().map(|mac| mac.0[5]).collect::<Vec<_>>();
        let why = "one is down, one is on another parent, one is under none, and one is on a link of its own namespace";
        assert_eq!(left(Some(parent)), [5, 6, 8, 13], "{why}");
        assert_eq!(left(None), [5], "of all devices");
    }

    #[test]
    fn only_an_up_macvlan_of_that_very_parent_explains_its_list() {
        let parent = Parent { ifindex: 3, own: Some(Nsid(9)) };
        let link = facts();
        let pod = Some(Nsid(70_000));
        assert!(parent.is_under(pod, &link));
        assert!(parent.is_under(pod, &LinkFacts { kind: Some("macvtap".to_owned()), ..link.clone() }));
        let others = [
            LinkFacts { up: false, ..link.clone() },
            LinkFacts { kind: Some("vlan".to_owned()), ..link.clone() },
            LinkFacts { parent_index: Some(4), ..link.clone() },
            LinkFacts { parent_nsid: Some(Nsid(8)), ..link.clone() },
            LinkFacts { parent_nsid: None, ..link.clone() },
        ];
        for other in others {
            assert!(!parent.is_under(pod, &other), "{other:?}");
        }
        let other = LinkFacts { parent_index: Some(4), ..link.clone() };
        assert!(parent.is_on_other_device(pod, &other) && !parent.is_on_other_device(pod, &link));
        assert!(!parent.is_on_other_device(pod, &LinkFacts { parent_nsid: Some(Nsid(8)), ..other.clone() }));
        assert!(
            !parent.is_on_other_device(pod, &LinkFacts { parent_nsid: None, ..other }),
            "the pod's own device"
        );
        let at_home = LinkFacts { parent_nsid: None, ..link.clone() };
        assert!(parent.is_under(None, &at_home), "a link of the node's own");
        assert!(!Parent { own: None, ..parent }.is_under(pod, &link));
    }

    fn facts() -> LinkFacts {
        LinkFacts {
            ifindex: 2,
            mac: Some(Mac([2, 0, 0, 0, 6, 1])),
            up: true,
            kind: Some("macvlan".to_owned()),
            parent_index: Some(3),
            parent_nsid: Some(Nsid(9)),
            ..LinkFacts::default()
        }
    }
}
