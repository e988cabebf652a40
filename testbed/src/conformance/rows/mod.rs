//! The rows: the meaning of each, and the test that shows whether a plugin obeys it.
//!
//! One file for each letter of the checklist. A row about callers alone is marked so; its test simulates such
//! a caller, and shows that the plugin tolerates it.

mod add;
mod around_add;
mod around_del;
mod bad_input;
mod callers;
mod check;
mod del;
mod environment;
mod gc;
mod results;
mod status;
mod traps;
mod versions;

use super::answer::Play;
use super::stage::Stage;

/// Subject of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The plugin itself.
    Plugin,
    /// The plugin's callers.
    Caller,
}

/// One row of the checklist.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its number in the checklist.
    pub id: &'static str,
    /// The test's name.
    pub test: &'static str,
    /// Text of the rule.
    pub meaning: &'static str,
    /// Subject of the rule.
    pub kind: Kind,
    /// Test of the rule.
    pub play: fn(&mut Stage) -> Play,
}

/// Lists the rows of a file: number, kind, function, meaning.
macro_rules! rows {
    ($($id:ident $kind:ident $play:ident $meaning:literal;)*) => {
        pub const ROWS: &[Row] = &[$(Row {
            id: stringify!($id),
            test: stringify!($play),
            meaning: $meaning,
            kind: $crate::conformance::rows::kind::$kind,
            play: $play,
        }),*];
    };
}
use rows;

/// The keywords of [`rows!`] for a kind.
mod kind {
    #![expect(non_upper_case_globals, reason = "they are words of a macro")]
    use super::Kind;

    pub(in crate::conformance) const plugin: Kind = Kind::Plugin;
    pub(in crate::conformance) const caller: Kind = Kind::Caller;
}

/// A part of the document.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// Heading of the part.
    pub title: &'static str,
    /// Rows of the part.
    pub rows: &'static [Row],
}

/// All rows, in the order of the checklist.
pub const ALL: [Part; 13] = [
    Part { title: "Environment and dispatch", rows: environment::ROWS },
    Part { title: "Versions", rows: versions::ROWS },
    Part { title: "ADD", rows: add::ROWS },
    Part { title: "DEL", rows: del::ROWS },
    Part { title: "CHECK", rows: check::ROWS },
    Part { title: "STATUS", rows: status::ROWS },
    Part { title: "GC", rows: gc::ROWS },
    Part { title: "Results, errors, streams", rows: results::ROWS },
    Part { title: "Bad input", rows: bad_input::ROWS },
    Part { title: "Traps: ordering and identity", rows: traps::ROWS },
    Part { title: "Calls of runtimes", rows: callers::ROWS },
    Part { title: "What kubelet and containerd do to ADD", rows: around_add::ROWS },
    Part { title: "What kubelet and containerd do to DEL and STATUS", rows: around_del::ROWS },
];
