//! Watch of all leases: a list, then the events after it, and a new list whenever the position is lost.
//!
//! A task reads, and a bounded channel passes events on; a slow reader slows the server down, not this
//! process. Events are early notice. They may be seconds old, so a release is never decided by them.
//!
//! Invariant: between two [`LeaseEvent::Restarted`] no change is left out. If that is not certain, the leases
//! are listed again. This includes an absence of the server, because it may return with an older copy of its
//! storage, in which the resource version means something else. It also includes an unreadable object: a
//! changed definition makes it readable without an event.

use std::hash::{BuildHasher as _, Hasher as _};
use std::time::Duration;

use berth_ipam::record::{AddressKey, LeaseRecord, Version, Versioned};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use kube::client::Body;
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::door::{BASE, Fault};
use super::judge::{Asked, Said};
use super::object::{Object, key_of};
use super::{KubernetesStore, Unreadable};
use crate::error::StoreError;

/// Capacity of the channel in events.
const EVENTS: usize = 256;
/// A single event may be this long; a lease has some two thousand bytes.
const LINE_MAX: usize = 4 << 20;
/// The longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// The first one.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// A change of the leases.
#[derive(Debug, Clone)]
pub enum LeaseEvent {
    /// All leases at present: earlier state is void. The first event is one.
    Restarted {
        /// Those that could be read.
        rows: Vec<Versioned>,
        /// Unreadable leases: their addresses count as taken.
        unreadable: Vec<Unreadable>,
    },
    /// A lease was created or changed.
    Applied(Box<Versioned>),
    /// An object was created or changed, and cannot be read.
    Unreadable(Unreadable),
    /// An object was deleted.
    Deleted {
        /// Name of the object.
        object: String,
        /// Address that the name locks; `None` if it locks none.
        key: Option<AddressKey>,
        /// Its last version, with the moment of its deletion.
        version: Version,
        /// The record in it, if it could be read.
        record: Option<Box<LeaseRecord>>,
    },
}

/// Events of all leases. Dropping it ends the watch.
#[derive(Debug)]
pub struct Watch {
    events: mpsc::Receiver<LeaseEvent>,
    trouble: watch::Receiver<Option<StoreError>>,
    task: AbortHandle,
}

impl Watch {
    pub(super) fn start(store: KubernetesStore) -> Self {
        let (sender, events) = mpsc::channel(EVENTS);
        let (told, trouble) = watch::channel(None);
        let follower = Follower { store, events: sender, trouble: told, failures: 0, unreadable: false };
        let task = tokio::spawn(follower.run()).abort_handle();
        Self { events, trouble, task }
    }

    /// The next event; `None` only when the runtime ends. Cancel-safe.
    pub async fn next(&mut self) -> Option<LeaseEvent> {
        self.events.recv().await
    }

