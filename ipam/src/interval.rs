//! Sets of addresses as intervals: a /64 costs as much as one address.

use std::collections::BTreeMap;

/// A set of 128-bit numbers, kept as disjoint, non-adjacent closed intervals. An IPv4 address is
/// its 32-bit value, an IPv6 address its 128-bit value; one set holds one family.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IntervalSet {
    /// First to last, both included.
    ranges: BTreeMap<u128, u128>,
}
