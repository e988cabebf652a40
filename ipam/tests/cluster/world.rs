//! The stand-ins: nodes with their ledgers and journals, one store with requests under way, a watch
//! that lags behind it, pods that come and go.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use berth_ipam::attachment::{AttachmentKey, PodRef, Role};
use berth_ipam::config::Wire;
use berth_ipam::evidence::{AddressFact, Claim, FdbFact, LinkFact, NetnsFact};
use berth_ipam::identity::{BootId, MachineId, NetnsCookie, NetnsIdentity, Nsid, TxnId};
use berth_ipam::ledger::entry::Entry;
use berth_ipam::ledger::io::*;
use berth_ipam::ledger::occupied::Survey;
use berth_ipam::ledger::{Identity, Ledger};
use berth_ipam::mac::Mac;
use berth_ipam::record::{AddressKey, LeaseRecord};
use berth_ipam::time::Time;

use crate::declared::{address, config};

const NODES: usize = 3;
/// Addresses of the pool: fewer than pods want.
const ADDRESSES: u8 = 5;

/// A node that no agent runs on.
const ABSENT: &str = "absent";

struct Node {
    name: String,
    ledger: Option<Ledger>,
    journal: BTreeMap<String, Entry>,
    /// How much of the store's history its watch has told.
    told: usize,
    /// Whether its agent has read the store.
    read: bool,
    /// Counts its agents.
    life: u32,
}

struct Pod {
    node: usize,
    request: LeaseRequest,
    uid: u32,
    /// Whether its namespace is there.
    alive: bool,
    /// Its link and its addresses, once granted.
    link: Option<Vec<IpAddr>>,
    done: bool,
}

/// What is under way.
enum Task {
    /// To an agent, by its node and life.
    Input(usize, u32, Input),
    /// A question of an agent to the wire.
    Probe(usize, u32, u64, Vec<IpAddr>),
    /// Of an agent to the store, and how long the store's history was when it was sent.
    Request(usize, u32, u64, Vec<StoreWrite>, usize),
}

enum Change {
    Recorded(LeaseRecord),
    Erased(LeaseRecord),
}

#[expect(clippy::struct_excessive_bools, reason = "each is a condition of the story by itself")]
pub struct World {
    seed: u64,
    rng: u64,
    now: Time,
    nodes: Vec<Node>,
    pods: Vec<Pod>,
    tasks: VecDeque<Task>,
    store: BTreeMap<AddressKey, LeaseRecord>,
    history: Vec<Change>,
    wanted: BTreeSet<u32>,
    /// Whether the API server answers.
    up: bool,
    /// Whether probes are answered.
    wire: bool,
    /// Whether records are deleted by hand.
    hands: bool,
    trace: bool,
    pub granted: u32,
    pub restarts: u32,
    pub relists: u32,
}

fn mac_of(key: &AttachmentKey) -> Mac {
    Mac::derive(key, 0)
}

impl World {
    pub fn new(seed: u64, wire: bool, hands: bool) -> Self {
        let node = |index: usize| Node {
            name: format!("n{index}"),
            ledger: None,
            journal: BTreeMap::new(),
            told: 0,
            read: false,
            life: 0,
        };
        let mut world = Self {
            seed,
            rng: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            now: Time::from_millis(1_000),
            nodes: (0..NODES).map(node).collect(),
            pods: Vec::new(),
            tasks: VecDeque::new(),
            store: BTreeMap::new(),
            history: Vec::new(),
            wanted: BTreeSet::new(),
            up: true,
            wire,
            hands,
            trace: std::env::var_os("CLUSTER_SEED").is_some(),
            granted: 0,
            restarts: 0,
            relists: 0,
        };
        for node in 0..NODES {
            world.start(node);
        }
        world
    }

    fn random(&mut self, below: usize) -> usize {
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        usize::try_from(self.rng >> 33).unwrap() % below
    }