    /// Error that blocks the watch at present.
    pub fn trouble(&self) -> Option<StoreError> {
        self.trouble.borrow().clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Reason for the end of a watch request.
enum End {
    /// The connection ended; the resource version is still valid.
    Resume,
    /// The server is reachable, and requests a pause.
    Busy(StoreError),
    /// The server has forgotten the moment, or it may have.
    Relist,
    /// The receiver is gone.
    Unwanted,
}

/// One line of a stream of events.
#[derive(Deserialize)]
struct Line {
    #[serde(rename = "type")]
    kind: String,
    object: Object,
}

struct Follower {
    store: KubernetesStore,
    events: mpsc::Sender<LeaseEvent>,
    trouble: watch::Sender<Option<StoreError>>,
    /// Failures since the last success.
    failures: u32,
    /// True if an object could not be read since the last list.
    unreadable: bool,
}

impl Follower {
    async fn run(mut self) {
        loop {
            let listing = match self.store.listing().await {
                Ok(listing) => listing,
                Err(error) => {
                    self.failed(error).await;
                    continue;
                }
            };
            let mut moment = listing.resource_version;
            self.unreadable = !listing.unreadable.is_empty();
            let restarted = LeaseEvent::Restarted { rows: listing.rows, unreadable: listing.unreadable };
            if self.events.send(restarted).await.is_err() {
                return;
            }
            loop {
                let begun = Instant::now();
                match self.follow(&mut moment).await {
                    Ok(End::Resume) if self.unreadable => {
                        self.pause(None).await;
                        break;
                    }
                    Ok(End::Resume) if begun.elapsed() < PAUSE_MAX => self.pause(None).await,
                    Ok(End::Resume) => {}
                    Ok(End::Relist) => {
                        self.pause(None).await;
                        break;
                    }
                    Ok(End::Unwanted) => return,
                    Ok(End::Busy(error)) => self.failed(error).await,
                    Err(error) => {
                        self.failed(error).await;
                        break;
                    }
                }
            }
        }
    }

    /// Follows from `moment`, and moves it on.
    async fn follow(&mut self, moment: &mut String) -> Result<End, StoreError> {
        let asked = Asked { operation: "watch", object: "all leases", writes: false };
        let path = format!(
            "{BASE}?watch=true&allowWatchBookmarks=true&resourceVersion={}&timeoutSeconds={}",
            super::escaped(moment),
            self.store.settings.watch_for.as_secs(),
        );
        let body = match self.store.door.open(&path).await {
            Ok(Ok(body)) => body,
            // 504: the resource version is ahead of the server, as after a restore of its storage.
            Ok(Err(answer)) if answer.status.as_u16() == 504 => return Ok(End::Relist),
            Ok(Err(answer)) => {
                let busy = answer.status.as_u16() == 429;
                return match asked.judge(Ok(answer)) {
                    Ok(Said::Done(_) | Said::Missing | Said::Conflict | Said::Expired) => Ok(End::Relist),
                    Err(error) if busy => Ok(End::Busy(error)),
                    Err(error) => Err(error),
                };
            }
            Err(fault) => return Err(asked.unavailable(None, fault)),
        };
        self.trouble.send_replace(None);
        let mut lines = Lines { body, buffer: BytesMut::new(), silence: self.store.settings.watch_silence };
        loop {
            let line = match lines.next().await {
                Ok(Some(line)) => line,
                Ok(None) => return Ok(End::Resume),
                Err(fault) => {
                    tracing::debug!(error = %crate::error::chain(&fault), "the watch broke off");
                    return Ok(End::Resume);
                }
            };
            let Ok(line) = serde_json::from_slice::<Line>(&line) else {
                tracing::warn!("malformed watch event; listing all leases again");
                return Ok(End::Relist);
            };
            self.failures = 0;
            let version = line.object.version();
            let event = match line.kind.as_str() {
                "BOOKMARK" => None,
                "ADDED" | "MODIFIED" => Some(match line.object.read() {
                    Ok(row) => LeaseEvent::Applied(Box::new(row)),
                    Err(unreadable) => {
                        self.unreadable = true;
                        LeaseEvent::Unreadable(*unreadable)
                    }
                }),
                "DELETED" => {
                    let object = line.object.metadata.name.clone();
                    let record = line.object.read().ok().map(|row| Box::new(row.record));
                    let key = key_of(&object);
                    Some(LeaseEvent::Deleted { object, key, version: version.clone(), record })
                }
                // ERROR, with a `Status`: 410 if the resource version is compacted; other cases restart as
                // well.
                kind => {
                    tracing::debug!(kind, code = line.object.code, text = line.object.message, "watch ended");
                    return Ok(End::Relist);
                }
            };
            if let Some(event) = event
                && self.events.send(event).await.is_err()
            {
                return Ok(End::Unwanted);
            }
            // Only when it was handed on.
            *moment = version.resource_version;
        }
    }

    async fn failed(&mut self, error: StoreError) {
        let wait = error.retry_after();
        if self.trouble.borrow().is_none() {
            tracing::warn!(error = %crate::error::chain(&error), "cannot follow the leases; trying again");
        }
        self.trouble.send_replace(Some(error));
        self.pause(wait).await;
    }

    /// Waits with exponential backoff and jitter.
    async fn pause(&mut self, wanted: Option<Duration>) {
        tokio::time::sleep(pause(self.failures, wanted, random())).await;
        self.failures = self.failures.saturating_add(1);
    }
}

/// The pause after this number of failures: doubled each time, the server's value if that is longer, half of
/// it random, and never more than [`PAUSE_MAX`].
fn pause(failures: u32, wanted: Option<Duration>, random: u64) -> Duration {
    let doubled = PAUSE_MIN.saturating_mul(1 << failures.min(10));
    let whole = doubled.max(wanted.unwrap_or_default()).min(PAUSE_MAX);
    let half = whole / 2;
    let chance = u32::try_from(random % 1_000).unwrap_or_default();
    half + half * chance / 1_000
}

/// The hasher of maps is seeded at random for each process and map: good enough to spread agents.
fn random() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}

/// The lines of a body.
struct Lines {
    body: Body,
    buffer: BytesMut,
    silence: Duration,
}

impl Lines {
    /// The next whole line; `None` at the end. An incomplete last line is not an event.
    async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        let mut seen = 0;
        loop {
            if let Some(end) = self.buffer[seen..].iter().position(|byte| *byte == b'\n') {
                return Ok(Some(self.buffer.split_to(seen + end + 1).freeze()));
            }
            seen = self.buffer.len();
            if seen > LINE_MAX {
                return Err(Fault::Unsteady("a watch sent an event without an end"));
            }
            let frame = tokio::time::timeout(self.silence, self.body.frame());
            match frame.await.map_err(|_| Fault::Late(self.silence))? {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Err(Fault::Cut(Box::new(error))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_are_spread_and_have_an_end() {
        let longest = |failures| pause(failures, None, 999);
        assert!(longest(0) < longest(1) && longest(1) < longest(4));
        for failures in [0, 5, 1_000] {
            for random in [0, 500, 999] {
                assert!(pause(failures, Some(Duration::from_hours(1)), random) <= PAUSE_MAX);
                assert!(pause(failures, None, random) >= PAUSE_MIN / 2);
            }
        }
        assert!(pause(0, Some(Duration::from_secs(4)), 0) >= Duration::from_secs(2));
        assert_ne!(random(), random());
    }
}
