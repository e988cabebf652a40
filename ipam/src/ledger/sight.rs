//! Reads that are wanted about an attachment, and the meaning of a link that they show.
//!
//! A number does not identify a namespace: the kernel gives low numbers again at once, so such a number counts only
//! while the namespace behind it is proved by its cookie. An alias never proves absence: a pod's root can delete,
//! edit and copy it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::io::Target;
use crate::evidence::Intent;
use crate::identity::{NetnsCookie, NetnsIdentity, Nsid};
use crate::mac::Mac;

/// Number of MACs without a link that are named to an operator.
const NAMED: usize = 8;

/// The namespace in which an attachment is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Where {
    /// The one of this number, which was drawn for it and does not come back soon.
    Number(Nsid),
    /// The one of this cookie. The kernel gave its number, so that another namespace may have the number by now.
    Proved(NetnsIdentity),
    /// The one of this cookie. Its number was learnt in another namespace of the agent's and means nothing here.
    Sought(NetnsIdentity),
    /// None: the record is of another boot.
    Nowhere,
}

impl Where {
    /// The namespace of an identity that was learnt in the agent's present namespace.
    pub fn here(netns: NetnsIdentity) -> Self {
        if netns.nsid_is_random { Self::Number(netns.nsid) } else { Self::Proved(netns) }
    }

    /// The number under which the kernel is asked, if there is one.
    pub const fn nsid(&self) -> Option<Nsid> {
        match self {
            Self::Number(nsid) => Some(*nsid),
            Self::Proved(netns) => Some(netns.nsid),
            Self::Sought(_) | Self::Nowhere => None,
        }
    }

    /// The cookie that the namespace must have for its number to count.
    pub const fn cookie(&self) -> Option<NetnsCookie> {
        match self {
            Self::Proved(netns) | Self::Sought(netns) => Some(netns.cookie),
            Self::Number(_) | Self::Nowhere => None,
        }
    }
}

/// The links of attachments, by number of namespace and index, and whether each is certainly still there.
pub type Bound = Arc<BTreeMap<(Nsid, u32), bool>>;

/// The word of a link's alias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// It names the attachment.
    Own,
    /// It begins as Berth's aliases do and does not name the attachment.
    Other,
    /// It is absent or says nothing of Berth.
    None,
}

/// A link as a read shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shown {
    /// The number of its namespace; `None`: the agent's own.
    pub at: Option<Nsid>,
    /// Its index there.
    pub ifindex: u32,
    /// MAC of the link.
    pub mac: Option<Mac>,
    /// Alias of the link.
    pub mark: Mark,
    /// True if it is a macvlan or a VLAN device, and on no device of the agent's namespace but the parent.
    pub is_stacked: bool,
}

/// Result of a search for one attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SearchOutcome {
    /// Found in another place.
    Found {
        /// The namespace, as the agent's own numbers it.
        netns: NetnsIdentity,
        /// Index of the link.
        ifindex: u32,
        /// MAC of the link.
        mac: Mac,
        /// True if its alias names the attachment; else its MAC alone does.
        marked: bool,
    },
    /// Nowhere, and everything was searched.
    NotFound,
    /// Not everything could be searched.
    Incomplete(String),
    /// Everything was searched, and the parent lists MACs that no link has which was found.
    Unexplained(String),
}

/// The degree to which a link is an attachment's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Likeness {
    /// It is another's.
    No,
    /// It may be the attachment's without its alias; nothing is done to it, and it is not proof of an end.
    Perhaps,
    /// It has the MAC of the link that another plugin made, which has no alias of Berth's.
    ByMac,
    /// Its alias names the attachment.
    ByAlias,
}

/// The part of the node that a search did not see.
#[derive(Debug, Clone)]
pub struct Unseen<'a> {
    /// Part that could not be read, in words.
    pub unread: Option<String>,
    /// The MACs on the parent's list that none of the links under it has which the search found up.
    pub macs: &'a BTreeSet<Mac>,
}

impl Target {
    /// The degree to which a link that a search shows is the attachment's.
    pub fn likeness(&self, link: &Shown) -> Likeness {
        let alone = self.likeness_alone(link);
        let is_here = (self.netns.nsid(), self.ifindex) == (link.at, Some(link.ifindex));
        let bound = link.at.filter(|_| !is_here).and_then(|at| self.bound.get(&(at, link.ifindex)));
        match bound {
            // Another attachment's link, copied alias or not.
            Some(true) => Likeness::No,
            Some(false) if self.intent == Intent::UndoOwnLink => Likeness::No,
            Some(false) => alone.min(Likeness::Perhaps),
            None => alone,
        }
    }