    fn say(&self, text: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:>9} {}", self.now.0 / 1_000_000, text());
        }
    }

    /// One thing happens.
    pub fn happen(&mut self) {
        match self.random(100) {
            0..=9 => self.add(None),
            10..=15 => self.end_pod(),
            16..=18 => self.next_sandbox(),
            19..=20 => self.restart(),
            21 => self.up = !self.up,
            22 if self.hands && self.random(2) == 0 => self.copy_by_hand(),
            22 if self.hands => self.delete_by_hand(),
            23..=24 => {
                let node = self.random(NODES);
                self.list(node);
            }
            25..=44 => {
                let node = self.random(NODES);
                self.tell(node);
            }
            45..=54 => {
                let millis = u64::try_from(self.random(700)).unwrap();
                self.pass(Duration::from_millis(millis));
            }
            _ => {
                for _ in 0..3 {
                    self.run_one(true);
                }
            }
        }
    }

    fn start(&mut self, node: usize) {
        let me = Identity {
            node: self.nodes[node].name.parse().unwrap(),
            boot_id: BootId("boot".into()),
            machine_id: MachineId(format!("m{node}")),
        };
        let entries = self.nodes[node].journal.values().cloned().collect();
        let loaded = Loaded { entries, hears_all: true, ..Loaded::default() };
        self.nodes[node].ledger = Some(Ledger::new(me, config(ADDRESSES)).shared());
        self.nodes[node].life += 1;
        self.nodes[node].read = false;
        self.step(node, Input::Loaded(Box::new(loaded)));
        self.step(node, Input::Hearing("eth1".parse().unwrap(), Hearing::Up));
        let wanted = self.wanted.iter().map(|uid| format!("u{uid}")).collect();
        self.step(node, Input::Pods(PodNews::Listed(wanted)));
        self.list(node);
    }

    /// An agent is killed where it stands and starts again; its plugins repeat themselves or die.
    fn restart(&mut self) {
        let node = self.random(NODES);
        self.restarts += 1;
        self.say(|| format!("-- agent of n{node} killed"));
        self.start(node);
        for index in 0..self.pods.len() {
            let pod = &self.pods[index];
            if pod.node == node && pod.alive && !pod.done {
                match self.random(3) {
                    0 => self.kill(index),
                    _ if self.pods[index].link.is_some() => self.bind(index),
                    _ => self.ask(index),
                }
            }
        }
    }

    fn add(&mut self, uid: Option<u32>) {
        let index = self.pods.len();
        let number = u32::try_from(index).unwrap();
        let uid = uid.unwrap_or(number);
        let node = usize::try_from(uid).unwrap() % NODES;
        let request = LeaseRequest {
            txn: TxnId(format!("txn{index}")),
            key: AttachmentKey {
                network: "lan".parse().unwrap(),
                container_id: format!("c{index}").parse().unwrap(),
                ifname: "eth0".parse().unwrap(),
            },
            cni_network: "lan".parse().unwrap(),
            role: Role::Main,
            netns: NetnsIdentity {
                cookie: NetnsCookie(u64::from(number)),
                inode: u64::from(number),
                nsid: Nsid(70_000 + i32::try_from(index).unwrap()),
                nsid_is_random: true,
            },
            pod: Some(PodRef {
                namespace: "d".into(),
                name: format!("p{uid}"),
                uid: Some(format!("u{uid}")),
            }),
            ips: Vec::new(),
            adopt: false,
            mac: None,
            add_timeout: None,
            standing: berth_ipam::access::Standing::default(),
        };
        self.wanted.insert(uid);
        self.pods.push(Pod { node, request, uid, alive: true, link: None, done: false });
        self.input(node, Input::Pods(PodNews::Wanted(format!("u{uid}"))));
        self.ask(index);
    }

    fn ask(&mut self, index: usize) {
        let request = self.pods[index].request.clone();
        let caller = Caller { conn: u64::try_from(index).unwrap(), call: 1 };
        self.input(self.pods[index].node, Input::Lease(caller, Box::new(request)));
    }

    fn bind(&mut self, index: usize) {
        let pod = &self.pods[index];
        let (node, txn, key) = (pod.node, pod.request.txn.clone(), pod.request.key.clone());
        let (conn, mac) = (u64::try_from(index).unwrap(), mac_of(&key));
        let bind =
            Input::Bind(Caller { conn, call: 2 }, txn.clone(), key.clone(), 5, mac, LinkSeen::There(mac));
        self.input(node, bind);
        self.input(node, Input::Done(Caller { conn, call: 3 }, txn, key));
    }

    fn living(&mut self) -> Option<usize> {
        let living: Vec<_> = (0..self.pods.len()).filter(|&index| self.pods[index].alive).collect();
        (!living.is_empty()).then(|| living[self.random(living.len())])
    }

    /// A pod is deleted: with a DEL, without one, or with one that comes late.
    fn end_pod(&mut self) {
        let Some(index) = self.living() else { return };
        let (node, uid, key) =
            (self.pods[index].node, self.pods[index].uid, self.pods[index].request.key.clone());
        self.wanted.remove(&uid);
        self.input(node, Input::Pods(PodNews::Unwanted(format!("u{uid}"))));
        self.kill(index);
        if self.random(2) == 0 {
            self.input(node, Input::Release(None, key, LinkRemoval::Unreachable, None));
        }
    }

    /// The sandbox of a pod dies, and its kubelet makes another.
    fn next_sandbox(&mut self) {
        let Some(index) = self.living() else { return };
        let uid = self.pods[index].uid;
        if self.pods.iter().filter(|pod| pod.uid == uid && pod.alive).count() == 1 {
            self.kill(index);
            self.add(Some(uid));
        }
    }

    fn kill(&mut self, index: usize) {
        let pod = &mut self.pods[index];
        pod.alive = false;
        pod.link = None;
        let (node, done, nsid) = (pod.node, pod.done, pod.request.netns.nsid);
        self.say(|| format!("-- pod {index} on n{node} dies"));
        self.input(node, Input::Kernel(Source::Netlink, KernelHint::NamespaceGone(nsid)));
        if !done {
            self.input(node, Input::Hangup(u64::try_from(index).unwrap()));
        }
    }

    fn delete_by_hand(&mut self) {
        let keys: Vec<_> = self.store.keys().cloned().collect();
        if keys.is_empty() {
            return;
        }
        let key = keys[self.random(keys.len())].clone();
        // Who asked the wire before the present holder was there cannot know of it.
        let asked = |task: &Task| matches!(task, Task::Request(_, _, _, writes, _) if writes.iter().any(|w| w.address_key() == key));
        if self.tasks.iter().any(asked) {
            return;
        }
        self.say(|| format!("-- the record of {} is deleted by hand", key.address));
        let record = self.store.remove(&key).unwrap();
        self.history.push(Change::Erased(record));
    }

    /// A record is copied to a free address, under the name of a node that is not there.
    fn copy_by_hand(&mut self) {
        let records: Vec<_> = self.store.values().cloned().collect();
        let all = (10..10 + ADDRESSES).map(address);
        let all = all.map(|address| AddressKey { segment: "default".parse().unwrap(), address });
        let free: Vec<_> = all.filter(|key| !self.store.contains_key(key)).collect();
        if records.is_empty() || free.is_empty() {
            return;
        }
        let key = free[self.random(free.len())].clone();
        let mut record = records[self.random(records.len())].clone();
        (record.address, record.node) = (key.address, ABSENT.parse().unwrap());
        self.say(|| format!("-- a record of {} is copied to {}", record.key, key.address));
        self.store.insert(key, record.clone());
        self.history.push(Change::Recorded(record));
    }

    /// What was copied by hand is deleted by hand.
    fn delete_copies(&mut self) {
        let copies = self.store.extract_if(.., |_, record| record.node.as_str() == ABSENT);
        self.history.extend(copies.map(|(_, record)| Change::Erased(record)).collect::<Vec<_>>());
    }

    /// The whole store, as a watch that begins again has it.
    fn list(&mut self, node: usize) {
        if !self.up {
            return;
        }
        self.relists += 1;
        self.nodes[node].read = true;
        self.nodes[node].told = self.history.len();
        let records = self.store.values().cloned().collect();
        self.step(node, Input::Store(StoreNews::Listed { records, unreadable: Vec::new() }));
    }

    /// The watch tells of the next change.
    fn tell(&mut self, node: usize) -> bool {
        if !self.nodes[node].read {
            self.list(node);
            return self.nodes[node].read;
        }
        let Some(change) = self.history.get(self.nodes[node].told) else { return false };
        let news = match change {
            Change::Recorded(record) => StoreNews::Recorded(Box::new(record.clone())),
            Change::Erased(record) => StoreNews::Erased(Box::new(record.clone())),
        };
        self.nodes[node].told += 1;
        self.step(node, Input::Store(news));
        true
    }

    pub fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
        for node in 0..NODES {
            self.step(node, Input::Tick);
        }
    }

    fn input(&mut self, node: usize, input: Input) {
        let life = self.nodes[node].life;
        self.tasks.push_back(Task::Input(node, life, input));
    }

    /// Something under way arrives: any, but requests of one agent about one address in their order.
    fn run_one(&mut self, shuffled: bool) {
        if self.tasks.is_empty() {
            return;
        }
        let mut index = if shuffled { self.random(self.tasks.len()) } else { 0 };
        if let Task::Request(node, life, _, writes, _) = &self.tasks[index] {
            let same = |task: &Task| {
                matches!(task, Task::Request(n, l, _, others, _) if (n, l) == (node, life)
                    && others.iter().any(|other| writes.iter().any(|write| write.address_key() == other.address_key())))
            };
            index = self.tasks.iter().position(same).unwrap();
        }
        match self.tasks.remove(index).unwrap() {
            Task::Input(node, life, input) if self.nodes[node].life == life => self.step(node, input),
            Task::Probe(node, life, id, addresses) if self.nodes[node].life == life => {
                let heard = self.answers(node, addresses);
                self.step(node, Input::Probed(id, ProbeResult::Heard(heard)));
            }
            Task::Input(..) | Task::Probe(..) => {}
            Task::Request(node, life, op, mut writes, sent) => {
                if self.nodes[node].life != life {
                    // What a dead agent sent names the version that it saw; nobody looks again for it.
                    writes.retain(|write| {
                        matches!(write, StoreWrite::Create(_))
                            || !self.changed_since(sent, &write.address_key())
                    });
                }
                let result = self.carry_out(writes);
                self.tasks.push_back(Task::Input(node, life, Input::Committed(op, result)));
            }
        }
    }

    fn changed_since(&self, sent: usize, key: &AddressKey) -> bool {
        self.history[sent..].iter().any(|change| {
            let (Change::Recorded(record) | Change::Erased(record)) = change;
            record.address_key() == *key
        })
    }

    fn carry_out(&mut self, writes: Vec<StoreWrite>) -> CommitResult {
        let mut results = Vec::new();
        for write in writes {
            let result = match (self.up, self.random(20)) {
                (_, 0) => {
                    // Carried out, and the answer lost, that of the live read after it, too.
                    self.write(write);
                    StoreResult::Failed("the answer was lost".to_owned())
                }
                (false, _) | (true, 1) => StoreResult::Failed("no answer".to_owned()),
                (true, _) => self.write(write),
            };
            let done = result.is_done();
            results.push(result);
            if !done {
                break;
            }
        }
        CommitResult::Journaled(results)
    }

    fn write(&mut self, write: StoreWrite) -> StoreResult {
        let key = write.address_key();
        let found = self.store.get(&key).cloned();
        let (of, new) = match write {
            StoreWrite::Create(record) => (record.txn.clone(), Some(record)),
            StoreWrite::HandOver { .. } if found.is_none() => return StoreResult::Lost,
            StoreWrite::Replace { record, of } | StoreWrite::HandOver { record, of } => (of, Some(record)),
            StoreWrite::Delete { of, .. } => (of, None),
        };
        let is_new = |found: &LeaseRecord| new.as_ref().is_some_and(|record| record.txn == found.txn);
        if let Some(found) = found.as_ref().filter(|found| found.txn != of && !is_new(found)) {
            return StoreResult::Others(Box::new(found.clone()));
        }
        match (new, found) {
            (Some(record), _) => {
                self.say(|| format!("   store: {} is {}'s", key.address, record.txn));
                self.history.push(Change::Recorded((*record).clone()));
                self.store.insert(key, *record);
            }
            (None, Some(found)) => {
                self.say(|| format!("   store: {} is free", key.address));
                self.store.remove(&key);
                self.history.push(Change::Erased(found));
            }
            (None, None) => return StoreResult::NoneThere,
        }
        StoreResult::Done
    }

    fn step(&mut self, node: usize, input: Input) {
        if !matches!(input, Input::Tick) {
            self.say(|| format!("n{node} <- {input:?}").chars().take(220).collect());
        }
        let Some(ledger) = &mut self.nodes[node].ledger else { return };
        for action in ledger.step(self.now, input) {
            self.act(node, action);
        }
    }

    fn act(&mut self, node: usize, action: Action) {
        let life = self.nodes[node].life;
        match action {
            Action::Commit { op, journal, store, .. } => {
                for write in journal {
                    match write {
                        JournalWrite::Put(entry) => {
                            drop(self.nodes[node].journal.insert(entry.key.to_string(), *entry));
                        }
                        JournalWrite::Remove(key) => drop(self.nodes[node].journal.remove(&key.to_string())),
                        JournalWrite::Quarantine(_) | JournalWrite::Unquarantine(_) => {}
                    }
                }
                if store.is_empty() {
                    self.input(node, Input::Committed(op, CommitResult::Journaled(Vec::new())));
                } else {
                    self.tasks.push_back(Task::Request(node, life, op, store, self.history.len()));
                }
            }
            Action::Reply(caller, _, reply) => self.answered(node, caller, reply),
            Action::Gather(targets) => {
                let seen = targets.iter().map(|target| self.read(target)).collect();
                self.input(node, Input::Gathered(seen));
            }
            Action::Probe { id, addresses, .. } => {
                self.tasks.push_back(Task::Probe(node, life, id, addresses));
            }
            Action::Survey { number, search, .. } => {
                let (own, searched) = (Some(Vec::new()), search.then_some(true));
                let survey = Survey { number, own, searched, ..Survey::default() };
                self.input(node, Input::Surveyed(survey));
            }
            Action::RemoveLink { key, .. } => {
                let pod = self.pods.iter_mut().find(|pod| pod.request.key == key);
                let result = match pod.and_then(|pod| pod.link.take()) {
                    Some(_) => RemoveResult::Removed,
                    None => RemoveResult::NotThere,
                };
                self.input(node, Input::LinkRemoved(key, result));
            }
            Action::LookUp(key) => {
                let news = if self.up {
                    let found = self.store.get(&key).cloned().map(Box::new);
                    StoreNews::Looked(key, found)
                } else {
                    StoreNews::LookFailed(key)
                };
                self.input(node, Input::Store(news));
            }
            Action::Note(told) => {
                self.say(|| format!("n{node} {} {:?} {}", told.code, told.addresses, told.text));
            }
            _ => {}
        }
    }

    /// Who on other nodes answers for which address.
    fn answers(&self, node: usize, addresses: Vec<IpAddr>) -> Vec<(IpAddr, Vec<Claim>)> {
        let heard = addresses.into_iter().map(|address| {
            let abroad = self.pods.iter().filter(|pod| self.wire && pod.node != node);
            let owners = abroad.filter(|pod| pod.link.as_ref().is_some_and(|all| all.contains(&address)));
            (address, owners.map(|pod| Claim { mac: mac_of(&pod.request.key), at: self.now }).collect())
        });
        heard.collect()
    }

    fn read(&self, target: &Target) -> Observation {
        let pod = self.pods.iter().find(|pod| pod.request.key == target.key);
        let (netns, link, fdb, address) = match pod {
            Some(Pod { alive: true, link: Some(_), .. }) => {
                (NetnsFact::Alive, LinkFact::Present, FdbFact::Present, AddressFact::Present)
            }
            Some(Pod { alive: true, link: None, .. }) => {
                (NetnsFact::Alive, LinkFact::Gone, FdbFact::Absent, AddressFact::Absent)
            }
            _ => (NetnsFact::Dead, LinkFact::Gone, FdbFact::Absent, AddressFact::Absent),
        };
        let search = (target.search && link != LinkFact::Present).then_some(SearchOutcome::NotFound);
        let (key, stamp) = (target.key.clone(), target.stamp);
        Observation { key, stamp, netns, link, fdb, address, learnt: None, number: None, search }
    }

    fn answered(&mut self, node: usize, caller: Caller, reply: Result<Reply, LedgerError>) {
        let index = usize::try_from(caller.conn).unwrap();
        let Some(pod) = self.pods.get_mut(index).filter(|pod| pod.alive) else { return };
        let key = pod.request.key.clone();
        match (caller.call, reply) {
            (1, Ok(Reply::Grant(grant))) => {
                let all: Vec<_> = grant.addresses.iter().map(|(address, _)| address.ip()).collect();
                self.granted += 1;
                self.say(|| format!("== pod {index} on n{node} gets {all:?}"));
                for (other, pod) in self.pods.iter().enumerate().filter(|(other, _)| *other != index) {
                    let theirs = pod.link.as_deref().unwrap_or_default();
                    let both = theirs.iter().any(|address| all.contains(address));
                    assert!(
                        !both,
                        "seed {}: {all:?} is given to pod {index}, and pod {other} lives",
                        self.seed
                    );
                }
                if self.wire {
                    self.announce(node, &key, &all);
                }
                self.pods[index].link = Some(all);
                self.bind(index);
            }
            (3, Ok(_)) => pod.done = true,
            (_, Ok(_)) => {}
            (_, Err(_)) => {
                // Its kubelet takes the sandbox down.
                self.kill(index);
                self.input(node, Input::Release(None, key, LinkRemoval::Unreachable, None));
            }
        }
    }

    /// Other nodes hear a new interface.
    fn announce(&mut self, from: usize, key: &AttachmentKey, addresses: &[IpAddr]) {
        for node in (0..NODES).filter(|node| *node != from) {
            for &address in addresses {
                let wire = Wire { parent: "eth1".parse().unwrap(), vlan: None };
                let heard = HeardOnWire { wire, address, mac: mac_of(key), outgoing: false, at: self.now };
                self.step(node, Input::Heard(heard));
            }
        }
    }

    /// Everything arrives, and time passes: exactly the living are recorded, each once.
    pub fn settle(&mut self) {
        self.up = true;
        self.delete_copies();
        let living: BTreeSet<u32> = self.pods.iter().filter(|pod| pod.alive).map(|pod| pod.uid).collect();
        self.wanted = living;
        for node in 0..NODES {
            let wanted = self.wanted.iter().map(|uid| format!("u{uid}")).collect();
            self.step(node, Input::Pods(PodNews::Listed(wanted)));
        }
        for round in 0..400 {
            for _ in 0..200 {
                self.run_one(false);
            }
            for node in 0..NODES {
                while self.tell(node) {}
                if round % 40 == 0 {
                    self.nodes[node].ledger.as_mut().unwrap().reconcile();
                }
            }
            self.pass(Duration::from_millis(500));
        }
        let seed = self.seed;
        let recorded: BTreeMap<_, _> =
            self.store.values().map(|record| (record.address, record.key.clone())).collect();
        let lives = self.pods.iter().filter_map(|pod| Some((pod.link.as_ref()?[0], pod.request.key.clone())));
        let lives: BTreeMap<_, _> = lives.collect();
        assert_eq!(recorded, lives, "seed {seed}: recorded, and alive");
        for Node { name, ledger, .. } in &self.nodes {
            let others = self.store.iter().filter(|(_, record)| record.node.as_str() != name.as_str());
            let others: BTreeSet<_> = others.map(|(key, _)| key).collect();
            let abroad: BTreeSet<_> = ledger.as_ref().unwrap().abroad().keys().collect();
            assert_eq!(abroad, others, "seed {seed}: known to {name} as others', and recorded by others");
        }
        let waits = self.pods.iter().filter(|pod| pod.alive && pod.link.is_none()).count();
        let free = usize::from(ADDRESSES) - lives.len();
        assert!(waits == 0 || free == 0, "seed {seed}: {waits} wait though {free} are free");
    }
}
