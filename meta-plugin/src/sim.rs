//! A simulated [`World`] for the tests of the flows: a container, a parent, an agent and a disk. Any step can
//! be made to fail. It logs each step in a word.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::time::Duration;

use berth_cni::{Attach, Detach, NetConf};
use berth_ipam::attachment::AttachmentKey;
use berth_ipam::config::{MacvlanMode, Route};
use berth_ipam::identity::{BootId, NetnsCookie, Nsid, TxnId};
use berth_ipam::mac::Mac;
use berth_ipam::name::IfName;
use berth_protocol::alive::Alive;
use berth_protocol::request::{Bind, Done, Lease, Release};
use berth_protocol::response::{BoundLink, Granted, LeaseGrant, LeaseRow, LinkPlan, Status};
use berth_protocol::spool::SpoolError;
use berth_protocol::{CallError, Failure, LINE_BYTES_MAX, Request, Response};
use berth_underlay::error::{Checked, Error as KernelError, Unknown};
use berth_underlay::facts::{AddressFacts, LinkFacts, RouteFacts};
use ipnetwork::IpNetwork;

use crate::exec::Ended;
use crate::world::{Entered, NewLink, ParentFacts, Setup, World};

/// Behaviour of the simulated agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Agent {
    /// The agent serves requests.
    Up,
    /// The agent is absent before this time.
    AwayUntil(Duration),
    /// The agent accepts connections and sends nothing.
    Silent,
    /// It refuses everything with this code.
    Refusing(u32),
    /// The agent takes the n-th request (from 1), acts on it, and crashes without a response; then it is
    /// back.
    DiesOver(usize),
}

/// Another process, run to its end between two steps of this one.
pub type Meanwhile = Box<dyn FnOnce(&mut Sim)>;

/// The end of a process that is killed: no more of its code runs.
#[derive(Debug)]
pub struct Killed;

