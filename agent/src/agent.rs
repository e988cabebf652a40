//! The main loop: one ledger on one thread; slow work runs on other threads.
//!
//! Inputs come from the socket, the observer, the committer, the wires, the scanner and the clock. Each goes
//! through [`Ledger::step`], and the resulting actions are passed to their workers. The loop takes no
//! decisions.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use berth_ipam::access::Needs;
use berth_ipam::attachment::Role;
use berth_ipam::config::{Config, Wire};
use berth_ipam::ledger::io::{
    Action, Caller, CommitResult, Hearing, Input, LeaseRequest, LedgerError, LinkSeen, Note, Reply, Step,
};
use berth_ipam::ledger::view::View;
use berth_ipam::ledger::{Identity, Ledger};
use berth_ipam::name::{IfName, NetworkName, SegmentName};
use berth_ipam::record::AddressKey;
use berth_ipam::time::Time;
use berth_protocol::alive::{self, Alive};
use berth_protocol::request::Lease;
use berth_protocol::response::{Explanation, Status};
use berth_protocol::{Answer, Failure, Outcome, Request, Response, VERSION, spool};
use berth_underlay::wire::probe::Priority;
use tokio::sync::mpsc::{Receiver, UnboundedReceiver};

use crate::changer::{Changer, Removal};
use crate::cluster::heartbeat::name::STARTING;
use crate::cluster::pods::Annotations;
use crate::cluster::{self, Cluster, annotations};
use crate::committer::{self, Committer};
use crate::event_filter::EventFilter;
use crate::hints::Room;
use crate::history::{self, History};
use crate::notify::{Notifier, State};
use crate::observer::{self, Observer};
use crate::parents::Parents;
use crate::programs::Programs;
use crate::readiness::Readiness;
use crate::reload::{Read, Reload};
use crate::server::{ConnId, Connections, ServerEvent};
use crate::spooled::{Parked, Spooled};
use crate::startup::{self, VLANS};
use crate::wires::Wires;
use crate::{answers, capabilities, clock, deaf, doctor, failures, ports, scanner, survey};

mod replay;

/// Every attachment is read again this often, with up to as much again by chance.
const RECONCILE: Duration = Duration::from_secs(30);
const RECONCILE_JITTER_MS: u64 = 5_000;
/// The sign of life for STATUS is this fresh.
const ALIVE: Duration = Duration::from_secs(10);
/// Interval at which releases are read from the spool that plugins spooled although the agent runs.
const SPOOL: Duration = Duration::from_secs(2);
/// Name of the agent's files in the readiness; no network can have that name.
const STORAGE: &str = "(files)";
/// Reason that keeps ADDs waiting until networks and pools are read.
const DECLARATIONS: &str = "declarations";
/// Maximum number of past events for one client.
const EVENTS_SHOWN: usize = 200;
/// Number of inputs taken in a row before other sources get a turn.
const BATCH: usize = 64;

/// Everything that the loop hands work to.
#[derive(Debug)]
pub struct Hands {
    /// Worker that writes the files.
    pub committer: Committer,
    /// The kernel, reading.
    pub observer: Observer,
    /// Fill levels of the hint queues.
    pub rooms: [Room; 2],
    /// Filter of its hints.
    pub filter: EventFilter,
    /// The kernel, changing.
    pub changer: Changer,
    /// The programs in the kernel.
    pub programs: Programs,
    /// Packet sockets on the parents.
    pub wires: Wires,
    /// Parents and read-backs.
    pub parents: Parents,
    /// Connections of the clients.
    pub connections: Connections,
    /// Queue for the results of scans.
    pub inputs: tokio::sync::mpsc::UnboundedSender<Input>,
    /// Processes that the operator vouches for.
    pub trusted: HashSet<i32>,
    /// The service manager.
    pub notifier: Notifier,
    /// The capabilities left.
    pub capabilities: capabilities::Held,
    /// The cluster that the node belongs to; `None`: it is alone on its store.
    pub cluster: Option<Cluster>,
}

/// Paths of the agent's files.
#[derive(Debug, Clone)]
pub struct Paths {
    /// The declarations; `None`: the API server has them.
    pub config: Option<PathBuf>,
    /// The state folder.
    pub state_dir: PathBuf,
    /// Folder of the pins.
    pub bpffs: PathBuf,
}

