//! The spool: releases that the plugin could not deliver to the agent, kept on disk until delivery.
//!
//! Each attachment and role has one file in `<stateDir>/spool`. A repeated DEL replaces its own entry, so the
//! spool cannot grow by repetition. The undo of an ADD ends that ADD alone; its entry has a separate file and
//! replaces no DEL. An entry is durable before the plugin reports success. Entries have no order: releases of
//! different attachments are independent.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use berth_ipam::attachment::{AttachmentKey, Role};
use berth_ipam::identity::{BootId, TxnId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::durable;
use crate::request::Release;

/// The folder's name under the state directory.
pub const FOLDER: &str = "spool";

/// One release that waits for the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Entry {
    /// The undelivered request.
    pub release: Release,
    /// The boot in which it was spooled.
    pub boot_id: BootId,
}

/// The file of one entry, distinguished from a later file of the same name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileId {
    path: PathBuf,
    inode: u64,
    /// Seconds and nanoseconds of its last change.
    modified: (i64, i64),
}

impl FileId {
    fn of(path: &Path, found: &fs::Metadata) -> Self {
        let modified = (found.mtime(), found.mtime_nsec());
        Self { path: path.to_owned(), inode: found.ino(), modified }
    }
}

/// Content of the spool.
#[derive(Debug, Default)]
pub struct Listing {
    /// Readable entries with their files, in order of the file names.
    pub entries: Vec<(FileId, Entry)>,
    /// Files that are not valid entries, with the fault. They require an operator.
    pub damaged: Vec<(PathBuf, SpoolError)>,
}

/// Reason why the spool could not be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The folder cannot be made.
    #[error("cannot create the spool folder {}", path.display())]
    Create {
        /// Path of the folder.
        path: PathBuf,
        /// Error from the kernel.
        #[source]
        cause: io::Error,
    },
    /// An entry cannot be made durable.
    #[error("cannot write the spool entry {}", path.display())]
    Write {
        /// The entry's file.
        path: PathBuf,
        /// Error from the kernel.
        #[source]
        cause: io::Error,
    },
    /// The folder or an entry cannot be read.
    #[error("cannot read the spool at {}", path.display())]
    Read {
        /// The folder or file.
        path: PathBuf,
        /// Error from the kernel.
        #[source]
        cause: io::Error,
    },
    /// An entry is not what the plugin writes.
    #[error("cannot parse the spool entry {}", path.display())]
    Parse {
        /// The entry's file.
        path: PathBuf,
        /// Error of the parser.
        #[source]
        cause: serde_json::Error,
    },
    /// An entry cannot be removed.
    #[error("cannot remove the spool entry {}", path.display())]
    Remove {
        /// The entry's file.
        path: PathBuf,
        /// Error from the kernel.
        #[source]
        cause: io::Error,
    },
}

/// The file name of an entry: of a DEL, or with `txn` of the undo of that ADD. Hashed, because network name
/// and container id together may be longer than a file name.
pub fn file_name(attachment: &AttachmentKey, role: Role, txn: Option<&TxnId>) -> String {
    let mut name = stem(attachment, role);
    if let Some(txn) = txn {
        name.push('-');
        name.push_str(&hex(&[&txn.0], 8));
    }
    name.push_str(".json");
    name
}

/// Prefix of the names of all entries of an attachment and role.
fn stem(attachment: &AttachmentKey, role: Role) -> String {
    let role = match role {
        Role::Main => "main",
        Role::Chained => "chained",
        Role::Delegate => "delegate",
    };
    let AttachmentKey { network, container_id, ifname } = attachment;
    hex(&[network.as_str(), container_id.as_str(), ifname.as_str(), role], 16)
}

/// The first `octets` octets of a hash of the texts, in hexadecimal digits.
fn hex(parts: &[&str], octets: usize) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let mut text = String::with_capacity(2 * octets);
    for byte in hash.finalize().iter().take(octets) {
        text.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
        text.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
    }
    text
}

/// True if an attachment has an entry in any role, or if the folder cannot be read.
pub fn has_entry_of(state_dir: &Path, attachment: &AttachmentKey) -> bool {
    let stems = [Role::Main, Role::Chained, Role::Delegate].map(|role| stem(attachment, role));
    let files = match fs::read_dir(state_dir.join(FOLDER)) {
        Ok(files) => files,
        Err(error) => return error.kind() != ErrorKind::NotFound,
    };
    files.flatten().any(|file| {
        let name = file.file_name();
        stems.iter().any(|stem| name.as_encoded_bytes().starts_with(stem.as_bytes()))
    })
}

/// Writes an entry into `<state_dir>/spool`, making the folder if need be. It survives a loss of
/// power once this returns.
pub fn write(state_dir: &Path, entry: &Entry) -> Result<PathBuf, SpoolError> {
    let folder = state_dir.join(FOLDER);
    fs::create_dir_all(&folder).map_err(|cause| SpoolError::Create { path: folder.clone(), cause })?;
    let release = &entry.release;
    let name = file_name(&release.attachment, release.role, release.txn.as_ref());
    let path = folder.join(&name);
    let failed = |cause| SpoolError::Write { path: path.clone(), cause };
    let content = serde_json::to_vec(entry).map_err(|error| failed(error.into()))?;
    durable::replace(&folder, &name, &content, true).map_err(failed)?;
    Ok(path)
}

