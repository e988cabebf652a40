//! End of a macvlan according to the kernel, by polling: its MAC leaves the parent's FDB.
//!
//! A separate thread reads the FDB every [`INTERVAL`] while a caller waits for a MAC, and seldom otherwise,
//! because each read takes the kernel's link lock. A failed read proves nothing: a MAC counts as gone only in
//! a complete dump without it, after one with it.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use berth_ipam::mac::Mac;

use crate::cleanup;
use crate::error::{Error, Result};
use crate::netlink::Netlink;
use crate::sys;

/// From one poll to the next while a MAC is waited for.
pub const INTERVAL: Duration = Duration::from_micros(700);
/// The same while none is.
const IDLE: Duration = Duration::from_millis(5);

#[derive(Debug, Default)]
struct State {
    watched: BTreeMap<Mac, Sighting>,
    polls: u64,
    worst_gap: Duration,
    failed: Option<String>,
}

#[derive(Debug, Clone, Copy)]
enum Sighting {
    NotYet,
    Present,
    /// The MAC is gone; time at which the first dump without it began.
    Gone(Instant),
}

/// The poller of one parent.
#[derive(Debug)]
pub struct FdbWatch {
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl FdbWatch {
    /// Starts polling the interface `parent` of the namespace `node`.
    pub fn start(node: &Path, parent: &str) -> Result<Self> {
        let (netlink, ifindex) = sys::netns::inside(node, || {
            let mut netlink = Netlink::open()?;
            let links = netlink.links(None)?;
            let link = links.into_iter().find(|link| link.name == parent).ok_or(io::ErrorKind::NotFound)?;
            Ok((netlink, link.ifindex))
        })
        .map_err(Error::system(format!("open the FDB of {parent} in {}", node.display())))?;
        let (state, stop) = (Arc::new(Mutex::new(State::default())), Arc::new(AtomicBool::new(false)));
        let (thread_state, thread_stop) = (Arc::clone(&state), Arc::clone(&stop));
        let thread = std::thread::spawn(move || poll(netlink, ifindex, &thread_state, &thread_stop));
        Ok(Self { state, stop, thread: Some(thread) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts to wait for the end of `mac`, which must be there now: a poller that cannot see it
    /// could not see its end.
    pub fn watch(&self, mac: Mac) -> Result<()> {
        self.state().watched.insert(mac, Sighting::NotYet);
        let within = Duration::from_secs(2);
        let deadline = Instant::now() + within;
        while Instant::now() < deadline {
            cleanup::interrupted()?;
            let state = self.state();
            match state.watched.get(&mac) {
                Some(Sighting::Present) => return Ok(()),
                Some(Sighting::Gone(_)) => break,
                _ => {}
            }
            if let Some(why) = &state.failed {
                return Err(Error::Monitor(why.clone()));
            }
            drop(state);
            std::thread::sleep(INTERVAL);
        }
        self.state().watched.remove(&mac);
        Err(Error::Timeout { what: format!("{mac} in the FDB of the parent"), within })
    }

    /// Time at which `mac` was first missed; `None` while it is there.
    pub fn gone(&self, mac: Mac) -> Option<Instant> {
        match self.state().watched.get(&mac) {
            Some(Sighting::Gone(at)) => Some(*at),
            _ => None,
        }
    }

    /// Waits for the end of `mac` and forgets it.
    pub fn wait_gone(&self, mac: Mac, within: Duration) -> Result<Instant> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(at) = self.gone(mac) {
                self.forget(mac);
                return Ok(at);
            }
            cleanup::interrupted()?;
            if Instant::now() > deadline {
                return Err(Error::Timeout {
                    what: format!("the end of {mac} in the FDB of the parent"),
                    within,
                });
            }
            std::thread::sleep(INTERVAL / 2);
        }
    }

    /// Waits no longer for `mac`.
    pub fn forget(&self, mac: Mac) {
        self.state().watched.remove(&mac);
    }

    /// Polls so far, and the longest time between two of them while a MAC was waited for.
    pub fn effort(&self) -> (u64, Duration) {
        let state = self.state();
        (state.polls, state.worst_gap)
    }
}

impl Drop for FdbWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn poll(mut netlink: Netlink, ifindex: i32, state: &Mutex<State>, stop: &AtomicBool) {
    sys::process::run_first();
    let mut last_busy: Option<Instant> = None;
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let dump = netlink.fdb(ifindex);
        let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
        state.polls += 1;
        if let Some(last) = last_busy {
            state.worst_gap = state.worst_gap.max(began - last);
        }
        match dump {
            Ok(macs) => {
                for (mac, sighting) in &mut state.watched {
                    match (macs.contains(mac), *sighting) {
                        (true, Sighting::NotYet) => *sighting = Sighting::Present,
                        (false, Sighting::Present) => *sighting = Sighting::Gone(began),
                        _ => {}
                    }
                }
            }
            // The next dump is complete; only the interval was longer.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                state.failed = Some(format!("read the FDB of the parent: {error}"));
                return;
            }
        }
        let busy = state.watched.values().any(|sighting| !matches!(sighting, Sighting::Gone(_)));
        drop(state);
        last_busy = busy.then_some(began);
        std::thread::sleep(if busy { INTERVAL } else { IDLE }.saturating_sub(began.elapsed()));
    }
}
