//! Sources of evidence that a build with fault points can be told to do without, so that tests see what
//! the others are worth alone: `BERTH_DEAF=netlink,reconcile`. Other builds hear everything, always.

/// The variable that names them.
pub const VARIABLE: &str = "BERTH_DEAF";

/// Whether this source is to be left unheard: `netlink` (its events) or `reconcile` (reads and scans
/// that the clock alone asks for).
pub fn to(source: &str) -> bool {
    cfg!(feature = "fault-points")
        && std::env::var(VARIABLE).is_ok_and(|all| all.split(',').any(|word| word == source))
}
