//! The cluster that a node belongs to: everything that talks to the API server, on a thread of its own,
//! so that no answer of its holds up the node.
//!
//! What it brings in are records, declarations and hints about intent; what is carried out are writes of
//! records and reports. Nothing is decided here.

pub mod claim;
pub mod clocks;
pub mod events;
pub mod heartbeat;
pub mod request;
#[cfg(test)]
mod script;
pub mod steward;

use berth_ipam::record::AddressKey;
use tokio::sync::mpsc::UnboundedSender;

use crate::away;

/// The handle of the thread.
#[derive(Debug, Clone)]
pub struct Cluster {
    orders: UnboundedSender<away::Order>,
}

impl Cluster {
    /// Has the record of an address read live.
    pub fn look_up(&self, key: AddressKey) {
        if self.orders.send(away::Order::LookUp(key)).is_err() {
            tracing::error!("the cluster's thread has ended");
        }
    }
}
