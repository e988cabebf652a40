//! The clocks of the tasks about the cluster.

use berth_ipam::time::Time;
use k8s_openapi::jiff::Timestamp;

use crate::clock;

/// Two clocks: one that everything is judged by, and one that is only written down, for people.
#[derive(Debug, Clone, Copy)]
pub struct Clocks {
    /// This node's own time since its boot.
    pub own: fn() -> Time,
    /// The date, as this node has it. Never compared with anything.
    pub wall: fn() -> Timestamp,
}

impl Clocks {
    /// Clocks of this node.
    pub const REAL: Self = Self { own: clock::now, wall: Timestamp::now };
}
