//! The stand-ins: a kernel with namespaces and links, a disk that forgets what was not flushed,
//! plugins that can be killed between any two steps.

mod checks;
mod events;
mod kernel;
mod ports;
mod spool;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use berth_ipam::attachment::{AttachmentKey, PodRef, Role};
use berth_ipam::config::{Config, Wire};
use berth_ipam::evidence::{AddressFact, FdbFact, LinkFact, NetnsFact};
use berth_ipam::identity::{BootId, MachineId, NetnsCookie, NetnsIdentity, Nsid, TxnId};
use berth_ipam::ledger::entry::{Entry, Phase};
use berth_ipam::ledger::io::*;
use berth_ipam::ledger::view::View;
use berth_ipam::ledger::{Identity, Ledger};
use berth_ipam::mac::Mac;
use berth_ipam::name::{IfName, SegmentName};
use berth_ipam::time::Time;

use crate::air::{Air, NEIGHBOUR};
use crate::disk::Disk;
use crate::guests::Guests;
use crate::local::Local;
use crate::promises::Promises;
use crate::renames::renamed;
use crate::segment::Segment;
use spool::Spool;

/// What the test does to the world.
#[derive(Debug, Clone)]
pub enum Op {
    Add(u8),
    /// Another ADD of the pod's attachment, whatever runs; `true`: for another namespace.
    Again(u8, bool),
    Del(u8),
    EndNamespace(u8),
    DeleteLink(u8),
    MoveLink(u8),
    /// An operator forces the release of the pod's address, alive or not.
    Force(u8),
    /// The node itself gets the pool's address of that number, or loses it.
    Node(u8, bool),
    /// Another runtime's macvlan on the parent comes with that address, or goes.
    Foreign(u8, bool),
    /// The pod adds that address to its interface, and announces it or not.
    Vip(u8, u8, bool),
    /// The pod takes its additional addresses away.
    NoVip(u8),
    /// One of the pod's plugins is killed.
    KillPlugin(u8),
    /// Somebody outside answers for the pool's address of that number, until asked once.
    Answer(u8),
    /// A neighbour takes that address for itself and announces it; it answers from then on.
    NeighbourComes(u8),
    NeighbourGoes(u8),
    /// The operator edits networks and pools; which edit the number says.
    Declare(u8),
    CrashAgent,
    LoseEvents,
    /// The pod's root adds and deletes the pod's own address, a thousand times in a second.
    Flood(u8),
    Reboot,
    LoseStore,
    /// A foreign host takes the pool's address of that number, and announces it or not, unheard or not.
    Take(u8, bool, bool),
    /// It gives the address up.
    Leave(u8),
    /// A guest behind a pod's link comes with the pool's address of that number, or all of them go.
    Guest(u8, u8, bool),
    /// The node's port on the underlay goes down, or up again.
    Port(bool),
    /// The machine stands still for so many milliseconds, and a foreign host takes an address or none.
    Pause(u16, Option<u8>),
    /// The disk refuses the next so many commits of releases.
    Refuse(u8),
    /// So many things under way happen, in a random order.
    Happen(u8),
    /// So many milliseconds pass.
    Pass(u16),
}

#[derive(Debug, Clone)]
pub struct Link {
    pub key: AttachmentKey,
    /// The interface on whose L2 network it is.
    pub parent: IfName,
    pub at: i32,
    pub ifindex: u32,
    pub mac: Mac,
    pub addresses: Vec<IpAddr>,
    pub up: bool,
    /// Addresses that the pod added by itself.
    pub vips: Vec<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Lease,
    Bind,
    Configure,
    Done,
}

#[derive(Debug, Clone)]
struct Plugin {
    conn: u64,
    /// The call whose answer it waits for.
    call: u64,
    pod: u8,
    request: LeaseRequest,
    step: Step,
    link: Option<(u32, Mac)>,
    /// Whether the link is that of an ADD before.
    repeats: bool,
    addresses: Vec<IpAddr>,
    /// Those that it put on another plugin's link.
    added: Vec<IpAddr>,
    /// When its ADD began, in the order of the neighbours' announcements.
    began: u64,
}

