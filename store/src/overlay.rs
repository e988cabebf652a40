//! A database file that can be examined without being changed.
//!
//! redb repairs a file while it opens it, and its integrity check writes the rebuilt parts. A file that turns
//! out to be damaged, newer or foreign must stay unchanged. It is therefore first opened through this layer:
//! reads come from the file, writes stay in memory and are dropped.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

/// Bytes per piece that is kept in memory once something wrote to it.
const PIECE: usize = 4096;

/// A file below, changes above.
#[derive(Debug)]
pub struct Overlay {
    file: FileBackend,
    changes: Mutex<Changes>,
}

#[derive(Debug)]
struct Changes {
    /// Bytes that the database believes to have.
    len: u64,
    /// Bytes that still come from the file: what was cut off reads as zero if it grows back.
    from_file: u64,
    pieces: BTreeMap<u64, Box<[u8; PIECE]>>,
}

impl Overlay {
    /// Examines `file`, which is locked like any other database while it is open.
    pub fn new(file: FileBackend) -> io::Result<Self> {
        let len = file.len()?;
        let changes = Changes { len, from_file: len, pieces: BTreeMap::new() };
        Ok(Self { file, changes: Mutex::new(changes) })
    }

    /// No code here panics in the middle of a change, so a poisoned lock is still consistent.
    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_file(&self, from_file: u64, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let there = from_file.saturating_sub(offset).min(out.len() as u64);
        let there = usize::try_from(there).map_err(io::Error::other)?;
        let (head, tail) = out.split_at_mut(there);
        tail.fill(0);
        if head.is_empty() { Ok(()) } else { self.file.read(offset, head) }
    }
}

/// The parts of `offset..offset + len` by piece: the piece's start, where in the piece, and where
/// in the buffer.
fn parts(offset: u64, len: usize) -> io::Result<Vec<(u64, usize, std::ops::Range<usize>)>> {
    let mut parts = Vec::new();
    let mut done = 0;
    while done < len {
        let at = offset + done as u64;
        let within = usize::try_from(at % PIECE as u64).map_err(io::Error::other)?;
        let take = (PIECE - within).min(len - done);
        parts.push((at - within as u64, within, done..done + take));
        done += take;
    }
    Ok(parts)
}

impl StorageBackend for Overlay {
    fn len(&self) -> io::Result<u64> {
        Ok(self.changes().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let changes = self.changes();
        if offset.saturating_add(out.len() as u64) > changes.len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.read_file(changes.from_file, offset, out)?;
        for (start, within, range) in parts(offset, out.len())? {
            if let Some(piece) = changes.pieces.get(&start) {
                let take = range.len();
                out[range].copy_from_slice(&piece[within..within + take]);
            }
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut changes = self.changes();
        changes.len = len;
        changes.from_file = changes.from_file.min(len);
        drop(changes.pieces.split_off(&len));
        let cut = len % PIECE as u64;
        if let Some(piece) = changes.pieces.get_mut(&(len - cut)) {
            let cut = usize::try_from(cut).map_err(io::Error::other)?;
            piece[cut..].fill(0);
        }
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut changes = self.changes();
        let from_file = changes.from_file;
        for (start, within, range) in parts(offset, data.len())? {
            let take = range.len();
            let piece = match changes.pieces.entry(start) {
                Entry::Occupied(there) => there.into_mut(),
                Entry::Vacant(free) => {
                    let mut piece = Box::new([0; PIECE]);
                    self.read_file(from_file, start, &mut piece[..])?;
                    free.insert(piece)
                }
            };
            piece[within..within + take].copy_from_slice(&data[range]);
        }
        changes.len = changes.len.max(offset + data.len() as u64);
        Ok(())
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Write(u16, Vec<u8>),
        SetLen(u16),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => (0_u16..20_000, prop::collection::vec(any::<u8>(), 1..9_000))
                .prop_map(|(offset, data)| Step::Write(offset, data)),
            1 => (0_u16..30_000).prop_map(Step::SetLen),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_reads_like_a_file_and_changes_none(
            below in prop::collection::vec(any::<u8>(), 0..20_000),
            steps in prop::collection::vec(step(), 0..12),
        ) {
            let path = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(path.path(), &below).unwrap();
            let open = std::fs::OpenOptions::new().read(true).write(true).open(path.path()).unwrap();
            let overlay = Overlay::new(FileBackend::new(open).unwrap()).unwrap();
            let mut model = below.clone();
            for step in steps {
                match step {
                    Step::Write(offset, data) => {
                        overlay.write(offset.into(), &data).unwrap();
                        let (start, end) = (usize::from(offset), usize::from(offset) + data.len());
                        model.resize(model.len().max(end), 0);
                        model[start..end].copy_from_slice(&data);
                    }
                    Step::SetLen(len) => {
                        overlay.set_len(len.into()).unwrap();
                        model.resize(len.into(), 0);
                    }
                }
                prop_assert_eq!(overlay.len().unwrap(), model.len() as u64);
                let mut all = vec![0; model.len()];
                overlay.read(0, &mut all).unwrap();
                prop_assert_eq!(&all, &model);
            }
            prop_assert!(overlay.read(model.len() as u64, &mut [0]).is_err());
            prop_assert_eq!(std::fs::read(path.path()).unwrap(), below);
        }
    }
}
