//! The stand-ins: a kernel with namespaces and links, a disk that forgets what was not flushed,
//! plugins that can be killed between any two steps.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use berth_ipam::attachment::{AttachmentKey, PodRef, Role};
use berth_ipam::config::Wire;
use berth_ipam::evidence::Departure;
use berth_ipam::identity::{BootId, MachineId, NetnsCookie, Nsid, TxnId};
use berth_ipam::ledger::entry::Slot;
use berth_ipam::ledger::io::*;
use berth_ipam::ledger::occupied::Survey;
use berth_ipam::ledger::view::View;
use berth_ipam::ledger::{Identity, Ledger};
use berth_ipam::mac::Mac;
use berth_ipam::time::Time;

use crate::air::Air;
use crate::declared::config;
use crate::disk::Disk;
use crate::kernel::{Kernel, Link, PARENT};

#[path = "roots.rs"]
mod roots;

/// What the test does to the world.
#[derive(Debug, Clone)]
pub enum Op {
    Add(u8),
    Del(u8),
    EndNamespace(u8),
    DeleteLink(u8),
    MoveLink(u8),
    /// The pod's root moves its link to a namespace that no search can name, up or down, with its MAC or another.
    HideLink(u8),
    /// A link that no search can name goes up and announces its addresses, or goes down.
    Toggle(u8),
    /// The namespace that holds such a link ends.
    EndHidden(u8),
    /// The pod's root deletes, edits or copies the alias of its link.
    Alias(u8, u8),
    /// The pod's root makes a link with the MAC of another pod's link, in its own namespace.
    Mimic(u8, u8),
    /// That link, or one of another runtime, is deleted again.
    EndMimic(u8),
    /// A pod ends, or not; a new namespace gets the lowest number, and a link like that of the pod, on another parent.
    Impostor(u8),
    /// The agent starts again in another network namespace.
    MoveAgent,
    /// An operator forces the release of the pod's address, alive or not.
    Force(u8),
    KillPlugin(u8),
    /// Somebody outside answers for the pool's address of that number, until asked once.
    Answer(u8),
    CrashAgent,
    LoseEvents,
    Reboot,
    LoseStore,
    /// So many things under way happen, in a random order.
    Happen(u8),
    /// So many milliseconds pass.
    Pass(u16),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Lease,
    Bind,
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
    addresses: Vec<IpAddr>,
}

#[derive(Debug)]
enum Event {
    ToLedger(Input),
    Do(Action),
    Retry(u64),
    /// A round of probes is over.
    EndRound(u64),
}

pub struct World {
    rng: u64,
    now: Time,
    boot: u32,
    ledger: Option<Ledger>,
    events: Vec<Event>,
    disk: Disk,
    /// Netlink's messages, in the kernel's order.
    netlink: VecDeque<KernelHint>,
    kernel: Kernel,
    place: u64,
    /// Attachments with an end that may stay unknown: the agent could not hear it, or a pod's root hid the link.
    excused: BTreeSet<AttachmentKey>,
    /// Attachments with a link in a namespace that no search can name, which was down in the last search before its
    /// address was freed: then nothing on the node tells it from one that is gone.
    given_up: BTreeSet<AttachmentKey>,
    /// Attachments with the alias and the MAC of which another pod's root made a link: if their own link is hidden,
    /// the copy is taken for it.
    copied: BTreeSet<AttachmentKey>,
    /// Attachments that an operator released by force: the quarantine sees no hidden link.
    forced: BTreeSet<AttachmentKey>,
    pods: BTreeMap<u8, (u64, AttachmentKey)>,
    plugins: BTreeMap<u64, Plugin>,
    air: Air,
    /// Rounds of probes that the links under the parent hear.
    wide: BTreeSet<u64>,
    /// Time at which the agent last heard an address.
    heard: BTreeMap<IpAddr, Time>,
    next: u64,
    /// Whether everything is printed: set `SIMULATION_TRACE` to look at a failing seed.
    trace: bool,
}