/// See the module's head.
#[derive(Debug)]
pub struct Agent {
    ledger: Ledger,
    identity: Identity,
    hands: Hands,
    paths: Paths,
    history: History,
    followers: BTreeMap<ConnId, u64>,
    spooled: Spooled,
    /// Conditions that keep the node from serving.
    readiness: Readiness,
    /// The declarations that are being read again.
    reload: Reload,
    /// Reason why the declarations of the files are not in force.
    config_trouble: Option<String>,
    /// ADDs that wait for the annotations or the standing of their pods, by ticket.
    asking: BTreeMap<u64, (Caller, LeaseRequest)>,
    last_ticket: u64,
    /// True during the search of the parents for strays, after which ADDs are served.
    finding_strays: bool,
    /// Notes of the start, published at the beginning.
    opening: Vec<Note>,
}

impl Agent {
    /// An agent that has not begun.
    pub fn new(identity: Identity, ledger: Ledger, hands: Hands, paths: Paths) -> Self {
        Self {
            ledger,
            identity,
            hands,
            paths,
            history: History::default(),
            followers: BTreeMap::new(),
            spooled: Spooled::default(),
            readiness: Readiness::default(),
            reload: Reload::default(),
            config_trouble: None,
            asking: BTreeMap::new(),
            last_ticket: 0,
            finding_strays: false,
            opening: Vec::new(),
        }
    }

    /// An agent that starts with these notes.
    #[must_use]
    pub fn with_notes(mut self, notes: impl IntoIterator<Item = Note>) -> Self {
        self.opening.extend(notes);
        self
    }

    /// Runs until a signal ends it.
    pub async fn run(
        mut self,
        loaded: Input,
        mut events: Receiver<ServerEvent>,
        mut inputs: UnboundedReceiver<Input>,
        mut signals: Signals,
    ) {
        self.begin(loaded);
        let mut alive = every(ALIVE);
        let mut alive_at = clock::now();
        let mut spool = every(SPOOL);
        let mut reconcile = Box::pin(tokio::time::sleep(jittered()));
        loop {
            let wait = self.until_deadline();
            tokio::select! {
                biased;
                signal = signals.next() => match signal {
                    Signal::End => break,
                    Signal::Reload => self.reload(),
                },
                Some(input) = inputs.recv() => {
                    self.take_queued(input);
                    for _ in 0..BATCH {
                        let Ok(input) = inputs.try_recv() else { break };
                        self.take_queued(input);
                    }
                    // A storm on the wire must not keep plugins, the clock and the ledger's
                    // deadlines waiting: each gets its turn after a batch.
                    for _ in 0..BATCH {
                        let Ok(event) = events.try_recv() else { break };
                        self.serve(event).await;
                    }
                    self.hear_programs();
                    if clock::now().since(alive_at) >= ALIVE {
                        alive_at = clock::now();
                        self.sign_of_life();
                    }
                }
                event = events.recv() => match event {
                    Some(event) => self.serve(event).await,
                    None => break,
                },
                Some((ticket, answer)) = next_answer(&mut self.hands.cluster) => {
                    self.answered(ticket, answer);
                }
                read = self.reload.read() => self.reloaded(read),
                () = self.hands.programs.ready() => self.hear_programs(),
                () = tokio::time::sleep(wait) => self.step(Input::Tick),
                _ = alive.tick() => {
                    alive_at = clock::now();
                    self.sign_of_life();
                }
                _ = spool.tick() => {
                    self.replay_spool();
                    if let Some(cluster) = &self.hands.cluster {
                        cluster.count(self.ledger.pool_counts());
                    }
                }
                () = &mut reconcile => {
                    if !deaf::to("reconcile") {
                        self.ledger.reconcile();
                        self.step(Input::Tick);
                    }
                    self.hands.programs.tidy(&self.ledger);
                    self.tidy_vlans().await;
                    reconcile = Box::pin(tokio::time::sleep(jittered()));
                }
            }
        }
        self.tell(&State::Stopping);
    }

