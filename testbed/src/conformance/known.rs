//! Known failures of Berth, row by row, with the text of the failing test.
//!
//! A row that fails with another text, or passes, makes the suite red: then this list must be corrected.

/// Rows and why they fail.
const KNOWN: &[(&str, &str)] = &[];

/// Reason why a row is known to fail.
pub fn reason(id: &str) -> Option<&'static str> {
    KNOWN.iter().find(|(known, _)| *known == id).map(|(_, reason)| *reason)
}
