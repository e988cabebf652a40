//! Ownership of the node's name.
//!
//! Pure. A name belongs to the agent that holds its heartbeat `Lease`; the holder is a machine and one boot
//! of it. It is taken only if the Node object of that name has this machine and this boot, or if its holder
//! has been silent for long enough; and never without a Node object. Once held, it is lost only to a write of
//! another client. The name cannot be taken while the API server is away, so an outage takes it from no
//! agent.
//!
//! Invariant: of two agents that both believe that they have the name, one fails its next renewal.

use std::collections::VecDeque;
use std::time::Duration;

use berth_ipam::ledger::Identity;
use berth_ipam::time::Time;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;

use crate::cluster::claim::{Claim, Standing, signed, stamped};

/// Number of its own unanswered writes that an agent recognises: they are a second apart or more, and an API
/// server applies none that is older than a minute.
const STAMPS_MAX: usize = 64;
/// Prefix of the names of heartbeat leases; the node's name follows.
pub const PREFIX: &str = "berth-node-";
/// Prefix of reasons reported only during start-up.
pub const STARTING: &str = "starting: ";

/// State of the Node object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NodeSeen {
    /// The read failed.
    Unread,
    /// No object of that name exists.
    Absent,
    /// It has this machine and this boot.
    There {
        /// Value of `status.nodeInfo.machineID`.
        machine_id: String,
        /// Value of `status.nodeInfo.bootID`.
        boot_id: String,
    },
}

/// Reason why a write of the lease failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Another client wrote it.
    Conflict,
    /// It is not there.
    Absent,
    /// Its effect is unknown, or it had none without a conflict.
    Unknown,
}

/// See the module's head.
#[derive(Debug)]
pub struct Name {
    me: Identity,
    claim: Claim,
    state: State,
    /// Date of this agent's last write that is certain to have taken effect.
    base: Option<MicroTime>,
    /// The dates of those after it, latest last.
    stamps: VecDeque<MicroTime>,
    why: Option<String>,
}

#[derive(Debug)]
enum State {
    /// Another agent holds it. `twin`: it was lost to an agent with this machine and boot.
    Without { twin: bool },
    /// It may be taken, by replacing this.
    Taking(Option<Lease>),
    /// It is ours, and this is how the lease was last.
    Ours(Option<Lease>),
    /// This agent holds it, but the state of the lease is unknown.
    Doubt,
}

impl Name {
    /// An agent's that has just begun.
    pub fn new(me: Identity, gap: Duration) -> Self {
        let why = Some(format!("{STARTING}whether the name {} is this node's is not known yet", me.node));
        let claim = Claim::new(signature(&me), gap);
        Self { me, claim, state: State::Without { twin: false }, base: None, stamps: VecDeque::new(), why }
    }

    /// Reason that keeps ADDs waiting; `None`: this agent holds the name.
    pub fn why(&self) -> Option<&str> {
        self.why.as_deref()
    }

    /// The lease's name.
    pub fn lease_name(&self) -> String {
        format!("{PREFIX}{}", self.me.node)
    }

    /// True if the lease must be read before it is written.
    pub fn must_look(&self) -> bool {
        matches!(self.state, State::Without { .. } | State::Doubt)
    }

    /// True if the Node object must be read too.
    pub fn must_see_node(&self) -> bool {
        matches!(self.state, State::Without { .. })
    }

    /// Sets the interval of the reads from now on.
    pub fn set_gap(&mut self, gap: Duration) {
        self.claim.set_gap(gap);
    }

    /// The write that is due, if one is: with the lease's version, or (without) of a new one.
    pub fn write(&mut self, patience: Duration, at: &MicroTime) -> Option<Lease> {
        let (State::Taking(old) | State::Ours(old)) = &self.state else { return None };
        let lease = signed(old.as_ref(), &self.lease_name(), &signature(&self.me), patience, at.clone());
        if self.stamps.len() == STAMPS_MAX {
            self.stamps.pop_front();
        }
        self.stamps.push_back(at.clone());
        Some(lease)
    }

