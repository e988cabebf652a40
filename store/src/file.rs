//! One database file: creation, examination, opening, writing and reopening after a failure.
//!
//! It is independent of leases. Invariants: a file is created as a whole (under another name, and linked into
//! place when complete); a file that is damaged, newer or foreign is refused before a byte of it changes; and
//! a failed write is settled by reading a counter that every write increments, so that "unknown outcome" is
//! reported only if the file cannot be read either.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::backends::FileBackend;
use redb::{
    Builder, Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, StorageError,
    TableDefinition, TableError, WriteTransaction,
};

use crate::error::StoreError;
use crate::overlay::Overlay;

/// Bytes that redb may cache per file; its default of 1 GiB is not for an agent of 30 MB.
const CACHE_BYTES: usize = 4 << 20;

/// Numbers about the file itself: its schema and the count of its writes.
const ABOUT: TableDefinition<&str, u64> = TableDefinition::new("berth");

const WRITES: &str = "writes";

/// Purpose of a file.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Key of the schema version in the file; a file without it is of another kind.
    pub schema: &'static str,
    /// The newest schema version that this program supports.
    pub version: u64,
    /// For messages: "the leases of an agent".
    pub title: &'static str,
}

/// An open file; closed for a moment after a failed write, until the next call opens it again.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    kind: Kind,
    database: Option<Database>,
}

/// Reason why a write did not succeed.
#[derive(Debug, Clone)]
pub enum WriteFailure {
    /// It did not happen.
    Refused(StoreError),
    /// The outcome is unknown.
    Unknown(Arc<dyn std::error::Error + Send + Sync>),
}

impl WriteFailure {
    /// Conversion into the error of `operation`.
    pub fn of(self, operation: &'static str) -> StoreError {
        match self {
            Self::Refused(error) => error,
            Self::Unknown(cause) => StoreError::OutcomeUnknown { operation, cause },
        }
    }
}

impl File {
    /// Opens the file, or creates it (and its folder, for this user alone) if it does not exist.
    pub fn open(path: &Path, kind: Kind) -> Result<Self, StoreError> {
        let exists = path.try_exists().map_err(|cause| open_error(path, cause))?;
        if !exists {
            create(path, kind)?;
        }
        let mut file = Self { path: path.to_owned(), kind, database: None };
        file.database()?;
        remove_drafts(path);
        Ok(file)
    }

    /// Path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Reads within one transaction.
    pub fn read<T>(
        &mut self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let database = self.database()?;
        let result =
            database.begin_read().map_err(redb::Error::from).and_then(|transaction| read(&transaction));
        result.map_err(|cause| self.read_error(cause))
    }

    /// Writes within one transaction that is durable on return. `write` returns `None` if there is nothing to
    /// keep.
    pub fn write<T>(
        &mut self,
        write: impl FnOnce(&WriteTransaction) -> Result<Option<T>, redb::Error>,
    ) -> Result<Option<T>, WriteFailure> {
        let database = self.database().map_err(WriteFailure::Refused)?;
        let mut transaction = match database.begin_write() {
            Ok(transaction) => transaction,
            Err(cause) => return Err(WriteFailure::Refused(self.write_error(cause.into()))),
        };
        let prepared = transaction
            .set_durability(redb::Durability::Immediate)
            .map_err(redb::Error::from)
            .and_then(|()| raise(&transaction))
            .and_then(|writes| Ok((writes, write(&transaction)?)));
        let (writes, value) = match prepared {
            Ok((writes, Some(value))) => (writes, value),
            // Dropping the transaction takes everything back.
            Ok((_, None)) => return Ok(None),
            Err(cause) => {
                drop(transaction);
                return Err(WriteFailure::Refused(self.write_error(cause)));
            }
        };
        match transaction.commit() {
            Ok(()) => Ok(Some(value)),
            Err(cause) => self.settle(writes, cause.into()).map(|()| Some(value)),
        }
    }

    /// Determines whether write number `writes`, with a failed commit, is in the file.
    fn settle(&mut self, writes: u64, cause: redb::Error) -> Result<(), WriteFailure> {
        self.database = None;
        let found = examine(&self.path, self.kind).and_then(|database| {
            let read = || -> Result<u64, redb::Error> {
                let about = database.begin_read()?.open_table(ABOUT)?;
                Ok(about.get(WRITES)?.map_or(0, |row| row.value()))
            };
            read().map_err(|cause| self.read_error(cause))
        });
        match found {
            Ok(found) if found >= writes => Ok(()),
            Ok(_) => Err(WriteFailure::Refused(self.write_error(cause))),
            Err(_) => Err(WriteFailure::Unknown(Arc::new(cause))),
        }
    }