/// The simulated world.
#[expect(clippy::struct_excessive_bools, reason = "each is a switch that one test turns")]
pub struct Sim {
    pub agent: Agent,
    pub grant: LeaseGrant,
    pub links: Vec<LinkFacts>,
    pub addresses: Vec<AddressFacts>,
    pub routes: Vec<RouteFacts>,
    /// A route of another process has the destination and metric of each one that is added.
    pub route_taken: bool,
    pub macs_in_use: BTreeSet<Mac>,
    pub is_own: bool,
    pub no_netns: bool,
    pub parents: Vec<&'static str>,
    pub parent: ParentFacts,
    /// The number of the error with which the kernel refuses a new link.
    pub refuses: Option<i32>,
    pub leases: Vec<LeaseRow>,
    /// The step that fails.
    pub fails: Option<&'static str>,
    pub ready: bool,
    pub alive: Option<Alive>,
    pub boot: &'static str,
    pub now: Duration,
    // What happened.
    pub log: Vec<&'static str>,
    pub questions: usize,
    pub last_lease: Option<Lease>,
    pub leased: Option<TxnId>,
    pub bound: Option<(u32, Mac)>,
    pub done: bool,
    /// Repeated ADDs of what is done.
    pub repeats: BTreeSet<TxnId>,
    /// Action of another process before the step of that number.
    pub meanwhile: Option<(usize, Meanwhile)>,
    /// At which step this process is killed, by a panic with [`Killed`].
    pub killed_at: Option<usize>,
    /// Transactions that are no longer open are refused, as after a DEL; otherwise a test fails because of
    /// them.
    pub ends_at_del: bool,
    next_index: u32,
    next_random: u8,
    pub released: Vec<Release>,
    pub spooled: Vec<Release>,
    /// Number of attachments that each GC kept.
    pub kept: Vec<usize>,
    /// Output of the other IPAM, and its success.
    pub given: (bool, &'static str),
    /// Commands that it received, each with its input.
    pub delegated: Vec<(String, &'static str, Vec<u8>)>,
}

impl Sim {
    pub fn new() -> Self {
        Self {
            agent: Agent::Up,
            grant: grant(),
            links: Vec::new(),
            addresses: Vec::new(),
            routes: Vec::new(),
            route_taken: false,
            macs_in_use: BTreeSet::new(),
            is_own: false,
            no_netns: false,
            parents: vec!["eth1"],
            parent: ParentFacts { mtu: 1500, mac: None, controller: None },
            refuses: None,
            leases: Vec::new(),
            fails: None,
            ready: true,
            alive: None,
            boot: "boot",
            now: Duration::from_secs(100),
            log: Vec::new(),
            questions: 0,
            last_lease: None,
            leased: None,
            bound: None,
            done: false,
            repeats: BTreeSet::new(),
            meanwhile: None,
            killed_at: None,
            ends_at_del: false,
            next_index: 7,
            next_random: 0xab,
            released: Vec::new(),
            spooled: Vec::new(),
            kept: Vec::new(),
            given: (true, ""),
            delegated: Vec::new(),
        }
    }

    /// Has the lease of an ADD before.
    pub fn with_lease(mut self) -> Self {
        self.leased = Some(TxnId("before".to_owned()));
        self
    }

    /// Puts a link into the container.
    pub fn with_link(mut self, name: &str, mac: &str, alias: Option<&str>) -> Self {
        self.links.push(LinkFacts {
            ifindex: 7,
            name: name.to_owned(),
            mac: mac.parse().ok(),
            up: true,
            mtu: 1500,
            kind: Some("macvlan".to_owned()),
            macvlan_mode: Some(MacvlanMode::Bridge),
            parent_index: Some(3),
            alias: alias.map(str::to_owned),
            ..LinkFacts::default()
        });
        self
    }

    /// Puts an address on the first link.
    pub fn with_address(mut self, address: &str) -> Self {
        self.addresses.push(AddressFacts { ifindex: 7, address: address.parse().unwrap(), flags: 0 });
        self
    }

    /// Puts a route over the first link into a table.
    pub fn with_route(mut self, to: &str, via: Option<&str>, table: u32) -> Self {
        let via = via.map(|via| via.parse().unwrap());
        self.routes.push(RouteFacts { to: to.parse().unwrap(), via, ifindex: Some(7), table, metric: 0 });
        self
    }

    /// Adds a route as the kernel does: one to a destination with a metric that is there already stays alone.
    fn add_route(&mut self, ifindex: u32, route: &Route) {
        let metric = route.metric.unwrap_or(if route.to.is_ipv6() { 1024 } else { 0 });
        let twin = |held: &RouteFacts| held.table == 254 && held.to == route.to && held.metric == metric;
        if !self.route_taken && !self.routes.iter().any(twin) {
            let (to, via, ifindex) = (route.to, route.via, Some(ifindex));
            self.routes.push(RouteFacts { to, via, ifindex, table: 254, metric });
        }
    }

    /// Notes a step; fails it if it is the one that is to fail.
    fn step(&mut self, name: &'static str) -> Result<(), KernelError> {
        self.begin(name);
        if self.fails == Some(name) {
            return Err(KernelError::Thread(io::Error::other("simulated failure")));
        }
        Ok(())
    }

    /// Notes a step, before which other processes run, or this one is killed.
    fn begin(&mut self, name: &'static str) {
        let number = self.log.len();
        if let Some((_, other)) = self.meanwhile.take_if(|(at, _)| *at <= number) {
            let kill = self.killed_at.take();
            other(self);
            self.killed_at = kill;
        }
        if self.killed_at.take_if(|at| *at <= self.log.len()).is_some() {
            std::panic::resume_unwind(Box::new(Killed));
        }
        self.log.push(name);
    }

    /// The byte that fills the next transaction ID.
    pub fn random_next(&self) -> u8 {
        self.next_random.wrapping_add(1)
    }

    /// The agent notices the end of a process: an ADD that it left open is undone.
    pub fn hang_up(&mut self, txn: &TxnId) {
        self.repeats.remove(txn);
        if self.leased.as_ref() == Some(txn) && !self.done {
            let bound = self.bound.map(|(ifindex, _)| ifindex);
            let name = format!("bt{}", &txn.0[..12]);
            let own =
                |link: &LinkFacts| link.name == name || (Some(link.ifindex) == bound && link.alias.is_some());
            self.links.retain(|link| !own(link));
            let links = &self.links;
            self.addresses.retain(|held| links.iter().any(|link| link.ifindex == held.ifindex));
            // What is on another plugin's link keeps the lease until that link goes.
            if self.addresses.is_empty() {
                (self.leased, self.bound) = (None, None);
            }
        }
    }

    fn lease(&mut self, lease: &Lease) -> Result<Response, CallError> {
        let mut grant = self.grant.clone();
        if self.done {
            self.repeats.insert(lease.txn.clone());
            grant.bound = self.bound.map(|(ifindex, mac)| BoundLink { ifindex, mac });
        } else if self.leased.as_ref().is_some_and(|txn| *txn != lease.txn) {
            let (msg, details) = ("another ADD is not over".to_owned(), "wait".to_owned());
            return Err(Failure { code: 11, msg, details }.into());
        } else {
            self.leased = Some(lease.txn.clone());
        }
        self.last_lease = Some(lease.clone());
        Ok(Response::Lease(grant))
    }

    fn read(&mut self, name: &'static str) -> Checked<()> {
        self.step(name).map_err(|_| Unknown("simulated failure".to_owned()))
    }

    fn act(&mut self, request: &Request) -> Result<Response, CallError> {
        Ok(match request {
            Request::Lease(lease) => self.lease(lease)?,
            Request::Bind(bind) if self.repeats.contains(&bind.txn) => {
                assert_eq!(self.bound, Some((bind.ifindex, bind.mac)), "a repeated ADD leaves the link");
                Response::Done
            }
            Request::Bind(Bind { txn, .. }) | Request::Done(Done { txn, .. })
                if self.ends_at_del && self.leased.as_ref() != Some(txn) =>
            {
                let (msg, details) = ("it is not open".to_owned(), "add again".to_owned());
                return Err(Failure { code: 11, msg, details }.into());
            }
            Request::Bind(bind) => {
                assert_eq!(self.leased.as_ref(), Some(&bind.txn), "a bind belongs to its lease");
                self.bound = Some((bind.ifindex, bind.mac));
                Response::Done
            }
            Request::Done(done) => {
                let own = self.repeats.remove(&done.txn) || self.leased.as_ref() == Some(&done.txn);
                assert!(own, "done belongs to a lease");
                self.done = true;
                Response::Done
            }
            Request::Release(release) => {
                self.released.push(release.clone());
                if release.txn.as_ref().is_none_or(|txn| self.leased.as_ref() == Some(txn)) {
                    (self.leased, self.bound, self.done) = (None, None, false);
                }
                Response::Done
            }
            Request::Check(_) if self.leased.is_none() => {
                let (msg, details) = ("nothing is recorded".to_owned(), "re-create the pod".to_owned());
                return Err(Failure { code: 100, msg, details }.into());
            }
            Request::Gc(gc) => {
                self.kept.push(gc.valid.len());
                Response::Done
            }
            Request::Status { .. } => {
                Response::Status(Status { ready: self.ready, reasons: vec!["store refused".to_owned()] })
            }
            Request::Leases => Response::Leases(self.leases.clone()),
            _ => Response::Done,
        })
    }
}

fn word(request: &Request) -> &'static str {
    match request {
        Request::Lease(_) => "lease",
        Request::Bind(_) => "bind",
        Request::Done(_) => "done",
        Request::Release(_) => "release",
        Request::Check(_) => "check",
        Request::Gc(_) => "gc",
        _ => "ask",
    }
}

impl World for Sim {
    fn enter(&mut self, path: &Path) -> Result<Entered, KernelError> {
        self.step("enter")?;
        if self.no_netns {
            return Err(KernelError::NotNetns { path: path.to_owned() });
        }
        Ok(Entered { cookie: NetnsCookie(42), inode: 1000, is_own: self.is_own })
    }

