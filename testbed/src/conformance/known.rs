//! What Berth does not obey yet, row by row, in the words of the test that fails.
//!
//! A row that fails in other words, or passes, makes the suite red: then this list is to be corrected.

/// Rows and why they fail.
const KNOWN: &[(&str, &str)] = &[];

/// Why a row is known to fail.
pub fn reason(id: &str) -> Option<&'static str> {
    KNOWN.iter().find(|(known, _)| *known == id).map(|(_, reason)| *reason)
}