    fn begin(&mut self, loaded: Input) {
        for note in std::mem::take(&mut self.opening) {
            self.publish(clock::now(), note);
        }
        if self.hands.cluster.is_some() {
            let why = format!("{STARTING}the networks and pools were not read from the API server yet");
            self.step(Input::Bar(DECLARATIONS, Some(why)));
        }
        self.look_at_interfaces(None);
        self.step(loaded);
        self.hands.filter.adopt(&self.ledger);
        self.hands.programs.adopt(&self.ledger);
        self.replay_spool();
        self.sign_of_life();
    }

    fn until_deadline(&self) -> Duration {
        let now = clock::now();
        self.ledger.deadline().map_or(Duration::from_secs(1), |at| at.since(now))
    }

    fn tell(&self, state: &State<'_>) {
        if let Err(error) = self.hands.notifier.send(state) {
            tracing::warn!(%error, "notify the service manager");
        }
    }

    /// One input out of the queue.
    fn take_queued(&mut self, input: Input) {
        for room in &self.hands.rooms {
            room.taken(&input);
        }
        self.step(input);
    }

    /// One input, and what follows from it.
    fn step(&mut self, input: Input) {
        match &input {
            Input::Committed(_, result) => {
                let trouble = match result {
                    // An absent API server does not count against this node.
                    CommitResult::Journaled(_) if self.hands.cluster.is_some() => None,
                    _ => result.trouble(),
                };
                self.readiness.note(clock::now(), STORAGE, trouble);
            }
            Input::Gathered(seen) => {
                // Events of the programs from before the reads are applied before the reads are judged.
                self.hear_events();
                self.hands.programs.observed(seen);
            }
            // All received events are applied before an address is assigned.
            Input::Lease(..) | Input::Probed(..) => self.hear_events(),
            Input::Heard(heard) => self.hands.programs.confirm(heard),
            // Networks that share a port are determined before any of them is served.
            Input::Declared(config) => self.look_at_interfaces(Some(config)),
            Input::Hearing(device, Hearing::Up) => {
                let mut links = self.ledger.config().networks.values().map(|network| &network.link);
                if let Some(link) = links.find(|link| link.wire_device().as_ref() == Some(device)) {
                    self.hands.parents.hears(link.parent());
                }
            }
            _ => {}
        }
        let declared = matches!(input, Input::Declared(_)) && self.hands.cluster.is_some();
        let searched = matches!(input, Input::Strays(_)) && std::mem::take(&mut self.finding_strays);
        let surveyed = matches!(input, Input::Surveyed(_));
        self.take(input);
        if surveyed {
            self.hands.filter.surveyed(&self.ledger);
            self.hands.programs.guard(&self.ledger);
        }
        if declared {
            // All links of Berth's on new parents are found first, too.
            self.finding_strays = true;
            let devices = startup::listed_parents(self.ledger.config());
            self.hands.observer.send(observer::Order::FindStrays(devices));
        }
        if searched {
            self.take(Input::Bar(DECLARATIONS, None));
        }
        self.resume_parked();
    }

    /// Passes the node's interfaces with the names of devices to the ledger, including those of a new
    /// configuration.
    fn look_at_interfaces(&mut self, coming: Option<&Config>) {
        let mut names: BTreeSet<_> = self.ledger.named_devices().cloned().collect();
        let networks = coming.into_iter().flat_map(|config| config.networks.values());
        names.extend(networks.map(|network| network.link.parent().clone()));
        let interfaces = self.hands.parents.interfaces(names, self.ledger.interfaces());
        if interfaces != *self.ledger.interfaces() {
            self.take(Input::Interfaces(interfaces));
        }
    }

    fn take(&mut self, input: Input) {
        let now = clock::now();
        for action in self.ledger.step(now, input) {
            self.act(now, action);
        }
    }

    fn hear_events(&mut self) {
        for told in self.hands.programs.drain() {
            self.take(told);
        }
        if self.hands.programs.has_missed() {
            // Before an address is assigned that was found silent.
            for missed in self.hands.wires.missed() {
                self.take(missed);
            }
        }
    }