#[derive(Debug)]
pub enum Event {
    ToLedger(Input),
    Do(Action),
    Retry(u64),
    /// The agent looks into the spool.
    Replay,
    /// A round of probes has its last answers.
    EndRound(u64),
    /// What a survey read is reported.
    Report,
    /// A plugin configures its link.
    Configure(u64),
    /// The main plugin removes its link, after the chained one's DEL.
    Unplug(u32),
}

pub struct World {
    pub declared: Config,
    edit: fn(u8) -> Config,
    edited: Option<Config>,
    rng: u64,
    now: Time,
    boot: u32,
    pub ledger: Option<Ledger>,
    pub events: Vec<Event>,
    pub disk: Disk,
    pub namespaces: BTreeSet<i32>,
    pub pods: BTreeMap<u8, (i32, AttachmentKey)>,
    pub links: Vec<Link>,
    plugins: BTreeMap<u64, Plugin>,
    air: Air,
    pub local: Local,
    promises: Promises,
    segment: Segment,
    spool: Spool,
    /// So many commits of releases are refused next.
    refused: u8,
    pub guests: Guests,
    next: u64,
    /// How often each attachment was read.
    reads: BTreeMap<AttachmentKey, usize>,
    /// Whether everything is printed: set `SIMULATION_TRACE` to look at a failing seed.
    trace: bool,
}

/// The hints of one flood, one a millisecond.
const FLOOD: usize = 1000;
/// The reads of one attachment that they may cost.
const FLOOD_READS_MAX: usize = 64;
/// The pod whose link another main plugin makes.
const CHAINED: u8 = 5;

