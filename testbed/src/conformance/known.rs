//! What Berth does not obey yet, row by row, in the words of the test that fails.
//!
//! A row that fails in other words, or passes, makes the suite red: then this list is to be corrected.

/// Rows and why they fail.
const KNOWN: &[(&str, &str)] = &[
    // Berth as main plugin with another IPAM.
    ("E8", OTHER_IPAM),
    ("A5", OTHER_IPAM),
    ("D5", OTHER_IPAM),
    ("C4", OTHER_IPAM),
    // The plugin takes its own interface for a stranger's.
    ("A8", "ADD repeated: code 4"),
    // The agent takes any link with the MAC that was asked for, wherever it is, for the attachment's own.
    ("A11", "the link of another container with that MAC is removed"),
    ("C1", "CHECK without the route: succeeded"),
    // A reason counts at once, not after it has lasted for 60 s.
    ("S4", "STATUS right after the parent's end: code 50"),
    // The agent frees by evidence, and GC does not ask it to look.
    ("G2", "GC frees nothing"),
    ("G6", "GC frees nothing"),
];

/// What an ADD with an `ipam.type` other than `berth` comes to.
const OTHER_IPAM: &str = "ADD with another ipam: code 7";

/// Why a row is known to fail.
pub fn reason(id: &str) -> Option<&'static str> {
    KNOWN.iter().find(|(known, _)| *known == id).map(|(_, reason)| *reason)
}
