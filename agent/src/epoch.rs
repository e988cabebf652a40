//! Identity of this boot and of this machine.
//!
//! A wrong value would make every lease of the node look like one of a previous boot, so an unreadable ID is
//! an error and never a default.

use std::io;
use std::path::{Path, PathBuf};

use berth_ipam::identity::{BootId, MachineId};

/// The longest id in bytes; the kernel's has 36, systemd's 32.
const ID_BYTES_MAX: usize = 64;

/// This boot of this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Epoch {
    /// ID of the boot.
    pub boot_id: BootId,
    /// ID of the machine.
    pub machine_id: MachineId,
}

/// Reason why the epoch is unknown.
#[derive(Debug, thiserror::Error)]
pub enum EpochError {
    /// The file cannot be read.
    #[error("read the {what} from {}; name another file with {flag}", path.display())]
    Read {
        /// Kind of the ID.
        what: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// The flag that names the file.
        flag: &'static str,
        /// Error from the kernel.
        #[source]
        cause: io::Error,
    },
    /// The file holds no id.
    #[error(
        "{} holds no {what} but {found:?}: one line of 1 to {ID_BYTES_MAX} letters, digits and `-` is needed{hint}",
        path.display()
    )]
    Malformed {
        /// Kind of the ID.
        what: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// The beginning of what it holds.
        found: String,
        /// Advice for the operator.
        hint: &'static str,
    },
}

impl Epoch {
    /// Reads both ids, usually from `/proc/sys/kernel/random/boot_id` and `/etc/machine-id`.
    pub fn read(boot_id_file: &Path, machine_id_file: &Path) -> Result<Self, EpochError> {
        let boot_id = BootId(read("boot id", "--boot-id-file", "", boot_id_file)?);
        let hint = "; run systemd-machine-id-setup, or name another file with --machine-id-file";
        let machine_id = MachineId(read("machine id", "--machine-id-file", hint, machine_id_file)?);
        Ok(Self { boot_id, machine_id })
    }
}

fn read(
    what: &'static str,
    flag: &'static str,
    hint: &'static str,
    path: &Path,
) -> Result<String, EpochError> {
    let text = std::fs::read_to_string(path).map_err(|cause| EpochError::Read {
        what,
        path: path.to_owned(),
        flag,
        cause,
    })?;
    let id = text.trim_end();
    let fits = (1..=ID_BYTES_MAX).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    // systemd writes this word into images, so that each machine gets its ID at its first boot.
    if !fits || id == "uninitialized" {
        let found = id.chars().take(ID_BYTES_MAX).collect();
        return Err(EpochError::Malformed { what, path: path.to_owned(), found, hint });
    }
    Ok(id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_own_id_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let machine = dir.path().join("machine-id");
        std::fs::write(&machine, "0123456789abcdef0123456789abcdef\n").unwrap();
        let epoch = Epoch::read(Path::new("/proc/sys/kernel/random/boot_id"), &machine).unwrap();
        assert_eq!(epoch.boot_id.0.len(), 36);
        assert_eq!(epoch.machine_id.0, "0123456789abcdef0123456789abcdef");
    }

    #[test]
    fn nonsense_is_refused_with_the_file_and_a_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let boot = Path::new("/proc/sys/kernel/random/boot_id");
        let file = dir.path().join("id");
        let error = Epoch::read(boot, &file).unwrap_err();
        assert!(matches!(error, EpochError::Read { what: "machine id", .. }));
        assert!(error.to_string().contains("--machine-id-file"), "{error}");
        for bad in ["", "\n", "uninitialized\n", "a b", "two\nlines\n", &"x".repeat(65)] {
            std::fs::write(&file, bad).unwrap();
            let error = Epoch::read(boot, &file).unwrap_err();
            assert!(matches!(error, EpochError::Malformed { .. }), "{bad:?}");
            assert!(error.to_string().contains("systemd-machine-id-setup"), "{error}");
        }
    }
}
