//! The independent monitor: it detects an address held by two live interfaces.
//!
//! Two witnesses that share no code with the agent are sampled together every [`INTERVAL`] on a separate
//! thread. A second thread on another processor takes over when the first is late, because a kernel without
//! preemption may keep one processor for longer than [`GAP_MAX`] (a large number of pods is probed at a
//! slower [`Rhythm`]). First witness, the segment: the neighbour sends ARP requests for every address of the
//! pool, and two MACs that answer the *same* request are two holders. Second witness, the kernel: the
//! addresses of all namespaces are read by their nsids, without entering (a visitor would look like an
//! inhabitant to the agent). One address on two interfaces that are up, in two namespaces, at one time is a
//! duplicate.
//!
//! A monitor that has never found a duplicate proves nothing, so each run starts with [`Monitor::prove`]. A
//! case that plants a second holder names the pair of address and MAC ([`Monitor::plant`]): the answers of
//! exactly that MAC for exactly that address are kept apart, and the other holders of the address are
//! compared with each other as usual.

mod arp;
mod scan;
mod stalls;

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
/// Wait for answers after the last request of a sample; later ones still count.
const ANSWER_TIME: Duration = Duration::from_millis(2);
/// Interval at which the threads read the clock.
const TICK: Duration = Duration::from_millis(3);
/// Maximum distance of two samples.
pub const GAP_MAX: Duration = Duration::from_millis(50);

/// Rhythm of a monitor's samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rhythm {
    /// From one sample to the next.
    pub interval: Duration,
    /// Maximum distance of two samples.
    pub gap_max: Duration,
    /// Requests sent at once. Each reaches every macvlan of the parent, and the kernel drops frames beyond a
    /// thousand that wait on one processor.
    burst: usize,
}

/// For up to a hundred pods.
pub const STEADY: Rhythm = Rhythm { interval: INTERVAL, gap_max: GAP_MAX, burst: 8 };
/// For hundreds: reading them all takes longer, and while the kernel takes them down it lets reads wait.
pub const CROWD: Rhythm =
    Rhythm { interval: Duration::from_millis(250), gap_max: Duration::from_secs(2), burst: 2 };

impl Rhythm {
    /// Time at which the second thread takes over: later than any sample that keeps its rhythm is complete.
    fn standby(self) -> Duration {
        self.interval + self.interval / 2
    }
}

impl Default for Rhythm {
    fn default() -> Self {
        STEADY
    }
}

/// Witness of a report.
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
    /// Witness that saw it.
    pub witness: Witness,
    /// Address in question.
    pub address: IpAddr,
    /// The two holders: MACs or namespaces.
    pub holders: [String; 2],
}

/// Findings of the monitor from its proof to its end.
#[derive(Debug, Clone)]
pub struct Findings {
    /// Addresses with two holders.
    pub duplicates: BTreeSet<Duplicate>,
    /// Complete samples taken.
    pub samples: u64,
    /// The longest time between two complete samples, without times in which the machine ran no thread.
    pub worst_gap: Duration,
    /// The longest time in which the machine ran no thread; zero if there was none.
    pub worst_stall: Duration,
    /// Time from the start of the planted duplicate to the report of both witnesses.
    pub proof: Duration,
    /// Reason why the thread ended early, if it did.
    pub failed: Option<String>,
}

#[derive(Debug, Default)]
struct State {
    rhythm: Rhythm,
    duplicates: BTreeSet<Duplicate>,
    samples: u64,
    worst_gap: Duration,
    /// Gaps above the limit, until the machine's stalls in them are known.
    late: Vec<stalls::Window>,
    /// Times at which the heartbeat thread of each processor ran too late.
    stalls: Vec<Vec<stalls::Window>>,
    /// Time at which the last complete sample began.
    last: Option<Instant>,
    /// Earlier samples report nothing: they belong to the planted duplicate.
    since: Option<Instant>,
    answers: BTreeMap<Ipv4Addr, (Mac, Instant)>,
    failed: Option<String>,
}

/// A running monitor.
#[derive(Debug)]
pub struct Monitor {
    state: Arc<Mutex<State>>,
    planted: arp::Planted,
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
    rhythm: Rhythm,
    proof: Duration,
}

