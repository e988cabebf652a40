//! Faults that the embedded files survive, and faults that they refuse.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails like the test itself")]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use berth_store::embedded::EmbeddedStore;
use berth_store::journal::{self, Change, Flush, Journal, Table};
use berth_store::{LeaseStore as _, StoreError, Versioned};
use common::record;
use tokio::runtime::{Builder, Runtime};

fn runtime() -> Runtime {
    Builder::new_current_thread().build().unwrap()
}

fn put(key: &str, value: &str) -> Change {
    Change::Put { table: Table::Attachment, key: key.to_owned(), value: value.as_bytes().to_vec() }
}

fn rows(journal: &Journal) -> Vec<(String, String)> {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    journal.load().unwrap().into_iter().map(|(_, key, value)| (key, text(value))).collect()
}

/// A folder with a store of `count` records in it, closed.
fn filled(count: usize) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let store = EmbeddedStore::open(&path).unwrap();
    runtime().block_on(async {
        for index in 0..count {
            let address = format!("10.0.{}.{}", index / 256, index % 256);
            store.create(&record(&address, &format!("t{index}"))).await.unwrap();
        }
    });
    (folder, path)
}

fn list(path: &Path) -> Result<Vec<Versioned>, StoreError> {
    let store = EmbeddedStore::open(path)?;
    runtime().block_on(store.list())
}

#[test]
fn the_folder_is_made_for_this_user_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b/store.redb");
    drop(EmbeddedStore::open(&path).unwrap());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o700, 0o600));
    let names: Vec<_> =
        fs::read_dir(path.parent().unwrap()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["store.redb"], "no draft is left behind");
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    let error = EmbeddedStore::open(&folder.path().join("file/sub/store.redb")).unwrap_err();
    assert!(matches!(error, StoreError::CreateFolder { .. } | StoreError::Open { .. }), "{error}");
    assert!(error.to_string().contains("file/sub"), "{error}");
}

#[test]
fn versions_differ_after_the_file_went_back() {
    let (_folder, path) = filled(2);
    let copy = fs::read(&path).unwrap();
    let key = record("10.0.0.9", "x").address_key();
    let newer = {
        let store = EmbeddedStore::open(&path).unwrap();
        runtime().block_on(store.create(&record("10.0.0.9", "x"))).unwrap()
    };
    fs::write(&path, copy).unwrap();
    let store = EmbeddedStore::open(&path).unwrap();
    runtime().block_on(async {
        assert_eq!(store.list().await.unwrap().len(), 2, "an older copy opens fine");
        assert_eq!(store.get(&key).await.unwrap(), None);
        let again = store.create(&record("10.0.0.9", "x")).await.unwrap();
        assert_ne!(again, newer);
        assert!(matches!(store.delete(&key, &newer).await, Err(StoreError::Conflict { .. })));
    });
}

#[test]
fn a_second_opener_is_told_so() {
    let (_folder, path) = filled(1);
    let holder = EmbeddedStore::open(&path).unwrap();
    let error = EmbeddedStore::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    assert!(error.to_string().contains("only one agent"), "{error}");
    drop(holder);
    assert_eq!(list(&path).unwrap().len(), 1);
}