/// Everything in `<state_dir>/spool`; an absent folder is an empty spool.
pub fn entries(state_dir: &Path) -> Result<Listing, SpoolError> {
    let folder = state_dir.join(FOLDER);
    let failed = |cause| SpoolError::Read { path: folder.clone(), cause };
    let files = match fs::read_dir(&folder) {
        Ok(files) => files,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Listing::default()),
        Err(error) => return Err(failed(error)),
    };
    let mut paths = files.map(|file| Ok(file?.path())).collect::<io::Result<Vec<_>>>().map_err(failed)?;
    paths.retain(|path| path.extension() == Some(OsStr::new("json")));
    paths.sort();
    let mut listing = Listing::default();
    for path in paths {
        match read(&path) {
            Ok(found) => listing.entries.push(found),
            // Replayed and removed by another process since the folder was listed.
            Err(SpoolError::Read { cause, .. }) if cause.kind() == ErrorKind::NotFound => {}
            Err(error) => listing.damaged.push((path, error)),
        }
    }
    Ok(listing)
}

fn read(path: &Path) -> Result<(FileId, Entry), SpoolError> {
    let failed = |cause| SpoolError::Read { path: path.to_owned(), cause };
    let mut file = fs::File::open(path).map_err(failed)?;
    let id = FileId::of(path, &file.metadata().map_err(failed)?);
    let mut content = Vec::new();
    file.read_to_end(&mut content).map_err(failed)?;
    let wrong = |cause| SpoolError::Parse { path: path.to_owned(), cause };
    Ok((id, serde_json::from_slice(&content).map_err(wrong)?))
}

/// Removes a replayed entry. Success includes an entry that is already gone or replaced by a later one. The
/// removal need not be durable: replaying a release twice is harmless.
pub fn remove(file: &FileId) -> Result<(), SpoolError> {
    let path = &file.path;
    let removed = fs::symlink_metadata(path)
        .and_then(|found| if FileId::of(path, &found) == *file { fs::remove_file(path) } else { Ok(()) });
    match removed {
        Err(cause) if cause.kind() != ErrorKind::NotFound => {
            Err(SpoolError::Remove { path: path.clone(), cause })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::LinkRemoval;

    fn entry(container: &str, link: LinkRemoval) -> Entry {
        Entry {
            release: Release {
                attachment: AttachmentKey {
                    network: "lan".parse().unwrap(),
                    container_id: container.parse().unwrap(),
                    ifname: "eth0".parse().unwrap(),
                },
                cni_network: "lan".parse().unwrap(),
                role: Role::Main,
                link,
                txn: None,
            },
            boot_id: BootId("b".to_owned()),
        }
    }

    #[test]
    fn entries_round_trip_and_a_repeat_replaces() {
        let dir = tempfile::tempdir().unwrap();
        assert!(entries(dir.path()).unwrap().entries.is_empty());
        write(dir.path(), &entry("c1", LinkRemoval::Unreachable)).unwrap();
        write(dir.path(), &entry("c2", LinkRemoval::Gone)).unwrap();
        let path = write(dir.path(), &entry("c1", LinkRemoval::Gone)).unwrap();
        let listing = entries(dir.path()).unwrap();
        assert_eq!(listing.entries.len(), 2);
        assert!(listing.damaged.is_empty());
        let (file, found) = listing.entries.iter().find(|(file, _)| file.path == path).unwrap();
        assert_eq!(*found, entry("c1", LinkRemoval::Gone));
        remove(file).unwrap();
        remove(file).unwrap();
        assert_eq!(entries(dir.path()).unwrap().entries.len(), 1);
    }

    #[test]
    fn the_undo_of_an_add_replaces_no_del_and_no_other_undo() {
        let dir = tempfile::tempdir().unwrap();
        let key = entry("c1", LinkRemoval::Gone).release.attachment;
        assert!(!has_entry_of(dir.path(), &key));
        let undo = |txn: &str| {
            let mut entry = entry("c1", LinkRemoval::Gone);
            entry.release.txn = Some(TxnId(txn.to_owned()));
            entry
        };
        for entry in [entry("c1", LinkRemoval::Gone), undo("a"), undo("b"), undo("b")] {
            write(dir.path(), &entry).unwrap();
        }
        let listing = entries(dir.path()).unwrap();
        let mut txns: Vec<_> = listing.entries.iter().map(|(_, entry)| entry.release.txn.clone()).collect();
        txns.sort();
        assert_eq!(txns, [None, Some(TxnId("a".to_owned())), Some(TxnId("b".to_owned()))]);
        for (file, entry) in &listing.entries {
            assert!(has_entry_of(dir.path(), &entry.release.attachment));
            remove(file).unwrap();
        }
        assert!(!has_entry_of(dir.path(), &key));
    }

    #[test]
    fn a_damaged_file_is_reported_and_hides_nothing() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), &entry("c1", LinkRemoval::Gone)).unwrap();
        fs::write(dir.path().join(FOLDER).join("x.json"), "{\"release\"").unwrap();
        fs::write(dir.path().join(FOLDER).join(".y.json.1.tmp"), "").unwrap();
        let listing = entries(dir.path()).unwrap();
        assert_eq!((listing.entries.len(), listing.damaged.len()), (1, 1));
    }

    #[test]
    fn roles_and_longest_names_have_files_of_their_own() {
        let mut key = entry("c1", LinkRemoval::Gone).release.attachment;
        key.container_id = "c".repeat(253).parse().unwrap();
        let main = file_name(&key, Role::Main, None);
        assert_ne!(main, file_name(&key, Role::Delegate, None));
        assert_eq!(main.len(), 37);
    }

    #[test]
    fn an_unwritable_spool_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FOLDER), "a file where the folder should be").unwrap();
        let error = write(dir.path(), &entry("c1", LinkRemoval::Gone)).unwrap_err().to_string();
        assert!(error.contains("spool"), "{error}");
    }
}
