//! The heartbeat: the `Lease` that assigns the node's name to this agent, and that publishes the node's own
//! counts of its pools.
//!
//! A shell around [`name::Name`] and [`counts::Published`]: it reads and writes the lease at the rate of the
//! cluster's size, and passes reasons that keep ADDs waiting to the ledger.

pub mod counts;
pub mod name;

use std::time::Duration;

use berth_ipam::ledger::Identity;
use berth_ipam::ledger::io::{Input, PoolCount};
use berth_store::kubernetes::Contact;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use crate::cluster::claim::stamp;
use crate::cluster::clocks::Clocks;
use crate::cluster::request::{Complaint, RequestError, within};
use crate::committer::chain;
use counts::Published;
use name::{Failure, Name, NodeSeen};

/// The code of the bar.
pub const BAR: &str = "node-name";
/// The shortest time between two heartbeats.
pub const PERIOD_MIN: Duration = Duration::from_secs(2);
/// Number of missed heartbeats after which an agent counts as silent.
const PATIENCE: u32 = 5;
/// Heartbeats of all nodes together in a second, at most.
const BEATS_PER_SECOND: u64 = 50;
/// Interval of the reads of an agent without its node's name, while its kubelet may be starting.
const FIRST_LOOKS: Duration = Duration::from_millis(500);
/// The nodes are counted this often.
const COUNT: Duration = Duration::from_mins(5);

/// Parameters of the task.
#[derive(Debug)]
pub struct Setup {
    /// The agent's namespace.
    pub namespace: String,
    /// Identity of this agent.
    pub me: Identity,
    /// The present counts of its pools.
    pub counts: watch::Receiver<Vec<PoolCount>>,
    /// Queue for the reason that keeps ADDs waiting.
    pub inputs: UnboundedSender<Input>,
    /// Sender of the present period, for other tasks that use it.
    pub pace: watch::Sender<Duration>,
    /// Record of contacts with the API server: on a calm node no other request occurs for minutes.
    pub contact: Contact,
    /// Clocks of the task.
    pub clocks: Clocks,
}

/// Period of one node's heartbeats, for this number of nodes.
pub fn period(nodes: u64) -> Duration {
    Duration::from_millis(nodes.saturating_mul(1000) / BEATS_PER_SECOND).max(PERIOD_MIN)
}

/// Runs until the receiver is gone.
pub async fn run(client: Client, setup: Setup) {
    let Setup { namespace, me, counts, inputs, pace, contact, clocks } = setup;
    let mut shell = Shell {
        leases: Api::namespaced(client.clone(), &namespace),
        nodes: Api::all(client),
        node: me.node.to_string(),
        name: Name::new(me, looks_apart(PERIOD_MIN)),
        published: Published::default(),
        counts,
        contact,
        clocks,
        period: PERIOD_MIN,
        complaint: Complaint::default(),
        told: None,
    };
    let mut counted = None;
    if !shell.tell(&inputs) {
        return;
    }
    loop {
        let fresh = shell.round().await;
        if !shell.tell(&inputs) {
            return;
        }
        let before = shell.period;
        let now = (clocks.own)();
        if fresh && counted.is_none_or(|at| now.since(at) >= COUNT) {
            counted = Some(now);
            shell.count_nodes().await;
            pace.send_replace(shell.period);
        }
        // A new period starts with the heartbeat that publishes it. Half of the time after a failure: other
        // agents wait five heartbeats.
        let pause = before.min(shell.period);
        // Nor does a node wait for its first pods until the next heartbeat: its kubelet may be about to
        // create the Node object.
        let pause = if shell.name.why().is_some() { pause.min(FIRST_LOOKS) } else { pause };
        tokio::time::sleep(if fresh { pause } else { pause / 2 }).await;
        if inputs.is_closed() {
            return;
        }
    }
}

/// Reads of another agent's lease are a heartbeat apart; at twice that, the observer was isolated.
fn looks_apart(period: Duration) -> Duration {
    period * 2
}

