//! Placeholder; the crate's owner writes its head.
