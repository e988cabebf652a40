//! The independent monitor: is any address held by two live interfaces?
//!
//! Two witnesses that share no code with the agent, sampled together every [`INTERVAL`] on a thread
//! of their own. The wire: the neighbour asks by ARP for every address of the pool, and two MACs
//! that answer the *same* request are two holders. The kernel: the addresses of all namespaces are
//! read by their numbers, without entering (a visitor would look like an inhabitant to the agent),
//! and one address on two interfaces that are up, in two namespaces, at one time is a duplicate.
//!
//! A monitor that has not been seen to find a duplicate proves nothing, so each run starts with
//! [`Monitor::prove`].

mod arp;
mod scan;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use berth_ipam::mac::Mac;

use crate::cleanup;
use crate::error::{Error, Result};
use crate::netlink::Netlink;
use crate::sys;
use crate::world::{self, PARENT, Pod, World};

/// From one sample to the next.
pub const INTERVAL: Duration = Duration::from_millis(25);
/// No two samples may be further apart.
pub const GAP_MAX: Duration = Duration::from_millis(50);

/// Which witness reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Witness {
    /// Two MACs answered one ARP request.
    Wire,
    /// Two namespaces have it on interfaces that are up.
    Namespaces,
}

/// One address with two holders.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duplicate {
    /// Who saw it.
    pub witness: Witness,
    /// The address.
    pub address: IpAddr,
    /// The two holders: MACs or namespaces.
    pub holders: [String; 2],
}

/// What the monitor found from its proof to its end.
#[derive(Debug, Clone)]
pub struct Findings {
    /// Addresses with two holders.
    pub duplicates: BTreeSet<Duplicate>,
    /// Complete samples taken.
    pub samples: u64,
    /// The longest time between two complete samples.
    pub worst_gap: Duration,
    /// How long after the planted duplicate came up both witnesses had reported it.
    pub proof: Duration,
    /// Why the thread ended early, if it did.
    pub failed: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    duplicates: BTreeSet<Duplicate>,
    samples: u64,
    worst_gap: Duration,
    last: Option<Instant>,
    answers: BTreeMap<Ipv4Addr, (Mac, Instant)>,
    failed: Option<String>,
}

/// A running monitor.
#[derive(Debug)]
pub struct Monitor {
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
    proof: Duration,
}

impl Monitor {
    /// Starts watching `addresses` on the wire, and every namespace of the world.
    pub fn start(world: &World, addresses: &[Ipv4Addr]) -> Result<Self> {
        let opened = sys::netns::inside(world.neighbour(), || {
            Ok((Netlink::open()?, arp::Asker::open("eth0", addresses)?))
        });
        let (netlink, asker) = opened.map_err(Error::system("open the monitor's sockets"))?;
        let scanner = scan::Scanner::new(netlink, world.tracked());
        let (state, stop) = (Arc::new(Mutex::new(State::default())), Arc::new(AtomicBool::new(false)));
        let (thread_state, thread_stop) = (Arc::clone(&state), Arc::clone(&stop));
        let thread = std::thread::spawn(move || watch(scanner, asker, &thread_state, &thread_stop));
        Ok(Self { state, stop, thread: Some(thread), proof: Duration::ZERO })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plants a duplicate of `address`, waits until both witnesses report it, removes it, and begins
    /// to count. Done before the agent runs, which might take the planted one for a stranger.
    pub fn prove(&mut self, world: &World, address: Ipv4Addr) -> Result<Duration> {
        let planted =
            [plant(world, address, "02:00:00:00:00:01")?, plant(world, address, "02:00:00:00:00:02")?];
        let (from, within) = (Instant::now(), Duration::from_secs(3));
        let reported = |state: &State| {
            let by = |witness| state.duplicates.iter().any(|d| d.witness == witness && d.address == address);
            by(Witness::Wire) && by(Witness::Namespaces)
        };
        self.wait(within, "the monitor's report of a planted duplicate", reported)?;
        self.proof = from.elapsed();
        for pod in &planted {
            world.remove(pod);
        }
        // An old answer must not count against the first real holder: wait until nobody answers.
        let removed = Instant::now();
        let silent = |state: &State| {
            let last = state.answers.get(&address).map_or(removed, |(_, at)| *at);
            last.max(removed).elapsed() > 5 * INTERVAL
        };
        self.wait(within, "the end of a planted duplicate", silent)?;
        let mut state = self.state();
        state.duplicates.clear();
        (state.samples, state.worst_gap) = (0, Duration::ZERO);
        Ok(self.proof)
    }

    fn wait(&self, within: Duration, what: &str, done: impl Fn(&State) -> bool) -> Result<()> {
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            cleanup::interrupted()?;
            let state = self.state();
            if done(&state) {
                return Ok(());
            }
            if let Some(why) = &state.failed {
                return Err(Error::Monitor(why.clone()));
            }
            drop(state);
            std::thread::sleep(INTERVAL / 4);
        }
        Err(Error::Timeout { what: what.to_owned(), within })
    }

    /// Who answered for `address` on the wire last, and when.
    pub fn answer(&self, address: Ipv4Addr) -> Option<(Mac, Instant)> {
        self.state().answers.get(&address).copied()
    }

    /// Whether somebody answers for `address` on the wire from now on, within a few samples.
    pub fn answers(&self, address: Ipv4Addr) -> Result<bool> {
        let from = Instant::now();
        while from.elapsed() < Duration::from_millis(500) {
            if self.answer(address).is_some_and(|(_, at)| at > from) {
                return Ok(true);
            }
            cleanup::pause(INTERVAL / 2)?;
        }
        Ok(false)
    }

    /// Ends the monitor and tells what it found.
    pub fn finish(mut self) -> Findings {
        self.end();
        let proof = self.proof;
        let state = self.state();
        let gap = state.worst_gap;
        let failed = state.failed.clone();
        Findings {
            duplicates: state.duplicates.clone(),
            samples: state.samples,
            worst_gap: gap,
            proof,
            failed,
        }
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.end();
    }
}

/// A pod with a macvlan of its own making.
fn plant(world: &World, address: Ipv4Addr, mac: &str) -> Result<Pod> {
    let pod = world.pod()?;
    // Long names are refused; the node has no other link of this name.
    let link = format!("pl{}", mac.rsplit(':').next().unwrap_or_default());
    let lines = format!(
        "link add link {PARENT} name {link} address {mac} type macvlan mode bridge\nlink set {link} netns {}\n",
        pod.name
    );
    world::ip(world.node(), &lines)?;
    world::ip(&pod.netns, &format!("addr add {address}/16 dev {link}\nlink set {link} up\n"))?;
    Ok(pod)
}

fn watch(mut scanner: scan::Scanner, mut asker: arp::Asker, state: &Mutex<State>, stop: &AtomicBool) {
    sys::process::run_first();
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let sample = asker.ask().and_then(|mut found| {
            found.extend(scanner.scan()?);
            found.extend(asker.listen(began + INTERVAL)?);
            Ok(found)
        });
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        match sample {
            Ok(found) => {
                state.duplicates.extend(found);
                state.answers.extend(asker.answers());
                state.samples += 1;
                let gap = state.last.map_or(Duration::ZERO, |last| began - last);
                state.worst_gap = state.worst_gap.max(gap);
                state.last = Some(began);
            }
            Err(error) => {
                state.failed = Some(error.to_string());
                return;
            }
        }
    }
}
