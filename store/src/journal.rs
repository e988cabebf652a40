//! The agent's own file: intents, and state of the node that the store does not need.
//!
//! Rows are opaque here; the ledger interprets them. A lazy change waits in memory for the next durable one,
//! because redb would keep it in memory too and pay for a commit. A crash therefore loses lazy changes only.
//! Calls block for one durable commit (a fraction of a millisecond to a few): run them off the runtime's
//! threads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{ReadableTable, TableDefinition, TableError};

use crate::error::StoreError;
use crate::file::{File, Kind};

/// The name of the file in the agent's state folder.
pub const FILE_NAME: &str = "ledger.redb";

const KIND: Kind = Kind { schema: "schema.ledger", version: 1, title: "the ledger of a Berth agent" };

/// Maximum number of waiting lazy changes; one more makes all of them durable.
const WAITING: usize = 4096;

/// Maximum number of damaged files that are kept; with one more the file is refused.
const ASIDE_MAX: u32 = 16;

/// Subject of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// An attachment: its intent, its state, its link.
    Attachment,
    /// A quarantined address.
    Quarantine,
    /// Everything that exists once: boot id, machine id, epochs.
    Meta,
}

impl Table {
    const ALL: [Self; 3] = [Self::Attachment, Self::Quarantine, Self::Meta];

    const fn definition(self) -> TableDefinition<'static, &'static str, &'static [u8]> {
        match self {
            Self::Attachment => TableDefinition::new("attachment"),
            Self::Quarantine => TableDefinition::new("quarantine"),
            Self::Meta => TableDefinition::new("meta"),
        }
    }
}

/// One change of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Writes the row, whether it was there or not.
    Put {
        /// Table of the row.
        table: Table,
        /// Key of the row.
        key: String,
        /// Content of the row.
        value: Vec<u8>,
    },
    /// Removes the row, if it exists.
    Remove {
        /// Table of the row.
        table: Table,
        /// Key of the row.
        key: String,
    },
}

/// Durability of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// Durable when the call returns, with all earlier lazy changes.
    Durable,
    /// Durable with the next durable change, or when the journal is dropped.
    Lazy,
}

/// The ledger's file.
#[derive(Debug)]
pub struct Journal {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    file: File,
    /// Lazy changes, the newest of each row; `None` removes it.
    waiting: BTreeMap<(Table, String), Option<Vec<u8>>>,
}

impl Journal {
    /// Opens the file at `path`, or creates it (and its folder, mode 0700) if it does not exist. It first
    /// verifies every checksum, and refuses a file that is damaged, newer, foreign or in use without changing
    /// it.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let file = File::open(path, KIND)?;
        Ok(Self { state: Mutex::new(State { file, waiting: BTreeMap::new() }) })
    }

    /// The same, but a damaged file is kept under another name in its folder and replaced by an empty one.
    /// For an agent with all records in its store: its ledger is rebuilt from there and from the node.
    pub fn open_or_set_aside(path: &Path) -> Result<(Self, Option<Damaged>), StoreError> {
        let cause = match Self::open(path) {
            Err(cause @ StoreError::Corrupt { .. }) => cause,
            opened => return opened.map(|journal| (journal, None)),
        };
        let Some(aside) = damaged_names(path).find(|name| !name.exists()) else { return Err(cause) };
        let wrong = |cause| StoreError::SetAside { path: path.to_owned(), cause: Arc::new(cause) };
        std::fs::rename(path, &aside).map_err(wrong)?;
        // The creation of the file makes its folder durable.
        Ok((Self::open(path)?, Some(Damaged { aside, cause })))
    }

    /// Applies all changes in order, as one: all are kept or none. `Flush::Durable` without changes
    /// makes earlier lazy ones durable.
    ///
    /// After an error none of these changes took place, except after
    /// [`StoreError::OutcomeUnknown`]; earlier lazy ones are still waiting, in both cases.
    pub fn apply(&self, changes: &[Change], flush: Flush) -> Result<(), StoreError> {
        let mut state = self.state();
        let mut undo = Vec::with_capacity(changes.len());
        for change in changes {
            let (row, value) = match change {
                Change::Put { table, key, value } => ((*table, key.clone()), Some(value.clone())),
                Change::Remove { table, key } => ((*table, key.clone()), None),
            };
            undo.push((row.clone(), state.waiting.insert(row, value)));
        }
        if flush == Flush::Lazy && state.waiting.len() <= WAITING {
            return Ok(());
        }
        if let Err(error) = state.commit() {
            for (row, before) in undo.into_iter().rev() {
                match before {
                    Some(value) => state.waiting.insert(row, value),
                    None => state.waiting.remove(&row),
                };
            }
            return Err(error);
        }
        state.waiting.clear();
        Ok(())
    }

    /// All rows, lazy changes included, by table and key.
    pub fn load(&self) -> Result<Vec<(Table, String, Vec<u8>)>, StoreError> {
        let mut state = self.state();
        let mut rows = state.read()?;
        for (row, value) in &state.waiting {
            match value {
                Some(value) => rows.insert(row.clone(), value.clone()),
                None => rows.remove(row),
            };
        }
        Ok(rows.into_iter().map(|((table, key), value)| (table, key, value)).collect())
    }

    /// No code here panics between two steps of a change, so a poisoned lock is still consistent.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A damaged journal that was set aside.
#[derive(Debug)]
pub struct Damaged {
    /// Its file now.
    pub aside: PathBuf,
    /// The detected damage.
    pub cause: StoreError,
}

/// Damaged journals that were set aside next to the one at `path`.
pub fn set_aside(path: &Path) -> Vec<PathBuf> {
    damaged_names(path).filter(|name| name.exists()).collect()
}

fn damaged_names(path: &Path) -> impl Iterator<Item = PathBuf> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let path = path.to_owned();
    (1..=ASIDE_MAX).map(move |number| path.with_file_name(format!("{name}.damaged-{number}")))
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Best effort, as announced by `Flush::Lazy`. A caller that cannot afford the loss uses
        // `Flush::Durable` and reads the result.
        let _ = self.apply(&[], Flush::Durable);
    }
}

impl State {
    fn commit(&mut self) -> Result<(), StoreError> {
        let rows = &self.waiting;
        if rows.is_empty() {
            return Ok(());
        }
        let written = self.file.write(|transaction| {
            for table in Table::ALL {
                let mut open = transaction.open_table(table.definition())?;
                let first = (table, String::new());
                for ((_, key), value) in rows.range(first..).take_while(|((of, _), _)| *of == table) {
                    match value {
                        Some(value) => drop(open.insert(key.as_str(), value.as_slice())?),
                        None => drop(open.remove(key.as_str())?),
                    }
                }
            }
            Ok(Some(()))
        });
        written.map(drop).map_err(|failure| failure.of("journal"))
    }

    fn read(&mut self) -> Result<BTreeMap<(Table, String), Vec<u8>>, StoreError> {
        self.file.read(|transaction| {
            let mut rows = BTreeMap::new();
            for table in Table::ALL {
                let open = match transaction.open_table(table.definition()) {
                    Err(TableError::TableDoesNotExist(_)) => continue,
                    other => other?,
                };
                for row in open.iter()? {
                    let (key, value) = row?;
                    rows.insert((table, key.value().to_owned()), value.value().to_vec());
                }
            }
            Ok(rows)
        })
    }
}