    fn number(&mut self) -> Result<(Nsid, bool), KernelError> {
        self.step("number")?;
        Ok((Nsid(77_777), true))
    }

    fn links(&mut self) -> Checked<Vec<LinkFacts>> {
        self.read("links")?;
        Ok(self.links.clone())
    }

    fn addresses(&mut self) -> Checked<Vec<AddressFacts>> {
        self.read("addresses")?;
        Ok(self.addresses.clone())
    }

    fn routes(&mut self) -> Checked<Vec<RouteFacts>> {
        self.read("routes")?;
        Ok(self.routes.clone())
    }

    fn node_link(&mut self, name: &IfName) -> Checked<Option<u32>> {
        self.read("parent")?;
        Ok(self.parents.contains(&name.as_str()).then_some(3))
    }

    fn parent(&mut self, name: &IfName) -> Checked<Option<ParentFacts>> {
        Ok(self.parents.contains(&name.as_str()).then(|| self.parent.clone()))
    }

    fn create_link(&mut self, link: &NewLink<'_>) -> Result<(), KernelError> {
        if let Some(errno) = self.refuses {
            let refusal = berth_underlay::error::KernelError { errno, message: None };
            let (kind, name) = ("macvlan", link.name.to_string());
            return Err(KernelError::CreateLink { kind, name, cause: refusal.into() });
        }
        // The parent's MAC is what a passthru child gets.
        let mac = link.mac.unwrap_or(Mac([2, 0, 0, 0, 0, 0xee]));
        let mut made = Self::new().with_link(link.name.as_str(), &mac.to_string(), None).links;
        made[0].up = false;
        made[0].ifindex =
            self.next_index.max(self.links.iter().map(|link| link.ifindex + 1).max().unwrap_or(0));
        self.next_index = made[0].ifindex + 1;
        // A creation that fails may still have happened.
        self.links.append(&mut made);
        self.step("create")
    }