    fn likeness_alone(&self, link: &Shown) -> Likeness {
        let is_undone = self.intent == Intent::UndoOwnLink;
        if link.mark == Mark::Own {
            let derived = link.mac.filter(|mac| mac.is_berth() && !self.macs.contains(mac));
            // A MAC that was derived for another attachment: its root may have copied the alias.
            let is_anothers = derived.is_some_and(|mac| !mac.belongs_to(&self.key));
            return match (is_anothers, is_undone) {
                (false, _) => Likeness::ByAlias,
                // No process of the pod ran that could have changed the MAC of its link.
                (true, true) => Likeness::No,
                (true, false) => Likeness::Perhaps,
            };
        }
        let Some(mac) = link.mac.filter(|mac| self.macs.contains(mac)) else { return Likeness::No };
        if !self.made_by_us {
            let is_elsewhere = self.fdb_parent.is_some() || link.at.is_some();
            return if is_elsewhere { Likeness::ByMac } else { Likeness::No };
        }
        if is_undone {
            // No client got the address, so that no link elsewhere has it.
            return Likeness::No;
        }
        if mac.belongs_to(&self.key) {
            return Likeness::Perhaps;
        }
        // Passthru children and VLAN devices share their parent's MAC, those of other attachments too.
        let is_shared = self.fdb_parent.is_none() && link.mark == Mark::Other;
        if !link.is_stacked || is_shared || link.at.is_none() {
            return Likeness::No;
        }
        Likeness::Perhaps
    }

    /// True if a link of the attachment's own namespace is its link, where the index of that was never
    /// learnt.
    pub fn is_shown_by(&self, link: &Shown) -> bool {
        if self.made_by_us {
            may_be_removed(&self.key, &[], link)
        } else {
            link.mac.is_some_and(|mac| self.macs.contains(&mac))
        }
    }

    /// True if an up link with one of the MACs explains why the parent lists it, as a link that is not known
    /// to be the attachment's. The MAC of an undone ADD, which no client received, is explained by a certain
    /// stranger alone.
    pub fn explains(&self, link: &Shown) -> bool {
        let most = if self.intent == Intent::UndoOwnLink { Likeness::No } else { Likeness::ByMac };
        self.likeness(link) <= most
    }

    /// The conclusion of a search that showed these links, each with its namespace.
    pub fn conclude<'a>(
        &self,
        links: impl Iterator<Item = (Shown, &'a NetnsIdentity)>,
        unseen: Unseen<'_>,
    ) -> SearchOutcome {
        let found = links.map(|(link, netns)| (self.likeness(&link), link, netns));
        let best = found.max_by_key(|(likeness, ..)| *likeness);
        let Some((likeness, link, netns)) = best.filter(|(likeness, ..)| *likeness > Likeness::No) else {
            return match (unseen.unread, self.unexplained(unseen.macs)) {
                (Some(what), _) => SearchOutcome::Incomplete(what),
                (None, Some(macs)) => SearchOutcome::Unexplained(macs),
                (None, None) => SearchOutcome::NotFound,
            };
        };
        // In the node's own namespace a link is followed by its alias alone.
        let least = if link.at.is_some() { Likeness::ByMac } else { Likeness::ByAlias };
        let (Some(mac), true) = (link.mac, likeness >= least) else {
            let place = link.at.map_or("the node's own namespace".to_owned(), |at| format!("namespace {at}"));
            let text = format!("link {} of {place} may be the attachment's", link.ifindex);
            return SearchOutcome::Incomplete(text);
        };
        SearchOutcome::Found {
            netns: netns.clone(),
            ifindex: link.ifindex,
            mac,
            marked: likeness == Likeness::ByAlias,
        }
    }

    /// The links that the parent's list shows and the search did not, in words: one of them may be the attachment's under
    /// another MAC.
    fn unexplained(&self, macs: &BTreeSet<Mac>) -> Option<String> {
        let parent = self.fdb_parent.as_ref()?;
        let others: Vec<_> = macs.iter().filter(|mac| !self.macs.contains(mac)).collect();
        let named: Vec<_> = others.iter().take(NAMED).map(ToString::to_string).collect();
        let more = if others.len() > named.len() { " and others" } else { "" };
        let text = format!(
            "{parent} lists {}{more}, and no link in a namespace that can be named has it",
            named.join(", ")
        );
        (!others.is_empty()).then_some(text)
    }
}

