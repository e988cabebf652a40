//! The kernel's side of the evidence: a thread that owns the monitor and reads what it is asked to.
//!
//! The order of things is the point of this file. All reads of a gather are made first; then the
//! monitor is drained and its hints are handed on; then the observations. So whatever the kernel
//! had said about a link before it was read as missing (that it was moved, say) is known before
//! the reads are judged.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use berth_ipam::evidence::{AddressFact, FdbFact, Intent, LinkFact, NetnsFact};
use berth_ipam::identity::{NetnsCookie, NetnsIdentity, Nsid};
use berth_ipam::ledger::io::{Input, KernelHint, Observation, SearchOutcome, Source, Target};
use berth_ipam::ledger::sight::{Unseen, Where};
use berth_ipam::mac::Mac;
use berth_ipam::name::IfName;
use berth_underlay::error::{Checked, Unknown};
use berth_underlay::facts::LinkFacts;
use berth_underlay::finder::{Finder, Numbered};
use berth_underlay::monitor::{KernelEvent, Monitor};
use berth_underlay::netns::NetnsFile;
use berth_underlay::nsid;
use berth_underlay::read::{LinkRead, Reader};
use berth_underlay::search::{self, NsSeen, Options, SearchResult};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::event_filter::EventFilter;
use crate::fdb::{Parent, fdb_of, is_blind, unexplained};
use crate::hints::{Feed, Repeats};
use crate::{clock, shown, strays, survey};

/// Longest sleep of the thread; a bell that was missed costs no more than this.
const SLEEP_MAX: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// And while a hint waits for its time.
const SLEEP_WAITING: Timespec = Timespec { tv_sec: 0, tv_nsec: 25_000_000 };
/// Number and distance of repeated reads of the list of MACs while links may be in teardown.
const TEARDOWN_READS: u32 = 20;
const TEARDOWN_PAUSE: Duration = Duration::from_millis(5);

/// Orders to the thread.
#[derive(Debug)]
pub enum Order {
    /// Reads for the ledger; answered with [`Input::Gathered`].
    Gather(Vec<Target>),
    /// The interfaces of this node; answered with [`Input::Surveyed`].
    Survey(survey::Order),
    /// Berth MACs on these devices; answered with [`Input::Strays`].
    FindStrays(Vec<IfName>),
}

/// The handle of the thread.
#[derive(Debug, Clone)]
pub struct Observer {
    orders: Sender<Order>,
    bell: Arc<OwnedFd>,
    /// True if the monitor hears the events of pods' namespaces.
    pub hears_all: bool,
}