    fn set_alias(&mut self, ifindex: u32, alias: &str) -> Result<(), KernelError> {
        self.step("alias")?;
        for link in self.links.iter_mut().filter(|link| link.ifindex == ifindex) {
            link.alias = Some(alias.to_owned());
        }
        Ok(())
    }

    fn delete_link(&mut self, ifindex: u32) -> Result<(), KernelError> {
        self.step("delete")?;
        self.links.retain(|link| link.ifindex != ifindex);
        self.addresses.retain(|address| address.ifindex != ifindex);
        self.routes.retain(|route| route.ifindex != Some(ifindex));
        Ok(())
    }

    fn configure(&mut self, setup: &Setup<'_>) -> Result<(), KernelError> {
        assert!(self.bound.is_some(), "no link is configured before the agent watches it");
        let others = || self.links.iter().filter(|link| link.ifindex != setup.ifindex);
        if others().any(|link| link.name == setup.ifname.as_str()) {
            return Err(KernelError::Thread(io::ErrorKind::AlreadyExists.into()));
        }
        let twin = others().any(|link| link.up && link.mac == Some(setup.mac));
        for granted in &setup.grant.addresses {
            let (ifindex, address) = (setup.ifindex, granted.address);
            let facts = AddressFacts { ifindex, address, flags: 0 };
            if !self.addresses.contains(&facts) {
                self.addresses.push(facts);
            }
        }
        for route in &setup.grant.routes {
            self.add_route(setup.ifindex, route);
        }
        for link in self.links.iter_mut().filter(|link| link.ifindex == setup.ifindex) {
            setup.ifname.as_str().clone_into(&mut link.name);
            link.up = true;
        }
        if twin || self.macs_in_use.contains(&setup.mac) {
            return Err(KernelError::MacInUse { mac: None });
        }
        self.step("configure")
    }

    fn remove_addresses(&mut self, ifindex: u32, addresses: &[IpNetwork]) -> Result<(), KernelError> {
        self.step("remove-addresses")?;
        self.addresses.retain(|held| held.ifindex != ifindex || !addresses.contains(&held.address));
        Ok(())
    }

