//! Causes of the states of attachments and of quarantined addresses.

use std::fmt;

use crate::verdict::{Ending, Row};

/// Cause of the present state of an attachment, or of a quarantine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Its ADD is open.
    Reserved,
    /// A DEL waits for the plugin of an open ADD.
    AddOpen,
    /// Its ADD ended, and no verdict says otherwise.
    Bound,
    /// Its ADD is undone.
    Undone,
    /// A restarted agent found it in the journal.
    Restarted,
    /// The agent found its record in the store or its link on the node.
    Adopted,
    /// It is over, and its addresses are kept for the next sandbox of its pod.
    Held,
    /// That time is over.
    HoldEnded,
    /// Its pod is over while its addresses are kept for it.
    PodGone,
    /// An operator asked for its release.
    Operator,
    /// An operator forced its release.
    Forced,
    /// Another host spoke for one of its addresses.
    Heard,
    /// Another host answered a probe for one of its addresses.
    Answers,
    /// Another interface of the node has one of its addresses.
    Occupied,
    /// The row of the table that fits.
    Row(&'static Row),
}

impl Reason {
    /// The stable code that `leases`, `explain` and events show.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::AddOpen => "add-open",
            Self::Bound => "bound",
            Self::Undone => "undone",
            Self::Restarted => "restarted",
            Self::Adopted => "adopted",
            Self::Held => "held",
            Self::HoldEnded => "hold-ended",
            Self::PodGone => "pod-gone",
            Self::Operator => "operator",
            Self::Forced => "forced",
            Self::Heard => "heard",
            Self::Answers => "answers",
            Self::Occupied => "occupied",
            Self::Row(row) => row.id,
        }
    }

    /// True if no other host can have used the address up to its release: its next holder needs no probe.
    pub const fn proves_silence(self) -> bool {
        match self {
            Self::Undone => true,
            Self::Row(row) => row.proves_silence,
            _ => false,
        }
    }

    /// The row of the table that says how this state ends.
    pub fn row(self) -> Option<&'static Row> {
        match self {
            Self::Bound => Row::of("link-present"),
            Self::Row(row) => Some(row),
            _ => None,
        }
    }

    /// The end of a state that leaves the address taken, if a row of the table is its cause.
    pub fn ending(self) -> Option<Ending> {
        self.row()?.ending
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}
