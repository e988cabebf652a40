//! A ledger with a store that does what it is told, and the means to answer it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use berth_ipam::attachment::{AttachmentKey, PodRef, Role};
use berth_ipam::config::{Config, Pool};
use berth_ipam::evidence::{AddressFact, Claim, FdbFact, LinkFact, NetnsFact};
use berth_ipam::identity::{BootId, MachineId, NetnsCookie, NetnsIdentity, Nsid, TxnId};
use berth_ipam::interval::{IntervalSet, to_bits};
use berth_ipam::ledger::entry::Entry;
use berth_ipam::ledger::io::*;
use berth_ipam::ledger::occupied::{Interface, Survey};
use berth_ipam::ledger::{Identity, Ledger};
use berth_ipam::mac::Mac;
use berth_ipam::name::IfName;
use berth_ipam::record::{AddressKey, LeaseRecord};
use berth_ipam::time::Time;

pub use crate::declared::{address, config};
use crate::disk::store_write;

/// Foreign, and somebody's whose answer is a veto.
const FOREIGN: Mac = Mac([2, 0, 0, 0, 0, 9]);

pub struct Rig {
    pub ledger: Ledger,
    pub now: Time,
    pub store: BTreeMap<AddressKey, LeaseRecord>,
    pub hold_commits: bool,
    /// Removals of links take their time.
    pub hold_removals: bool,
    /// The store answers nothing.
    pub store_down: bool,
    pub config_taken: Vec<Result<(), Vec<String>>>,
    pub commits: VecDeque<(u64, Vec<StoreWrite>)>,
    replies: BTreeMap<u64, Result<Reply, LedgerError>>,
    /// With their ids, and whether somebody waits for them.
    pub probes: Vec<(u64, Vec<IpAddr>, bool)>,
    pub gathers: VecDeque<Vec<Target>>,
    /// Attachments whose pods are to be read live.
    pub pods_asked: Vec<AttachmentKey>,
    /// What is on interfaces of the node.
    pub node: Node,
    pub scans: u32,
    /// Removals of links that were held.
    pub removals: u32,
    pub proofs: u32,
    notes: Vec<Note>,
    listens: BTreeSet<IfName>,
    pub wide: Wide,
    /// What was announced.
    pub announced: Vec<(IpAddr, Mac)>,
}

/// The rounds of probes that links under the device are to hear.
#[derive(Default)]
pub struct Wide {
    pub rounds: BTreeSet<u64>,
    pub are_heard: bool,
}

/// The interfaces of the node, as surveys read them.
#[derive(Debug, Default)]
pub struct Node {
    pub own: Vec<Interface>,
    pub children: Vec<Interface>,
    /// MACs on the parent.
    pub listed: BTreeSet<Mac>,
    /// Nothing can be read.
    pub unreadable: bool,
    /// Some namespace cannot be looked into.
    pub incomplete: bool,
    /// So many surveys, and so many of them searched.
    pub surveys: (u32, u32),
}

impl Node {
    fn survey(&mut self, number: u64, at: &BTreeSet<Nsid>, search: bool) -> Survey {
        self.surveys.0 += 1;
        self.surveys.1 += u32::from(search);
        if self.unreadable {
            return Survey { number, ..Survey::default() };
        }
        let looked = |link: &&Interface| search || link.place.at.is_some_and(|nsid| at.contains(&nsid));
        let places = self.children.iter().filter_map(|link| link.place.at).filter(|_| search);
        Survey {
            number,
            own: Some(self.own.clone()),
            children: self.children.iter().filter(looked).cloned().collect(),
            looked: places.chain(at.iter().copied()).collect(),
            lists: BTreeMap::from([("eth1".parse().unwrap(), self.listed.clone())]),
            searched: search.then_some(!self.incomplete),
        }
    }
}

/// The same with as many IPv6 addresses.
pub fn dual(count: u8) -> Config {
    let mut config = config(count);
    let mut members = IntervalSet::new();
    let six = |last: u8| to_bits(format!("fd00::{last:x}").parse().unwrap());
    members.insert(six(10), six(9 + count));
    let pool = Pool {
        subnet: "fd00::/64".parse().unwrap(),
        members,
        ..config.pools.values().next().unwrap().clone()
    };
    config.pools.insert("q".parse().unwrap(), pool);
    config.networks.values_mut().next().unwrap().pools.push("q".parse().unwrap());
    config
}