#[test]
fn a_newer_schema_is_refused_untouched() {
    const ABOUT: redb::TableDefinition<&str, u64> = redb::TableDefinition::new("berth");
    let (_folder, path) = filled(1);
    {
        let database = redb::Database::open(&path).unwrap();
        let write = database.begin_write().unwrap();
        write.open_table(ABOUT).unwrap().insert("schema.leases", 2).unwrap();
        write.commit().unwrap();
    }
    let before = fs::read(&path).unwrap();
    let error = list(&path).unwrap_err();
    assert!(matches!(error, StoreError::NewerSchema { found: 2, supported: 1, .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
}

#[test]
fn the_file_of_something_else_is_refused_untouched() {
    let (_folder, path) = filled(1);
    let before = fs::read(&path).unwrap();
    let error = Journal::open(&path).unwrap_err();
    assert!(matches!(error, StoreError::WrongKind { .. }), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);

    let foreign = path.with_file_name("foreign.redb");
    drop(redb::Database::create(&foreign).unwrap());
    let before = fs::read(&foreign).unwrap();
    assert!(matches!(list(&foreign), Err(StoreError::WrongKind { .. })));
    assert_eq!(fs::read(&foreign).unwrap(), before);
}

/// Damages every page of the file in turn: the store opens with all its records, because the page was unused,
/// or it refuses and leaves the file unchanged. It never returns fewer records than it had.
#[test]
fn a_damaged_file_is_refused_untouched_or_complete() {
    let (_folder, path) = filled(300);
    let whole = list(&path).unwrap();
    let clean = fs::read(&path).unwrap();
    let mut refused = 0;
    for page in 0..clean.len() / 4096 {
        for offset in [0, 17, 1000, 4095] {
            let mut damaged = clean.clone();
            damaged[page * 4096 + offset] ^= 0x5a;
            fs::write(&path, &damaged).unwrap();
            match list(&path) {
                Ok(rows) => assert_eq!(rows, whole, "page {page}, byte {offset}"),
                Err(error) => {
                    let text = error.to_string();
                    assert!(matches!(error, StoreError::Corrupt { .. } | StoreError::Open { .. }), "{text}");
                    assert_eq!(fs::read(&path).unwrap(), damaged, "page {page}, byte {offset}: {text}");
                    refused += 1;
                }
            }
        }
    }
    assert!(refused > 20, "only {refused} refusals: did the damage hit anything?");
}

#[test]
fn other_texts_and_cut_files_are_refused_untouched() {
    let (_folder, path) = filled(300);
    let clean = fs::read(&path).unwrap();
    let cut = |len: usize| clean[..len].to_vec();
    for bytes in [Vec::new(), b"hello".to_vec(), vec![0; 1 << 16], cut(100), cut(4096), cut(clean.len() / 2)]
    {
        fs::write(&path, &bytes).unwrap();
        let error = list(&path).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{} bytes: {error}", bytes.len());
        assert!(error.to_string().contains("move it away"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
}

#[test]
fn the_journal_keeps_what_it_was_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.redb");
    let journal = Journal::open(&path).unwrap();
    journal.apply(&[put("a", "1"), put("b", "2"), put("a", "3")], Flush::Durable).unwrap();
    let quarantine = Change::Put { table: Table::Quarantine, key: "a".to_owned(), value: b"q".to_vec() };
    let remove = Change::Remove { table: Table::Attachment, key: "b".to_owned() };
    journal.apply(&[quarantine, remove.clone(), remove], Flush::Durable).unwrap();
    let expected = vec![
        (Table::Attachment, "a".to_owned(), b"3".to_vec()),
        (Table::Quarantine, "a".to_owned(), b"q".to_vec()),
    ];
    assert_eq!(journal.load().unwrap(), expected);
    drop(journal);
    assert_eq!(Journal::open(&path).unwrap().load().unwrap(), expected);
}

#[test]
fn lazy_changes_wait_for_the_next_durable_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.redb");
    // What a crash at this moment would leave is what the file holds now.
    let after_crash = || {
        let copy = folder.path().join("copy.redb");
        fs::copy(&path, &copy).unwrap();
        rows(&Journal::open(&copy).unwrap())
    };
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let journal = Journal::open(&path).unwrap();
    journal.apply(&[put("a", "1")], Flush::Durable).unwrap();
    journal.apply(&[put("a", "2"), put("b", "1")], Flush::Lazy).unwrap();
    assert_eq!(rows(&journal), [pair("a", "2"), pair("b", "1")], "the journal itself knows them at once");
    assert_eq!(after_crash(), [pair("a", "1")]);
    journal.apply(&[put("c", "1")], Flush::Durable).unwrap();
    let all = [pair("a", "2"), pair("b", "1"), pair("c", "1")];
    assert_eq!(after_crash(), all);

    journal.apply(&[Change::Remove { table: Table::Attachment, key: "b".to_owned() }], Flush::Lazy).unwrap();
    drop(journal);
    assert_eq!(
        rows(&Journal::open(&path).unwrap()),
        [pair("a", "2"), pair("c", "1")],
        "a clean end keeps them"
    );
}

#[test]
fn waiting_changes_are_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.redb");
    let journal = Journal::open(&path).unwrap();
    for index in 0..5000 {
        journal.apply(&[put(&format!("k{index}"), "v")], Flush::Lazy).unwrap();
    }
    let copy = folder.path().join("copy.redb");
    fs::copy(&path, &copy).unwrap();
    assert!(rows(&Journal::open(&copy).unwrap()).len() > 4000, "the file got them without being asked");
    assert_eq!(rows(&journal).len(), 5000);
}

#[test]
fn a_damaged_or_newer_journal_is_refused_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.redb");
    drop(Journal::open(&path).unwrap());
    let holder = Journal::open(&path).unwrap();
    assert!(matches!(Journal::open(&path), Err(StoreError::InUse { .. })));
    drop(holder);
    fs::write(&path, b"not a ledger").unwrap();
    assert!(matches!(Journal::open(&path), Err(StoreError::Corrupt { .. })));
    assert_eq!(fs::read(&path).unwrap(), b"not a ledger");
}

#[test]
fn a_damaged_journal_is_set_aside_under_a_free_name_and_nothing_else_is() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ledger.redb");
    let open = || Journal::open_or_set_aside(&path);
    let (journal, damaged) = open().unwrap();
    assert!(damaged.is_none());
    journal.apply(&[put("k", "v")], Flush::Durable).unwrap();
    assert!(matches!(open(), Err(StoreError::InUse { .. })), "another agent's");
    drop(journal);
    assert_eq!(rows(&open().unwrap().0).len(), 1, "a whole one is kept");
    drop(EmbeddedStore::open(&folder.path().join("store.redb")).unwrap());
    fs::copy(folder.path().join("store.redb"), &path).unwrap();
    assert!(matches!(open(), Err(StoreError::WrongKind { .. })), "another database");
    assert_eq!(journal::set_aside(&path), Vec::<PathBuf>::new());
    for number in 1..=2 {
        let bytes = format!("damage {number}");
        fs::write(&path, &bytes).unwrap();
        let (journal, damaged) = open().unwrap();
        let damaged = damaged.unwrap();
        assert!(rows(&journal).is_empty() && matches!(damaged.cause, StoreError::Corrupt { .. }));
        assert_eq!(fs::read_to_string(&damaged.aside).unwrap(), bytes);
        assert_eq!(journal::set_aside(&path).len(), number);
    }
}