/// True if the link may be removed as the attachment's, in a namespace that is proved to be the attachment's:
/// by its alias, by its derived MAC, or by the index and the MAC that were recorded.
pub fn may_be_removed(key: &crate::attachment::AttachmentKey, recorded: &[Mac], link: &Shown) -> bool {
    link.mark == Mark::Own || link.mac.is_some_and(|mac| mac.belongs_to(key) || recorded.contains(&mac))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attachment::AttachmentKey;

    const ASKED_FOR: Mac = Mac([2, 0, 0, 0, 6, 1]);
    const OTHERS: Mac = Mac([2, 0, 0, 0, 6, 2]);

    fn key() -> AttachmentKey {
        AttachmentKey {
            network: "lan".parse().unwrap(),
            container_id: "c1".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        }
    }

    fn target(mac: Mac) -> Target {
        Target {
            key: key(),
            stamp: 0,
            netns: Where::Nowhere,
            ifindex: None,
            macs: vec![mac],
            fdb_parent: Some("eth1".parse().unwrap()),
            addresses: Vec::new(),
            made_by_us: true,
            search: true,
            intent: Intent::EndOwnLink,
            bound: Bound::default(),
        }
    }

    fn shown(mac: Mac, mark: Mark) -> Shown {
        Shown { at: Some(Nsid(70_005)), ifindex: 9, mac: Some(mac), mark, is_stacked: true }
    }

    #[test]
    fn an_alias_proves_presence_and_its_lack_proves_nothing() {
        let asked = target(ASKED_FOR);
        assert_eq!(asked.likeness(&shown(ASKED_FOR, Mark::Own)), Likeness::ByAlias);
        assert_eq!(asked.likeness(&shown(OTHERS, Mark::Own)), Likeness::ByAlias, "its MAC was changed");
        for mark in [Mark::None, Mark::Other] {
            assert_eq!(asked.likeness(&shown(ASKED_FOR, mark)), Likeness::Perhaps, "{mark:?}");
            let derived = Mac::derive(&key(), 0);
            assert_eq!(target(derived).likeness(&shown(derived, mark)), Likeness::Perhaps, "{mark:?}");
        }
        assert_eq!(asked.likeness(&shown(OTHERS, Mark::None)), Likeness::No);
        let undone = Target { intent: Intent::UndoOwnLink, ..asked.clone() };
        assert_eq!(undone.likeness(&shown(ASKED_FOR, Mark::None)), Likeness::No, "it was told to no client");
        let chained = Target { made_by_us: false, ..asked };
        assert_eq!(chained.likeness(&shown(ASKED_FOR, Mark::None)), Likeness::ByMac);
        assert_eq!(chained.likeness(&shown(ASKED_FOR, Mark::Other)), Likeness::ByMac, "its root wrote that");
    }

    #[test]
    fn a_link_that_shares_its_parents_mac_is_told_by_its_alias() {
        let blind = Target { fdb_parent: None, ..target(ASKED_FOR) };
        assert_eq!(blind.likeness(&shown(ASKED_FOR, Mark::Other)), Likeness::No, "another's on that parent");
        assert_eq!(blind.likeness(&shown(ASKED_FOR, Mark::None)), Likeness::Perhaps);
        let parent = Shown { at: None, is_stacked: false, ..shown(ASKED_FOR, Mark::None) };
        assert_eq!(blind.likeness(&parent), Likeness::No);
    }

    #[test]
    fn a_copied_alias_makes_no_link_of_another_attachment_anothers() {
        let bound = |certain| Target {
            bound: Arc::new(BTreeMap::from([((Nsid(70_005), 9), certain)])),
            ..target(ASKED_FOR)
        };
        let key = AttachmentKey { container_id: "c2".parse().unwrap(), ..key() };
        let derived = shown(Mac::derive(&key, 0), Mark::Own);
        assert_eq!(
            target(ASKED_FOR).likeness(&derived),
            Likeness::Perhaps,
            "a link that the ledger has forgotten"
        );
        let undone = Target { intent: Intent::UndoOwnLink, ..target(ASKED_FOR) };
        assert_eq!(undone.likeness(&derived), Likeness::No, "the pod of an undone ADD changes no MAC");
        let copied = shown(OTHERS, Mark::Own);
        assert_eq!(bound(true).likeness(&copied), Likeness::No);
        assert_eq!(bound(false).likeness(&copied), Likeness::Perhaps, "the number may be another's by now");
        let undone = Target { intent: Intent::UndoOwnLink, ..bound(false) };
        assert_eq!(undone.likeness(&copied), Likeness::No, "no process of its pod could have moved it there");
    }

    #[test]
    fn a_search_finds_follows_or_does_not_know() {
        let netns =
            NetnsIdentity { cookie: NetnsCookie(5), inode: 5, nsid: Nsid(70_005), nsid_is_random: true };
        let none = Unseen { unread: None, macs: &BTreeSet::new() };
        let one = |link: Shown| target(ASKED_FOR).conclude([(link, &netns)].into_iter(), none.clone());
        let found = one(shown(OTHERS, Mark::Own));
        assert!(matches!(found, SearchOutcome::Found { marked: true, mac: OTHERS, .. }), "{found:?}");
        assert!(matches!(one(shown(ASKED_FOR, Mark::None)), SearchOutcome::Incomplete(_)));
        assert_eq!(one(shown(OTHERS, Mark::None)), SearchOutcome::NotFound);
        let at_home = |mark| Shown { at: None, ..shown(ASKED_FOR, mark) };
        assert!(matches!(one(at_home(Mark::Own)), SearchOutcome::Found { marked: true, .. }), "{netns:?}");
        let chained = Target { made_by_us: false, ..target(ASKED_FOR) };
        let by_mac = chained.conclude([(at_home(Mark::None), &netns)].into_iter(), none.clone());
        assert!(matches!(by_mac, SearchOutcome::Incomplete(_)), "in the node's own namespace: {by_mac:?}");
        let both = [(shown(ASKED_FOR, Mark::None), &netns), (shown(OTHERS, Mark::Own), &netns)];
        let unseen = Unseen { unread: Some("x".to_owned()), ..none };
        let both = target(ASKED_FOR).conclude(both.into_iter(), unseen);
        assert!(matches!(both, SearchOutcome::Found { marked: true, .. }), "{both:?}");
    }

    #[test]
    fn a_search_that_leaves_a_mac_on_the_parent_unexplained_is_not_complete() {
        let over = |target: Target, macs: &[Mac]| {
            let macs = macs.iter().copied().collect();
            target.conclude(std::iter::empty(), Unseen { unread: None, macs: &macs })
        };
        let named = "eth1 lists 02:00:00:00:06:02, and no link in a namespace that can be named has it";
        assert_eq!(
            over(target(ASKED_FOR), &[ASKED_FOR, OTHERS]),
            SearchOutcome::Unexplained(named.to_owned())
        );
        assert_eq!(over(target(ASKED_FOR), &[ASKED_FOR]), SearchOutcome::NotFound, "that is another fact");
        let unlisted = Target { fdb_parent: None, ..target(ASKED_FOR) };
        assert_eq!(over(unlisted, &[OTHERS]), SearchOutcome::NotFound, "no list shows its kind");
    }

    #[test]
    fn a_link_of_unknown_index_is_shown_by_its_alias_or_its_derived_mac() {
        let derived = shown(Mac::derive(&key(), 0), Mark::None);
        let asked = target(ASKED_FOR);
        assert!(asked.is_shown_by(&derived) && asked.is_shown_by(&shown(OTHERS, Mark::Own)));
        assert!(!asked.is_shown_by(&shown(ASKED_FOR, Mark::None)), "every pod's root can take that MAC");
        let chained = Target { made_by_us: false, ..asked };
        assert!(chained.is_shown_by(&shown(ASKED_FOR, Mark::None)));
        assert!(
            !chained.is_shown_by(&shown(OTHERS, Mark::Own)),
            "another plugin's link has no alias of Berth's"
        );
    }

    #[test]
    fn a_link_that_may_be_the_attachments_explains_the_list_and_one_with_its_alias_does_not() {
        let asked = target(ASKED_FOR);
        assert!(asked.explains(&shown(ASKED_FOR, Mark::None)));
        assert!(!asked.explains(&shown(ASKED_FOR, Mark::Own)));
        let undone = Target { intent: Intent::UndoOwnLink, ..asked };
        assert!(undone.explains(&shown(ASKED_FOR, Mark::None)), "a stranger's");
        assert!(!undone.explains(&shown(ASKED_FOR, Mark::Own)));
    }

    #[test]
    fn a_link_is_removed_by_its_alias_or_a_mac_of_its_own() {
        let derived = Mac::derive(&key(), 0);
        for (mac, mark, wanted) in [
            (OTHERS, Mark::Own, true),
            (derived, Mark::None, true),
            (ASKED_FOR, Mark::None, true),
            (OTHERS, Mark::Other, false),
            (OTHERS, Mark::None, false),
        ] {
            assert_eq!(may_be_removed(&key(), &[ASKED_FOR], &shown(mac, mark)), wanted, "{mac} {mark:?}");
        }
    }
}
