//! The attachments that the programs follow, kept so that the maps can be filled again, and the ended ones,
//! kept for a moment to see whether a program reported their end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use berth_ipam::attachment::AttachmentKey;
use berth_ipam::evidence::LinkFact;
use berth_ipam::identity::{NetnsCookie, NetnsIdentity, Nsid};
use berth_ipam::ledger::entry::{Entry, Phase};
use berth_ipam::ledger::io::Observation;
use berth_ipam::time::Time;
use berth_probes::{Error, Probes};

use super::watching::Place;
use crate::committer::chain;

/// Time within which a program reports an end.
const LINGER: Duration = Duration::from_secs(5);
/// Maximum number of ended ones that are kept; more at once are dropped without a check.
const LINGERING_MAX: usize = 4096;

/// Number of attachments refused by the maps that are tried again at once.
const AGAIN_MAX: usize = 64;

/// Followed parts of an attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    /// The namespace in which its link was created.
    netns: NetnsIdentity,
    /// Its link there; `None`: unknown, or moved elsewhere.
    pub ifindex: Option<u32>,
    /// True if its link was ever set up: one attach mode sees only the end of those that were.
    was_up: bool,
}

impl Followed {
    /// Values from an entry.
    pub fn of(entry: &Entry) -> Self {
        let at_home = entry.is_at_home();
        Self {
            netns: entry.netns.clone(),
            ifindex: entry.ifindex.filter(|_| at_home),
            was_up: entry.phase == Phase::Done,
        }
    }

    /// The same with a known link.
    pub fn with_link(self, ifindex: u32) -> Self {
        Self { ifindex: Some(ifindex), ..self }
    }

    /// The same for a previous boot: its link no longer exists.
    pub fn without_link(self) -> Self {
        Self { ifindex: None, was_up: false, ..self }
    }

    /// The number of its namespace.
    pub fn nsid(&self) -> Nsid {
        self.netns.nsid
    }

    fn put(&self, probes: &mut Probes, key: &AttachmentKey) -> Result<(), Error> {
        probes.attachments().follow(key, &self.netns, self.ifindex)
    }
}

/// One that ended.
#[derive(Debug)]
struct Ended {
    at: Time,
    key: AttachmentKey,
    followed: Followed,
    places: Vec<Place>,
    /// True if an event about it was ever read.
    told: bool,
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Following {
    wanted: BTreeMap<AttachmentKey, (Followed, Vec<Place>)>,
    /// Of these an event was read, with which a program ended to follow.
    told: BTreeSet<AttachmentKey>,
    /// Of these an event was ever read. A link that is being torn down may be read as there, and is
    /// followed again then, but no second event comes.
    spoken_of: BTreeSet<AttachmentKey>,
    ended: VecDeque<Ended>,
    /// Those that the maps refused, and why: netlink and reads alone watch them.
    refused: BTreeMap<AttachmentKey, String>,
    /// Time since which an entry left in a map proves nothing.
    lost_at: Option<Time>,
}

impl Following {
    /// Sets an attachment, and the places where its addresses may be claimed.
    pub fn set(&mut self, key: AttachmentKey, followed: Followed, places: Vec<Place>) {
        self.ended.retain(|ended| ended.key != key);
        let was_up = self.wanted.get(&key).is_some_and(|(before, _)| before.was_up);
        let followed = Followed { was_up: was_up || followed.was_up, ..followed };
        self.wanted.insert(key, (followed, places));
    }

    /// Into the maps, as far as they take it. Returns the refusal, which is remembered and tried again.
    pub fn put(
        &mut self,
        probes: &mut Probes,
        key: &AttachmentKey,
        followed: &Followed,
    ) -> Result<(), Error> {
        let put = followed.put(probes, key);
        match &put {
            Ok(()) => drop(self.refused.remove(key)),
            Err(error) => drop(self.refused.insert(key.clone(), chain(error))),
        }
        put
    }

    /// Some of those that were refused into the maps again, until one is refused once more.
    pub fn try_refused(&mut self, probes: &mut Probes) {
        for key in self.refused.keys().take(AGAIN_MAX).cloned().collect::<Vec<_>>() {
            let wanted = self.wanted.get(&key).map(|(followed, _)| followed.clone());
            match wanted {
                Some(followed) if self.put(probes, &key, &followed).is_err() => return,
                Some(_) => {}
                None => drop(self.refused.remove(&key)),
            }
        }
    }

    /// Number of attachments refused by the maps, the first of them, and the reason; `None`: all are
    /// followed.
    pub fn refused(&self) -> Option<(usize, &AttachmentKey, &str)> {
        let (key, why) = self.refused.first_key_value()?;
        Some((self.refused.len(), key, why))
    }

    /// True if exactly this link of it is already wanted.
    pub fn has(&self, key: &AttachmentKey, followed: &Followed) -> bool {
        self.wanted
            .get(key)
            .is_some_and(|(before, _)| before.netns == followed.netns && before.ifindex == followed.ifindex)
    }

