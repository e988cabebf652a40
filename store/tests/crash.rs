//! A process that is killed while it writes loses nothing that was acknowledged.
//!
//! The test runs itself again as the writer: that process acknowledges each write on its standard
//! output once the store has, and is killed at a moment of the parent's choosing.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails like the test itself")]

mod common;

use std::collections::BTreeSet;
use std::env;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use berth_store::LeaseStore as _;
use berth_store::embedded::EmbeddedStore;
use berth_store::journal::{Change, Flush, Journal, Table};
use common::record;

const FOLDER: &str = "BERTH_STORE_CRASH_FOLDER";
const FROM: &str = "BERTH_STORE_CRASH_FROM";

/// Kills the writer however the test ends.
struct Writer(Child);

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Creates a record and a journal row for each number from `from` on, deletes every third one again, and
/// prints a line after each. Bounded, in case the process is not killed.
fn write(folder: &Path, from: u32) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let store = EmbeddedStore::open(&folder.join("store.redb")).unwrap();
    let journal = Journal::open(&folder.join("ledger.redb")).unwrap();
    let mut out = std::io::stdout().lock();
    for number in from..from + 20_000 {
        let record = record(&address(number), &number.to_string());
        let row = Change::Put { table: Table::Attachment, key: number.to_string(), value: vec![1; 300] };
        journal.apply(&[row], Flush::Durable).unwrap();
        writeln!(out, "ack journal {number}").unwrap();
        let version = runtime.block_on(store.create(&record)).unwrap();
        writeln!(out, "ack create {number}").unwrap();
        if number % 3 == 0 {
            writeln!(out, "ack deleting {number}").unwrap();
            runtime.block_on(store.delete(&record.address_key(), &version)).unwrap();
            writeln!(out, "ack delete {number}").unwrap();
        }
    }
}

fn address(number: u32) -> String {
    std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).to_string()
}

#[derive(Default)]
struct Acknowledged {
    journal: BTreeSet<u32>,
    created: BTreeSet<u32>,
    deleting: BTreeSet<u32>,
    deleted: BTreeSet<u32>,
}

impl Acknowledged {
    fn read(&mut self, line: &str) {
        // The test harness shares the writer's output.
        let Some(rest) = line.split_once("ack ").map(|(_, rest)| rest) else { return };
        let Some((what, number)) = rest.split_once(' ') else { return };
        let Ok(number) = number.parse() else { return };
        match what {
            "journal" => self.journal.insert(number),
            "create" => self.created.insert(number),
            "deleting" => self.deleting.insert(number),
            "delete" => self.deleted.insert(number),
            other => panic!("{other}"),
        };
    }

    fn check(&self, folder: &Path, round: u64) {
        let store = EmbeddedStore::open(&folder.join("store.redb")).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let there: BTreeSet<u32> = (runtime.block_on(store.list()).unwrap().iter())
            .map(|row| row.record.txn.0.parse().unwrap())
            .collect();
        for number in &self.created {
            if !self.deleting.contains(number) {
                assert!(there.contains(number), "round {round}: lost {number}");
            }
        }
        for number in &self.deleted {
            assert!(!there.contains(number), "round {round}: {number} came back");
        }
        let rows = Journal::open(&folder.join("ledger.redb")).unwrap().load().unwrap();
        let rows: BTreeSet<u32> = rows.iter().map(|(_, key, _)| key.parse().unwrap()).collect();
        assert!(self.journal.is_subset(&rows), "round {round}: the journal lost rows");
    }
}

#[test]
fn acknowledged_writes_survive_kill_9() {
    if let Some(folder) = env::var_os(FOLDER) {
        write(&PathBuf::from(folder), env::var(FROM).unwrap().parse().unwrap());
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = Acknowledged::default();
    let mut from = 1;
    for round in 0..30_u64 {
        let child = Command::new(env::current_exe().unwrap())
            .args(["--exact", "acknowledged_writes_survive_kill_9", "--nocapture"])
            .env(FOLDER, folder.path())
            .env(FROM, from.to_string())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut writer = Writer(child);
        let out = writer.0.stdout.take().unwrap();
        // Uneven moments: a few within the creation of the files, the others after a number of
        // acknowledgements and a short time, so that a slow machine kills within writes as well.
        let early = (round < 5).then(|| Duration::from_micros(2_000 + 1_500 * round));
        let lines_before = 1 + round * round % 97;
        let little = Duration::from_micros(round * 37 % 700);
        let (go, wait) = std::sync::mpsc::channel();
        let killer = std::thread::spawn(move || {
            match early {
                Some(early) => std::thread::sleep(early),
                // An end of the channel is the end of the writer.
                None => drop(wait.recv().map(|()| std::thread::sleep(little))),
            }
            drop(writer);
        });
        let mut lines = 0;
        for line in BufReader::new(out).lines() {
            acknowledged.read(&line.unwrap());
            lines += 1;
            if lines == lines_before {
                // The killer of an early round does not listen.
                let _ = go.send(());
            }
        }
        drop(go);
        killer.join().unwrap();
        acknowledged.check(folder.path(), round);
        from = acknowledged.journal.last().map_or(from, |last| last + 1) + 1;
    }
    let mut names: Vec<_> =
        std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["ledger.redb", "store.redb"], "no draft is left behind");
    assert!(acknowledged.deleted.len() > 50, "the writer never got far: {}", acknowledged.deleted.len());
}