    fn database(&mut self) -> Result<&Database, StoreError> {
        if self.database.is_none() {
            drop(examine(&self.path, self.kind)?);
            let database = builder().open(&self.path).map_err(|cause| refused(&self.path, cause))?;
            self.database = Some(database);
        }
        self.database.as_ref().ok_or(StoreError::Closed)
    }

    fn read_error(&mut self, cause: redb::Error) -> StoreError {
        self.failed(&cause);
        let path = self.path.clone();
        match cause {
            redb::Error::Corrupted(_) => StoreError::Corrupt { path, cause: Arc::new(cause) },
            cause => StoreError::Read { path, cause: Arc::new(cause) },
        }
    }

    fn write_error(&mut self, cause: redb::Error) -> StoreError {
        self.failed(&cause);
        let path = self.path.clone();
        match &cause {
            redb::Error::Corrupted(_) => StoreError::Corrupt { path, cause: Arc::new(cause) },
            redb::Error::Io(io) if is_full(io) => StoreError::Full { path, cause: Arc::new(cause) },
            _ => StoreError::Write { path, cause: Arc::new(cause) },
        }
    }

    /// After a failure of the device redb refuses every operation until the file is opened again.
    fn failed(&mut self, cause: &redb::Error) {
        if matches!(cause, redb::Error::Io(_) | redb::Error::PreviousIo | redb::Error::Corrupted(_)) {
            self.database = None;
        }
    }
}

fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// Counts this write, and returns its number.
fn raise(transaction: &WriteTransaction) -> Result<u64, redb::Error> {
    let mut about = transaction.open_table(ABOUT)?;
    let writes = about.get(WRITES)?.map_or(0, |row| row.value()) + 1;
    about.insert(WRITES, writes)?;
    Ok(writes)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn open_error(path: &Path, cause: io::Error) -> StoreError {
    StoreError::Open { path: path.to_owned(), cause: Arc::new(cause) }
}

/// Reason why redb did not open the file.
fn refused(path: &Path, cause: DatabaseError) -> StoreError {
    let path = path.to_owned();
    match cause {
        DatabaseError::DatabaseAlreadyOpen => StoreError::InUse { path },
        // Not a database at all, or one that was cut short.
        DatabaseError::Storage(StorageError::Io(cause))
            if matches!(cause.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof) =>
        {
            StoreError::Corrupt { path, cause: Arc::new(cause) }
        }
        DatabaseError::Storage(StorageError::Io(cause)) if is_full(&cause) => {
            StoreError::Full { path, cause: Arc::new(cause) }
        }
        DatabaseError::Storage(cause @ StorageError::Corrupted(_)) => {
            StoreError::Corrupt { path, cause: Arc::new(cause) }
        }
        cause => StoreError::Open { path, cause: Arc::new(cause) },
    }
}

/// Opens the file through an overlay that leaves it unchanged, verifies every checksum in it, and checks its
/// kind and schema.
fn examine(path: &Path, kind: Kind) -> Result<Database, StoreError> {
    // Nothing is written, but the exclusive lock needs a file that could be.
    let file =
        OpenOptions::new().read(true).write(true).open(path).map_err(|cause| open_error(path, cause))?;
    let empty = file.metadata().map_err(|cause| open_error(path, cause))?.len() == 0;
    if empty {
        // redb would take it for a new database; a file that Berth made is never empty.
        let cause = io::Error::new(io::ErrorKind::UnexpectedEof, "the file is empty");
        return Err(StoreError::Corrupt { path: path.to_owned(), cause: Arc::new(cause) });
    }
    let overlay = FileBackend::new(file)
        .and_then(|file| Overlay::new(file).map_err(DatabaseError::from))
        .map_err(|cause| refused(path, cause))?;
    let database = builder()
        .set_check_integrity_on_open(true)
        .create_with_backend(overlay)
        .map_err(|cause| refused(path, cause))?;
    check_schema(path, kind, &database)?;
    Ok(database)
}

fn check_schema(path: &Path, kind: Kind, database: &Database) -> Result<(), StoreError> {
    let found = || -> Result<Option<u64>, redb::Error> {
        let about = match database.begin_read()?.open_table(ABOUT) {
            Ok(about) => about,
            Err(TableError::Storage(cause)) => return Err(cause.into()),
            // The table is missing or has other types: the database of another program.
            Err(_) => return Ok(None),
        };
        Ok(about.get(kind.schema)?.map(|row| row.value()))
    };
    let path = path.to_owned();
    match found() {
        Ok(Some(found)) if found > kind.version => {
            Err(StoreError::NewerSchema { path, found, supported: kind.version })
        }
        Ok(Some(_)) => Ok(()),
        Ok(None) => Err(StoreError::WrongKind { path, expected: kind.title }),
        Err(cause) => Err(StoreError::Read { path, cause: Arc::new(cause) }),
    }
}

/// Creates an empty file of `kind`. A crash before the last step leaves no file of that name, and two
/// processes that do this at the same time end with one complete file.
fn create(path: &Path, kind: Kind) -> Result<(), StoreError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(|cause| StoreError::CreateFolder { path: folder.to_owned(), cause: Arc::new(cause) })?;
    let mut draft = draft_prefix(path);
    draft.push(std::process::id().to_string());
    let draft = folder.join(draft);
    let made = fill(&draft, kind).and_then(|()| match fs::hard_link(&draft, path) {
        Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => Err(cause.into()),
        _ => Ok(()),
    });
    let removed = fs::remove_file(&draft).map_err(redb::Error::from);
    // Only now do the folder's entries matter; before this the file may vanish in a crash.
    let synced = fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(redb::Error::from);
    made.and(removed).and(synced).map_err(|cause| {
        let path = path.to_owned();
        match &cause {
            redb::Error::Io(io) if is_full(io) => StoreError::Full { path, cause: Arc::new(cause) },
            _ => StoreError::CreateFile { path, cause: Arc::new(cause) },
        }
    })
}

