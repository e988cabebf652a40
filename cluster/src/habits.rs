//! Deviations of a kubelet from its normal behaviour. Each was observed with a real one; the default is the
//! normal behaviour.

use std::time::Duration;

/// Deviations of one stand-in. They can be changed while it runs; calls in progress keep the old ones.
#[expect(clippy::struct_excessive_bools, reason = "each is a separate deviation")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Habits {
    /// Maximum number of CNI commands in flight on the node.
    pub in_flight: usize,
    /// From a pod's Terminating to its DEL.
    pub late_del: Duration,
    /// Number of DELs after a successful one, with an empty namespace and no `prevResult`.
    pub repeated_dels: u32,
    /// From the successful DEL to the first of these, and between them.
    pub repeat_after: Duration,
    /// Sandboxes are removed without any DEL.
    pub no_del: bool,
    /// The first DEL of a sandbox is killed so long after its start, with all that it started.
    pub kill_del_after: Option<Duration>,
    /// From a DEL that failed to the next.
    pub del_again_after: Duration,
    /// Delay from a sandbox's end to the first call about it: a kubelet checks its sandboxes once a second.
    pub notice_after: Duration,
    /// A sandbox that ended gets its DEL only after its pod has a new one, as after a crash of the runtime.
    pub del_last: bool,
    /// A sandbox survives although its pod object was force-deleted, as under a kubelet that hangs.
    pub keep_forced: bool,
    /// Each sandbox has a process, like a pause container.
    pub inhabited: bool,
    /// Time limit of a plugin, after which it is killed.
    pub command_limit: Duration,
}

impl Default for Habits {
    fn default() -> Self {
        Self {
            in_flight: 4,
            late_del: Duration::ZERO,
            repeated_dels: 0,
            repeat_after: Duration::from_secs(2),
            no_del: false,
            kill_del_after: None,
            del_again_after: Duration::from_millis(800),
            notice_after: Duration::from_secs(1),
            del_last: false,
            keep_forced: false,
            inhabited: false,
            command_limit: Duration::from_mins(4),
        }
    }
}

/// Delay before the next sandbox of a pod after `times` failed ADDs in a row: 1, 2, 4, 8 s, and 8 s from then
/// on.
pub fn back_off(times: u32) -> Duration {
    Duration::from_secs(1 << times.saturating_sub(1).min(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_back_off_doubles_up_to_eight_seconds() {
        let seconds: Vec<u64> = (1..=6).map(|times| back_off(times).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 8, 8]);
    }
}