/// A MAC that a runtime asks for, for one pod after the other.
const ASKED_FOR: Mac = Mac([2, 0, 0, 0, 6, 1]);

impl World {
    pub fn new(seed: u64) -> Self {
        let mut world = Self {
            rng: seed | 1,
            now: Time::from_millis(1_000),
            boot: 1,
            ledger: None,
            events: Vec::new(),
            disk: Disk::default(),
            netlink: VecDeque::new(),
            kernel: Kernel::default(),
            place: 1,
            excused: BTreeSet::new(),
            given_up: BTreeSet::new(),
            copied: BTreeSet::new(),
            forced: BTreeSet::new(),
            pods: BTreeMap::new(),
            plugins: BTreeMap::new(),
            air: Air::default(),
            wide: BTreeSet::new(),
            heard: BTreeMap::new(),
            next: 0,
            trace: std::env::var_os("SIMULATION_TRACE").is_some(),
        };
        world.start();
        world
    }

    fn chance(&mut self, below: usize) -> usize {
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
        self.ledger = Some(Ledger::new(me, config(4)));
        let place = Some(NetnsCookie(self.place));
        let loaded = Loaded { place, former_place: place, ..self.disk.loaded() };
        self.step(Input::Loaded(Box::new(loaded)));
        self.step(Input::Hearing("eth1".parse().unwrap(), Hearing::Up));
        // Plugins notice and repeat what they asked.
        self.events.retain(|event| !matches!(event, Event::Retry(_)));
        let waiting: Vec<_> = self.plugins.keys().copied().collect();
        self.events.extend(waiting.into_iter().map(Event::Retry));
    }

    fn step(&mut self, input: Input) {
        match &input {
            Input::Heard(heard) => drop(self.heard.insert(heard.address, self.now)),
            Input::Probed(_, ProbeResult::Heard(all)) => {
                let answered = all.iter().filter(|(_, claims)| !claims.is_empty());
                self.heard.extend(answered.map(|(address, _)| (*address, self.now)));
            }
            _ => {}
        }
        let Some(ledger) = &mut self.ledger else { return };
        if self.trace {
            eprintln!("{} <- {input:?}", self.now.0 / 1_000_000);
        }
        for action in ledger.step(self.now, input) {
            if self.trace {
                eprintln!("    -> {action:?}");
            }
            match action {
                Action::Commit { .. } => self.disk.waiting.push_back(action),
                Action::Note(note) => self.check_note(&note),
                Action::Serve | Action::ConfigTaken(_) => {}
                other => self.events.push(Event::Do(other)),
            }
        }
    }

