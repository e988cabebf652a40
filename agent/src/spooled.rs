//! Spooled releases of plugins, on their way to the journal.
//!
//! An entry is replayed as a separate call, and its file is removed when the ledger answers: then the release
//! is on the disk. A release that the disk refuses stays in the spool. Invariant: an ADD starts only if no
//! release of its attachment waits in the spool, because a later replay would end it.

use std::collections::BTreeMap;

use berth_ipam::attachment::AttachmentKey;
use berth_ipam::ledger::io::{Caller, LeaseRequest};
use berth_protocol::Failure;
use berth_protocol::spool::{Entry, FileId, Listing};

use crate::cluster::pods::Annotations;

/// The connection of replayed calls, which no client has.
const CONN: u64 = u64::MAX;

/// Progress of an entry.
#[derive(Debug)]
enum Progress {
    /// The ledger has it, under this call.
    Asked(u64, AttachmentKey),
    /// Its release is on the disk, and its file goes.
    Saved,
}

/// An ADD that waits for the release of its attachment.
#[derive(Debug)]
pub struct Parked {
    /// Caller of the ADD.
    pub caller: Caller,
    /// Request of the ADD.
    pub request: LeaseRequest,
    /// Annotations passed with it.
    pub given: Option<Annotations>,
}

/// See the module's head.
#[derive(Debug, Default)]
pub struct Spooled {
    files: BTreeMap<FileId, Progress>,
    parked: Vec<Parked>,
    last_call: u64,
}

impl Spooled {
    /// Entries to replay now, each with its call. Files that are gone are forgotten.
    pub fn fresh(&mut self, listing: Listing) -> Vec<(Caller, Entry)> {
        self.files.retain(|file, progress| {
            matches!(progress, Progress::Asked(..)) || listing.entries.iter().any(|(other, _)| other == file)
        });
        let mut fresh = Vec::new();
        for (file, entry) in listing.entries {
            if self.files.contains_key(&file) {
                continue;
            }
            self.last_call += 1;
            self.files.insert(file, Progress::Asked(self.last_call, entry.release.attachment.clone()));
            fresh.push((Caller { conn: CONN, call: self.last_call }, entry));
        }
        fresh
    }

    /// True if a call is a replayed one.
    pub fn is_own(caller: Caller) -> bool {
        caller.conn == CONN
    }

    /// The ledger answered a replayed call: the file that can go, or the ADDs that fail for the same reason.
    pub fn answered(&mut self, caller: Caller, saved: bool) -> (Option<FileId>, Vec<Parked>) {
        let asked = self.files.iter().find_map(|(file, progress)| match progress {
            Progress::Asked(call, key) if *call == caller.call => Some((file.clone(), key.clone())),
            _ => None,
        });
        let Some((file, key)) = asked else { return (None, Vec::new()) };
        if saved {
            self.files.insert(file.clone(), Progress::Saved);
            return (Some(file), Vec::new());
        }
        self.files.remove(&file);
        (None, self.parked.extract_if(.., |parked| parked.request.key == key).collect())
    }

    /// Keeps an ADD back while a release of its attachment is pending; returns it if none is.
    pub fn park(&mut self, parked: Parked) -> Option<Parked> {
        if !self.is_asked(&parked.request.key) {
            return Some(parked);
        }
        self.parked.push(parked);
        None
    }

    /// The ADDs that nothing keeps back any longer.
    pub fn ready(&mut self) -> Vec<Parked> {
        let (waiting, ready) = std::mem::take(&mut self.parked)
            .into_iter()
            .partition(|parked| self.is_asked(&parked.request.key));
        self.parked = waiting;
        ready
    }

    /// The connection of an ADD ended.
    pub fn hang_up(&mut self, conn: u64) {
        self.parked.retain(|parked| parked.caller.conn != conn);
    }

    fn is_asked(&self, key: &AttachmentKey) -> bool {
        self.files.values().any(|progress| matches!(progress, Progress::Asked(_, of) if of == key))
    }
}