    /// Handles the events of the programs, and runs their periodic work.
    fn hear_programs(&mut self) {
        self.hear_events();
        if self.hands.programs.is_turn_due() {
            self.take_turn();
        }
        if self.hands.programs.has_news() {
            self.ledger.reconcile();
            self.take(Input::Tick);
            self.hands.programs.guard(&self.ledger);
        }
    }

    fn take_turn(&mut self) {
        if let Some(overrun) = self.hands.programs.overrun() {
            self.take(overrun);
        }
        let now = clock::now();
        let Hands { programs, parents, wires, .. } = &mut self.hands;
        let notes = programs.turn(now, |followed| match followed.ifindex {
            Some(ifindex) => parents.read_back(followed.nsid(), ifindex) != LinkSeen::NotThere,
            None => true,
        });
        wires.watched(programs.watched_parents());
        for note in notes {
            self.act(now, Action::Note(note));
        }
    }

    fn act(&mut self, now: Time, action: Action) {
        match action {
            Action::Commit { op, step, journal, flush, store } => {
                self.hands.filter.journaled(&journal);
                self.hands.programs.journaled(&self.ledger, &journal);
                let commit = committer::Commit { op, step, journal, flush, store };
                self.hands.committer.send(committer::Order::Commit(commit));
            }
            Action::Reply(caller, step, reply) => self.reply(caller, step, reply),
            Action::Gather(targets) => self.hands.observer.send(observer::Order::Gather(targets)),
            Action::FindStrays => {
                let devices = startup::listed_parents(self.ledger.config());
                self.hands.observer.send(observer::Order::FindStrays(devices));
            }
            Action::Scan(inodes) => {
                // First: an exit during the read of the tasks is then reported once more.
                self.hands.programs.rearm(&inodes);
                scanner::start(inodes, self.hands.trusted.clone(), self.hands.inputs.clone());
            }
            Action::Probe { id, device, addresses, urgent, reach } => {
                let priority = if urgent { Priority::Now } else { Priority::Ahead };
                self.hands.programs.asking(self.ledger.config(), &device, &addresses);
                self.hands.wires.probe(id, &device, addresses, priority, reach);
            }
            Action::Announce { device, claims } => self.hands.wires.announce(&device, claims),
            Action::RemoveLink { key, netns, ifindex, macs } => {
                self.hands.changer.send(Removal { key, netns, ifindex, macs });
            }
            Action::Serve => {
                tracing::info!("serving");
                self.tell(&State::Ready);
            }
            Action::ConfigTaken(Ok(())) => {
                self.hands.filter.declared(self.ledger.config());
                self.hands.wires.listen(startup::devices(self.ledger.config()));
                self.hands.programs.tidy(&self.ledger);
                self.config_trouble = None;
                tracing::info!("the configuration was taken over");
            }
            Action::ConfigTaken(Err(lost)) => {
                tracing::error!(holders = ?lost, "the edited configuration is refused: it would drop addresses in use");
                self.config_trouble = Some(format!("it would drop addresses in use: {}", lost.join("; ")));
            }
            Action::LookUp(key) => {
                if let Some(cluster) = &self.hands.cluster {
                    cluster.look_up(key);
                }
            }
            Action::LookUpPod(key, pod) => {
                if let Some(cluster) = &self.hands.cluster {
                    cluster.look_up_pod(key, pod);
                }
            }
            Action::Survey { number, devices, at, search } => {
                self.hands.observer.send(observer::Order::Survey(survey::Order {
                    number,
                    devices,
                    at,
                    search,
                }));
            }
            Action::ProvePrograms => self.hands.programs.doubted(),
            Action::Note(note) => {
                if let Some(note) = self.history.admit(now, note) {
                    self.publish(now, note);
                }
            }
        }
    }

    /// A note to all that follow, to the cluster, and into the history and the log.
    fn publish(&mut self, now: Time, note: Note) {
        self.follow(now, &note);
        if let Some(cluster) = &self.hands.cluster {
            let entry = note.key.as_ref().and_then(|key| self.ledger.entry(key));
            let running = entry.is_some_and(|entry| self.ledger.is_wanted(entry));
            cluster.tell(&note, entry.and_then(|entry| entry.pod.as_ref()), running);
        }
        self.history.add(now, note);
    }