/// Failures to start the thread.
#[derive(Debug, thiserror::Error)]
pub enum ObserverError {
    /// Netlink was refused.
    #[error("open netlink")]
    Netlink(#[source] berth_underlay::error::Error),
    /// The system refused.
    #[error("start the observer's thread")]
    Thread(#[source] std::io::Error),
}

impl Observer {
    /// Starts the thread in the calling thread's namespace; the subscription is in force when this
    /// returns. `deaf`: events are read and thrown away, as if they had been lost.
    pub fn start(feed: Feed, filter: EventFilter, deaf: bool) -> Result<Self, ObserverError> {
        let monitor = Monitor::open().map_err(ObserverError::Netlink)?;
        let reader = Reader::new().map_err(ObserverError::Netlink)?;
        let hears_all = monitor.hears_all_namespaces() && !deaf;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let bell = Arc::new(bell.map_err(|errno| ObserverError::Thread(errno.into()))?);
        let (orders, inbox) = channel();
        let worker = Worker {
            monitor,
            reader,
            finder: Finder::new(search_options()),
            feed,
            filter,
            repeats: Repeats::default(),
            bell: Arc::clone(&bell),
            deaf,
        };
        std::thread::Builder::new()
            .name("observer".to_owned())
            .spawn(move || worker.run(&inbox))
            .map_err(ObserverError::Thread)?;
        Ok(Self { orders, bell, hears_all })
    }

    /// Hands an order to the thread.
    pub fn send(&self, order: Order) {
        if self.orders.send(order).is_err() {
            tracing::error!("the observer's thread has ended");
            return;
        }
        // A full counter means that the bell is ringing already.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }
}

struct Worker {
    monitor: Monitor,
    reader: Reader,
    finder: Finder,
    feed: Feed,
    filter: EventFilter,
    repeats: Repeats,
    bell: Arc<OwnedFd>,
    deaf: bool,
}

impl Worker {
    fn run(mut self, inbox: &Receiver<Order>) {
        loop {
            self.sleep();
            if !self.hand_on_hints() {
                return;
            }
            while let Ok(order) = inbox.try_recv() {
                let answer = match order {
                    Order::Gather(targets) => self.gather(&targets),
                    Order::Survey(order) => {
                        Input::Surveyed(survey::survey(&mut self.reader, &order, &search_options()))
                    }
                    Order::FindStrays(devices) => Input::Strays(strays::find(&mut self.reader, &devices)),
                };
                if !self.hand_on_hints() || !self.feed.answer(answer) {
                    return;
                }
            }
        }
    }

    fn sleep(&self) {
        let monitor: BorrowedFd<'_> = self.monitor.fd();
        let mut fds =
            [PollFd::from_borrowed_fd(monitor, PollFlags::IN), PollFd::new(&self.bell, PollFlags::IN)];
        // An interrupted poll is an early wake-up, nothing more.
        let _ = poll(&mut fds, Some(if self.repeats.is_waiting() { &SLEEP_WAITING } else { &SLEEP_MAX }));
        let mut counter = [0; 8];
        let _ = rustix::io::read(self.bell.as_fd(), &mut counter);
    }

    /// Hands on what an attachment may need of what the monitor heard. False: the main loop has ended.
    fn hand_on_hints(&mut self) -> bool {
        let events = self.monitor.drain().unwrap_or_else(|error| {
            tracing::warn!(%error, "read netlink events");
            vec![KernelEvent::Overrun]
        });
        if self.deaf {
            return true;
        }
        let now = clock::now();
        let mut hints = self.repeats.due(now);
        let wanted = self.filter.read();
        let passing = events.iter().filter_map(hint).filter(|hint| wanted.passes(hint));
        hints.extend(passing.filter_map(|hint| self.repeats.admit(now, hint)));
        drop(wanted);
        hints.into_iter().all(|hint| match hint {
            KernelHint::Overrun => self.feed.overrun(),
            hint => self.feed.hint(Input::Kernel(Source::Netlink, hint)),
        })
    }

    fn gather(&mut self, targets: &[Target]) -> Input {
        let mut first = Fdbs::default();
        let mut seen: Vec<_> = targets.iter().map(|target| self.read(target, &mut first)).collect();
        let missing = |seen: &Observation| seen.link != LinkFact::Present;
        if targets.iter().zip(&seen).any(|(target, seen)| target.search && missing(seen)) {
            let found = self.search(targets);
            // The list of MACs is read last as well as first: a link that was set up between the reads
            // and the search would else be in neither.
            let mut last = Fdbs::default();
            for (target, seen) in targets.iter().zip(&mut seen) {
                if target.search && missing(seen) {
                    self.searched(target, seen, &found, (&mut first, &mut last));
                }
            }
        }
        Input::Gathered(seen)
    }

    /// Completes the reads about one attachment by what a search found, and by the lists of MACs before and after it.
    fn searched(
        &mut self,
        target: &Target,
        seen: &mut Observation,
        found: &Found,
        (first, last): (&mut Fdbs, &mut Fdbs),
    ) {
        let unexplained = match &target.fdb_parent {
            Some(parent) => self.unexplained(parent, &found.seen, (first, last)),
            None => Ok(BTreeSet::new()),
        };
        seen.search = Some(self.outcome(target, found, &unexplained));
        if seen.fdb == FdbFact::Present && self.is_anothers(target, &found.seen) {
            seen.fdb = FdbFact::Another;
        }
        if seen.fdb == FdbFact::Absent {
            seen.fdb = self.fdb(target, last);
        }
    }

    /// The MACs that a parent lists before and after a search and that no link which the search found explains. Links of
    /// ADDs and DELs under way come and go meanwhile, and are on one of the lists alone.
    fn unexplained(
        &mut self,
        parent: &IfName,
        found: &SearchResult,
        (first, last): (&mut Fdbs, &mut Fdbs),
    ) -> Checked<BTreeSet<Mac>> {
        if let Some(known) = last.unexplained.get(parent) {
            return known.clone();
        }
        let macs = self.compare_lists(parent, found, (first, last));
        last.unexplained.insert(parent.clone(), macs.clone());
        macs
    }

    fn compare_lists(
        &mut self,
        parent: &IfName,
        found: &SearchResult,
        (first, last): (&mut Fdbs, &mut Fdbs),
    ) -> Checked<BTreeSet<Mac>> {
        let device = match self.reader.link_by_name(None, parent) {
            LinkRead::NoDevice => None,
            LinkRead::Unknown(unknown) => return Err(unknown),
            LinkRead::Found(_) | LinkRead::NoNamespace => {
                let read = Parent::read(&mut self.reader, parent);
                Some(read.ok_or_else(|| Unknown(format!("{parent} could not be read a second time")))?)
            }
        };
        let listed = match (first.of(&mut self.reader, parent), last.of(&mut self.reader, parent)) {
            (Ok(before), Ok(after)) => before.intersection(after).copied().collect(),
            (Err(unknown), _) | (_, Err(unknown)) => return Err(unknown.clone()),
        };
        let mut macs = unexplained(device, &listed, found);
        // The kernel takes a namespace down step by step: its name goes before its links.
        for _ in 0..TEARDOWN_READS {
            if macs.is_empty() {
                break;
            }
            std::thread::sleep(TEARDOWN_PAUSE);
            let listed = fdb_of(&mut self.reader, parent)?;
            macs.retain(|mac| listed.contains(mac));
        }
        Ok(macs)
    }

    fn read(&mut self, target: &Target, lists: &mut Fdbs) -> Observation {
        let mut seen = Observation {
            key: target.key.clone(),
            stamp: target.stamp,
            netns: NetnsFact::Unknown,
            link: LinkFact::Unknown,
            fdb: FdbFact::Unknown,
            address: AddressFact::Unknown,
            learnt: None,
            number: None,
            search: None,
        };
        match &target.netns {
            Where::Nowhere => {}
            Where::Number(nsid) => self.read_in(target, *nsid, &mut seen),
            Where::Proved(netns) => self.read_proved(target, netns, &mut seen),
            Where::Sought(netns) => match self.finder.of_cookie(&mut self.reader, netns) {
                Some(held) => {
                    seen.number = Some(held.nsid);
                    self.read_in(target, held.nsid, &mut seen);
                }
                None => seen.netns = NetnsFact::Hidden,
            },
        }
        seen.fdb = self.fdb(target, lists);
        seen
    }

    /// The kernel gave the number, so that another namespace may have it: the one that has it is held while it is read.
    fn read_proved(&mut self, target: &Target, netns: &NetnsIdentity, seen: &mut Observation) {
        if matches!(self.reader.link(Some(netns.nsid), 1), LinkRead::NoNamespace) {
            (seen.netns, seen.link) = (NetnsFact::Dead, LinkFact::Gone);
            return;
        }
        match self.finder.of_number(&mut self.reader, netns) {
            // Held while it is read, so that the number stays its.
            Numbered::Own(_held) => self.read_in(target, netns.nsid, seen),
            Numbered::Another => (seen.netns, seen.link) = (NetnsFact::Dead, LinkFact::Gone),
            Numbered::Unnamed => {
                self.read_in(target, netns.nsid, seen);
                // It may have ended since. What else it shows may be another namespace's: it counts for life alone.
                if seen.netns == NetnsFact::Alive {
                    let present = seen.link == LinkFact::Present && seen.learnt.is_none();
                    seen.link = if present { LinkFact::Present } else { LinkFact::Unknown };
                    (seen.netns, seen.learnt) = (NetnsFact::Hidden, None);
                    seen.address = AddressFact::Unknown;
                }
            }
        }
    }

    /// In the namespace of that number.
    fn read_in(&mut self, target: &Target, nsid: Nsid, seen: &mut Observation) {
        match target.ifindex {
            Some(ifindex) => self.read_link(target, nsid, ifindex, seen),
            None => self.look_for_link(target, nsid, seen),
        }
        if seen.netns == NetnsFact::Alive && (seen.link != LinkFact::Present || target.intent != Intent::Live)
        {
            self.read_addresses(target, nsid, seen);
        }
    }

    fn read_link(&mut self, target: &Target, nsid: Nsid, ifindex: u32, seen: &mut Observation) {
        (seen.netns, seen.link) = match self.reader.link(Some(nsid), ifindex) {
            LinkRead::Found(facts) if facts.mac.is_some_and(|mac| target.macs.contains(&mac)) => {
                (NetnsFact::Alive, LinkFact::Present)
            }
            LinkRead::Found(facts) => {
                seen.learnt = facts.mac.map(|mac| (facts.ifindex, mac));
                (NetnsFact::Alive, LinkFact::OtherMac)
            }
            LinkRead::NoDevice => (NetnsFact::Alive, LinkFact::Gone),
            LinkRead::NoNamespace => (NetnsFact::Dead, LinkFact::Gone),
            LinkRead::Unknown(_) => (NetnsFact::Unknown, LinkFact::Unknown),
        };
    }

    /// The index is not known: the link may show itself by its MAC.
    fn look_for_link(&mut self, target: &Target, nsid: Nsid, seen: &mut Observation) {
        seen.netns = match self.reader.link(Some(nsid), 1) {
            LinkRead::Found(_) | LinkRead::NoDevice => NetnsFact::Alive,
            LinkRead::NoNamespace => NetnsFact::Dead,
            LinkRead::Unknown(_) => NetnsFact::Unknown,
        };
        if seen.netns != NetnsFact::Alive {
            seen.link = if seen.netns == NetnsFact::Dead { LinkFact::Gone } else { LinkFact::Unknown };
            return;
        }
        let Ok(links) = self.reader.links(Some(nsid)) else { return };
        let mine = |facts: &&LinkFacts| target.is_shown_by(&shown::of(Some(nsid), facts, &target.key));
        match links.iter().find(mine) {
            Some(facts) => {
                seen.link = LinkFact::Present;
                seen.learnt = facts.mac.map(|mac| (facts.ifindex, mac));
            }
            None if target.macs.is_empty() && !target.made_by_us => {
                seen.link = LinkFact::NeverSeen;
                seen.learnt = self.learn_by_address(target, nsid, &links);
                if seen.learnt.is_some() {
                    seen.link = LinkFact::Present;
                }
            }
            None => seen.link = LinkFact::Gone,
        }
    }

    /// A delegate's link is another plugin's: it is the one that carries the leased address.
    fn learn_by_address(&mut self, target: &Target, nsid: Nsid, links: &[LinkFacts]) -> Option<(u32, Mac)> {
        let addresses = self.reader.addresses(Some(nsid)).ok()?;
        let carrier = addresses.iter().find(|facts| target.addresses.contains(&facts.address.ip()))?;
        let link = links.iter().find(|link| link.ifindex == carrier.ifindex)?;
        Some((link.ifindex, link.mac?))
    }

    fn read_addresses(&mut self, target: &Target, nsid: Nsid, seen: &mut Observation) {
        if let Ok(addresses) = self.reader.addresses(Some(nsid)) {
            let has = addresses.iter().any(|facts| target.addresses.contains(&facts.address.ip()));
            seen.address = if has { AddressFact::Present } else { AddressFact::Absent };
        }
    }

    fn fdb(&mut self, target: &Target, lists: &mut Fdbs) -> FdbFact {
        let Some(parent) = &target.fdb_parent else { return FdbFact::Blind };
        if target.macs.is_empty() {
            // Which link it is was never learnt: no list can show it, and its namespace decides.
            return FdbFact::Blind;
        }
        match lists.of(&mut self.reader, parent) {
            Ok(macs) if target.macs.iter().any(|mac| macs.contains(mac)) => FdbFact::Present,
            Ok(_) => match lists.is_blind(parent) {
                Ok(true) => FdbFact::Blind,
                Ok(false) => FdbFact::Absent,
                Err(_) => FdbFact::Unknown,
            },
            Err(_) => FdbFact::Unknown,
        }
    }

    /// True if a link without the target's alias explains each of its MACs that is on the parent. It is
    /// read once more: else it might have made room for the target's after the search saw it.
    fn is_anothers(&mut self, target: &Target, found: &SearchResult) -> bool {
        let Some(name) = &target.fdb_parent else { return false };
        let Some(parent) = Parent::read(&mut self.reader, name) else { return false };
        let Ok(listed) = fdb_of(&mut self.reader, name) else { return false };
        target.macs.iter().filter(|mac| listed.contains(mac)).all(|mac| {
            let has_it = |place: &NsSeen, link: &LinkFacts| {
                let explains = target.explains(&shown::of(place.nsid, link, &target.key));
                link.mac == Some(*mac) && parent.is_under(place.nsid, link) && explains
            };
            found.iter().filter(|(place, link)| has_it(place, link)).any(|(place, link)| {
                match self.reader.link(place.nsid, link.ifindex) {
                    LinkRead::Found(again) => has_it(place, &again),
                    _ => false,
                }
            })
        })
    }

    /// The conclusion of a search, with the identity of the namespace in which the link was found.
    fn outcome(&mut self, target: &Target, found: &Found, macs: &Checked<BTreeSet<Mac>>) -> SearchOutcome {
        let concluded = conclude(&mut self.reader, target, found, macs);
        let SearchOutcome::Found { netns, ifindex, mac, marked } = concluded else { return concluded };
        let place = found.seen.namespaces.iter().find(|place| place.inode == netns.inode);
        match place.and_then(|place| cookie_at(&mut self.reader, &place.path, netns.nsid)) {
            Some(cookie) => {
                SearchOutcome::Found { netns: NetnsIdentity { cookie, ..netns }, ifindex, mac, marked }
            }
            None => {
                SearchOutcome::Incomplete(format!("namespace {} ended while it was looked at", netns.nsid))
            }
        }
    }

    /// One search for all; descriptors are searched only if that leaves a link missing.
    fn search(&mut self, targets: &[Target]) -> Found {
        let options = search_options();
        let found = Found::new(&mut self.reader, &options);
        let reader = &mut self.reader;
        let none = Ok(BTreeSet::new());
        let mut is_missing = |target: &Target| {
            target.search && conclude(reader, target, &found, &none) == SearchOutcome::NotFound
        };
        if !targets.iter().any(&mut is_missing) {
            return found;
        }
        // Namespaces that only a descriptor holds have no name of their own. What such a look finds
        // counts; that it could not see every descriptor does not spoil the search of the named ones.
        let mut deeper = Found::new(&mut self.reader, &Options { descriptors: true, ..options });
        let seen = &mut deeper.seen;
        seen.incomplete_because = found.seen.incomplete_because;
        seen.incomplete_because.extend(std::mem::take(&mut seen.mounts_unseen));
        seen.complete = seen.incomplete_because.is_empty();
        deeper
    }
}

/// A search, and the identity of each namespace that it looked into.
struct Found {
    seen: SearchResult,
    identities: Vec<NetnsIdentity>,
}

impl Found {
    fn new(reader: &mut Reader, options: &Options) -> Self {
        let seen = search::search(reader, options);
        let own = NetnsFile::own().and_then(|own| nsid::read_or_assign(reader.socket(), &own)).ok();
        let identities = seen.namespaces.iter().map(|place| identity(place, own)).collect();
        Self { seen, identities }
    }
}

/// Places where links are searched.
fn search_options() -> Options {
    Options { folders: vec![PathBuf::from("/run/docker/netns")], ..Options::default() }
}

/// The conclusion of a search; the cookie of the namespace in which a link was found is not read yet. `macs`: of links
/// that the search did not find.
fn conclude(
    reader: &mut Reader,
    target: &Target,
    Found { seen: found, identities }: &Found,
    macs: &Checked<BTreeSet<Mac>>,
) -> SearchOutcome {
    let parent = target.fdb_parent.as_ref().and_then(|name| Parent::read(reader, name));
    let links = found.links.iter().filter_map(|(at, link)| {
        let (place, netns) = (found.namespaces.get(*at)?, identities.get(*at)?);
        let mut seen = shown::of(place.nsid, link, &target.key);
        seen.is_stacked &= !parent.is_some_and(|parent| parent.is_on_other_device(place.nsid, link));
        Some((seen, netns))
    });
    let none = BTreeSet::new();
    let (macs, unread) = match macs {
        Ok(macs) => (macs, None),
        Err(Unknown(why)) => (&none, Some(format!("the list of MACs: {why}"))),
    };
    let unsearched = (!found.complete).then(|| found.incomplete_because.join("; "));
    target.conclude(links, Unseen { unread: unsearched.or(unread), macs })
}

/// The identity of a namespace that a search looked into. `own`: the number of the agent's own namespace in itself.
fn identity(place: &NsSeen, own: Option<(Nsid, bool)>) -> NetnsIdentity {
    let number = place.nsid.map(|nsid| (nsid, place.nsid_is_random)).or(own);
    let (nsid, nsid_is_random) = number.unwrap_or((Nsid(0), false));
    NetnsIdentity { cookie: place.cookie.unwrap_or(NetnsCookie(0)), inode: place.inode, nsid, nsid_is_random }
}

/// The cookie of the namespace at a path, if it has that number still.
pub(crate) fn cookie_at(reader: &mut Reader, path: &Path, nsid: Nsid) -> Option<NetnsCookie> {
    let netns = NetnsFile::open(path).ok()?;
    let now = nsid::read(reader.socket(), &netns).ok()?;
    (now == Some(nsid)).then(|| netns.cookie().ok())?
}

/// The lists of MACs of the parents, each read once in a gather.
#[derive(Debug, Default)]
struct Fdbs {
    by_parent: HashMap<IfName, Checked<HashSet<Mac>>>,
    blind: HashMap<IfName, Checked<bool>>,
    /// The MACs that no link explains, after a search.
    unexplained: HashMap<IfName, Checked<BTreeSet<Mac>>>,
}

impl Fdbs {
    fn is_blind(&mut self, parent: &IfName) -> &Checked<bool> {
        self.blind.entry(parent.clone()).or_insert_with(|| is_blind(parent))
    }

    fn of(&mut self, reader: &mut Reader, parent: &IfName) -> &Checked<HashSet<Mac>> {
        self.by_parent.entry(parent.clone()).or_insert_with(|| fdb_of(reader, parent))
    }
}

/// A kernel event as the ledger's hint; `None` for what it does not care about.
fn hint(event: &KernelEvent) -> Option<KernelHint> {
    match event {
        KernelEvent::LinkGone { nsid, ifindex, mac, .. } => Some(KernelHint::LinkGone(*nsid, *ifindex, *mac)),
        KernelEvent::LinkMoved { nsid, ifindex, mac, .. } => {
            Some(KernelHint::LinkMoved(*nsid, *ifindex, *mac))
        }
        KernelEvent::NamespaceGone { nsid } => Some(KernelHint::NamespaceGone(*nsid)),
        KernelEvent::AddressSeen { nsid, ifindex, address } => {
            Some(KernelHint::AddressSeen(*nsid, *ifindex, address.ip()))
        }
        KernelEvent::AddressGone { nsid, ifindex, address } => {
            Some(KernelHint::AddressGone(*nsid, *ifindex, address.ip()))
        }
        KernelEvent::Overrun => Some(KernelHint::Overrun),
        KernelEvent::LinkSeen { .. } => None,
    }
}