/// The ADD of a pod of its own.
pub fn request(pod: u64) -> LeaseRequest {
    LeaseRequest {
        txn: TxnId(format!("txn{pod}")),
        key: AttachmentKey {
            network: "lan".parse().unwrap(),
            container_id: format!("c{pod}").parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        },
        cni_network: "lan".parse().unwrap(),
        role: Role::Main,
        netns: NetnsIdentity {
            cookie: NetnsCookie(pod),
            inode: pod,
            nsid: Nsid(70_000 + i32::try_from(pod).unwrap()),
            nsid_is_random: true,
        },
        pod: Some(PodRef { namespace: "d".into(), name: format!("p{pod}"), uid: Some(format!("u{pod}")) }),
        ips: Vec::new(),
        adopt: false,
        mac: None,
        add_timeout: None,
        standing: berth_ipam::access::Standing::default(),
    }
}

/// The identity of another namespace, of that number.
pub fn namespace(number: i32) -> NetnsIdentity {
    let cookie = u64::try_from(number).unwrap();
    NetnsIdentity { cookie: NetnsCookie(cookie), inode: cookie, nsid: Nsid(number), nsid_is_random: true }
}

/// A link with the attachment's alias, found in the namespace of that number.
pub fn found(number: i32, ifindex: u32, mac: Mac) -> SearchOutcome {
    SearchOutcome::Found { netns: namespace(number), ifindex, mac, marked: true }
}

/// A record of that pod.
pub fn record(pod: u64, address: IpAddr) -> LeaseRecord {
    let request = request(pod);
    LeaseRecord {
        segment: "default".parse().unwrap(),
        address,
        pool: "p".parse().unwrap(),
        key: request.key,
        cni_network: request.cni_network,
        role: request.role,
        node: "n1".parse().unwrap(),
        boot_id: BootId("boot".into()),
        machine_id: MachineId("m1".into()),
        pod: request.pod,
        netns: request.netns,
        place: None,
        txn: request.txn,
        mac: None,
        generation: 1,
    }
}

/// The whole store, all of it readable.
pub fn listed(records: Vec<LeaseRecord>) -> StoreNews {
    StoreNews::Listed { records, unreadable: Vec::new() }
}

impl Rig {
    pub fn new(config: Config) -> Self {
        Self::loaded(config, Loaded { hears_all: true, ..Loaded::default() })
    }

    /// One of several nodes on a store, which has been read; no pods are meant to live.
    pub fn shared(config: Config) -> Self {
        let mut rig = Self::shared_unread(config, Vec::new());
        rig.step(Input::Store(listed(Vec::new())));
        rig.step(Input::Pods(PodNews::Listed(BTreeSet::new())));
        rig
    }

    pub fn shared_unread(config: Config, entries: Vec<Entry>) -> Self {
        let loaded = Loaded { entries, hears_all: true, ..Loaded::default() };
        Self::begun(config, loaded, Ledger::shared, Node::default()).heard()
    }

    pub fn loaded(config: Config, loaded: Loaded) -> Self {
        Self::begun(config, loaded, |ledger| ledger, Node::default()).heard()
    }

    /// The same on a node of which nothing can be read.
    pub fn unreadable(config: Config, loaded: Loaded) -> Self {
        Self::begun(config, loaded, |ledger| ledger, Node { unreadable: true, ..Node::default() }).heard()
    }

    /// The same with a port of which nothing is reported.
    pub fn unheard(config: Config) -> Self {
        Self::unheard_with(config, Loaded { hears_all: true, ..Loaded::default() })
    }

    pub fn unheard_with(config: Config, loaded: Loaded) -> Self {
        Self::begun(config, loaded, |ledger| ledger, Node::default())
    }

    fn heard(mut self) -> Self {
        self.listen();
        self
    }

    /// The ports of devices that were not declared before hear from now on.
    fn listen(&mut self) {
        let networks = self.ledger.config().networks.values();
        let devices: BTreeSet<_> = networks.filter_map(|network| network.link.wire_device()).collect();
        for device in devices {
            if self.listens.insert(device.clone()) {
                self.step(Input::Hearing(device, Hearing::Up));
            }
        }
    }