/// An address of the pool.
fn of_pool(last: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, 10 + last % 4))
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self::of(seed, renamed)
    }

    /// A world in which the operator edits what is declared.
    pub fn of(seed: u64, edit: fn(u8) -> Config) -> Self {
        let mut world = Self {
            declared: edit(0),
            edit,
            edited: None,
            rng: seed | 1,
            now: Time::from_millis(1_000),
            boot: 1,
            ledger: None,
            events: Vec::new(),
            disk: Disk::default(),
            namespaces: BTreeSet::new(),
            pods: BTreeMap::new(),
            links: Vec::new(),
            plugins: BTreeMap::new(),
            air: Air::default(),
            local: Local::default(),
            promises: Promises::default(),
            segment: Segment::new(),
            spool: Spool::default(),
            refused: 0,
            guests: Guests::default(),
            next: 0,
            reads: BTreeMap::new(),
            trace: std::env::var_os("SIMULATION_TRACE").is_some(),
        };
        world.start();
        world
    }

    pub fn chance(&mut self, below: usize) -> usize {
        // xorshift: enough for choosing, and the same on every machine.
        self.rng ^= self.rng << 13;
        self.rng ^= self.rng >> 7;
        self.rng ^= self.rng << 17;
        usize::try_from(self.rng % below as u64).unwrap()
    }

    fn id(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn start(&mut self) {
        let me = Identity {
            node: "n1".parse().unwrap(),
            boot_id: BootId(format!("boot{}", self.boot)),
            machine_id: MachineId("m1".into()),
        };
        self.ledger = Some(Ledger::new(me, self.declared.clone()));
        let loaded = self.disk.loaded();
        self.segment.listen();
        self.step(Input::Loaded(Box::new(loaded)));
        self.spool_open();
        self.replay();
        // Plugins notice and repeat what they asked.
        self.events.retain(|event| !matches!(event, Event::Retry(_)));
        let waiting: Vec<_> = self.plugins.keys().copied().collect();
        self.events.extend(waiting.into_iter().map(Event::Retry));
    }

    pub fn step(&mut self, input: Input) {
        let Some(ledger) = &mut self.ledger else { return };
        if self.trace {
            eprintln!("{} <- {input:?}", self.now.0 / 1_000_000);
        }
        self.promises.asked(&input);
        for action in ledger.step(self.now, input) {
            if self.trace {
                eprintln!("    -> {action:?}");
            }
            match action {
                Action::Commit { ref store, ref journal, step, .. } => {
                    if step == berth_ipam::ledger::io::Step::Bind {
                        self.check_bind(journal);
                    }
                    let networks = &self.declared.networks;
                    let device = |key: &AttachmentKey| Some(networks.get(&key.network)?.link.device());
                    self.segment.decide(self.now, store, device);
                    // A record that was lost is written again in other steps.
                    for write in store.iter().filter(|_| step == berth_ipam::ledger::io::Step::Lease) {
                        self.check_grant(write);
                    }
                    self.disk.waiting.push_back(action);
                }
                // The shell sends at once.
                Action::Announce { device, claims } => self.segment.announced(&device, &claims),
                Action::Reply(caller, _, ref reply) => {
                    self.check_on_disk(caller, reply);
                    self.check_grant_again(caller, reply);
                    self.events.push(Event::Do(action));
                }
                Action::Note(note) => self.check_note(&note),
                Action::ConfigTaken(taken) => {
                    let edited = self.edited.take();
                    if let (Ok(()), Some(edited)) = (taken, edited) {
                        self.declared = edited;
                    }
                }
                Action::Serve => {}
                other => self.events.push(Event::Do(other)),
            }
        }
    }

    pub fn play(&mut self, op: &Op) {
        match op {
            Op::Add(pod) => self.add(*pod),
            Op::Again(pod, elsewhere) => self.again(*pod, *elsewhere),
            Op::Del(pod) => self.del(*pod),
            Op::EndNamespace(pod) => self.end_namespace(*pod),
            Op::DeleteLink(pod) => self.lose_link(*pod),
            Op::MoveLink(pod) => self.move_link(*pod),
            Op::Force(pod) => {
                let key = self.pods.get(pod).map(|(_, key)| key.clone());
                let link = self.links.iter().find(|link| Some(&link.key) == key.as_ref() && link.up);
                if let Some(address) = link.and_then(|link| link.addresses.first().copied()) {
                    if let Some(key) = &key {
                        self.promises.release(key, self.plugins.keys().copied());
                    }
                    let caller = Caller { conn: self.id(), call: 1 };
                    let segment = self.segment_of(key.as_ref(), address);
                    self.step(Input::AdminRelease(caller, (address, segment), true));
                }
            }
            Op::Node(last, comes) => self.node_address(of_pool(*last), *comes),
            Op::Foreign(last, comes) => self.foreign(of_pool(*last), *comes),
            Op::Vip(pod, last, announces) => self.vip(*pod, of_pool(*last), *announces),
            Op::NoVip(pod) => self.drop_vips(*pod),
            Op::KillPlugin(pod) => self.kill_plugin(*pod),
            Op::Answer(last) => {
                let (parent, address) = self.place(*last);
                // Only a free address: a second holder of a held one is another matter.
                if !self.has(&parent, address) {
                    self.air.answer((parent, address));
                }
            }
            Op::NeighbourComes(number) => self.neighbour(*number),
            Op::NeighbourGoes(number) => self.air.leave(&self.place(*number)),
            Op::Declare(number) => self.declare(*number),
            Op::CrashAgent => self.crash(),
            Op::LoseEvents => {
                self.events.retain(|event| !matches!(event, Event::ToLedger(Input::Kernel(..))));
                self.local.untell();
                self.events.push(Event::ToLedger(Input::Kernel(Source::Netlink, KernelHint::Overrun)));
            }
            Op::Flood(pod) => self.flood(*pod),
            Op::Reboot => self.reboot(),
            Op::Refuse(commits) => self.refused = *commits,
            Op::LoseStore => {
                // With the agent stopped, as the file cannot vanish under it.
                self.crash_only();
                self.disk.store.clear();
                self.start();
            }
            Op::Take(..) | Op::Leave(_) | Op::Guest(..) | Op::Port(_) | Op::Pause(..) => self.play_wire(op),
            Op::Happen(times) => {
                for _ in 0..*times {
                    self.happen();
                }
            }
            Op::Pass(millis) => {
                // A plugin is at work for microseconds.
                for event in self
                    .events
                    .extract_if(.., |event| matches!(event, Event::Configure(_)))
                    .collect::<Vec<_>>()
                {
                    let Event::Configure(conn) = event else { continue };
                    self.configure(conn);
                }
                self.now = self.now + Duration::from_millis(u64::from(*millis));
                self.step(Input::Tick);
            }
        }
    }

    fn add(&mut self, pod: u8) {
        if self.plugins.values().any(|plugin| plugin.pod == pod) {
            return;
        }
        let nsid = self.namespace();
        let names: Vec<_> = self.declared.networks.keys().collect();
        if names.is_empty() {
            return;
        }
        let network = names[usize::from(pod) % names.len()].clone();
        let key = AttachmentKey {
            network: network.clone(),
            container_id: format!("c{nsid}").parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        self.pods.insert(pod, (nsid, key.clone()));
        if pod == CHAINED {
            let ifindex = u32::try_from(self.id()).unwrap();
            let [.., high, low] = ifindex.to_be_bytes();
            let mac = Mac([2, 0, 0, 1, high, low]);
            let parent = self.declared.networks[&key.network].link.device();
            self.links.push(Link {
                key: key.clone(),
                parent,
                at: nsid,
                ifindex,
                mac,
                addresses: vec![],
                up: true,
                vips: vec![],
            });
        }
        self.start_plugin(pod, nsid, key);
    }

    fn again(&mut self, pod: u8, elsewhere: bool) {
        let Some((nsid, key)) = self.pods.get(&pod).cloned() else { return };
        let nsid = if elsewhere && pod != CHAINED { self.namespace() } else { nsid };
        if self.namespaces.contains(&nsid) {
            self.start_plugin(pod, nsid, key);
        }
    }

    fn namespace(&mut self) -> i32 {
        let nsid = i32::try_from(self.id()).unwrap() + 70_000;
        self.namespaces.insert(nsid);
        nsid
    }

    fn start_plugin(&mut self, pod: u8, nsid: i32, key: AttachmentKey) {
        let conn = self.id();
        let there = self.links.iter().find(|link| link.key == key && link.at == nsid);
        let before = there.filter(|_| pod == CHAINED).map(|link| (link.ifindex, link.mac));
        if pod == CHAINED && before.is_none() {
            return; // The main plugin has no link.
        }
        let network = key.network.clone();
        let request = LeaseRequest {
            txn: TxnId(format!("txn{conn}")),
            key,
            cni_network: network,
            role: if pod == CHAINED { Role::Chained } else { Role::Main },
            netns: identity(nsid),
            pod: Some(PodRef {
                namespace: "d".into(),
                name: format!("p{pod}"),
                uid: Some(format!("u{pod}")),
            }),
            ips: Vec::new(),
            adopt: false,
            mac: before.map(|(_, mac)| mac),
            add_timeout: None,
            standing: berth_ipam::access::Standing::default(),
        };
        let plugin = Plugin {
            conn,
            call: 1,
            pod,
            request: request.clone(),
            step: Step::Lease,
            link: before,
            repeats: false,
            addresses: vec![],
            added: vec![],
            began: conn,
        };
        self.plugins.insert(conn, plugin);
        self.retry(conn);
    }

    fn del(&mut self, pod: u8) {
        let Some((nsid, key)) = self.pods.get(&pod).cloned() else { return };
        self.promises.release(&key, self.plugins.keys().copied());
        let chained = |link: &&Link| pod == CHAINED && link.key == key && link.at == nsid;
        if let Some((ifindex, had)) =
            self.links.iter().find(chained).map(|link| (link.ifindex, link.addresses.clone()))
        {
            self.take_off(ifindex, &had);
            self.events.push(Event::Unplug(ifindex));
        }
        let own = |link: &Link| pod != CHAINED && link.key == key && link.at == nsid;
        while let Some(index) = self.links.iter().position(own) {
            self.drop_link(index);
        }
        let removal =
            if self.namespaces.contains(&nsid) { LinkRemoval::Gone } else { LinkRemoval::Unreachable };
        self.release(key, removal, None);
    }

    /// A chained plugin takes addresses off another plugin's link, and netlink tells so.
    fn take_off(&mut self, ifindex: u32, addresses: &[IpAddr]) {
        let Some(link) = self.links.iter_mut().find(|link| link.ifindex == ifindex) else { return };
        link.addresses.retain(|address| !addresses.contains(address));
        for address in addresses {
            let hint = KernelHint::AddressGone(Some(Nsid(link.at)), ifindex, *address);
            self.events.push(Event::ToLedger(Input::Kernel(Source::Netlink, hint)));
        }
    }

    fn drop_link(&mut self, index: usize) {
        let link = self.links.remove(index);
        let hint = KernelHint::LinkGone(Some(Nsid(link.at)), link.ifindex, Some(link.mac));
        self.program_tells(KernelHint::LinkTornDown(link.key.clone(), self.rng.is_multiple_of(2)));
        self.events.push(Event::ToLedger(Input::Kernel(Source::Netlink, hint)));
    }

    fn end_namespace(&mut self, pod: u8) {
        let Some((nsid, key)) = self.pods.get(&pod).cloned() else { return };
        if self.namespaces.remove(&nsid) {
            self.promises.unsettle(&key);
            let ended: Vec<_> = self.links.extract_if(.., |link| link.at == nsid).collect();
            for link in ended {
                self.promises.lost(link.ifindex);
                self.program_tells(KernelHint::LinkTornDown(link.key, true));
            }
            self.events
                .push(Event::ToLedger(Input::Kernel(Source::Netlink, KernelHint::NamespaceGone(Nsid(nsid)))));
        }
    }

    /// A program in the kernel tells too, or misses it, as one that was loaded a moment later would.
    fn program_tells(&mut self, hint: KernelHint) {
        if self.rng.is_multiple_of(3) {
            return;
        }
        let place = usize::try_from(self.rng % 5).unwrap().min(self.events.len());
        self.events.insert(place, Event::ToLedger(Input::Kernel(Source::Program("tp_btf"), hint)));
    }

    fn lose_link(&mut self, pod: u8) {
        let Some((nsid, key)) = self.pods.get(&pod).cloned() else { return };
        if let Some(index) = self.links.iter().position(|link| link.key == key && link.up) {
            let ifindex = self.links[index].ifindex;
            if self.namespaces.contains(&nsid) {
                self.promises.deleted(self.now, &key, ifindex);
            } else {
                self.promises.lost(ifindex);
            }
            self.drop_link(index);
        }
    }

    /// To a namespace of its own, set up again at once. The event comes when it comes.
    fn move_link(&mut self, pod: u8) {
        let Some((_, key)) = self.pods.get(&pod).cloned() else { return };
        let to = i32::try_from(self.id()).unwrap() + 70_000;
        let Some(link) = self.links.iter_mut().find(|link| link.key == key && link.up) else { return };
        let hint = KernelHint::LinkMoved(Some(Nsid(link.at)), link.ifindex, Some(link.mac));
        link.at = to;
        link.up = self.rng.is_multiple_of(2);
        self.namespaces.insert(to);
        let key = link.key.clone();
        self.program_tells(KernelHint::LinkLeaving(key));
        // Reads that come after the move come after its event: the observer drains before it reports. What the
        // kernel told before comes before.
        self.drain_hints();
        self.step(Input::Kernel(Source::Netlink, hint));
    }

    fn kill_plugin(&mut self, pod: u8) {
        let running: Vec<_> =
            self.plugins.values().filter(|plugin| plugin.pod == pod).map(|plugin| plugin.conn).collect();
        if running.is_empty() {
            return;
        }
        let conn = running[self.chance(running.len())];
        self.plugins.remove(&conn);
        self.step(Input::Hangup(conn));
    }

    fn crash_only(&mut self) {
        self.ledger = None;
        self.promises.hang_up();
        self.air.forget_told();
        self.disk.crash();
        self.local.forget();
        self.guests.forget();
        self.events.retain(|event| matches!(event, Event::Retry(_) | Event::Configure(_) | Event::Unplug(_)));
    }

    fn crash(&mut self) {
        // What waits for the disk is lost from a random place on; the first of it may be half done.
        let keep = self.chance(3);
        for _ in 0..keep {
            self.write_one(false);
        }
        if self.chance(2) == 0 {
            self.write_one(true);
        }
        self.crash_only();
        self.start();
    }

    fn reboot(&mut self) {
        self.crash_only();
        self.events.clear();
        self.plugins.clear();
        self.links.clear();
        self.local = Local::default();
        self.air.forget_own();
        self.namespaces.clear();
        self.promises.end();
        self.boot += 1;
        self.start();
    }

    /// Writes the oldest commit; `half`: the machine dies between journal and store.
    fn write_one(&mut self, half: bool) {
        let Some(Action::Commit { op, step, journal, flush, store }) = self.disk.waiting.pop_front() else {
            return;
        };
        if self.refused > 0 && step == berth_ipam::ledger::io::Step::Release {
            self.refused -= 1;
            return self.step(Input::Committed(op, CommitResult::Failed("no space".to_owned())));
        }
        self.disk.write(journal, flush);
        if !half {
            let results = self.disk.carry_out(store);
            self.step(Input::Committed(op, CommitResult::Journaled(results)));
        }
    }

    /// Events of a living attachment without end, each followed by all reads that were asked for.
    fn flood(&mut self, pod: u8) {
        let Some((_, key)) = self.pods.get(&pod).cloned() else { return };
        let link = self.links.iter().find(|link| link.key == key && self.namespaces.contains(&link.at));
        let Some((at, address)) = link.and_then(|link| Some((link.at, *link.addresses.first()?))) else {
            return;
        };
        let is_bound = |ledger: &Ledger| {
            let views = ledger.leases().into_iter();
            views
                .filter(|view| matches!(view, View::Held { slot, .. } if slot.live.reason.code() == "bound"))
                .any(|view| view.address() == address)
        };
        let quiet = self.ledger.as_ref().is_some_and(is_bound);
        let before = self.reads.get(&key).copied().unwrap_or(0);
        for number in 0..FLOOD {
            self.now = self.now + Duration::from_millis(1);
            let hint = match number % 3 {
                0 => KernelHint::AddressSeen(Some(Nsid(at)), 1, address),
                1 => KernelHint::AddressGone(Some(Nsid(at)), 1, address),
                _ => KernelHint::Overrun,
            };
            self.step(Input::Kernel(Source::Netlink, hint));
            let gather = |event: &mut Event| matches!(event, Event::Do(Action::Gather(_)));
            for event in self.events.extract_if(.., gather).collect::<Vec<_>>() {
                if let Event::Do(action) = event {
                    self.carry_out(action);
                }
            }
        }
        let reads = self.reads.get(&key).copied().unwrap_or(0) - before;
        if quiet && self.ledger.as_ref().is_some_and(is_bound) {
            assert!(reads <= FLOOD_READS_MAX, "{FLOOD} hints about {key} cost {reads} reads");
        }
    }

    /// One of the things under way happens.
    fn happen(&mut self) {
        let (disk, wire) = (usize::from(!self.disk.waiting.is_empty()), usize::from(self.segment.waits()));
        let all = self.events.len() + disk + wire;
        if all == 0 {
            return;
        }
        let index = self.chance(all);
        if index >= self.events.len() {
            let written = disk == 1 && index == self.events.len();
            return if written { self.write_one(false) } else { self.hear() };
        }
        match self.events.remove(index) {
            Event::ToLedger(input) => self.deliver(input),
            Event::Retry(conn) => self.retry(conn),
            Event::Replay => self.replay(),
            Event::Configure(conn) => self.configure(conn),
            Event::Unplug(ifindex) => {
                if let Some(index) = self.links.iter().position(|link| link.ifindex == ifindex) {
                    self.promises.lost(ifindex);
                    self.drop_link(index);
                }
            }
            Event::Do(action) => self.carry_out(action),
            Event::Report => self.report(),
            Event::EndRound(id) => {
                let leaves = self.chance(2) == 0;
                let reached = self.reached(id);
                let said = self.air.end(self.now, id, leaves);
                self.segment.conclude(self.now, id, said, reached);
                self.hear_all();
            }
        }
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Reply(caller, _, reply) => self.answered(caller, reply),
            Action::Gather(targets) => {
                for target in &targets {
                    *self.reads.entry(target.key.clone()).or_default() += 1;
                }
                self.report();
                let seen = targets.iter().map(|target| self.read(target)).collect();
                self.drain_hints();
                self.step(Input::Gathered(seen));
            }
            Action::Survey { number, devices, at, search } => {
                let devices: Vec<_> = devices.into_keys().collect();
                self.survey(number, &devices, &at, search);
            }
            Action::FindStrays => self.step(Input::Strays(Vec::new())),
            Action::Scan(_) => self.step(Input::Scanned(ScanReport::default())),
            Action::Probe { id, device, addresses, reach, .. } => {
                if self.segment.ask(self.now, id, &device, &addresses) {
                    if reach {
                        self.reach(id, &device, &addresses);
                    }
                    self.air.begin(id, &device, addresses);
                    self.events.push(Event::EndRound(id));
                }
            }
            Action::RemoveLink { key, netns, ifindex, macs } => {
                let found = self.links.iter().position(|link| {
                    Some(Nsid(link.at)) == netns.nsid()
                        && macs.contains(&link.mac)
                        && ifindex.is_none_or(|index| index == link.ifindex)
                });
                let result = match found {
                    Some(index) => {
                        self.drop_link(index);
                        RemoveResult::Removed
                    }
                    None => RemoveResult::NotThere,
                };
                self.step(Input::LinkRemoved(key, result));
            }
            Action::Commit { .. }
            | Action::Serve
            | Action::ConfigTaken(_)
            // One node alone on its store reads nothing twice.
            | Action::LookUp(_)
            | Action::LookUpPod(..)
            | Action::Announce { .. }
            | Action::Note(_)
            | Action::ProvePrograms => {}
        }
    }

    /// The monitor is drained before reads are handed on.
    pub fn drain_hints(&mut self) {
        let hints: Vec<_> =
            self.events.extract_if(.., |event| matches!(event, Event::ToLedger(Input::Kernel(..)))).collect();
        for hint in hints {
            if let Event::ToLedger(input) = hint {
                self.tell(input);
            }
        }
    }

    fn answered(&mut self, caller: Caller, reply: Result<Reply, LedgerError>) {
        self.promises.answered(caller);
        self.released(caller, &reply);
        if self.plugins.get(&caller.conn).is_none_or(|plugin| plugin.call != caller.call) {
            return;
        }
        let Some(mut plugin) = self.plugins.remove(&caller.conn) else { return };
        let key = plugin.request.key.clone();
        match (plugin.step, reply) {
            (Step::Lease, Ok(Reply::Grant(grant))) => {
                plugin.addresses = grant.addresses.iter().map(|(address, _)| address.ip()).collect();
                let parent = grant.link.device();
                self.check_granted(&plugin, &parent);
                let (nsid, mac) = (plugin.request.netns.nsid.0, Mac::derive(&key, 0));
                if !self.namespaces.contains(&nsid) {
                    return self.give_up(&plugin);
                }
                if let Some((ifindex, mac)) = grant.bound {
                    let here = |link: &Link| link.at == nsid && link.ifindex == ifindex;
                    if !self.links.iter().any(here) {
                        return self.give_up(&plugin);
                    }
                    plugin.repeats = true;
                    plugin.link = Some((ifindex, mac));
                }
                if plugin.link.is_none() {
                    let ifindex = u32::try_from(self.id()).unwrap();
                    let addresses = Vec::new();
                    let (key, at, vips) = (key.clone(), nsid, Vec::new());
                    self.links.push(Link { key, parent, at, ifindex, mac, addresses, up: false, vips });
                    plugin.link = Some((ifindex, mac));
                }
                plugin.step = Step::Bind;
                self.bind(plugin);
            }
            (Step::Bind, Ok(_)) => {
                let conn = plugin.conn;
                plugin.step = Step::Configure;
                self.plugins.insert(conn, plugin);
                self.events.push(Event::Configure(conn));
            }
            (Step::Done, Ok(_)) => {
                if let Some((ifindex, _)) = plugin.link {
                    self.promises.told(plugin.conn, key, ifindex, plugin.addresses);
                }
            }
            (_, Err(_)) | (Step::Lease | Step::Configure, Ok(_)) => self.give_up(&plugin),
        }
    }

    fn configure(&mut self, conn: u64) {
        let Some(mut plugin) = self.plugins.remove(&conn) else { return };
        let index = plugin.link.map(|(ifindex, _)| ifindex);
        let place = self.links.iter().position(|link| Some(link.ifindex) == index);
        let Some(place) = place else { return self.give_up(&plugin) };
        let mac = self.links[place].mac;
        if self.links.iter().any(|link| link.mac == mac && link.up && Some(link.ifindex) != index) {
            return self.give_up(&plugin); // The kernel sets up no second one.
        }
        let link = &mut self.links[place];
        plugin.added = plugin.addresses.iter().filter(|ip| !link.addresses.contains(ip)).copied().collect();
        link.addresses.extend(plugin.added.iter().copied());
        link.up = true;
        let parent = self.links[place].parent.clone();
        self.announce(&parent, &plugin.addresses, mac);
        plugin.step = Step::Done;
        let call = self.id();
        plugin.call = call;
        let (key, txn) = (plugin.request.key.clone(), plugin.request.txn.clone());
        self.plugins.insert(conn, plugin);
        self.step(Input::Done(Caller { conn, call }, txn, key));
    }

    fn bind(&mut self, mut plugin: Plugin) {
        let Some((ifindex, mac)) = plugin.link else { return };
        let (key, txn, conn) = (plugin.request.key.clone(), plugin.request.txn.clone(), plugin.conn);
        let there = self.links.iter().any(|link| link.ifindex == ifindex);
        let seen = if there { LinkSeen::There(mac) } else { LinkSeen::NotThere };
        let call = self.id();
        plugin.call = call;
        self.plugins.insert(conn, plugin);
        self.step(Input::Bind(Caller { conn, call }, txn, key, ifindex, mac, seen));
    }

    /// The plugin undoes what it did, and says so.
    fn give_up(&mut self, plugin: &Plugin) {
        let key = plugin.request.key.clone();
        if let (Role::Chained, Some((ifindex, _))) = (plugin.request.role, plugin.link) {
            self.take_off(ifindex, &plugin.added);
        }
        let own = !plugin.repeats && plugin.request.role == Role::Main;
        let made = plugin.link.filter(|_| own).map(|(ifindex, _)| ifindex);
        if let Some(index) = self.links.iter().position(|link| Some(link.ifindex) == made) {
            self.drop_link(index);
        }
        self.release(key, LinkRemoval::Gone, Some(plugin.request.txn.clone()));
    }

    /// A plugin found its agent gone and asks the new one the same.
    fn retry(&mut self, conn: u64) {
        let call = self.id();
        let Some(plugin) = self.plugins.get_mut(&conn) else { return };
        plugin.call = call;
        let plugin = plugin.clone();
        let (key, txn) = (plugin.request.key.clone(), plugin.request.txn.clone());
        match plugin.step {
            Step::Lease if self.park(conn, &key) => {}
            Step::Lease => self.step(Input::Lease(Caller { conn, call }, Box::new(plugin.request))),
            Step::Bind => self.bind(plugin),
            Step::Configure => {}
            Step::Done => self.step(Input::Done(Caller { conn, call }, txn, key)),
        }
    }

    /// Everything under way happens, and enough time passes for whatever waits.
    pub fn settle(&mut self) {
        self.air.fall_silent();
        self.segment.all_leave();
        self.segment.set_up(true);
        self.refused = 0;
        self.guests.always_hear();
        if self.declared.networks.is_empty() {
            self.declare(0);
        }
        for round in 0..400 {
            let mut budget = 5_000;
            while !(self.events.is_empty() && self.disk.waiting.is_empty() && !self.segment.waits()) {
                self.happen();
                budget -= 1;
                assert!(budget > 0, "the world does not come to rest");
            }
            let pass = if round < 300 { 50 } else { 2_000 };
            self.now = self.now + Duration::from_millis(pass);
            if round % 100 == 99
                && let Some(ledger) = &mut self.ledger
            {
                ledger.reconcile();
            }
            self.step(Input::Tick);
        }
    }
}

/// Every namespace has a number that was drawn for it.
pub fn identity(nsid: i32) -> NetnsIdentity {
    let cookie = NetnsCookie(u64::try_from(nsid).unwrap());
    NetnsIdentity { cookie, inode: 1, nsid: Nsid(nsid), nsid_is_random: true }
}
