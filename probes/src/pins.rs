//! Pins: maps and links under a folder of the BPF file system. The kernel continues to fill the ring while no
//! agent runs, and an operator can read the maps.
//!
//! The version of the layouts is in the path, and every pinned map is compared with the one that this program
//! expects: one of another layout is unlinked, not used. A BPF file system that is absent, full or not
//! writable costs the pins, never the programs.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::maps::MapInfo;
use aya::programs::links::{FdLink, PinnedLink};
use berth_ebpf_common::{
    ATTACHMENTS_MAX, AttachKey, AttachValue, Counter, DepartedValue, ExitSlot, LAYOUT, NetnsValue,
    RING_BYTES, WATCHES_MAX, WatchKey, WatchValue,
};

/// `BPF_FS_MAGIC` of the kernel (linux/magic.h).
const BPF_FS: u64 = 0xcafe_4a11;

/// A map as this version makes it: name, bytes of key and value, entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape(pub &'static str, pub usize, pub usize, pub u32);

/// All pinned maps. `.rodata` belongs to one load and is not pinned.
pub(crate) const MAPS: [Shape; 7] = [
    Shape("EVENTS", 0, 0, RING_BYTES),
    Shape("ATTACH", AttachKey::SIZE, AttachValue::SIZE, ATTACHMENTS_MAX),
    Shape("DEPARTED", 8, DepartedValue::SIZE, ATTACHMENTS_MAX),
    Shape("NETNS", 8, NetnsValue::SIZE, ATTACHMENTS_MAX),
    Shape("EXITS", 4, ExitSlot::SIZE, ATTACHMENTS_MAX),
    Shape("WATCH", WatchKey::SIZE, WatchValue::SIZE, WATCHES_MAX),
    Shape("COUNTERS", 4, 8, Counter::SLOTS),
];

/// Place of the pins, or the reason for having none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pins {
    /// Under this folder.
    At(PathBuf),
    /// No pins; an agent that restarts begins with empty maps and reads everything.
    None(String),
}

impl Pins {
    /// Creates the folder of this version below `base`, which must be in a BPF file system, and unlinks maps
    /// there that differ from this version's. While the lock is held no other agent uses pins there: two
    /// would empty each other's maps.
    pub(crate) fn prepare(base: Option<&Path>) -> (Self, Option<Lock>) {
        let Some(base) = base else { return (Self::None("no folder for pins was named".to_owned()), None) };
        match folder(base) {
            Ok((folder, lock)) => (Self::At(folder), Some(lock)),
            Err(error) => (Self::None(format!("{}: {error}", base.display())), None),
        }
    }

    /// Unlinks all pins of an agent of any version below `base`. Its programs end with that, and its maps
    /// when they are unused. Do not call it while an agent uses them.
    pub fn remove_all(base: &Path) -> io::Result<()> {
        if !base.is_dir() {
            return Ok(());
        }
        let _lock = lock(base)?;
        for (path, _) in versions(base)? {
            fs::remove_dir_all(path)?;
        }
        Ok(())
    }

    /// The folder, if there is one.
    pub fn folder(&self) -> Option<&Path> {
        match self {
            Self::At(folder) => Some(folder),
            Self::None(_) => None,
        }
    }

    /// Unlinks what keeps an earlier agent's program in its place.
    pub(crate) fn drop_link(&self, program: &str) {
        if let Some(folder) = self.folder() {
            // If it cannot be unlinked both programs run, and report each end once between them.
            let _ = fs::remove_file(folder.join(link_name(program)));
        }
    }

    /// Pins a link; if that fails the link is kept by this process alone, and the reason returned.
    pub(crate) fn pin_link(&self, program: &str, link: FdLink) -> Result<Option<PinnedLink>, String> {
        let Some(folder) = self.folder() else { return Ok(None) };
        let path = folder.join(link_name(program));
        let _ = fs::remove_file(&path);
        link.pin(&path).map(Some).map_err(|error| crate::ladder::chain(&error))
    }

    /// Removes the pins of older versions, now that this one works. Newer ones are another's.
    pub(crate) fn remove_older(&self) -> io::Result<()> {
        let Some(base) = self.folder().and_then(Path::parent) else { return Ok(()) };
        for (path, version) in versions(base)? {
            if version < u32::from(LAYOUT) {
                fs::remove_dir_all(path)?;
            }
        }
        Ok(())
    }
}

/// Folders of pins below `base`, each with its version; none if `base` does not exist.
fn versions(base: &Path) -> io::Result<Vec<(PathBuf, u32)>> {
    let entries = match fs::read_dir(base) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let version = name.to_str().and_then(|name| name.strip_prefix('v')?.parse::<u32>().ok());
        found.extend(version.map(|version| (entry.path(), version)));
    }
    Ok(found)
}

fn link_name(program: &str) -> String {
    format!("link_{program}")
}

/// Held while an agent uses the folder.
pub(crate) type Lock = fs::File;

fn lock(base: &Path) -> io::Result<Lock> {
    let folder = fs::File::open(base)?;
    match folder.try_lock() {
        Ok(()) => Ok(folder),
        Err(fs::TryLockError::WouldBlock) => {
            Err(io::Error::other("another agent has its pins there: give each its own --bpffs"))
        }
        Err(fs::TryLockError::Error(error)) => Err(error),
    }
}

fn folder(base: &Path) -> io::Result<(PathBuf, Lock)> {
    fs::create_dir_all(base)?;
    let kind = rustix::fs::statfs(base)?.f_type;
    if u64::try_from(kind).ok() != Some(BPF_FS) {
        return Err(io::Error::other("is not in a BPF file system (mount -t bpf bpf /sys/fs/bpf)"));
    }
    let lock = lock(base)?;
    let folder = base.join(format!("v{LAYOUT}"));
    fs::create_dir_all(&folder)?;
    for shape in MAPS {
        let path = folder.join(shape.0);
        if path.try_exists()? && !fits(&path, shape) {
            fs::remove_file(&path)?;
        }
    }
    Ok((folder, lock))
}

/// True if the pinned map matches this version's definition. An unreadable one does not.
fn fits(path: &Path, shape: Shape) -> bool {
    let Ok(info) = MapInfo::from_pin(path) else { return false };
    let sizes = (u64::from(info.key_size()), u64::from(info.value_size()), info.max_entries());
    sizes == (shape.1 as u64, shape.2 as u64, shape.3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_folder_is_no_place_for_pins() {
        let folder = tempfile::tempdir().unwrap();
        let (Pins::None(reason), None) = Pins::prepare(Some(folder.path())) else { panic!("pinned") };
        assert!(reason.contains("BPF file system"), "{reason}");
        assert!(matches!(Pins::prepare(None), (Pins::None(_), None)));
        // A file where the folder should be.
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(matches!(Pins::prepare(Some(&file)), (Pins::None(_), None)));
    }
}
