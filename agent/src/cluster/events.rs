//! Events: notes of the ledger, for operators of a pod or a node of the cluster.
//!
//! A shell around [`words`] and [`book`]. The ledger never waits for it: notes without room are dropped and
//! counted.

pub mod book;
pub mod words;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use berth_ipam::attachment::PodRef;
use berth_ipam::ledger::io::Note;
use berth_ipam::name::NodeName;
use k8s_openapi::api::core::v1::Event;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::cluster::clocks::Clocks;
use crate::cluster::request::{RequestError, within};
use crate::committer::chain;
use book::{Book, Outcome, Write};
use words::Report;

/// Maximum number of reports that wait for the task.
const WAITING: usize = 256;
/// Maximum time between two runs of the task's housekeeping.
const IDLE: Duration = Duration::from_mins(1);

/// Sender of the reports.
#[derive(Debug, Clone)]
pub struct Recorder {
    reports: Sender<Report>,
    dropped: Arc<AtomicU64>,
}

/// Receiver of the reports.
#[derive(Debug)]
pub struct Inbox {
    reports: Receiver<Report>,
    dropped: Arc<AtomicU64>,
}

/// A recorder, and what [`run`] takes.
pub fn recorder() -> (Recorder, Inbox) {
    let (reports, inbox) = channel(WAITING);
    let dropped = Arc::new(AtomicU64::new(0));
    (Recorder { reports, dropped: dropped.clone() }, Inbox { reports: inbox, dropped })
}

impl Recorder {
    /// Reports a note, if it is one for the cluster. `pod` is its attachment's; `running`: the pod is wanted.
    /// Never waits.
    pub fn tell(&self, note: &Note, pod: Option<&PodRef>, running: bool) {
        let Some(report) = words::report(note, pod, running) else { return };
        if self.reports.try_send(report).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Runs until no recorder is left.
pub async fn run(client: Client, node: NodeName, mut inbox: Inbox, clocks: Clocks) {
    let mut book = Book::new(node.as_str(), (clocks.own)());
    let mut logged = 0;
    loop {
        let now = (clocks.own)();
        let pause = book.wake().map_or(IDLE, |at| at.since(now)).min(IDLE);
        tokio::select! {
            biased;
            report = inbox.reports.recv() => match report {
                Some(report) => book.hear((clocks.own)(), (clocks.wall)(), report),
                None => return,
            },
            () = tokio::time::sleep(pause) => {
                if let Some((key, write)) = book.next((clocks.own)()) {
                    let outcome = carry_out(&client, write).await;
                    book.written((clocks.own)(), &key, outcome);
                }
                let dropped = book.dropped() + inbox.dropped.load(Ordering::Relaxed);
                if dropped > logged {
                    tracing::warn!(dropped = dropped - logged, "events were not told; `berthctl events` has them");
                    logged = dropped;
                }
            }
        }
    }
}

async fn carry_out(client: &Client, write: Write) -> Outcome {
    let answer = match write {
        Write::Create(event) => {
            let namespace = event.metadata.namespace.clone().unwrap_or_default();
            let events = Api::<Event>::namespaced(client.clone(), &namespace);
            match within(events.create(&PostParams::default(), &event)).await {
                Err(error) if error.is_conflict() => return Outcome::Exists,
                answer => answer.map(drop),
            }
        }
        Write::Update { namespace, name, patch } => {
            let events = Api::<Event>::namespaced(client.clone(), &namespace);
            within(events.patch(&name, &PatchParams::default(), &Patch::Merge(patch))).await.map(drop)
        }
    };
    answer.map_or_else(|error| failed(&error), |()| Outcome::Done)
}

fn failed(error: &RequestError) -> Outcome {
    let outcome = if error.is_absent() {
        Outcome::Gone
    } else if error.is_refused() && !error.is_conflict() {
        Outcome::Refused
    } else {
        Outcome::Failed
    };
    tracing::debug!(error = chain(error), ?outcome, "write an event");
    outcome
}

#[cfg(test)]
mod tests;
