//! The eBPF object that this agent was built with.

/// `None`: it was built without one.
pub fn embedded() -> Option<&'static [u8]> {
    None
}
