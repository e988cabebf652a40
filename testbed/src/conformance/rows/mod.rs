//! The rows: what each says, and the test that shows whether a plugin obeys it.
//!
//! One file for each letter of the checklist. A row that speaks of callers alone is marked so; its
//! test plays such a caller, and shows that the plugin bears it.

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

/// Whom a row speaks of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The plugin.
    Plugin,
    /// Those who call it.
    Caller,
}

/// One row.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Its number in the checklist.
    pub id: &'static str,
    /// The test's name.
    pub test: &'static str,
    /// What it says.
    pub meaning: &'static str,
    /// Whom it speaks of.
    pub kind: Kind,
    /// The test.
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

/// The words of [`rows!`] for a kind.
mod kind {
    #![expect(non_upper_case_globals, reason = "they are words of a macro")]
    use super::Kind;

    pub(in crate::conformance) const plugin: Kind = Kind::Plugin;
    pub(in crate::conformance) const caller: Kind = Kind::Caller;
}

/// A part of the document.
#[derive(Debug, Clone, Copy)]
pub struct Part {
    /// Its heading.
    pub title: &'static str,
    /// Its rows.
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
    Part { title: "Who calls what", rows: callers::ROWS },
    Part { title: "What kubelet and containerd do to ADD", rows: around_add::ROWS },
    Part { title: "What kubelet and containerd do to DEL and STATUS", rows: around_del::ROWS },
];