impl Monitor {
    /// Starts watching `addresses` on the segment, and every namespace of the world.
    pub fn start(world: &World, addresses: &[Ipv4Addr], rhythm: Rhythm) -> Result<Self> {
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let state = Arc::new(Mutex::new(State { rhythm, ..State::default() }));
        let (planted, stop, threads) = <(arp::Planted, _, _)>::default();
        let mut monitor = Self { state, planted, stop, threads, rhythm, proof: Duration::ZERO };
        let samplers = processors.min(2);
        monitor.state().stalls = vec![Vec::new(); samplers];
        for (number, delay) in (0_u8..).zip([rhythm.interval, rhythm.standby()]).take(samplers) {
            let opened = sys::netns::inside(world.neighbour(), || {
                let planted = Arc::clone(&monitor.planted);
                Ok((Netlink::open()?, arp::Asker::open("eth0", number, addresses, rhythm.burst, planted)?))
            });
            let (netlink, asker) = opened.map_err(Error::system("open the monitor's sockets"))?;
            let scanner = scan::Scanner::new(netlink, world.tracked());
            let (state, stop) = (Arc::clone(&monitor.state), Arc::clone(&monitor.stop));
            monitor.threads.push(std::thread::spawn(move || {
                sys::process::run_first();
                sys::process::stay_on(usize::from(number));
                watch(delay, scanner, asker, &state, &stop);
            }));
            let (state, stop) = (Arc::clone(&monitor.state), Arc::clone(&monitor.stop));
            monitor.threads.push(std::thread::spawn(move || {
                sys::process::run_first();
                sys::process::stay_on(usize::from(number));
                beat(usize::from(number), &state, &stop);
            }));
        }
        Ok(monitor)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plants a duplicate of `address`, waits until both witnesses report it, removes it, and starts to
    /// count. Done before the agent runs, which might take the planted one for a stranger.
    pub fn prove(&mut self, world: &World, address: Ipv4Addr) -> Result<Duration> {
        let planted =
            [plant(world, address, "02:00:00:00:00:01")?, plant(world, address, "02:00:00:00:00:02")?];
        let (from, within) = (Instant::now(), Duration::from_secs(5));
        self.wait_reported(address, within)?;
        self.proof = from.elapsed();
        for pod in &planted {
            world.remove(pod);
        }
        // An old answer must not count against the first real holder: wait until no answer arrives.
        let removed = Instant::now();
        let silent = |state: &State| {
            let last = state.answers.get(&address).map_or(removed, |(_, at)| *at);
            last.max(removed).elapsed() > 5 * state.rhythm.interval
        };
        self.wait(within, "the end of a planted duplicate", silent)?;
        let mut state = self.state();
        state.duplicates.clear();
        state.since = Some(Instant::now());
        (state.samples, state.worst_gap) = (0, Duration::ZERO);
        state.late.clear();
        Ok(self.proof)
    }

    /// Waits until both witnesses have reported a duplicate of `address`.
    pub fn wait_reported(&self, address: Ipv4Addr, within: Duration) -> Result<()> {
        let reported = |state: &State| {
            let by = |witness| state.duplicates.iter().any(|d| d.witness == witness && d.address == address);
            by(Witness::Wire) && by(Witness::Namespaces)
        };
        self.wait(within, "the report of a duplicate by both witnesses", reported)
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

    /// From now on `mac` answers for `address` in addition to its holder, as the case requires: that pair is
    /// not a finding. Any other second holder of the address is.
    pub fn plant(&self, address: Ipv4Addr, mac: Mac) {
        self.planted.lock().unwrap_or_else(PoisonError::into_inner).insert((address, mac), None);
    }

    /// Time at which a planted pair was last seen on the segment.
    pub fn planted(&self, address: Ipv4Addr, mac: Mac) -> Option<Instant> {
        *self.planted.lock().unwrap_or_else(PoisonError::into_inner).get(&(address, mac))?
    }

    /// Last MAC that answered for `address` on the segment, and the time.
    pub fn answer(&self, address: Ipv4Addr) -> Option<(Mac, Instant)> {
        self.state().answers.get(&address).copied()
    }

    /// True if an answer for `address` arrives from now on, within a few samples.
    pub fn answers(&self, address: Ipv4Addr) -> Result<bool> {
        let from = Instant::now();
        while from.elapsed() < 20 * self.rhythm.interval {
            if self.answer(address).is_some_and(|(_, at)| at > from) {
                return Ok(true);
            }
            cleanup::pause(self.rhythm.interval / 2)?;
        }
        Ok(false)
    }

    /// Ends the monitor and returns its findings.
    pub fn finish(mut self) -> Findings {
        self.end();
        let state = self.state();
        let stalls = stalls::common(&state.stalls);
        let late = state.late.iter().map(|window| stalls::without(*window, &stalls));
        Findings {
            duplicates: state.duplicates.clone(),
            samples: state.samples,
            worst_gap: late.max().unwrap_or_default().max(state.worst_gap),
            worst_stall: stalls.iter().map(|(from, to)| *to - *from).max().unwrap_or_default(),
            proof: self.proof,
            failed: state.failed.clone(),
        }
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        self.end();
    }
}

/// A pod with a macvlan that the testbed creates.
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

/// Takes a sample whenever the last complete one started `delay` ago.
fn watch(
    delay: Duration,
    mut scanner: scan::Scanner,
    mut asker: arp::Asker,
    state: &Mutex<State>,
    stop: &AtomicBool,
) {
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
    let started = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let due = lock().last.unwrap_or(started) + delay;
        let left = due.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            std::thread::sleep(left.min(TICK));
            continue;
        }
        let began = Instant::now();
        let sample = asker.ask().and_then(|mut found| {
            found.extend(scanner.scan()?);
            found.extend(asker.listen(Instant::now() + ANSWER_TIME)?);
            Ok(found)
        });
        let mut state = lock();
        match sample {
            Ok(found) => state.take(began, found, asker.answers()),
            Err(error) => {
                state.failed = Some(error.to_string());
                return;
            }
        }
    }
}

/// Records the times at which this thread, which needs almost no time, ran too late.
fn beat(number: usize, state: &Mutex<State>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        if let Some(stall) = stalls::doze(stalls::BEAT) {
            state.lock().unwrap_or_else(PoisonError::into_inner).stalls[number].push(stall);
        }
    }
}

impl State {
    /// Takes a complete sample.
    fn take(&mut self, began: Instant, found: Vec<Duplicate>, answers: arp::Answers) {
        if self.since.is_none_or(|since| began >= since) {
            self.duplicates.extend(found);
        }
        self.answers.extend(answers);
        self.samples += 1;
        let last = self.last.unwrap_or(began);
        let gap = began.saturating_duration_since(last);
        if gap > self.rhythm.gap_max {
            self.late.push((last, began));
        } else {
            self.worst_gap = self.worst_gap.max(gap);
        }
        // A delayed sample ends after one that started later.
        self.last = Some(last.max(began));
    }
}