    /// The lease could not be read. The ownership of the name does not change by that.
    pub fn not_looked(&mut self, error: &str, refused: bool) {
        if self.why.is_none() {
            return;
        }
        let starting = self.why.as_ref().is_some_and(|why| why.starts_with(STARTING));
        if refused {
            self.why = Some(format!(
                "the API server refuses to tell whose the name {} is: {error}; correct what the agent's \
                 ServiceAccount may do",
                self.me.node
            ));
        } else if starting {
            // Texts of failed connections differ from one to the next, and the log has them.
            self.why = Some(format!("{STARTING}the API server was not reached yet"));
        }
    }

    /// The lease was read, and the Node object if that was requested.
    pub fn looked(&mut self, asked: Time, answered: Time, lease: Option<Lease>, node: &NodeSeen) {
        let standing = self.claim.look(asked, answered, lease.as_ref());
        let mine = standing.mine && lease.as_ref().and_then(stamped).is_some_and(|at| self.knows(at));
        match self.state {
            State::Doubt if mine || lease.is_none() => self.take_over(lease),
            State::Doubt => {
                self.state = State::Without { twin: standing.mine };
                self.why = Some(self.not_ours(&standing, standing.mine));
            }
            State::Without { .. } if mine && *node != NodeSeen::Absent => self.take_over(lease),
            State::Without { twin } => {
                let twin = twin && standing.mine;
                match self.obstacle(&standing, twin, node) {
                    None => self.state = State::Taking(lease),
                    Some(why) => {
                        self.state = State::Without { twin };
                        self.why = Some(why);
                    }
                }
            }
            State::Taking(_) | State::Ours(_) => {}
        }
    }

    /// The write took effect.
    pub fn written(&mut self, lease: Lease) {
        self.take_over(Some(lease));
    }

    /// True if a write of that date is this agent's own.
    fn knows(&self, at: &MicroTime) -> bool {
        self.base.as_ref() == Some(at) || self.stamps.contains(at)
    }

    fn take_over(&mut self, lease: Option<Lease>) {
        if let Some(at) = lease.as_ref().and_then(stamped).filter(|at| self.base.as_ref() != Some(*at)) {
            // Writes in progress name a version that is past.
            self.base = Some(at.clone());
            self.stamps.clear();
        }
        self.state = State::Ours(lease);
        self.why = None;
    }

    /// The write brought nothing.
    pub fn not_written(&mut self, failure: Failure) {
        self.state = match (&self.state, failure) {
            (State::Ours(_), Failure::Absent) => State::Ours(None),
            (State::Ours(_) | State::Doubt, _) => State::Doubt,
            (State::Without { twin }, _) => State::Without { twin: *twin },
            // Own writes are recognised by their dates, in case this one has taken effect.
            (State::Taking(_), _) => State::Without { twin: false },
        };
    }

    /// Obstacle to taking the name.
    fn obstacle(&self, standing: &Standing, twin: bool, node: &NodeSeen) -> Option<String> {
        let name = &self.me.node;
        match node {
            NodeSeen::Unread => Some(format!("the Node object {name} could not be read")),
            NodeSeen::Absent => Some(format!(
                "no Node object is called {name}: give the agent the name that this node has in the cluster \
                 (--node-name)"
            )),
            NodeSeen::There { machine_id, boot_id } => {
                let matches = *machine_id == self.me.machine_id.0 && *boot_id == self.me.boot_id.0;
                let free = standing.is_given_up() || !twin && (standing.mine || matches);
                (!free).then(|| self.not_ours(standing, twin))
            }
        }
    }

    fn not_ours(&self, standing: &Standing, twin: bool) -> String {
        let (name, seconds) = (&self.me.node, standing.patience.as_secs());
        if twin {
            return format!(
                "another agent with this machine id and this boot id renews the name {name}: it is a copy of this \
                 machine, or a second agent on it; end one of them. The name is taken after {seconds} s of its \
                 silence"
            );
        }
        let holder = standing.holder.as_deref().unwrap_or("nobody");
        format!(
            "the name {name} is held by {holder} (machine id/boot id), not by this agent ({}), and the Node object \
             does not speak of this machine and boot: two agents have one node name, or the kubelet has not \
             registered since the boot. The name is taken after {seconds} s of its holder's silence",
            signature(&self.me)
        )
    }
}

/// Holder identity of an agent: the machine and its boot.
pub fn signature(me: &Identity) -> String {
    format!("{}/{}", me.machine_id.0, me.boot_id.0)
}

#[cfg(test)]
mod tests;
