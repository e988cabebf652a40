//! Sources of evidence that can be disabled in a build with fault points, so that tests measure the others
//! alone: `BERTH_DEAF=netlink,reconcile`. Other builds always use all sources.

/// The variable that names them.
pub const VARIABLE: &str = "BERTH_DEAF";

/// True if this source is disabled: `netlink` (its events) or `reconcile` (periodic reads and scans).
pub fn to(source: &str) -> bool {
    cfg!(feature = "fault-points")
        && std::env::var(VARIABLE).is_ok_and(|all| all.split(',').any(|word| word == source))
}