    fn follow(&mut self, now: Time, note: &Note) {
        for (conn, id) in &self.followers {
            let row = history::row(now, now, note, note.addresses.first().copied());
            self.hands.connections.send(*conn, answer(*id, Ok(Response::Event(row))));
        }
    }

    fn reply(&mut self, caller: Caller, step: Step, reply: Result<Reply, LedgerError>) {
        let outcome = reply.map(answers::reply).map_err(|error| failures::of(&error));
        if Spooled::is_own(caller) {
            return self.replayed(caller, &outcome);
        }
        self.hands.connections.send(ConnId(caller.conn), answer(caller.call, outcome));
        if cfg!(feature = "fault-points") {
            tokio::spawn(async move {
                // Another task sends the response.
                tokio::time::sleep(Duration::from_millis(20)).await;
                committer::hit(step, "replied");
            });
        }
    }

    async fn serve(&mut self, event: ServerEvent) {
        match event {
            ServerEvent::Opened { .. } => {}
            ServerEvent::Closed { conn } => {
                self.followers.remove(&conn);
                self.asking.retain(|_, (caller, _)| caller.conn != conn.0);
                self.spooled.hang_up(conn.0);
                self.step(Input::Hangup(conn.0));
            }
            ServerEvent::Call { conn, id, request } => {
                let caller = Caller { conn: conn.0, call: id };
                if let Some(outcome) = self.call(caller, request).await {
                    self.hands.connections.send(conn, answer(id, outcome));
                }
            }
        }
    }

    /// Returns the response, or `None` if the ledger will send it.
    async fn call(&mut self, caller: Caller, request: Request) -> Option<Result<Response, Failure>> {
        match request {
            Request::Lease(lease) => return self.lease(caller, lease).await.map(Err),
            Request::Bind(bind) => {
                self.hands.filter.binding(&bind.attachment);
                let seen = self.ledger.entry(&bind.attachment).map_or(LinkSeen::NotThere, |entry| {
                    self.hands.programs.binding(entry, &bind.txn, bind.ifindex);
                    self.hands.parents.read_back(entry.at, bind.ifindex)
                });
                self.step(Input::Bind(caller, bind.txn, bind.attachment, bind.ifindex, bind.mac, seen));
            }
            Request::Done(done) => self.step(Input::Done(caller, done.txn, done.attachment)),
            Request::Release(release) => {
                let link = answers::removal(release.link);
                self.step(Input::Release(Some(caller), release.attachment, link, release.txn));
            }
            Request::Check(check) => self.step(Input::Check(caller, check.attachment)),
            Request::Gc(gc) => {
                let valid = gc.valid.into_iter().map(|valid| (valid.container_id, valid.ifname)).collect();
                self.step(Input::Gc(caller, gc.cni_network, valid));
            }
            Request::AdminRelease { address, segment, force } => {
                self.step(Input::AdminRelease(caller, (address, segment), force));
            }
            Request::Status { network } => {
                return Some(Ok(Response::Status(self.status(network.as_ref()))));
            }
            Request::Leases => return Some(Ok(Response::Leases(answers::leases(&self.ledger)))),
            Request::Pools => return Some(Ok(Response::Pools(answers::pools(&self.ledger)))),
            Request::Explain { address, segment } => {
                let explained = self.explain(address, segment.as_ref());
                return Some(explained.map(Response::Explain));
            }
            Request::Events { follow } => {
                self.events(caller, follow);
                return (!follow).then_some(Ok(Response::Done));
            }
            Request::Doctor => return Some(Ok(Response::Doctor(self.doctor()))),
            Request::DoctorUnderlay { parent } => self.doctor_underlay(caller, parent),
        }
        None
    }

