//! What reads of the kernel say.

use super::*;

impl World {
    pub fn read(&self, target: &Target) -> Observation {
        let mut seen = Observation {
            key: target.key.clone(),
            stamp: target.stamp,
            netns: NetnsFact::Unknown,
            link: LinkFact::Unknown,
            fdb: FdbFact::Absent,
            address: AddressFact::Unknown,
            learnt: None,
            number: None,
            search: None,
        };
        let mine = |link: &&Link| target.macs.contains(&link.mac);
        let listed = |link: &Link| link.up && Some(&link.parent) == target.fdb_parent.as_ref();
        if self.links.iter().filter(mine).any(listed) {
            seen.fdb = FdbFact::Present;
        }
        if let Some(nsid) = target.netns.nsid() {
            let meant = |link: &&Link| target.ifindex.is_none_or(|index| index == link.ifindex);
            let here = self.links.iter().filter(mine).find(|link| link.at == nsid.0 && meant(link));
            if self.namespaces.contains(&nsid.0) {
                seen.netns = NetnsFact::Alive;
                seen.link = if here.is_some() { LinkFact::Present } else { LinkFact::Gone };
                seen.learnt = here.map(|link| (link.ifindex, link.mac));
                let has = |link: &Link| target.addresses.iter().any(|ip| link.addresses.contains(ip));
                let present = self.links.iter().any(|link| link.at == nsid.0 && has(link));
                seen.address = if present { AddressFact::Present } else { AddressFact::Absent };
            } else {
                seen.netns = NetnsFact::Dead;
                seen.link = LinkFact::Gone;
            }
        }
        if target.search && seen.link != LinkFact::Present {
            seen.search = Some(match self.links.iter().find(mine) {
                Some(link) => SearchOutcome::Found {
                    netns: identity(link.at),
                    ifindex: link.ifindex,
                    mac: link.mac,
                    marked: true,
                },
                None => SearchOutcome::NotFound,
            });
        }
        seen
    }
}