    fn ask(&mut self, request: &Request, within: Duration) -> Result<Response, CallError> {
        self.questions += 1;
        let bytes = serde_json::to_vec(request).unwrap().len();
        if bytes > LINE_BYTES_MAX {
            return Err(CallError::TooLong { bytes });
        }
        let name = word(request);
        let absent = |socket: &str| CallError::Absent {
            socket: socket.to_owned(),
            cause: io::ErrorKind::ConnectionRefused.into(),
        };
        match self.agent {
            Agent::AwayUntil(time) if self.now < time => return Err(absent("/sock")),
            Agent::Silent => {
                self.begin(name);
                self.now += within;
                return Err(CallError::Silent { within });
            }
            Agent::Refusing(code) => {
                self.begin(name);
                let (msg, details) = ("no".to_owned(), "advice".to_owned());
                return Err(Failure { code, msg, details }.into());
            }
            Agent::Up | Agent::AwayUntil(_) | Agent::DiesOver(_) => {}
        }
        self.begin(name);
        if self.fails == Some(name) {
            return Err(CallError::Silent { within });
        }
        let response = self.act(request)?;
        if self.agent == Agent::DiesOver(self.questions) { Err(absent("")) } else { Ok(response) }
    }

    fn delegate(&mut self, kind: &str, verb: &'static str, input: &[u8]) -> io::Result<Ended> {
        self.begin("delegate");
        self.delegated.push((kind.to_owned(), verb, input.to_vec()));
        if self.fails == Some("delegate") {
            return Err(io::ErrorKind::NotFound.into());
        }
        let (success, output) = self.given;
        Ok(Ended { success, status: "exit status: 1".to_owned(), stdout: output.into() })
    }

    fn spool(&mut self, release: Release) -> Result<(), SpoolError> {
        self.begin("spool");
        if self.fails == Some("spool") {
            return Err(SpoolError::Create { path: "/x".into(), cause: io::ErrorKind::NotFound.into() });
        }
        self.spooled.push(release);
        Ok(())
    }

    fn alive(&self) -> Option<Alive> {
        self.alive.clone()
    }

    fn boot_id(&self) -> Option<BootId> {
        Some(BootId(self.boot.to_owned()))
    }

    fn boottime(&self) -> Duration {
        self.now
    }

    fn sleep(&mut self, duration: Duration) {
        self.now += duration;
    }

    fn random(&mut self) -> io::Result<[u8; 16]> {
        self.next_random = self.next_random.wrapping_add(1);
        Ok([self.next_random; 16])
    }

    fn note(&mut self, _text: &str) {}
}

/// One IPv4 and one IPv6 address on a macvlan of `eth1`.
fn grant() -> LeaseGrant {
    let granted = |address: &str, gateway: Option<&str>| Granted {
        address: address.parse().unwrap(),
        gateway: gateway.map(|text| text.parse().unwrap()),
    };
    LeaseGrant {
        link: LinkPlan::Macvlan { parent: "eth1".parse().unwrap(), mode: MacvlanMode::Bridge },
        mtu: None,
        addresses: vec![granted("10.0.0.7/24", Some("10.0.0.1")), granted("2001:db8::7/64", None)],
        routes: vec![Route {
            to: "0.0.0.0/0".parse().unwrap(),
            via: "10.0.0.1".parse().ok(),
            onlink: false,
            metric: None,
        }],
        accept_ra: false,
        bound: None,
    }
}

pub fn key() -> AttachmentKey {
    AttachmentKey {
        network: "lan".parse().unwrap(),
        container_id: "c1".parse().unwrap(),
        ifname: "eth0".parse().unwrap(),
    }
}

pub fn attach() -> Attach {
    Attach {
        container_id: key().container_id,
        ifname: key().ifname,
        netns: "/run/netns/c1".into(),
        args: berth_cni::Args::default(),
        netns_override: false,
    }
}

pub fn detach() -> Detach {
    Detach {
        container_id: key().container_id,
        ifname: key().ifname,
        netns: Some("/run/netns/c1".into()),
        netns_override: false,
    }
}

/// A configuration of network `lan` with more keys.
pub fn conf(more: &str) -> NetConf {
    let comma = if more.is_empty() { "" } else { "," };
    let kind = if more.contains("\"type\"") { "" } else { "\"type\":\"berth\"," };
    let text = format!(r#"{{{kind}"name":"lan","cniVersion":"1.0.0"{comma}{more}}}"#);
    NetConf::parse(text.as_bytes()).unwrap()
}