/// Prefix of the names of drafts of `path`.
fn draft_prefix(path: &Path) -> OsString {
    let mut prefix = path.file_name().unwrap_or_default().to_owned();
    prefix.push(".new-");
    prefix
}

/// Removes the drafts of processes that were killed during the creation of the file. The file exists and this
/// process owns it, so every draft is obsolete; a draft that cannot be removed only takes room.
fn remove_drafts(path: &Path) {
    let prefix = draft_prefix(path);
    let Some(Ok(entries)) = path.parent().map(fs::read_dir) else { return };
    for entry in entries.flatten() {
        if entry.file_name().as_encoded_bytes().starts_with(prefix.as_encoded_bytes()) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn fill(draft: &Path, kind: Kind) -> Result<(), redb::Error> {
    let file =
        OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(draft)?;
    let synced = file.try_clone()?;
    let database = builder().create_with_backend(FileBackend::new(file)?)?;
    let transaction = database.begin_write()?;
    transaction.open_table(ABOUT)?.insert(kind.schema, kind.version)?;
    transaction.commit()?;
    database.close()?;
    synced.sync_all()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: Kind = Kind { schema: "schema.test", version: 1, title: "a test" };

    #[test]
    fn a_failed_commit_is_settled_by_what_the_file_says() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("test.redb");
        let mut file = File::open(&path, KIND).unwrap();
        let write =
            |file: &mut File| file.write(|transaction| raise(transaction).map(Some)).unwrap().unwrap();
        let writes = write(&mut file);
        let cause = || redb::Error::Io(io::ErrorKind::StorageFull.into());

        // The commit reached the file although it reported a failure.
        file.settle(writes, cause()).unwrap();
        // The write is missing: the error reports that, and the file continues to work.
        let refused = file.settle(writes + 1, cause()).unwrap_err();
        assert!(matches!(refused, WriteFailure::Refused(StoreError::Full { .. })), "{refused:?}");
        assert!(write(&mut file) > writes);
        // The outcome is unknown.
        fs::write(&path, "gone").unwrap();
        let unknown = file.settle(writes, cause()).unwrap_err().of("create");
        assert!(matches!(unknown, StoreError::OutcomeUnknown { operation: "create", .. }), "{unknown}");
    }
}