    /// Checks that the parent exists before anything is written.
    async fn lease(&mut self, caller: Caller, lease: Lease) -> Option<Failure> {
        let given = lease.annotations.clone();
        let request = answers::request(lease);
        if let Some(network) = self.ledger.config().networks.get(&request.key.network) {
            let link = network.link.clone();
            match self.hands.parents.ensure_device(&request.key.network, &link).await {
                Ok(true) => self.remember_vlans(),
                Ok(false) => {}
                Err(failure) => return Some(failure),
            }
            let names = BTreeSet::from([link.parent().clone()]);
            let known = self.ledger.interfaces();
            let now = self.hands.parents.interfaces(names, known);
            if now.iter().any(|(name, row)| known.get(name) != Some(row)) {
                self.look_at_interfaces(None);
            }
            if request.role == Role::Main
                && let Err(failure) = self.hands.parents.check_fit(&request.key.network, &link)
            {
                return Some(failure);
            }
            if let Some(device) = link.wire_device() {
                self.hands.wires.open(&device);
                let still = || "the agent stood still".to_owned();
                let still = self.hands.wires.stands_still(&device).then(still);
                if let Some(why) = self.hands.parents.take_gap(link.parent()).or(still) {
                    self.step(Input::Hearing(device, Hearing::Gap(why)));
                }
            }
        }
        // A DEL that its plugin wrote down came before this ADD: replayed after it, it would end it.
        let mut parked = Parked { caller, request, given };
        if spool::has_entry_of(&self.paths.state_dir, &parked.request.key) {
            self.replay_spool();
            parked = self.spooled.park(parked)?;
        }
        self.annotate(parked.caller, parked.request, parked.given)
    }

    /// Reads the pod's annotations before an address is chosen.
    fn annotate(
        &mut self,
        caller: Caller,
        mut request: LeaseRequest,
        given: Option<Annotations>,
    ) -> Option<Failure> {
        let mut known = given;
        if let (Some(cluster), Some(pod)) = (&self.hands.cluster, &request.pod) {
            known = known.or_else(|| cluster.annotations(pod));
            if known.is_none() && self.ledger.entry(&request.key).is_none() {
                self.last_ticket += 1;
                cluster.ask(self.last_ticket, pod.clone());
                self.asking.insert(self.last_ticket, (caller, request));
                return None;
            }
        }
        if let Err(error) = annotations::apply(&mut request, &known.unwrap_or_default()) {
            return Some(failures::bad_annotation(&error));
        }
        let needs = self.ledger.needs(&request.key.network);
        if let (Some(cluster), Some(pod)) = (&self.hands.cluster, &request.pod)
            && needs != Needs::default()
            && self.ledger.entry(&request.key).is_none_or(|entry| entry.txn != request.txn)
        {
            self.last_ticket += 1;
            cluster.ask_standing(self.last_ticket, pod.clone(), needs);
            self.asking.insert(self.last_ticket, (caller, request));
            return None;
        }
        self.step(Input::Lease(caller, Box::new(request)));
        None
    }

    /// Continues an ADD with the result that it waited for; its plugin may have ended meanwhile.
    fn answered(&mut self, ticket: u64, told: cluster::Answer) {
        let Some((caller, mut request)) = self.asking.remove(&ticket) else { return };
        let failure = match told {
            cluster::Answer::Annotations(annotations) => self.annotate(caller, request, Some(annotations)),
            cluster::Answer::Standing(Ok(standing)) => {
                request.standing = standing;
                self.step(Input::Lease(caller, Box::new(request)));
                None
            }
            cluster::Answer::Standing(Err(why)) => Some(failures::unknown_standing(&why)),
        };
        if let Some(failure) = failure {
            self.hands.connections.send(ConnId(caller.conn), answer(caller.call, Err(failure)));
        }
    }

    /// Only the requested network can make the node unready for it, and only by a lasting condition.
    fn status(&mut self, of: Option<&NetworkName>) -> Status {
        self.look_at_parents(of);
        let now = clock::now();
        let networks = self.ledger.config().networks.keys().filter(|name| of.is_none_or(|of| of == *name));
        let reasons: Vec<_> = networks
            .map(NetworkName::as_str)
            .chain([STORAGE])
            .filter_map(|what| self.readiness.lasting(now, what))
            .collect();
        Status { ready: reasons.is_empty(), reasons }
    }