    fn begun(config: Config, loaded: Loaded, kind: impl Fn(Ledger) -> Ledger, node: Node) -> Self {
        let me = Identity {
            node: "n1".parse().unwrap(),
            boot_id: BootId("boot".into()),
            machine_id: MachineId("m1".into()),
        };
        let mut rig = Self {
            ledger: kind(Ledger::new(me, config)),
            now: Time::from_millis(1_000),
            store: loaded.records.iter().map(|record| (record.address_key(), record.clone())).collect(),
            hold_commits: false,
            hold_removals: false,
            store_down: false,
            config_taken: Vec::new(),
            commits: VecDeque::new(),
            replies: BTreeMap::new(),
            probes: Vec::new(),
            pods_asked: Vec::new(),
            gathers: VecDeque::new(),
            node,
            scans: 0,
            removals: 0,
            proofs: 0,
            notes: Vec::new(),
            listens: BTreeSet::new(),
            wide: Wide::default(),
            announced: Vec::new(),
        };
        rig.step(Input::Loaded(Box::new(loaded)));
        rig
    }

    /// The port of the network's parent can hear that.
    pub fn hearing(&mut self, hearing: Hearing) {
        self.step(Input::Hearing("eth1".parse().unwrap(), hearing));
    }

    /// The codes of what was told since somebody looked.
    pub fn told(&mut self) -> Vec<&'static str> {
        std::mem::take(&mut self.notes).into_iter().map(|note| note.code).collect()
    }

    /// The text of the last thing told under that code.
    pub fn text(&self, code: &str) -> Option<&str> {
        self.notes.iter().rfind(|note| note.code == code).map(|note| note.text.as_str())
    }

    /// A step, and what it told.
    pub fn notes(&mut self, input: Input) -> Vec<Note> {
        self.notes.clear();
        self.step(input);
        std::mem::take(&mut self.notes)
    }

    pub fn step(&mut self, input: Input) {
        for action in self.ledger.step(self.now, input) {
            match action {
                Action::Note(note) => self.notes.push(note),
                Action::Commit { op, journal, flush, store, .. } => {
                    journaled_first(&journal, flush, &store);
                    self.commits.push_back((op, store));
                }
                Action::Reply(caller, _, reply) => drop(self.replies.insert(caller.conn, reply)),
                Action::Probe { id, addresses, urgent, reach, .. } => {
                    self.wide.rounds.extend(Some(id).filter(|_| reach));
                    self.probes.push((id, addresses, urgent));
                }
                Action::Gather(targets) => self.gathers.push_back(targets),
                Action::Scan(_) => self.scans += 1,
                Action::ProvePrograms => self.proofs += 1,
                Action::Survey { number, at, search, .. } => {
                    let survey = self.node.survey(number, &at, search);
                    self.step(Input::Surveyed(survey));
                }
                Action::Announce { claims, .. } => self.announced.extend(claims),
                Action::LookUp(key) if self.store_down => self.step(Input::Store(StoreNews::LookFailed(key))),
                Action::LookUp(key) => {
                    let found = self.store.get(&key).cloned().map(Box::new);
                    self.step(Input::Store(StoreNews::Looked(key, found)));
                }
                Action::LookUpPod(key, _) => self.pods_asked.push(key),
                Action::ConfigTaken(result) => {
                    self.config_taken.push(result);
                    self.listen();
                }
                Action::RemoveLink { key, .. } if !self.hold_removals => {
                    self.step(Input::LinkRemoved(key, RemoveResult::NotThere));
                }
                Action::RemoveLink { .. } => self.removals += 1,
                _ => {}
            }
        }
        if !self.hold_commits {
            self.finish_all();
        }
    }

    pub fn finish_all(&mut self) {
        while !self.commits.is_empty() {
            self.finish_commit(CommitResult::Journaled);
        }
    }

    /// Carries out the first commit that waits and reports it as `how` says.
    pub fn finish_commit(&mut self, how: impl Fn(Vec<StoreResult>) -> CommitResult) {
        let Some((op, writes)) = self.commits.pop_front() else { panic!("no commit waits") };
        let mut results = Vec::new();
        for write in writes {
            results.push(self.write(write));
            if !results.last().unwrap().is_done() {
                break;
            }
        }
        self.step(Input::Committed(op, how(results)));
    }

    fn write(&mut self, write: StoreWrite) -> StoreResult {
        if self.store_down {
            return StoreResult::Failed("no answer".to_owned());
        }
        store_write(&mut self.store, write)
    }

    /// Makes every free address known to be silent.
    pub fn warm(&mut self) {
        self.pass(Duration::from_secs(1));
        self.answer_probes(&[]);
    }

    pub fn lease(&mut self, pod: u64) {
        self.ask(pod, request(pod));
    }

    pub fn ask(&mut self, conn: u64, request: LeaseRequest) {
        self.step(Input::Lease(Caller { conn, call: 1 }, Box::new(request)));
    }

    /// The plugin of an open ADD ends it, by its undo or without a word.
    pub fn end_add(&mut self, conn: u64, request: LeaseRequest, by_release: bool) {
        self.step(if by_release {
            Input::Release(None, request.key, LinkRemoval::Gone, Some(request.txn))
        } else {
            Input::Hangup(conn)
        });
    }

    /// A whole ADD.
    pub fn bound(&mut self, pod: u64) {
        self.warm();
        self.lease(pod);
        self.answer_probes(&[]);
        let LeaseRequest { txn, key, .. } = request(pod);
        let (caller, mac) = (Caller { conn: pod, call: 2 }, Mac::derive(&key, 0));
        self.step(Input::Bind(caller, txn.clone(), key.clone(), 5, mac, LinkSeen::There(mac)));
        self.step(Input::Done(caller, txn, key));
        assert!(matches!(self.reply(pod), Some(Ok(Reply::Done))));
    }

    pub fn reply(&self, conn: u64) -> Option<&Result<Reply, LedgerError>> {
        self.replies.get(&conn)
    }

    /// The addresses that were granted to a connection.
    pub fn granted(&self, conn: u64) -> Option<Vec<IpAddr>> {
        match self.replies.get(&conn) {
            Some(Ok(Reply::Grant(grant))) => {
                Some(grant.addresses.iter().map(|(address, _)| address.ip()).collect())
            }
            _ => None,
        }
    }

    pub fn entry(&self, pod: u64) -> &Entry {
        self.ledger.entry(&request(pod).key).unwrap()
    }

    pub fn held_by(&self, pod: u64) -> Vec<IpAddr> {
        self.entry(pod).addresses()
    }

    /// The addresses that the wire is being asked about.
    pub fn asked(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.probes.iter().flat_map(|(_, addresses, _)| addresses.iter().copied())
    }

    /// Ends all rounds of probes that run: the named addresses answer, the others are silent.
    pub fn answer_probes(&mut self, answering: &[IpAddr]) {
        self.answer_probes_as(answering, FOREIGN);
    }

    /// Ends those rounds alone that somebody waits for: all are silent.
    pub fn answer_urgent(&mut self) {
        let later = self.probes.extract_if(.., |(_, _, urgent)| !*urgent).collect();
        self.answer_probes(&[]);
        let new = std::mem::replace(&mut self.probes, later);
        self.probes.extend(new);
    }

    /// The same with a MAC of one's own.
    pub fn answer_probes_as(&mut self, answering: &[IpAddr], mac: Mac) {
        self.answer_probes_at(answering, Claim { mac, at: self.now });
    }

    /// The same with a claim of an earlier time.
    pub fn answer_probes_at(&mut self, answering: &[IpAddr], claim: Claim) {
        for (id, addresses, _) in std::mem::take(&mut self.probes) {
            if self.wide.are_heard && self.wide.rounds.contains(&id) {
                self.step(Input::Reached(id, addresses.iter().copied().collect()));
            }
            let answer = |address: IpAddr| {
                (address, if answering.contains(&address) { vec![claim] } else { Vec::new() })
            };
            let answers = addresses.into_iter().map(answer).collect();
            self.step(Input::Probed(id, ProbeResult::Heard(answers)));
        }
    }

    /// Ends all rounds of probes that run without an answer to what was asked.
    pub fn fail_probes(&mut self, why: &str) {
        for (id, ..) in std::mem::take(&mut self.probes) {
            self.step(Input::Probed(id, ProbeResult::Failed(why.to_owned())));
        }
    }

    pub fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        self.step(Input::Tick);
    }

    /// Answers all reads that are wanted, and those that follow from them, the same for all.
    pub fn observe(&mut self, facts: (NetnsFact, LinkFact, FdbFact), address: AddressFact) {
        self.observe_where(|_| facts, address);
    }

    /// Only that pod is so; all others are alive.
    pub fn observe_of(&mut self, pod: u64, facts: (NetnsFact, LinkFact, FdbFact), address: AddressFact) {
        let key = request(pod).key;
        let alive = (NetnsFact::Alive, LinkFact::Present, FdbFact::Present);
        self.observe_where(|other| if *other == key { facts } else { alive }, address);
    }

    /// The same, and where a search is asked for, the list of MACs is as the search explains it; how
    /// many searches that were.
    pub fn observe_search(
        &mut self,
        facts: (NetnsFact, LinkFact, FdbFact),
        address: AddressFact,
        explained: FdbFact,
    ) -> u32 {
        let mut searches = 0;
        for _ in 0..8 {
            let Some(targets) = self.gathers.pop_front() else { break };
            let (netns, link, listed) = facts;
            let seen = targets.into_iter().map(|target| {
                searches += u32::from(target.search);
                let fdb = if target.search { explained } else { listed };
                let search = target.search.then_some(SearchOutcome::NotFound);
                let (key, stamp) = (target.key, target.stamp);
                Observation { key, stamp, netns, link, fdb, address, learnt: None, number: None, search }
            });
            let seen = seen.collect();
            self.step(Input::Gathered(seen));
        }
        searches
    }

    /// Every search that is asked for ends so.
    pub fn observe_search_as(&mut self, facts: (NetnsFact, LinkFact, FdbFact), outcome: &SearchOutcome) {
        for _ in 0..8 {
            let Some(targets) = self.gathers.pop_front() else { break };
            let (netns, link, fdb) = facts;
            let seen = targets.into_iter().map(|target| {
                let search = target.search.then(|| outcome.clone());
                let (key, stamp) = (target.key, target.stamp);
                let address = AddressFact::Unknown;
                Observation { key, stamp, netns, link, fdb, address, learnt: None, number: None, search }
            });
            let seen = seen.collect();
            self.step(Input::Gathered(seen));
        }
    }

    /// Answers the reads that are wanted, and those that follow, each as `make` says; how many that were.
    pub fn answer_gathers(&mut self, make: impl Fn(&Target) -> Observation) -> usize {
        let mut reads = 0;
        for _ in 0..8 {
            let Some(targets) = self.gathers.pop_front() else { break };
            reads += targets.len();
            let seen = targets.iter().map(&make).collect();
            self.step(Input::Gathered(seen));
        }
        reads
    }

    fn observe_where(
        &mut self,
        facts: impl Fn(&AttachmentKey) -> (NetnsFact, LinkFact, FdbFact),
        address: AddressFact,
    ) {
        for _ in 0..8 {
            let Some(targets) = self.gathers.pop_front() else { return };
            let seen = targets.into_iter().map(|target| {
                let (netns, link, fdb) = facts(&target.key);
                let search = (target.search && link != LinkFact::Present).then_some(SearchOutcome::NotFound);
                let (key, stamp) = (target.key, target.stamp);
                Observation { key, stamp, netns, link, fdb, address, learnt: None, number: None, search }
            });
            let seen = seen.collect();
            self.step(Input::Gathered(seen));
        }
    }
}

/// No record is written before its intent is on the disk: a commit that writes one carries its entry.
fn journaled_first(journal: &[JournalWrite], flush: Flush, store: &[StoreWrite]) {
    for write in store {
        let told = journal.iter().any(|row| match (row, write) {
            (
                JournalWrite::Put(entry),
                StoreWrite::Create(record)
                | StoreWrite::Replace { record, .. }
                | StoreWrite::HandOver { record, .. },
            ) => entry.key == record.key && entry.txn == record.txn,
            (JournalWrite::Put(_) | JournalWrite::Remove(_), StoreWrite::Delete { .. }) => true,
            _ => false,
        });
        assert!(told && flush == Flush::Durable, "{write:?} without its intent in {journal:?}");
    }
}
