//! Recent observations, verdicts and actions: for `explain`, `events` and the log.
//!
//! Outside causes can produce notes without end: a pod that deletes its link again and again, a host that
//! claims every address. The number of notes is therefore limited, per code and object and per code over all
//! objects, and the next note reports the number of suppressed ones.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use berth_ipam::attachment::AttachmentKey;
use berth_ipam::ledger::io::{Note, NoteKind};
use berth_ipam::limit::{Limiter, Word};
use berth_ipam::name::SegmentName;
use berth_ipam::time::Time;
use berth_protocol::response::{EventKind, EventRow};

/// Maximum number of rows, over all addresses.
const ROWS_MAX: usize = 8192;

/// Maximum number of notes of one code about one object in a window.
const OF_OBJECT_MAX: u32 = 32;
/// Maximum number of notes of one code about all objects: a thousand pods may start at once.
const OF_CODE_MAX: u32 = 2048;
/// The window of both.
const WINDOW: Duration = Duration::from_secs(10);

/// Key of a series of notes.
type Series = (&'static str, Option<AttachmentKey>, Option<IpAddr>);

/// A ring of notes with their times.
#[derive(Debug)]
pub struct History {
    rows: VecDeque<(Time, Note)>,
    by_object: Limiter<Series, Note>,
    by_code: Limiter<&'static str, Note>,
}

impl Default for History {
    fn default() -> Self {
        Self {
            rows: VecDeque::new(),
            by_object: Limiter::new(OF_OBJECT_MAX, WINDOW),
            by_code: Limiter::new(OF_CODE_MAX, WINDOW),
        }
    }
}

impl History {
    /// The note in reported form, if it passes the limits now.
    pub fn admit(&mut self, now: Time, note: Note) -> Option<Note> {
        let series = (note.code, note.key.clone(), note.addresses.first().copied());
        let of_object = counted(self.by_object.admit(now, series, note)?);
        Some(counted(self.by_code.admit(now, of_object.code, of_object)?))
    }

    /// The last notes of series that were held back until their window ended.
    pub fn due(&mut self, now: Time) -> Vec<Note> {
        let unnamed = self.by_object.unnamed();
        if unnamed > 0 {
            tracing::warn!(held_back = unnamed, "notes about too many objects at once were held back");
        }
        let mut due: Vec<_> = self.by_code.due(now).into_iter().map(counted).collect();
        for word in self.by_object.due(now) {
            let note = counted(word);
            due.extend(self.by_code.admit(now, note.code, note).map(counted));
        }
        due
    }

    /// Keeps a reported note, and writes it to the log.
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

    /// The rows about one address, oldest first; of one segment alone, if one is named.
    pub fn of(&self, now: Time, address: IpAddr, segment: Option<&SegmentName>) -> Vec<EventRow> {
        let fits =
            |note: &Note| segment.is_none() || note.segment.is_none() || note.segment.as_ref() == segment;
        let about = self.rows.iter().filter(|(_, note)| note.addresses.contains(&address) && fits(note));
        about.map(|(at, note)| row(now, *at, note, Some(address))).collect()
    }

    /// All rows, oldest first.
    pub fn all(&self, now: Time) -> Vec<EventRow> {
        self.rows.iter().map(|(at, note)| row(now, *at, note, note.addresses.first().copied())).collect()
    }
}

/// The note with the number of similar ones that were suppressed before it.
fn counted(Word { word: mut note, held_back }: Word<Note>) -> Note {
    if held_back > 0 {
        note.text = format!("{} ({held_back} more like it were held back)", note.text);
    }
    note
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
        segment: note.segment.clone(),
        attachment: note.key.as_ref().map(ToString::to_string),
        text: note.text.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(address: [u8; 4]) -> Note {
        Note {
            kind: NoteKind::Warning,
            code: "second-holder",
            addresses: vec![address.into()],
            segment: None,
            key: None,
            text: "somebody speaks".to_owned(),
        }
    }

    #[test]
    fn a_flood_about_one_address_is_told_by_its_number_and_another_address_at_once() {
        let mut history = History::default();
        let now = Time::from_millis(1000);
        let flood = [10, 0, 0, 1];
        let told = (0..1000).filter(|_| history.admit(now, note(flood)).is_some()).count();
        assert_eq!(told, usize::try_from(OF_OBJECT_MAX).unwrap());
        assert!(history.admit(now, note([10, 0, 0, 2])).is_some());
        assert!(history.due(now).is_empty());
        let last = history.due(now + WINDOW);
        assert_eq!(last.len(), 1);
        assert!(last[0].text.ends_with("(967 more like it were held back)"), "{}", last[0].text);
    }

    #[test]
    fn a_flood_about_ever_new_addresses_is_told_by_its_number_too() {
        let mut history = History::default();
        let now = Time::from_millis(1000);
        let flood = |number: u16| {
            let [high, low] = number.to_be_bytes();
            note([10, 1, high, low])
        };
        let told = (0..u16::MAX).filter(|number| history.admit(now, flood(*number)).is_some()).count();
        assert_eq!(told, usize::try_from(OF_CODE_MAX).unwrap());
        assert_eq!(history.due(now + WINDOW).len(), 1);
    }
}
