//! The spool: releases that the plugin could not hand to the agent, kept on disk until it can.
//!
//! One file for each attachment and role in `<stateDir>/spool`, so that a repeated DEL replaces its
//! own entry and the spool cannot grow by repetition. An entry is durable before the plugin reports
//! success. Entries hold no order: releases of different attachments do not depend on each other.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use berth_ipam::attachment::{AttachmentKey, Role};
use berth_ipam::identity::BootId;
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
    /// What the plugin would have asked.
    pub release: Release,
    /// The boot in which it was spooled.
    pub boot_id: BootId,
}

/// What lies in the spool.
#[derive(Debug, Default)]
pub struct Listing {
    /// Readable entries with their files, in order of the file names.
    pub entries: Vec<(PathBuf, Entry)>,
    /// Files that are no entries, and why: a person must look at them.
    pub damaged: Vec<(PathBuf, SpoolError)>,
}

/// Why the spool could not be used.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The folder cannot be made.
    #[error("create the spool folder {}", path.display())]
    Create {
        /// The folder.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// An entry cannot be made durable.
    #[error("write the spool entry {}", path.display())]
    Write {
        /// The entry's file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// The folder or an entry cannot be read.
    #[error("read the spool at {}", path.display())]
    Read {
        /// The folder or file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
    /// An entry is not what the plugin writes.
    #[error("parse the spool entry {}", path.display())]
    Parse {
        /// The entry's file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        cause: serde_json::Error,
    },
    /// An entry cannot be removed.
    #[error("remove the spool entry {}", path.display())]
    Remove {
        /// The entry's file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        cause: io::Error,
    },
}

/// The file name of an attachment's entry. Hashed, because network name and container id together
/// may be longer than a file name.
pub fn file_name(attachment: &AttachmentKey, role: Role) -> String {
    let role = match role {
        Role::Main => "main",
        Role::Chained => "chained",
        Role::Delegate => "delegate",
    };
    let mut hash = Sha256::new();
    let parts =
        [attachment.network.as_str(), attachment.container_id.as_str(), attachment.ifname.as_str(), role];
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    let mut name = String::with_capacity(37);
    for byte in &hash.finalize()[..16] {
        name.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
        name.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
    }
    name.push_str(".json");
    name
}

/// Writes an entry into `<state_dir>/spool`, making the folder if need be. It survives a loss of
/// power once this returns.
pub fn write(state_dir: &Path, entry: &Entry) -> Result<PathBuf, SpoolError> {
    let folder = state_dir.join(FOLDER);
    fs::create_dir_all(&folder).map_err(|cause| SpoolError::Create { path: folder.clone(), cause })?;
    let name = file_name(&entry.release.attachment, entry.release.role);
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
            Ok(entry) => listing.entries.push((path, entry)),
            // Replayed and removed by somebody else since the folder was listed.
            Err(SpoolError::Read { cause, .. }) if cause.kind() == ErrorKind::NotFound => {}
            Err(error) => listing.damaged.push((path, error)),
        }
    }
    Ok(listing)
}

fn read(path: &Path) -> Result<Entry, SpoolError> {
    let content = fs::read(path).map_err(|cause| SpoolError::Read { path: path.to_owned(), cause })?;
    serde_json::from_slice(&content).map_err(|cause| SpoolError::Parse { path: path.to_owned(), cause })
}

/// Removes a replayed entry. One that is gone already is success. The removal need not be durable:
/// replaying a release twice is harmless.
pub fn remove(path: &Path) -> Result<(), SpoolError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(SpoolError::Remove { path: path.to_owned(), cause: error })
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
        assert!(listing.entries.contains(&(path.clone(), entry("c1", LinkRemoval::Gone))));
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(entries(dir.path()).unwrap().entries.len(), 1);
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
        let main = file_name(&key, Role::Main);
        assert_ne!(main, file_name(&key, Role::Delegate));
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