    pub fn play(&mut self, op: &Op) {
        match op {
            Op::Add(pod) => self.add(*pod),
            Op::Del(pod) => self.del(*pod),
            Op::EndNamespace(pod) => self.end_namespace(*pod),
            Op::DeleteLink(pod) => self.lose_link(*pod),
            Op::MoveLink(pod) => self.move_link(*pod),
            Op::Force(pod) => {
                let key = self.pods.get(pod).map(|(_, key)| key.clone());
                let link =
                    self.kernel.links.iter().find(|link| key.is_some() && link.owner == key && link.up);
                if let Some(address) = link.and_then(|link| link.addresses.first().copied()) {
                    self.forced.extend(key);
                    let caller = Caller { conn: self.id(), call: 1 };
                    self.step(Input::AdminRelease(caller, (address, None), true));
                }
            }
            Op::HideLink(pod) => self.hide_link(*pod),
            Op::Toggle(pod) => self.toggle(*pod),
            Op::EndHidden(pod) => self.end_hidden(*pod),
            Op::Alias(pod, how) => self.change_alias(*pod, *how),
            Op::Mimic(pod, of) => self.mimic(*pod, *of),
            Op::EndMimic(pod) => self.end_mimic(*pod),
            Op::Impostor(pod) => self.impostor(*pod),
            Op::MoveAgent => {
                self.crash_only();
                self.kernel.renumber();
                self.place += 1;
                self.start();
            }
            Op::KillPlugin(pod) => self.kill_plugin(*pod),
            Op::Answer(last) => {
                let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 10 + last % 4));
                // Only a free address: a second holder of a held one is another matter.
                if !self.kernel.links.iter().any(|link| link.addresses.contains(&address)) {
                    self.air.answer(("eth1".parse().unwrap(), address));
                }
            }
            Op::CrashAgent => self.crash(),
            Op::LoseEvents => {
                self.events.retain(|event| !matches!(event, Event::ToLedger(Input::Kernel(..))));
                self.excuse_missing();
                self.netlink.clear();
                self.netlink.push_back(KernelHint::Overrun);
            }
            Op::Reboot => self.reboot(),
            Op::LoseStore => {
                // With the agent stopped, as the file cannot vanish under it.
                self.crash_only();
                self.disk.store.clear();
                self.start();
            }
            Op::Happen(times) => {
                for _ in 0..*times {
                    self.happen();
                }
            }
            Op::Pass(millis) => {
                self.now = self.now + Duration::from_millis(u64::from(*millis));
                self.step(Input::Tick);
            }
        }
    }

    fn add(&mut self, pod: u8) {
        if self.plugins.values().any(|plugin| plugin.pod == pod) {
            return;
        }
        let given = self.chance(2) == 0;
        let cookie = self.kernel.namespace(given, false);
        let container = self.id();
        let key = AttachmentKey {
            network: "lan".parse().unwrap(),
            container_id: format!("c{container}").parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        self.pods.insert(pod, (cookie, key.clone()));
        let conn = self.id();
        let request = LeaseRequest {
            txn: TxnId(format!("txn{conn}")),
            key,
            cni_network: "lan".parse().unwrap(),
            role: Role::Main,
            netns: self.kernel.identity(cookie),
            pod: Some(PodRef {
                namespace: "d".into(),
                name: format!("p{pod}"),
                uid: Some(format!("u{pod}")),
            }),
            ips: Vec::new(),
            adopt: false,
            mac: (self.chance(4) == 0).then_some(ASKED_FOR),
            standing: berth_ipam::access::Standing::default(),
            add_timeout: None,
        };
        let plugin = Plugin {
            conn,
            call: 1,
            pod,
            request: request.clone(),
            step: Step::Lease,
            link: None,
            addresses: vec![],
        };
        self.plugins.insert(conn, plugin);
        self.step(Input::Lease(Caller { conn, call: 1 }, Box::new(request)));
    }

    fn del(&mut self, pod: u8) {
        let Some((cookie, key)) = self.pods.get(&pod).cloned() else { return };
        if self.plugins.values().any(|plugin| plugin.pod == pod) {
            return; // One runtime never adds and deletes one attachment at once.
        }
        // The plugin knows its link by the derived MAC, or by an alias that names this namespace.
        let mine = |link: &Link| {
            link.at == cookie && (link.mac.belongs_to(&key) || link.alias.as_ref() == Some(&key))
        };
        let here = self.kernel.links.iter().position(mine);
        if let Some(index) = here {
            self.drop_link(index);
        }
        let alive = self.kernel.namespaces.contains_key(&cookie);
        let removal = if alive { LinkRemoval::Gone } else { LinkRemoval::Unreachable };
        let conn = self.id();
        self.step(Input::Release(Some(Caller { conn, call: 1 }), key, removal, None));
    }

    /// Netlink tells of what happens in namespaces that have a number in the agent's.
    fn tell_of(&mut self, link: &Link, hint: impl Fn(Option<Nsid>, u32, Option<Mac>) -> KernelHint) {
        if let Some(nsid) = self.kernel.number(link.at) {
            self.netlink.push_back(hint(Some(nsid), link.ifindex, Some(link.mac)));
        }
    }

    fn drop_link(&mut self, index: usize) {
        let link = self.kernel.links.remove(index);
        // Netlink was deaf, and the link was not read since: which way it went is not known.
        let unread = |view: &View| {
            matches!(view, View::Held { slot, .. }
            if Some(&slot.entry.key) == link.owner.as_ref() && slot.live.gap)
        };
        let overrun = self.netlink.contains(&KernelHint::Overrun);
        if overrun || self.ledger.as_ref().is_some_and(|ledger| ledger.leases().iter().any(unread)) {
            self.excused.extend(link.owner.clone());
        }
        self.tell_of(&link, KernelHint::LinkGone);
        if let Some(owner) = link.owner {
            let with_namespace = self.rng.is_multiple_of(2);
            self.program_tells(KernelHint::LinkTornDown(owner, with_namespace));
        }
    }

    fn end_namespace(&mut self, pod: u8) {
        let Some((cookie, _)) = self.pods.get(&pod).cloned() else { return };
        let number = self.kernel.number(cookie);
        if self.kernel.namespaces.remove(&cookie).is_none() {
            return;
        }
        let ended: Vec<_> = self.kernel.links.extract_if(.., |link| link.at == cookie).collect();
        if let Some(nsid) = number {
            self.netlink.push_back(KernelHint::NamespaceGone(nsid));
        }
        for owner in ended.into_iter().filter_map(|link| link.owner) {
            self.program_tells(KernelHint::LinkTornDown(owner, true));
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
        if let Some(index) = self.own_link(pod) {
            self.drop_link(index);
        }
    }

    /// Excuses what is missing from a living namespace now: it may be unknown for good.
    fn excuse_missing(&mut self) {
        let Some(ledger) = &self.ledger else { return };
        let missing = ledger.leases().into_iter().filter_map(|view| match view {
            View::Held { slot, .. } => Some(slot.entry.key.clone()),
            View::Shut(_) | View::Occupied(_) => None,
        });
        let missing =
            missing.filter(|key| !self.kernel.links.iter().any(|link| link.owner.as_ref() == Some(key)));
        self.excused.extend(missing.collect::<Vec<_>>());
    }

    fn kill_plugin(&mut self, pod: u8) {
        let Some(conn) = self.plugins.values().find(|plugin| plugin.pod == pod).map(|plugin| plugin.conn)
        else {
            return;
        };
        self.plugins.remove(&conn);
        self.step(Input::Hangup(conn));
    }

    fn crash_only(&mut self) {
        self.excuse_missing();
        self.ledger = None;
        self.netlink.clear();
        self.disk.crash();
        // A forced release that left no guard on the disk is none: its attachment is judged again.
        let guards = || self.disk.quarantine.values().filter_map(|shut| shut.guard.as_ref());
        self.forced.retain(|key| guards().any(|guard| guard.holder == *key));
        self.events.retain(|event| matches!(event, Event::Retry(_)));
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
        self.kernel = Kernel::default();
        self.air.forget_own();
        self.boot += 1;
        self.start();
    }

    /// One of the things under way happens.
    fn happen(&mut self) {
        let (heard, written) =
            (usize::from(!self.netlink.is_empty()), usize::from(!self.disk.waiting.is_empty()));
        let all = self.events.len() + heard + written;
        if all == 0 {
            return;
        }
        let index = self.chance(all);
        if index >= self.events.len() {
            return if index < self.events.len() + heard { self.hear_one() } else { self.write_one(false) };
        }
        match self.events.remove(index) {
            Event::ToLedger(input) => self.step(input),
            Event::Retry(conn) => self.retry(conn),
            Event::Do(action) => self.carry_out(action),
            Event::EndRound(id) => {
                let leaves = self.chance(2) == 0;
                let mut claims = self.air.end(self.now, id, leaves);
                if self.wide.remove(&id) {
                    self.hear_children(&mut claims);
                    self.step(Input::Reached(id, claims.iter().map(|(address, _)| *address).collect()));
                }
                self.step(Input::Probed(id, ProbeResult::Heard(claims)));
            }
        }
    }

    fn hear_one(&mut self) {
        if let Some(hint) = self.netlink.pop_front() {
            self.step(Input::Kernel(Source::Netlink, hint));
        }
    }

    /// Writes the oldest commit; `half`: the machine dies between journal and store.
    fn write_one(&mut self, half: bool) {
        let Some(Action::Commit { op, journal, flush, store, .. }) = self.disk.waiting.pop_front() else {
            return;
        };
        self.disk.write(journal, flush);
        if half {
            return;
        }
        let frees = |write: &StoreWrite| {
            let is_end = matches!(write, StoreWrite::HandOver { .. } | StoreWrite::Delete { .. });
            is_end.then(|| write.address_key().address)
        };
        let ended: Vec<_> = store.iter().map(frees).collect();
        let results = self.disk.carry_out(store);
        for address in ended.into_iter().take(results.len()).flatten() {
            self.given_up(address);
        }
        self.step(Input::Committed(op, CommitResult::Journaled(results)));
    }

    fn carry_out(&mut self, action: Action) {
        match action {
            Action::Reply(caller, _, reply) => self.answered(caller, reply),
            Action::Gather(targets) => {
                let seen = targets.iter().map(|target| self.kernel.read(target)).collect();
                // The monitor is drained before the observations are handed on, and so are the programs.
                while !self.netlink.is_empty() {
                    self.hear_one();
                }
                let hints: Vec<_> = self
                    .events
                    .extract_if(.., |event| matches!(event, Event::ToLedger(Input::Kernel(..))))
                    .collect();
                for hint in hints {
                    let Event::ToLedger(input) = hint else { continue };
                    self.step(input);
                }
                self.step(Input::Gathered(seen));
            }
            Action::Survey { number, at, search, .. } => {
                // No interface but those of the attachments has an address of the pool.
                let (own, looked, searched) = (Some(Vec::new()), at, search.then_some(true));
                let survey = Survey { number, own, looked, searched, ..Survey::default() };
                self.step(Input::Surveyed(survey));
            }
            Action::FindStrays => self.step(Input::Strays(Vec::new())),
            Action::Scan(_) => self.step(Input::Scanned(ScanReport::default())),
            Action::Probe { id, device, addresses, reach, .. } => {
                self.air.begin(id, &device, addresses);
                if reach {
                    self.wide.insert(id);
                }
                self.events.push(Event::EndRound(id));
            }
            Action::RemoveLink { key, netns, ifindex, macs } => {
                let result = match self.kernel.removable(&key, &netns, ifindex, &macs) {
                    Some(index) => {
                        let link = &self.kernel.links[index];
                        // A pod's root that gives its link the alias or the MAC of another pod asks for its removal.
                        let asked = link.alias.as_ref() == Some(&key) || link.mac.belongs_to(&key);
                        let own = link.owner.as_ref() == Some(&key) || (link.owner.is_none() && asked);
                        assert!(own, "{link:?} was removed as {key}'s");
                        self.drop_link(index);
                        RemoveResult::Removed
                    }
                    None => RemoveResult::NotThere,
                };
                self.step(Input::LinkRemoved(key, result));
            }
            // The port never goes down.
            Action::Announce { .. }
            | Action::Commit { .. }
            | Action::Serve
            | Action::ConfigTaken(_)
            // One node alone on its store reads nothing twice.
            | Action::LookUp(_)
            | Action::LookUpPod(..)
            | Action::Note(_)
            | Action::ProvePrograms => {}
        }
    }

    fn answered(&mut self, caller: Caller, reply: Result<Reply, LedgerError>) {
        if self.plugins.get(&caller.conn).is_none_or(|plugin| plugin.call != caller.call) {
            return;
        }
        let Some(mut plugin) = self.plugins.remove(&caller.conn) else { return };
        let key = plugin.request.key.clone();
        let txn = plugin.request.txn.clone();
        match (plugin.step, reply) {
            (Step::Lease, Ok(Reply::Grant(grant))) => {
                plugin.addresses = grant.addresses.iter().map(|(address, _)| address.ip()).collect();
                let at = plugin.request.netns.cookie.0;
                let mac = plugin.request.mac.unwrap_or_else(|| Mac::derive(&key, 0));
                if !self.kernel.namespaces.contains_key(&at) {
                    return self.give_up(&plugin);
                }
                if plugin.link.is_none() {
                    // Low, and the same again in another namespace.
                    let ifindex = u32::try_from(2 + self.chance(3)).unwrap();
                    let (owner, alias, addresses) = (Some(key.clone()), Some(key.clone()), Vec::new());
                    let parent = PARENT;
                    let link =
                        Link { owner, home: at, at, ifindex, mac, alias, parent, addresses, up: false };
                    self.kernel.links.push(link);
                    plugin.link = Some((ifindex, mac));
                }
                plugin.step = Step::Bind;
                self.bind(plugin);
            }
            (Step::Bind, Ok(_)) => {
                let found = self.kernel.links.iter().position(|link| link.owner.as_ref() == Some(&key));
                let Some(index) = found else { return self.give_up(&plugin) };
                let (mac, up) = (self.kernel.links[index].mac, self.kernel.links[index].up);
                if !up && !self.kernel.may_be_up(mac, PARENT) {
                    return self.give_up(&plugin);
                }
                let link = &mut self.kernel.links[index];
                link.addresses.clone_from(&plugin.addresses);
                link.up = true;
                let mac = link.mac;
                self.announce(&plugin.addresses, mac);
                plugin.step = Step::Done;
                let (conn, call) = (plugin.conn, self.id());
                plugin.call = call;
                self.plugins.insert(conn, plugin);
                self.step(Input::Done(Caller { conn, call }, txn, key));
            }
            (Step::Done, Ok(_)) => {}
            (_, Err(_)) | (Step::Lease, Ok(_)) => self.give_up(&plugin),
        }
    }

    fn bind(&mut self, mut plugin: Plugin) {
        let Some((ifindex, mac)) = plugin.link else { return };
        let (key, txn, conn) = (plugin.request.key.clone(), plugin.request.txn.clone(), plugin.conn);
        // The agent reads the link back by the number that the plugin learnt, perhaps in another place.
        let at = self.kernel.by_number(plugin.request.netns.nsid);
        let there =
            self.kernel.links.iter().any(|link| link.owner.as_ref() == Some(&key) && Some(link.at) == at);
        let seen = if there { LinkSeen::There(mac) } else { LinkSeen::NotThere };
        let call = self.id();
        plugin.call = call;
        self.plugins.insert(conn, plugin);
        self.step(Input::Bind(Caller { conn, call }, txn, key, ifindex, mac, seen));
    }

    /// The plugin undoes what it did, and says so.
    fn give_up(&mut self, plugin: &Plugin) {
        let key = plugin.request.key.clone();
        let (owner, at) = (Some(&key), plugin.request.netns.cookie.0);
        let mine = self.kernel.links.iter().position(|link| link.owner.as_ref() == owner && link.at == at);
        if let Some(index) = mine {
            self.drop_link(index);
        }
        let caller = Caller { conn: self.id(), call: 1 };
        self.step(Input::Release(Some(caller), key, LinkRemoval::Gone, Some(plugin.request.txn.clone())));
    }

    /// A plugin found its agent gone and asks the new one the same.
    fn retry(&mut self, conn: u64) {
        let call = self.id();
        let Some(plugin) = self.plugins.get_mut(&conn) else { return };
        plugin.call = call;
        let plugin = plugin.clone();
        let (key, txn) = (plugin.request.key.clone(), plugin.request.txn.clone());
        match plugin.step {
            Step::Lease => self.step(Input::Lease(Caller { conn, call }, Box::new(plugin.request))),
            Step::Bind => self.bind(plugin),
            Step::Done => self.step(Input::Done(Caller { conn, call }, txn, key)),
        }
    }

    /// Everything under way happens, and enough time passes for whatever waits.
    pub fn settle(&mut self) {
        self.air.fall_silent();
        for round in 0..400 {
            let mut budget = 5_000;
            while !(self.events.is_empty() && self.disk.waiting.is_empty() && self.netlink.is_empty()) {
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

    /// A link of this node's announces addresses: its parent sees the frames leave.
    fn announce(&mut self, addresses: &[IpAddr], mac: Mac) {
        for &address in addresses {
            self.air.announced(self.now, ("eth1".parse().unwrap(), address), mac);
            let wire = Wire { parent: "eth1".parse().unwrap(), vlan: None };
            let heard = HeardOnWire { wire, address, mac, outgoing: true, at: self.now };
            self.events.push(Event::ToLedger(Input::Heard(heard)));
        }
    }

    /// No address is kept from anybody by the voice of a pod that had it and is over.
    fn check_note(&self, note: &Note) {
        if note.code != "quarantined" || note.text.contains("interface of") {
            return;
        }
        for address in &note.addresses {
            let has = |link: &Link| link.addresses.contains(address);
            let real = self.air.is_foreign(*address) || self.kernel.links.iter().any(has);
            assert!(
                real,
                "{address} is quarantined, and only its former holders spoke for it: {}",
                note.text
            );
        }
    }

    /// An address is never on two live links, and a live link's address is recorded for it.
    pub fn check_alive(&self) {
        let mut seen = BTreeMap::new();
        for link in self.kernel.links.iter().filter(|link| !self.is_unknowable(link)) {
            for address in &link.addresses {
                if let Some(other) = seen.insert(*address, link.owner.clone()) {
                    panic!("{address} is on {:?} and on {other:?}", link.owner);
                }
            }
        }
    }

    /// Every recorded address has a live link or a plugin that asks for it.
    pub fn check_nothing_leaked(&self) {
        let Some(ledger) = &self.ledger else { panic!("no agent") };
        let unsettled = ledger.unsettled(self.now);
        let told = |key: &AttachmentKey| unsettled.iter().any(|one| one.key == key);
        for view in ledger.leases() {
            let held = self.kernel.links.iter().any(|link| link.addresses.contains(&view.address()));
            let asked = self.plugins.values().any(|plugin| plugin.addresses.contains(&view.address()));
            // What the agent cannot know is kept, and an operator is told what ends it.
            let excused = matches!(&view, View::Held { slot, .. } if self.is_copied(&slot.entry.key)
                || (told(&slot.entry.key) && (self.is_taken(slot.entry.mac)
                    || (self.excused.contains(&slot.entry.key) && !self.is_to_be_free(slot))
                    // Any link that no search reaches may be its link.
                    || !self.kernel.unexplained().is_empty()
                    // All that is known of it is a record.
                    || slot.entry.ifindex.is_none()
                    // Its number is that of a namespace which cannot be named.
                    || self.kernel.is_hidden(slot.entry.at)
                    // Its namespace ended before its number was learnt in the agent's present place.
                    || slot.entry.place != Some(NetnsCookie(self.place)))));
            // What an operator forced stays shut while any link has its MAC or its alias, or no search reaches one that
            // may be it.
            let shut = matches!(&view, View::Shut(shut) if shut.guard.as_ref().is_some_and(|guard| {
                self.is_copied(&guard.holder)
                    || self.kernel.links.iter().any(|link| guard.macs.contains(&link.mac))
            }));
            assert!(
                held || asked || excused || shut,
                "{} is recorded, and no link has it: {view:?}",
                view.address()
            );
        }
        let recorded: BTreeSet<_> = self.disk.store.keys().map(|key| key.address).collect();
        // The record of an ADD that is undone is not written again after a loss of the store.
        let held = ledger.leases().into_iter().filter(|view| {
            let View::Held { slot, .. } = view else { return false };
            !slot.entry.phase.is_open() || recorded.contains(&view.address())
        });
        let leased: BTreeSet<_> = held.map(|view| view.address()).collect();
        assert_eq!(leased, recorded, "ledger and store agree; the store: {:?}", self.disk.store);
        for link in self.kernel.links.iter().filter(|link| !self.is_unknowable(link)) {
            for address in &link.addresses {
                let known = ledger.leases().iter().any(|view| view.address() == *address);
                assert!(known, "{address} is alive on {} and not recorded", link.owner.as_ref().unwrap());
            }
        }
    }

    fn is_unknowable(&self, link: &Link) -> bool {
        let is_in = |all: &BTreeSet<_>| link.owner.as_ref().is_some_and(|owner| all.contains(owner));
        is_in(&self.given_up) || ((is_in(&self.copied) || is_in(&self.forced)) && link.at != link.home)
    }

    /// An address is freed. A link of it that no search can name was down then, and silent if its move was told.
    fn given_up(&mut self, address: IpAddr) {
        // Without its MAC and its alias a link shows itself by its address alone. Surveys find that, and here are none.
        let known = |link: &Link| {
            let entry = link.owner.as_ref().and_then(|owner| self.disk.journal.get(&owner.to_string()));
            link.alias == link.owner || entry.is_some_and(|entry| entry.mac == Some(link.mac))
        };
        let seen = |link: &&Link| {
            !self.kernel.namespaces[&link.at].is_hidden
                && link.at != link.home
                && link.addresses.contains(&address)
        };
        let unmarked = self.kernel.links.iter().filter(seen).filter(|link| !known(link));
        let unmarked: Vec<_> = unmarked.filter_map(|link| link.owner.clone()).collect();
        self.given_up.extend(unmarked);
        let hidden =
            |link: &&Link| self.kernel.namespaces[&link.at].is_hidden && link.addresses.contains(&address);
        let mut owners = self.kernel.links.iter().filter(hidden).filter_map(|link| link.owner.clone());
        let Some(owner) = owners.find(|owner| !self.given_up.contains(owner)) else { return };
        if self.copied.contains(&owner) || self.forced.contains(&owner) {
            return;
        }
        assert!(self.kernel.was_down.contains(&owner), "{address} is freed, and the link of {owner} is up");
        let entry = self.disk.journal.get(&owner.to_string());
        let told = entry.is_some_and(|entry| entry.departure == Some(Departure::Moved));
        let age = self.heard.get(&address).filter(|_| told).map(|at| self.now.since(*at));
        assert!(
            age.is_none_or(|age| age >= Duration::from_secs(10)),
            "{owner} spoke for {address} {age:?} ago"
        );
        self.given_up.insert(owner);
    }

    /// True if the link of an attachment is known to have moved, is gone, and nothing hides on the parent: then a DEL or
    /// the end of its namespace frees it.
    fn is_to_be_free(&self, slot: &Slot) -> bool {
        let entry = &slot.entry;
        let over = entry.del_seen || !self.kernel.namespaces.contains_key(&entry.netns.cookie.0);
        let there = self.kernel.links.iter().any(|link| link.owner.as_ref() == Some(&entry.key));
        slot.live.departure == Departure::Moved && over && !there && self.kernel.unexplained().is_empty()
    }

    /// Whether a link that a pod's root made has the alias of the attachment, and is taken for its link.
    fn is_copied(&self, key: &AttachmentKey) -> bool {
        self.kernel.links.iter().any(|link| link.alias.as_ref() == Some(key))
    }

    /// Whether a link has the MAC: while it lives it may be taken for the attachment's.
    fn is_taken(&self, mac: Option<Mac>) -> bool {
        self.kernel.links.iter().any(|link| Some(link.mac) == mac)
    }
}
