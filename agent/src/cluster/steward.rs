//! The steward: one agent of the cluster that writes the status of pools for all.
//!
//! A shell around [`election::Election`] and [`tally::Tally`]. Nothing depends on its work but what people
//! read.

pub mod election;
pub mod tally;

use std::time::Duration;

use berth_api::types::IPPoolStatus;
use berth_ipam::ledger::Identity;
use berth_ipam::name::PoolName;
use berth_ipam::time::Time;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use tokio::sync::watch;

use crate::cluster::claim::stamp;
use crate::cluster::clocks::Clocks;
use crate::cluster::heartbeat::counts::LABEL;
use crate::cluster::heartbeat::name::signature;
use crate::cluster::request::{Complaint, RequestError, within};
use election::{Election, LEASE, RENEW};
use tally::{PACE, Picture, Tally};

/// Path of the pools in the API.
const POOLS: &str = "/apis/berth.dev/v1alpha1/ippools";

/// Parameters of the task.
#[derive(Debug)]
pub struct Setup {
    /// The agent's namespace.
    pub namespace: String,
    /// Identity of this agent.
    pub me: Identity,
    /// Its view of pools and records.
    pub picture: watch::Receiver<Picture>,
    /// The cluster's pace, from the heartbeat.
    pub pace: watch::Receiver<Duration>,
    /// Clocks of the task.
    pub clocks: Clocks,
}

/// Runs until the sender of the view is gone.
pub async fn run(client: Client, setup: Setup) {
    let Setup { namespace, me, picture, pace, clocks } = setup;
    let signature = format!("{}/{}", me.node, signature(&me));
    let election = Election::new(signature, looks_apart(RENEW));
    let leases = Api::namespaced(client.clone(), &namespace);
    let mut shell = Shell {
        client,
        leases,
        election,
        picture,
        pace,
        clocks,
        tally: Tally::default(),
        listed: None,
        complaint: Complaint::default(),
        trouble: Complaint::default(),
    };
    while shell.picture.has_changed().is_ok() {
        let began = (clocks.own)();
        let was = shell.election.is_steward();
        shell.stand().await;
        let is = shell.election.is_steward();
        if is != was {
            tracing::info!(steward = is, "the steward's lease changed hands");
            shell.tally = Tally::default();
            shell.listed = None;
        }
        let pause = if is {
            shell.serve(began).await;
            RENEW
        } else {
            shell.looks()
        };
        let spent = (clocks.own)().since(began);
        tokio::time::sleep(pause.saturating_sub(spent).max(Duration::from_secs(1))).await;
    }
}

/// Reads further apart than this were interrupted.
fn looks_apart(pace: Duration) -> Duration {
    pace * 2
}

struct Shell {
    client: Client,
    leases: Api<Lease>,
    election: Election,
    picture: watch::Receiver<Picture>,
    pace: watch::Receiver<Duration>,
    clocks: Clocks,
    tally: Tally,
    /// Time of the last list of heartbeats.
    listed: Option<Time>,
    /// Failures of the election.
    complaint: Complaint,
    /// Failures of the work.
    trouble: Complaint,
}

impl Shell {
    /// Interval of a candidate's reads: all of them together send no more requests than heartbeats do.
    fn looks(&self) -> Duration {
        RENEW.max(*self.pace.borrow())
    }

    /// Takes part in the election, or renews.
    async fn stand(&mut self) {
        self.election.set_gap(looks_apart(self.looks()));
        let asked = (self.clocks.own)();
        if !self.election.is_steward() {
            match within(self.leases.get_opt(LEASE)).await {
                Ok(lease) => self.election.looked(asked, (self.clocks.own)(), lease),
                Err(error) => return self.complaint.about(asked, "read the steward's lease", &error),
            }
        }
        let Some(lease) = self.election.write(stamp((self.clocks.wall)())) else { return };
        let asked = (self.clocks.own)();
        let post = PostParams::default();
        let answer = if lease.metadata.resource_version.is_none() {
            within(self.leases.create(&post, &lease)).await
        } else {
            within(self.leases.replace(LEASE, &post, &lease)).await
        };
        match answer {
            Ok(lease) => {
                self.complaint.over();
                self.election.written(asked, lease);
            }
            Err(error) => {
                let lost = error.is_conflict() || error.is_absent();
                if !lost {
                    self.complaint.about(asked, "write the steward's lease", &error);
                }
                self.election.not_written((self.clocks.own)(), lost);
            }
        }
    }

    /// Counts, and writes what changed, until the next renewal is due.
    async fn serve(&mut self, began: Time) {
        let pace = PACE.max(*self.pace.borrow());
        if self.listed.is_none_or(|at| began.since(at) >= pace) {
            self.listen(pace).await;
        }
        let picture = self.picture.borrow().clone();
        for (name, status) in self.tally.due((self.clocks.own)(), &picture) {
            let written = match self.write(&name, &status).await {
                Ok(()) => Some(status),
                Err(error) => {
                    self.trouble.about(began, "write the status of a pool", &error);
                    None
                }
            };
            let now = (self.clocks.own)();
            self.tally.written(now, name, written);
            if now.since(began) >= RENEW {
                return;
            }
        }
    }

    async fn listen(&mut self, pace: Duration) {
        let asked = (self.clocks.own)();
        // From the API server's cache: a moment's delay does not matter to counts.
        let query = ListParams::default().labels(&format!("{}={}", LABEL.0, LABEL.1)).match_any();
        match within(self.leases.list(&query)).await {
            Ok(list) => {
                self.listed = Some(asked);
                self.tally.heard(asked, (self.clocks.own)(), pace * 2, &list.items);
            }
            Err(error) => self.trouble.about(asked, "list the heartbeats", &error),
        }
    }

    /// As text, so that a pool of a newer version can be written.
    async fn write(&self, name: &PoolName, status: &IPPoolStatus) -> Result<(), RequestError> {
        let patch = Patch::Merge(serde_json::json!({ "status": status }));
        let request = kube::core::Request::new(POOLS)
            .patch_subresource("status", name.as_str(), &PatchParams::default(), &patch)
            .map_err(kube::Error::BuildRequest)?;
        within(self.client.request_text(request)).await.map(drop)
    }
}

#[cfg(test)]
mod tests;
