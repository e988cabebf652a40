//! The kernel of the stand-ins: namespaces with cookies and with numbers that come back, and links that a pod's root moves,
//! marks and copies. A read sees what a read of the kernel would: by number, by index, up or down, nameable or not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use berth_ipam::attachment::AttachmentKey;
use berth_ipam::evidence::{AddressFact, FdbFact, LinkFact, NetnsFact};
use berth_ipam::identity::{NetnsCookie, NetnsIdentity, Nsid};
use berth_ipam::ledger::io::{Observation, Target};
use berth_ipam::ledger::sight::{Mark, Shown, Unseen, Where, may_be_removed};
use berth_ipam::mac::Mac;

/// The parent of the network; every other number is another L2 port.
pub const PARENT: u8 = 1;

#[derive(Debug, Clone)]
pub struct Link {
    /// The attachment of which it is in truth; `None`: a link that a pod's root made.
    pub owner: Option<AttachmentKey>,
    /// The namespace in which it was made.
    pub home: u64,
    pub at: u64,
    pub ifindex: u32,
    pub mac: Mac,
    pub alias: Option<AttachmentKey>,
    pub parent: u8,
    pub addresses: Vec<IpAddr>,
    pub up: bool,
}

#[derive(Debug, Clone, Copy)]
pub struct Namespace {
    /// Its number in the agent's namespace.
    pub number: Option<i32>,
    /// Whether no search can name it: a socket holds it, or a descriptor in flight.
    pub is_hidden: bool,
}

#[derive(Debug, Default)]
pub struct Kernel {
    pub namespaces: BTreeMap<u64, Namespace>,
    pub links: Vec<Link>,
    /// Attachments with a link in a hidden namespace that was down in the last search.
    pub was_down: BTreeSet<AttachmentKey>,
    last_cookie: u64,
    last_drawn: i32,
}

impl Kernel {
    /// A new namespace; `given`: the kernel gives its number, the lowest that is free.
    pub fn namespace(&mut self, given: bool, is_hidden: bool) -> u64 {
        self.last_cookie += 1;
        let number = if given { self.lowest() } else { self.draw() };
        self.namespaces.insert(self.last_cookie, Namespace { number: Some(number), is_hidden });
        self.last_cookie
    }

    /// A namespace that has no number here, because nothing in the agent's namespace named it yet.
    pub fn unnumbered(&mut self, is_hidden: bool) -> u64 {
        self.last_cookie += 1;
        self.namespaces.insert(self.last_cookie, Namespace { number: None, is_hidden });
        self.last_cookie
    }

    fn draw(&mut self) -> i32 {
        self.last_drawn += 1;
        Nsid::FIRST_DRAWN + self.last_drawn
    }

    fn lowest(&self) -> i32 {
        let most = i32::try_from(self.namespaces.len()).unwrap() + 1;
        (1..=most).find(|number| self.by_number(Nsid(*number)).is_none()).unwrap()
    }

    /// The agent is in another namespace now: there every namespace has another number, or none.
    pub fn renumber(&mut self) {
        let cookies: Vec<_> = self.namespaces.keys().copied().collect();
        for namespace in self.namespaces.values_mut() {
            namespace.number = None;
        }
        for cookie in cookies.into_iter().rev().filter(|cookie| cookie % 2 == 0) {
            let number = self.lowest();
            self.namespaces.get_mut(&cookie).unwrap().number = Some(number);
        }
    }

    pub fn by_number(&self, nsid: Nsid) -> Option<u64> {
        self.namespaces.iter().find(|(_, all)| all.number == Some(nsid.0)).map(|(cookie, _)| *cookie)
    }

    pub fn is_hidden(&self, nsid: Nsid) -> bool {
        self.by_number(nsid).is_some_and(|cookie| self.namespaces[&cookie].is_hidden)
    }

    pub fn number(&self, cookie: u64) -> Option<Nsid> {
        self.namespaces.get(&cookie)?.number.map(Nsid)
    }

    pub fn identity(&self, cookie: u64) -> NetnsIdentity {
        let nsid = self.number(cookie).unwrap();
        NetnsIdentity { cookie: NetnsCookie(cookie), inode: cookie, nsid, nsid_is_random: nsid.is_drawn() }
    }

    /// Whether the link may be set up: one macvlan with a MAC is up on a parent.
    pub fn may_be_up(&self, mac: Mac, parent: u8) -> bool {
        !self.links.iter().any(|link| link.up && link.mac == mac && link.parent == parent)
    }

    /// The namespace in which the kernel is asked, as far as it is proved.
    fn resolve(&mut self, netns: &Where) -> (NetnsFact, Option<u64>) {
        let is_hidden = |cookie| self.namespaces.get(&cookie).is_none_or(|found| found.is_hidden);
        match netns {
            Where::Nowhere => (NetnsFact::Unknown, None),
            Where::Number(nsid) => match self.by_number(*nsid) {
                Some(cookie) => (NetnsFact::Alive, Some(cookie)),
                None => (NetnsFact::Dead, None),
            },
            Where::Proved(netns) => match self.by_number(netns.nsid) {
                Some(cookie) if is_hidden(cookie) => (NetnsFact::Hidden, Some(cookie)),
                Some(cookie) if cookie == netns.cookie.0 => (NetnsFact::Alive, Some(cookie)),
                None | Some(_) => (NetnsFact::Dead, None),
            },
            Where::Sought(netns) if is_hidden(netns.cookie.0) => (NetnsFact::Hidden, None),
            Where::Sought(netns) => {
                self.name(netns.cookie.0);
                (NetnsFact::Alive, Some(netns.cookie.0))
            }
        }
    }

