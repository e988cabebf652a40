//! What Berth does not obey yet, row by row, in the words of the test that fails.
//!
//! A row that fails in other words, or passes, makes the suite red: then this list is to be corrected.

/// Rows and why they fail.
const KNOWN: &[(&str, &str)] = &[
    // While the other link with that MAC is up, the parent's list shows the MAC, which counts as alive.
    ("A11", "an ADD that fails at its last step holds an address"),
];

/// Why a row is known to fail.
pub fn reason(id: &str) -> Option<&'static str> {
    KNOWN.iter().find(|(known, _)| *known == id).map(|(_, reason)| *reason)
}
