//! What was observed, judged and done lately: for `explain`, `events` and the log.

use std::collections::VecDeque;
use std::net::IpAddr;

use berth_ipam::ledger::io::{Note, NoteKind};
use berth_ipam::time::Time;
use berth_protocol::response::{EventKind, EventRow};

/// How many rows are kept, of all addresses together.
const ROWS_MAX: usize = 8192;

/// A ring of notes with their times.
#[derive(Debug, Default)]
pub struct History {
    rows: VecDeque<(Time, Note)>,
}

impl History {
    /// Keeps a note and writes it to the log.
    pub fn add(&mut self, now: Time, note: Note) {
        let key = note.key.as_ref().map(ToString::to_string).unwrap_or_default();
        if note.kind == NoteKind::Warning {
            tracing::warn!(code = note.code, addresses = ?note.addresses, attachment = key, "{}", note.text);
        } else {
            tracing::info!(code = note.code, addresses = ?note.addresses, attachment = key, "{}", note.text);
        }
        if self.rows.len() == ROWS_MAX {
            self.rows.pop_front();
        }
        self.rows.push_back((now, note));
    }

    /// The rows about one address, oldest first.
    pub fn of(&self, now: Time, address: IpAddr) -> Vec<EventRow> {
        let about = self.rows.iter().filter(|(_, note)| note.addresses.contains(&address));
        about.map(|(at, note)| row(now, *at, note, Some(address))).collect()
    }

    /// All rows, oldest first.
    pub fn all(&self, now: Time) -> Vec<EventRow> {
        self.rows.iter().map(|(at, note)| row(now, *at, note, note.addresses.first().copied())).collect()
    }
}

/// A note as the protocol shows it.
pub fn row(now: Time, at: Time, note: &Note, address: Option<IpAddr>) -> EventRow {
    EventRow {
        at_ms: at.0 / 1_000_000,
        ago_ms: u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX),
        kind: match note.kind {
            NoteKind::Observation => EventKind::Observation,
            NoteKind::Verdict => EventKind::Verdict,
            NoteKind::Action => EventKind::Action,
            NoteKind::Warning => EventKind::Warning,
        },
        code: note.code.to_owned(),
        address,
        attachment: note.key.as_ref().map(ToString::to_string),
        text: note.text.clone(),
    }
}
