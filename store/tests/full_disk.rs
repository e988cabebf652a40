//! A full disk is an error that loses nothing, and passes when there is room again.
//!
//! The disk is a small tmpfs in a mount namespace of this thread alone, so nothing of it is seen
//! or left outside.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails like the test itself")]

mod common;

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use berth_store::embedded::EmbeddedStore;
use berth_store::journal::{Change, Flush, Journal, Table};
use berth_store::{LeaseStore as _, StoreError};
use common::record;

fn mount(source: &str, target: &Path, kind: &str, flags: libc::c_ulong, data: &str) -> std::io::Result<()> {
    let [source, kind, data] = [source, kind, data].map(|text| CString::new(text).unwrap());
    let target = CString::new(target.as_os_str().as_bytes()).unwrap();
    #[expect(unsafe_code, reason = "the test needs its own file system, and std cannot mount")]
    // SAFETY: all four are valid C strings that outlive the call, as mount(2) requires.
    let done =
        unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast()) };
    if done == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Mounts a tmpfs of 1 MiB on `folder`, for this thread and those it starts from here on.
fn small_disk(folder: &Path) -> std::io::Result<()> {
    #[expect(unsafe_code, reason = "the test needs its own mount namespace, and std has none")]
    // SAFETY: unshare(2) takes no pointers; it changes this thread only.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(std::io::Error::last_os_error());
    }
    mount("none", Path::new("/"), "", libc::MS_REC | libc::MS_PRIVATE, "")?;
    mount("berth-test", folder, "tmpfs", 0, "size=1m")
}

/// Runs `test` on a thread with a small disk, or reports why it did not.
fn on_a_small_disk(test: fn(&Path)) {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().to_owned();
    let thread = std::thread::spawn(move || small_disk(&path).map(|()| test(&path)));
    match thread.join() {
        Ok(Ok(())) => {}
        Ok(Err(cause)) => {
            berth_testbed::skip::because(&format!("mounting its own tmpfs: {cause}; run it as root"));
        }
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Takes all the room but `leave` bytes.
fn fill(folder: &Path, leave: u64) -> PathBuf {
    let ballast = folder.join("ballast");
    fs::write(&ballast, []).unwrap();
    let mut size = 1 << 20;
    // tmpfs has a fixed size: write until it refuses, then free some space.
    let file = fs::OpenOptions::new().append(true).open(&ballast).unwrap();
    let mut written = 0_u64;
    while size >= 4096 {
        match std::io::Write::write(&mut &file, &vec![0_u8; size]) {
            Ok(count) if count > 0 => written += count as u64,
            _ => size /= 2,
        }
    }
    file.set_len(written.saturating_sub(leave)).unwrap();
    ballast
}

#[test]
fn the_store_loses_nothing() {
    on_a_small_disk(|folder| {
        let path = folder.join("store.redb");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let store = EmbeddedStore::open(&path).unwrap();
        let ballast = fill(folder, 64 << 10);
        runtime.block_on(async {
            let mut made = 0_u32;
            let refused = loop {
                let record =
                    record(&std::net::Ipv4Addr::from_bits(0x0a00_0000 + made).to_string(), &made.to_string());
                match store.create(&record).await {
                    Ok(_) => made += 1,
                    Err(error) => break error,
                }
                assert!(made < 100_000, "1 MiB cannot hold that");
            };
            assert!(matches!(refused, StoreError::Full { .. }), "{refused:?}");
            assert!(refused.to_string().contains("free space"), "{refused}");
            assert_eq!(store.list().await.unwrap().len(), made as usize, "reads continue to work");
            // Still full: still an error, still nothing lost.
            let another = record("192.0.2.1", "another");
            let again = store.create(&another).await.unwrap_err();
            assert!(matches!(again, StoreError::Full { .. }), "{again:?}");
            fs::remove_file(&ballast).unwrap();
            store.create(&another).await.unwrap();
            assert_eq!(store.list().await.unwrap().len(), made as usize + 1);
        });
        drop(store);
        let store = EmbeddedStore::open(&path).unwrap();
        assert!(runtime.block_on(store.get(&record("192.0.2.1", "x").address_key())).unwrap().is_some());
    });
}

#[test]
fn the_journal_loses_nothing_not_even_what_was_lazy() {
    on_a_small_disk(|folder| {
        let path = folder.join("ledger.redb");
        let journal = Journal::open(&path).unwrap();
        let put = |key: String| Change::Put { table: Table::Attachment, key, value: vec![7; 2000] };
        let ballast = fill(folder, 64 << 10);
        journal.apply(&[put("lazy".to_owned())], Flush::Lazy).unwrap();
        let big: Vec<_> = (0..400).map(|index| put(format!("big{index}"))).collect();
        let refused = journal.apply(&big, Flush::Durable).unwrap_err();
        assert!(matches!(refused, StoreError::Full { .. }), "{refused:?}");
        let keys = |journal: &Journal| {
            journal.load().unwrap().into_iter().map(|(_, key, _)| key).collect::<Vec<_>>()
        };
        assert_eq!(keys(&journal), ["lazy"]);
        fs::remove_file(&ballast).unwrap();
        journal.apply(&[put("last".to_owned())], Flush::Durable).unwrap();
        drop(journal);
        assert_eq!(keys(&Journal::open(&path).unwrap()), ["last", "lazy"]);
    });
}

#[test]
fn a_store_that_cannot_be_made_is_not_half_made() {
    on_a_small_disk(|folder| {
        let ballast = fill(folder, 8 << 10);
        let path = folder.join("store.redb");
        let refused = EmbeddedStore::open(&path).unwrap_err();
        assert!(matches!(refused, StoreError::Full { .. }), "{refused:?}");
        assert_eq!(fs::read_dir(folder).unwrap().count(), 1, "only the ballast is there");
        fs::remove_file(&ballast).unwrap();
        drop(EmbeddedStore::open(&path).unwrap());
    });
}