    fn look_at_parents(&mut self, of: Option<&NetworkName>) {
        let now = clock::now();
        let Self { ledger, hands, readiness, .. } = self;
        let networks = &ledger.config().networks;
        readiness.retain(|what| what == STORAGE || networks.keys().any(|name| name.as_str() == what));
        for (name, network) in networks.iter().filter(|(name, _)| of.is_none_or(|of| of == *name)) {
            let left_out = ledger.left_out(name).map(|why| format!("network {name} is left out: {why}"));
            let unfit = || hands.parents.check_fit(name, &network.link).err().map(|failure| failure.msg);
            let unfit = left_out.or_else(unfit);
            let device = network.link.wire_device();
            if let Some(device) = device.as_ref().filter(|_| unfit.is_none()) {
                // A parent may have come after its network was declared.
                hands.wires.open(device);
            }
            let deaf = || device.as_ref().and_then(|device| ports::deaf(device, &ledger.port(device)));
            readiness.note(now, name.as_str(), unfit.or_else(deaf));
        }
    }

    fn explain(&self, address: IpAddr, segment: Option<&SegmentName>) -> Result<Explanation, Failure> {
        let now = clock::now();
        let of = self.ledger.segment_in_use(address, segment).map_err(|error| failures::of(&error))?;
        let leases = self.ledger.leases();
        let key = of.map(|segment| AddressKey { segment, address });
        let view = leases.iter().find(|view| Some(view.key()) == key);
        let ending = view.and_then(View::ending);
        let mut wires = self.hands.programs.heard_of(now, address);
        wires.retain(|row| {
            let wire = Wire { parent: row.parent.clone(), vlan: row.vlan };
            segment.is_none() || self.ledger.segment_on(&wire) == segment
        });
        Ok(Explanation {
            address,
            lease: view.map(|view| answers::lease(&self.ledger, view)),
            ended_by: ending.map(|ending| ending.by.to_owned()),
            to_do: ending.and_then(|ending| ending.hand.text()).map(str::to_owned),
            since_ms: view.map(|view| u64::try_from(now.since(view.since()).as_millis()).unwrap_or(u64::MAX)),
            wires,
            history: self.history.of(now, address, segment),
        })
    }

    fn events(&mut self, caller: Caller, follow: bool) {
        let conn = ConnId(caller.conn);
        if follow {
            self.followers.insert(conn, caller.call);
            return;
        }
        // A client that does not read is disconnected after 256 responses, so only the latest events are
        // sent.
        let rows = self.history.all(clock::now());
        for row in rows.into_iter().rev().take(EVENTS_SHOWN).rev() {
            self.hands.connections.send(conn, answer(caller.call, Ok(Response::Event(row))));
        }
    }

    fn doctor(&mut self) -> berth_protocol::response::Diagnosis {
        let mut checks = self.hands.programs.findings(clock::now(), &self.ledger);
        checks.push(doctor::netlink(self.hands.observer.hears_all));
        let Hands { parents, wires, .. } = &mut self.hands;
        checks.extend(ports::findings(clock::now(), &self.ledger, parents, wires));
        checks.extend(doctor::hints(self.hands.rooms.iter().map(Room::dropped).sum()));
        checks.extend(doctor::blind_lists(startup::listed_parents(self.ledger.config()).iter()));
        checks.extend(doctor::capabilities(&self.hands.capabilities));
        checks.extend(doctor::mounts(&self.paths.bpffs));
        let store = match self.readiness.trouble(STORAGE) {
            None if self.hands.cluster.is_some() => doctor::finding(
                "store",
                true,
                false,
                format!(
                    "{} addresses of this node and {} of others recorded in the API server",
                    self.ledger.leases().len(),
                    self.ledger.abroad().len()
                ),
            ),
            None => doctor::finding(
                "store",
                true,
                false,
                format!("{} addresses recorded", self.ledger.leases().len()),
            ),
            Some((_, why)) => {
                doctor::finding("store", false, true, format!("{why}; make room in --state-dir"))
            }
        };
        checks.push(store);
        checks.push(doctor::occupied(self.ledger.occupied_words()));
        checks.push(doctor::declared(self.config_trouble.as_deref()));
        checks.extend(doctor::left_out(&self.ledger));
        checks.extend(self.hands.cluster.iter().flat_map(Cluster::findings));
        let bars = self.ledger.bars();
        checks
            .extend(bars.map(|(code, why)| doctor::finding(code, false, true, format!("ADDs wait: {why}"))));
        checks.extend(doctor::records(self.ledger.refusal(), self.ledger.unreadable()));
        checks.extend(doctor::damaged_journals(&self.paths.state_dir));
        checks.push(doctor::spooled(&self.paths.state_dir));
        checks.extend(doctor::unsettled::leases(&self.ledger, clock::now()));
        checks.extend(doctor::unsettled::scan(&self.ledger));
        checks.extend(doctor::unsettled::undeclared(&self.ledger));
        doctor::diagnosis(checks)
    }

