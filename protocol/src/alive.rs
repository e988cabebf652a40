//! The file `<stateDir>/alive`: the last sign of life of the agent.
//!
//! STATUS reads it when the agent does not answer, to distinguish an upgrade of a few seconds from a node
//! without an agent. It proves nothing about addresses, and no lease is freed because of it.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use berth_ipam::identity::BootId;
use serde::{Deserialize, Serialize};

use crate::durable;

/// The file's name under the state directory.
pub const FILE: &str = "alive";

/// The agent's last sign of life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Alive {
    /// The boot of the sign of life.
    pub boot_id: BootId,
    /// Time in milliseconds of `CLOCK_BOOTTIME`.
    pub boottime_ms: u64,
}

/// Reason why the file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum AliveError {
    /// It cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Path of the file.
        path: PathBuf,
        /// Error from the kernel.
        #[source]
        cause: io::Error,
    },
    /// It cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error from the kernel.
        #[source]
        cause: io::Error,
    },
    /// It is not what an agent writes.
    #[error("cannot parse {}", path.display())]
    Parse {
        /// Path of the file.
        path: PathBuf,
        /// Error of the parser.
        #[source]
        cause: serde_json::Error,
    },
}

/// Replaces the file. Not synced: after a loss of power it is of another boot anyway.
pub fn write(state_dir: &Path, alive: &Alive) -> Result<(), AliveError> {
    let failed = |cause| AliveError::Write { path: state_dir.join(FILE), cause };
    let content = serde_json::to_vec(alive).map_err(|error| failed(error.into()))?;
    durable::replace(state_dir, FILE, &content, false).map_err(failed)
}

/// Reads the file; `None` if it does not exist.
pub fn read(state_dir: &Path) -> Result<Option<Alive>, AliveError> {
    let path = state_dir.join(FILE);
    let content = match fs::read(&path) {
        Ok(content) => content,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(cause) => return Err(AliveError::Read { path, cause }),
    };
    serde_json::from_slice(&content).map(Some).map_err(|cause| AliveError::Parse { path, cause })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_round_trips_in_the_documented_form() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        let alive = Alive { boot_id: BootId("b1".to_owned()), boottime_ms: 12 };
        write(dir.path(), &alive).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join(FILE)).unwrap(), r#"{"bootId":"b1","boottimeMs":12}"#);
        assert_eq!(read(dir.path()).unwrap(), Some(alive));
    }

    #[test]
    fn a_damaged_file_is_an_error_not_an_absence() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "").unwrap();
        assert!(matches!(read(dir.path()), Err(AliveError::Parse { .. })));
    }
}