    /// Ends an attachment; returns the places where its addresses may be claimed.
    pub fn end(&mut self, key: &AttachmentKey, now: Time) -> Vec<Place> {
        self.told.remove(key);
        self.refused.remove(key);
        let Some((followed, places)) = self.wanted.remove(key) else { return Vec::new() };
        let told = self.spoken_of.remove(key);
        self.ended.push_back(Ended { at: now, key: key.clone(), followed, places: places.clone(), told });
        places
    }

    /// Writes everything into the maps again, and removes the rest. The first refusal is returned, and stops
    /// nothing.
    pub fn refresh(&mut self, probes: &mut Probes) -> Result<(), Error> {
        self.told.clear();
        let mut first = Ok(());
        let wanted: Vec<_> =
            self.wanted.iter().map(|(key, (followed, _))| (key.clone(), followed.clone())).collect();
        for (key, followed) in wanted {
            first = first.and(self.put(probes, &key, &followed));
        }
        first.and(probes.attachments().settle())
    }

    /// True if an event about a link of that attachment is about the followed one, and not about a previous
    /// one of the same name.
    pub fn is(&self, key: &AttachmentKey, cookie: NetnsCookie, ifindex: u32) -> bool {
        self.wanted.get(key).is_some_and(|(followed, _)| {
            (cookie.0 == 0 || followed.netns.cookie == cookie)
                && followed.ifindex.is_none_or(|own| own == ifindex)
        })
    }

    /// An event about it was read.
    pub fn told(&mut self, key: &AttachmentKey) {
        if self.wanted.contains_key(key) {
            self.told.insert(key.clone());
            self.spoken_of.insert(key.clone());
        }
    }

    /// Those that were read as there are followed again.
    pub fn observed(&mut self, probes: &mut Probes, seen: &[Observation]) -> Result<(), Error> {
        for observation in seen.iter().filter(|seen| seen.link == LinkFact::Present) {
            if self.told.remove(&observation.key)
                && let Some(followed) =
                    self.wanted.get(&observation.key).map(|(followed, _)| followed.clone())
            {
                self.put(probes, &observation.key, &followed)?;
            }
        }
        Ok(())
    }

    /// The attachments in namespaces of these inodes.
    pub fn inside<'a>(&'a self, inodes: &'a BTreeSet<u64>) -> impl Iterator<Item = &'a AttachmentKey> {
        self.wanted
            .iter()
            .filter(|(_, (followed, _))| inodes.contains(&followed.netns.inode))
            .map(|(key, _)| key)
    }

    /// Events were lost.
    pub fn lost(&mut self, now: Time) {
        self.lost_at = Some(now);
    }

    /// Ended attachments with a link that is gone and an end that no program reported.
    pub fn missed(
        &mut self,
        probes: &mut Probes,
        now: Time,
        mut is_there: impl FnMut(&Followed) -> bool,
    ) -> Vec<(AttachmentKey, Vec<IpAddr>)> {
        let mut missed = Vec::new();
        while let Some(first) = self.ended.front() {
            let late = now.since(first.at) >= LINGER;
            if !late && self.ended.len() <= LINGERING_MAX {
                break;
            }
            let Some(Ended { at, key, followed, places, told }) = self.ended.pop_front() else { break };
            let unseen = probes.attachments().forget(&key).unwrap_or(false) && !told;
            let lossy = self.lost_at.is_some_and(|lost| lost >= at);
            if unseen && late && !lossy && followed.was_up && probes.rung().is_some() && !is_there(&followed)
            {
                missed.push((key, places.into_iter().map(|(_, address)| address).collect()));
            }
        }
        missed
    }

    /// Number of followed attachments.
    pub fn len(&self) -> usize {
        self.wanted.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_after_a_links_end_does_not_follow_it_again() {
        let key: AttachmentKey = AttachmentKey {
            network: "lan".parse().unwrap(),
            container_id: "c1".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let netns = NetnsIdentity { cookie: NetnsCookie(7), inode: 1, nsid: Nsid(5), nsid_is_random: true };
        let followed = |ifindex, was_up| Followed { netns: netns.clone(), ifindex, was_up };
        let mut following = Following::default();
        assert!(!following.has(&key, &followed(None, false)), "a lease is new");
        following.set(key.clone(), followed(None, false), Vec::new());
        assert!(!following.has(&key, &followed(Some(2), false)), "a bind says which link");
        following.set(key.clone(), followed(Some(2), false), Vec::new());
        // Done, a DEL, a release: the same link.
        assert!(following.has(&key, &followed(Some(2), true)));
        following.told(&key);
        following.end(&key, Time(0));
        assert!(following.ended.pop_back().is_some_and(|ended| ended.told), "nobody may say it was missed");
        assert!(!following.has(&key, &followed(Some(2), true)), "the next holder of that name is new");
    }
}