    fn doctor_underlay(&self, caller: Caller, parent: IfName) {
        let config = self.ledger.config();
        let served = self.ledger.served().map(|(_, network)| network);
        let on_parent = served.filter(|network| network.link.device() == parent);
        let mut pools =
            on_parent.flat_map(|network| &network.pools).filter_map(|name| config.pools.get(name));
        let gateway = pools.find_map(|pool| pool.gateway);
        let connections = self.hands.connections.clone();
        tokio::spawn(async move {
            let diagnosis = doctor::underlay(parent, None, gateway).await;
            connections.send(ConnId(caller.conn), answer(caller.call, Ok(Response::Doctor(diagnosis))));
        });
    }

    fn sign_of_life(&mut self) {
        self.look_at_interfaces(None);
        let now = clock::now();
        for note in self.history.due(now) {
            self.publish(now, note);
        }
        self.look_at_parents(None);
        if self.readiness.trouble(STORAGE).is_some() {
            // A node out of service gets no ADD, so no ADD can show that there is room again.
            self.hands.committer.send(committer::Order::Try);
        }
        let sign = Alive { boot_id: self.identity.boot_id.clone(), boottime_ms: clock::now().0 / 1_000_000 };
        let folder = self.paths.state_dir.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = alive::write(&folder, &sign) {
                tracing::warn!(error = committer::chain(&error), "write the sign of life");
            }
        });
    }

    fn reload(&mut self) {
        // In a cluster an edit comes by itself.
        let Some(path) = &self.paths.config else { return };
        self.tell(&State::Reloading);
        self.reload.begin(path);
    }

    fn reloaded(&mut self, read: Read) {
        let refused = match read {
            Ok(Ok(config)) => {
                self.step(Input::Declared(Box::new(config)));
                None
            }
            Ok(Err(error)) => Some(committer::chain(&error)),
            Err(error) => Some(committer::chain(&error)),
        };
        if let Some(why) = refused {
            tracing::error!(error = why, "the edited configuration is refused");
            self.config_trouble = Some(why);
        }
        if self.reload.take_again() {
            return self.reload();
        }
        self.tell(&State::Ready);
    }

    fn remember_vlans(&self) {
        if let Ok(row) = serde_json::to_vec(self.hands.parents.made()) {
            self.hands.committer.send(committer::Order::PutMeta(VLANS, row));
        }
    }

    async fn tidy_vlans(&mut self) {
        if self.hands.parents.made().is_empty() {
            return;
        }
        let used = self.ledger.devices_in_use();
        if self.hands.parents.remove_unused(&used).await {
            self.remember_vlans();
        }
    }
}

/// The next result of a read about a pod; never, on a standalone node.
async fn next_answer(cluster: &mut Option<Cluster>) -> Option<(u64, cluster::Answer)> {
    match cluster {
        Some(cluster) => cluster.answers.recv().await,
        None => std::future::pending().await,
    }
}

fn answer(id: u64, outcome: Result<Response, Failure>) -> Answer {
    let outcome = match outcome {
        Ok(response) => Outcome::Ok(response),
        Err(failure) => Outcome::Error(failure),
    };
    Answer { v: VERSION, id, outcome }
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval_at(tokio::time::Instant::now() + period, period);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    interval
}

fn jittered() -> Duration {
    // The low digits of the clock are chance enough to keep agents apart.
    RECONCILE + Duration::from_millis(clock::now().0 % RECONCILE_JITTER_MS)
}

/// Request of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT.
    End,
    /// SIGHUP: read the declarations again.
    Reload,
}

/// The signals that the agent listens to.
#[derive(Debug)]
pub struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    /// Starts to listen.
    pub fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::End,
            _ = self.interrupt.recv() => Signal::End,
            _ = self.hangup.recv() => Signal::Reload,
        }
    }
}