    /// Gives a namespace a number if it has none, as a search does.
    fn name(&mut self, cookie: u64) {
        let drawn = self.draw();
        self.namespaces.get_mut(&cookie).unwrap().number.get_or_insert(drawn);
    }

    fn shown(&self, link: &Link, key: &AttachmentKey) -> Shown {
        let mark = match &link.alias {
            Some(alias) if alias == key => Mark::Own,
            Some(_) => Mark::Other,
            None => Mark::None,
        };
        let (at, ifindex, mac) = (self.number(link.at), link.ifindex, Some(link.mac));
        Shown { at, ifindex, mac, mark, is_stacked: true }
    }

    pub fn read(&mut self, target: &Target) -> Observation {
        let (netns, at) = self.resolve(&target.netns);
        let sought = matches!(target.netns, Where::Sought(_));
        let mut seen = Observation {
            key: target.key.clone(),
            stamp: target.stamp,
            netns,
            link: if netns == NetnsFact::Dead { LinkFact::Gone } else { LinkFact::Unknown },
            fdb: FdbFact::Absent,
            address: AddressFact::Unknown,
            learnt: None,
            number: at.filter(|_| sought).and_then(|cookie| self.number(cookie)),
            search: None,
        };
        if let Some(cookie) = at {
            self.read_link(target, cookie, &mut seen);
        }
        let listed = |link: &&Link| link.up && link.parent == PARENT && target.macs.contains(&link.mac);
        if self.links.iter().any(|link| listed(&link)) {
            seen.fdb = FdbFact::Present;
        }
        if target.search && seen.link != LinkFact::Present {
            self.search(target, &mut seen);
        }
        seen
    }

    fn read_link(&self, target: &Target, cookie: u64, seen: &mut Observation) {
        let mut here = self.links.iter().filter(|link| link.at == cookie);
        let mine = |link: &Link| target.macs.contains(&link.mac);
        let found = match target.ifindex {
            Some(ifindex) => here.find(|link| link.ifindex == ifindex),
            None => here.find(|link| target.is_shown_by(&self.shown(link, &target.key))),
        };
        let link = match found {
            Some(link) if target.ifindex.is_none() || mine(link) => LinkFact::Present,
            Some(_) => LinkFact::OtherMac,
            None => LinkFact::Gone,
        };
        if seen.netns == NetnsFact::Hidden {
            // What it shows may be another namespace's: it counts for life alone.
            if link == LinkFact::Present {
                seen.link = link;
            }
            return;
        }
        seen.link = link;
        if target.ifindex.is_none() {
            seen.learnt = found.map(|link| (link.ifindex, link.mac));
        }
        let has = |link: &Link| {
            link.at == cookie && link.addresses.iter().any(|all| target.addresses.contains(all))
        };
        let present = self.links.iter().any(has);
        seen.address = if present { AddressFact::Present } else { AddressFact::Absent };
    }

    /// The MACs on the parent's list of links that no search can reach.
    pub fn unexplained(&self) -> BTreeSet<Mac> {
        let up = self.links.iter().filter(|link| link.up && link.parent == PARENT);
        up.filter(|link| self.namespaces[&link.at].is_hidden).map(|link| link.mac).collect()
    }

    fn search(&mut self, target: &Target, seen: &mut Observation) {
        let down = self.links.iter().filter(|link| !link.up && self.namespaces[&link.at].is_hidden);
        self.was_down = down.filter_map(|link| link.owner.clone()).collect();
        let nameable: Vec<_> =
            self.namespaces.iter().filter(|(_, all)| !all.is_hidden).map(|(cookie, _)| *cookie).collect();
        for cookie in &nameable {
            self.name(*cookie);
        }
        let visible: Vec<_> = self
            .links
            .iter()
            .filter(|link| nameable.contains(&link.at))
            .map(|link| (self.shown(link, &target.key), self.identity(link.at), link))
            .collect();
        let unseen = Unseen { unread: None, macs: &self.unexplained() };
        seen.search = Some(target.conclude(visible.iter().map(|(shown, netns, _)| (*shown, netns)), unseen));
        let explains = |mac: &Mac| {
            visible.iter().any(|(shown, _, link)| {
                link.mac == *mac && link.up && link.parent == PARENT && target.explains(shown)
            })
        };
        let listed = |mac: &&Mac| !self.may_be_up(**mac, PARENT);
        if seen.fdb == FdbFact::Present && target.macs.iter().filter(listed).all(explains) {
            seen.fdb = FdbFact::Another;
        }
    }

    /// The link that a removal removes.
    pub fn removable(
        &mut self,
        key: &AttachmentKey,
        netns: &Where,
        ifindex: Option<u32>,
        macs: &[Mac],
    ) -> Option<usize> {
        let recorded = if ifindex.is_some() { macs } else { &[] };
        let (NetnsFact::Alive, Some(cookie)) = self.resolve(netns) else { return None };
        self.links.iter().position(|link| {
            link.at == cookie
                && ifindex.is_none_or(|index| index == link.ifindex)
                && may_be_removed(key, recorded, &self.shown(link, key))
        })
    }
}