/// Response to an ADD of an attachment with a release that the disk refuses.
pub fn refused(failure: &Failure) -> Failure {
    let msg =
        format!("a DEL of this attachment waits in the spool, and the agent cannot save it: {}", failure.msg);
    Failure { msg, ..failure.clone() }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use berth_ipam::attachment::Role;
    use berth_ipam::identity::{BootId, NetnsCookie, NetnsIdentity, Nsid, TxnId};
    use berth_protocol::request::{LinkRemoval, Release};
    use berth_protocol::spool;

    use super::*;

    fn key(container: &str) -> AttachmentKey {
        AttachmentKey {
            network: "lan".parse().unwrap(),
            container_id: container.parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        }
    }

    fn write(dir: &Path, container: &str, txn: Option<&str>) {
        let release = Release {
            attachment: key(container),
            cni_network: "lan".parse().unwrap(),
            role: Role::Main,
            link: LinkRemoval::Gone,
            txn: txn.map(|txn| TxnId(txn.to_owned())),
        };
        spool::write(dir, &Entry { release, boot_id: BootId("b".to_owned()) }).unwrap();
    }

    fn parked(conn: u64, container: &str) -> Parked {
        let request = LeaseRequest {
            txn: TxnId("t".to_owned()),
            key: key(container),
            cni_network: "lan".parse().unwrap(),
            role: Role::Main,
            netns: NetnsIdentity { cookie: NetnsCookie(1), inode: 1, nsid: Nsid(1), nsid_is_random: true },
            pod: None,
            ips: Vec::new(),
            adopt: false,
            mac: None,
            add_timeout: None,
            standing: berth_ipam::access::Standing::default(),
        };
        Parked { caller: Caller { conn, call: 1 }, request, given: None }
    }

    #[test]
    fn a_file_goes_only_when_its_release_is_saved() {
        let dir = tempfile::tempdir().unwrap();
        let list = || spool::entries(dir.path()).unwrap();
        write(dir.path(), "c1", None);
        let mut spooled = Spooled::default();
        let first = spooled.fresh(list());
        assert_eq!(first.len(), 1);
        assert!(spooled.fresh(list()).is_empty(), "it is under way");
        assert_eq!(spooled.answered(first[0].0, false).0, None);
        let again = spooled.fresh(list());
        assert_eq!(again.len(), 1, "what the disk refused is replayed");
        let (file, _) = spooled.answered(again[0].0, true);
        assert!(spooled.fresh(list()).is_empty(), "saved, and its file not yet gone");
        // The plugin writes another DEL of the attachment before the file goes.
        std::thread::sleep(std::time::Duration::from_millis(20));
        write(dir.path(), "c1", None);
        spool::remove(&file.unwrap()).unwrap();
        assert_eq!(spooled.fresh(list()).len(), 1, "the later entry is neither lost nor taken for the first");
    }

    #[test]
    fn an_add_waits_for_the_release_of_its_attachment_and_for_no_other() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "c1", None);
        write(dir.path(), "c1", Some("t1"));
        let mut spooled = Spooled::default();
        let calls = spooled.fresh(spool::entries(dir.path()).unwrap());
        assert!(spooled.park(parked(1, "c2")).is_some());
        for conn in 1..4 {
            assert!(spooled.park(parked(conn, "c1")).is_none());
        }
        spooled.hang_up(3);
        spooled.answered(calls[0].0, true);
        assert!(spooled.ready().is_empty(), "the other entry is on its way");
        let (_, failed) = spooled.answered(calls[1].0, false);
        assert_eq!(failed.iter().map(|parked| parked.caller.conn).collect::<Vec<_>>(), [1, 2]);
        let calls = spooled.fresh(spool::entries(dir.path()).unwrap());
        assert!(spooled.park(parked(4, "c1")).is_none());
        spooled.answered(calls[0].0, true);
        assert_eq!(spooled.ready().len(), 1);
    }
}