struct Shell {
    leases: Api<Lease>,
    nodes: Api<Node>,
    node: String,
    name: Name,
    published: Published,
    counts: watch::Receiver<Vec<PoolCount>>,
    contact: Contact,
    clocks: Clocks,
    period: Duration,
    complaint: Complaint,
    /// Reason in the last report to the ledger.
    told: Option<String>,
}

impl Shell {
    /// Reports a change to the ledger; false: the receiver is gone.
    fn tell(&mut self, inputs: &UnboundedSender<Input>) -> bool {
        if self.told.as_deref() == self.name.why() {
            return true;
        }
        self.told = self.name.why().map(str::to_owned);
        if self.told.is_none() {
            // The ledger notes a reason, but not its end.
            tracing::info!(node = self.node, "the node's name is this agent's");
        }
        inputs.send(Input::Bar(BAR, self.told.clone())).is_ok()
    }

    /// One look or renewal, or both; whether all went well.
    async fn round(&mut self) -> bool {
        if self.name.must_look() && !self.look().await {
            return false;
        }
        let now = (self.clocks.own)();
        let Some(mut lease) = self.name.write(self.period * PATIENCE, &stamp((self.clocks.wall)())) else {
            return true;
        };
        self.published.put_on(now, &self.counts.borrow(), &mut lease);
        match self.write(&lease).await {
            Ok(lease) => {
                self.complaint.over();
                self.contact.note(now);
                self.name.written(lease);
            }
            Err(error) => {
                self.complaint.about(now, "renew the heartbeat", &error);
                self.name.not_written(failure(&error));
                return false;
            }
        }
        true
    }

    async fn look(&mut self) -> bool {
        let asked = (self.clocks.own)();
        let lease = match within(self.leases.get_opt(&self.name.lease_name())).await {
            Ok(lease) => lease,
            Err(error) => {
                self.complaint.about((self.clocks.own)(), "read the heartbeat", &error);
                self.name.not_looked(&chain(&error), error.is_refused());
                return false;
            }
        };
        let answered = (self.clocks.own)();
        self.contact.note(asked);
        let node = if self.name.must_see_node() { self.see_node().await } else { NodeSeen::Unread };
        self.name.looked(asked, answered, lease, &node);
        true
    }

    async fn see_node(&mut self) -> NodeSeen {
        match within(self.nodes.get_opt(&self.node)).await {
            Ok(None) => NodeSeen::Absent,
            Ok(Some(node)) => {
                // A kubelet that has not registered yet: this machine has no evidence.
                let info = node.status.and_then(|status| status.node_info).unwrap_or_default();
                NodeSeen::There { machine_id: info.machine_id, boot_id: info.boot_id }
            }
            Err(error) => {
                self.complaint.about((self.clocks.own)(), "read the Node object", &error);
                NodeSeen::Unread
            }
        }
    }

    async fn write(&self, lease: &Lease) -> Result<Lease, RequestError> {
        let post = PostParams::default();
        if lease.metadata.resource_version.is_none() {
            within(self.leases.create(&post, lease)).await
        } else {
            within(self.leases.replace(&self.name.lease_name(), &post, lease)).await
        }
    }

    /// Derives the cluster's size from one Node and the number of the others.
    async fn count_nodes(&mut self) {
        let one = ListParams::default().limit(1);
        let nodes = match within(self.nodes.list_metadata(&one)).await {
            Ok(list) => match (list.metadata.continue_, list.metadata.remaining_item_count) {
                (_, Some(rest)) => list.items.len() as u64 + u64::try_from(rest).unwrap_or(0),
                (None, None) => list.items.len() as u64,
                // There are more, and the API server does not return their number: the previous period stays.
                (Some(_), None) => return,
            },
            Err(error) => return tracing::warn!(error = chain(&error), "count the nodes"),
        };
        self.period = period(nodes);
        self.name.set_gap(looks_apart(self.period));
    }
}

fn failure(error: &RequestError) -> Failure {
    if error.is_conflict() {
        Failure::Conflict
    } else if error.is_absent() {
        Failure::Absent
    } else {
        Failure::Unknown
    }
}

#[cfg(test)]
mod tests;
