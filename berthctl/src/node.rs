//! Berth's two files on a node: the plugin in the runtime's folder, and the list that names it.
//!
//! A runtime that finds the list marks the node Ready, and without the plugin it cannot delete a pod.
//! Invariant: the list exists only while the plugin does. It is written last and removed first. Each file is
//! complete or absent, even after a crash of this program or of the machine: it is written under a temporary
//! name in the same folder, synced, and renamed. Both are prepared before either is renamed, so that errors
//! occur before the first change.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::conflist::{self, ConflistError, PLUGIN};
use crate::flags::{InstallNode, UninstallNode};

/// The endings of the files that runtimes read as configurations.
const READ_BY_RUNTIMES: [&str; 3] = ["conf", "conflist", "json"];
/// Runtimes read a list only from a file of this ending.
const LIST: &str = "conflist";
/// First bytes of a program.
const ELF: &[u8] = b"\x7fELF";
/// File mode of the plugin.
const PROGRAM_MODE: u32 = 0o755;
/// File mode of the list: readable by root alone, as CIS Kubernetes Benchmark 1.1.9 requires.
const LIST_MODE: u32 = 0o600;

/// Reason why the node's files were not changed, or not all of them.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NodeError {
    /// A file or a folder cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Path of the file.
        path: PathBuf,
        /// Error from the kernel.
        #[source]
        cause: io::Error,
    },
    /// The list is not usable, or is not Berth's.
    #[error("{} is not a CNI list that calls Berth", path.display())]
    Conflist {
        /// Path of the file.
        path: PathBuf,
        /// Cause of the failure.
        #[source]
        cause: ConflistError,
    },
    /// Runtimes do not read a file of this name as a list.
    #[error("{} does not end in .{LIST}: runtimes read only such files as lists; rename the file of --conflist", path.display())]
    ListName {
        /// Path of the file.
        path: PathBuf,
    },
    /// The plugin is not a program.
    #[error("{} is not an executable; pass the binary berth to --plugin", path.display())]
    NotAProgram {
        /// Path of the file.
        path: PathBuf,
    },
    /// Something other than a file is in the place of a file.
    #[error("{} is not a regular file and not of Berth; inspect it and remove it", path.display())]
    NotAFile {
        /// Path of the object.
        path: PathBuf,
    },
    /// Other configurations would be left without their plugin.
    #[error("{} still calls the plugin; delete its pods and the file first", path.display())]
    InUse {
        /// Path of the configuration.
        path: PathBuf,
    },
    /// Two processes run at once.
    #[error("another berthctl is changing {}; try again when it has finished", path.display())]
    Busy {
        /// Path of the folder.
        path: PathBuf,
    },
    /// A file could not be prepared. Nothing was changed.
    #[error("cannot write {}", path.display())]
    Write {
        /// Path of the file.
        path: PathBuf,
        /// Error from the kernel.
        #[source]
        cause: io::Error,
    },
    /// A prepared file could not be put into its place.
    #[error("cannot rename the new file to {}", path.display())]
    Place {
        /// Path of the file.
        path: PathBuf,
        /// Error from the kernel.
        #[source]
        cause: io::Error,
    },
    /// A file could not be removed.
    #[error("cannot remove {}", path.display())]
    Remove {
        /// Path of the file.
        path: PathBuf,
        /// Error from the kernel.
        #[source]
        cause: io::Error,
    },
}

impl NodeError {
    /// Advice for the operator, if the message holds none.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Write { .. } => Some(
                "nothing was changed; berthctl needs the right to write into the folder: run it as root, and \
                 in a container mount the node's folder writable",
            ),
            Self::Place { .. } | Self::Remove { .. } => Some("correct the cause and run the command again"),
            _ => None,
        }
    }
}

/// Change of one file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Change {
    /// Path of the file.
    pub(crate) path: PathBuf,
    /// Outcome for the file.
    pub(crate) outcome: Outcome,
}

/// Outcome of the change of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// It is new, or other than before.
    Installed,
    /// It was there already, the same.
    Unchanged,
    /// It is gone.
    Removed,
    /// It was not there.
    Absent,
}

/// Puts the plugin and then the list into the runtime's folders, as far as they differ.
pub(crate) fn install(args: &InstallNode) -> Result<[Change; 2], NodeError> {
    let name = list_name(&args.conflist)?;
    let list = read(&args.conflist)?;
    check(&args.conflist, &list)?;
    let plugin = read(&args.plugin)?;
    if !plugin.starts_with(ELF) {
        return Err(NodeError::NotAProgram { path: args.plugin.clone() });
    }
    let _turn = lock(&args.bin_dir)?;
    let plugin = Staged::new(args.bin_dir.join(PLUGIN), &plugin, PROGRAM_MODE)?;
    let target = args.conf_dir.join(name);
    let mode = list_mode(&target)?;
    let list = Staged::new(target, &list, mode)?;
    place_both(plugin, list)
}

/// The mode of the list: a stricter one that an operator set stays.
fn list_mode(target: &Path) -> Result<u32, NodeError> {
    if target.is_symlink() || !is_file(target)? {
        return Ok(LIST_MODE);
    }
    let failed = |cause| NodeError::Read { path: target.to_owned(), cause };
    Ok(fs::symlink_metadata(target).map_err(failed)?.mode() & LIST_MODE)
}

/// The list comes last.
fn place_both(plugin: Staged, list: Staged) -> Result<[Change; 2], NodeError> {
    Ok([plugin.place()?, list.place()?])
}

/// Removes the list and then the plugin, after checks that both are Berth's and no other configuration needs
/// them.
pub(crate) fn uninstall(args: &UninstallNode) -> Result<[Change; 2], NodeError> {
    let list = args.conf_dir.join(list_name(&args.conflist)?);
    let plugin = args.bin_dir.join(PLUGIN);
    let _turn = lock(&args.bin_dir)?;
    if is_file(&list)? {
        check(&list, &read(&list)?)?;
    }
    is_file(&plugin)?;
    if let Some(path) = other_caller(&args.conf_dir, &list)? {
        return Err(NodeError::InUse { path });
    }
    remove_both(list, plugin)
}

/// The list goes first.
fn remove_both(list: PathBuf, plugin: PathBuf) -> Result<[Change; 2], NodeError> {
    Ok([remove(list)?, remove(plugin)?])
}

/// The file name under which runtimes find the list.
fn list_name(path: &Path) -> Result<&Path, NodeError> {
    let name = path.file_name().map(Path::new).filter(|name| name.extension().is_some_and(|end| end == LIST));
    name.ok_or_else(|| NodeError::ListName { path: path.to_owned() })
}

fn check(path: &Path, text: &[u8]) -> Result<(), NodeError> {
    conflist::check(text).map_err(|cause| NodeError::Conflist { path: path.to_owned(), cause })
}

fn read(path: &Path) -> Result<Vec<u8>, NodeError> {
    fs::read(path).map_err(|cause| NodeError::Read { path: path.to_owned(), cause })
}

/// Locks the folder against other processes while the value exists.
fn lock(folder: &Path) -> Result<File, NodeError> {
    let failed = |cause| NodeError::Read { path: folder.to_owned(), cause };
    let file = File::open(folder).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(NodeError::Busy { path: folder.to_owned() }),
        Err(TryLockError::Error(cause)) => Err(failed(cause)),
    }
}

/// True if there is a regular file, false if there is nothing; anything else is an error.
fn is_file(path: &Path) -> Result<bool, NodeError> {
    match fs::symlink_metadata(path) {
        Ok(found) if found.is_file() => Ok(true),
        Ok(_) => Err(NodeError::NotAFile { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(cause) => Err(NodeError::Read { path: path.to_owned(), cause }),
    }
}

/// Another configuration in the folder that calls the plugin.
fn other_caller(folder: &Path, list: &Path) -> Result<Option<PathBuf>, NodeError> {
    let failed = |cause| NodeError::Read { path: folder.to_owned(), cause };
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_read = path.extension().is_some_and(|end| READ_BY_RUNTIMES.iter().any(|read| end == *read));
        // A folder is not a configuration, whatever its name.
        if is_read && path != list && path.is_file() && conflist::calls_berth(&read(&path)?) {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

fn remove(path: PathBuf) -> Result<Change, NodeError> {
    let outcome = match fs::remove_file(&path) {
        Ok(()) => Outcome::Removed,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Outcome::Absent,
        Err(cause) => return Err(NodeError::Remove { path, cause }),
    };
    if outcome == Outcome::Removed {
        // The list must not come back after a crash when the plugin is gone.
        sync_folder(&path).map_err(|cause| NodeError::Remove { path: path.clone(), cause })?;
    }
    Ok(Change { path, outcome })
}

fn sync_folder(of: &Path) -> io::Result<()> {
    File::open(of.parent().unwrap_or(Path::new("/")))?.sync_all()
}

/// A file prepared under a temporary name. Dropping it removes the file.
#[derive(Debug)]
struct Staged {
    target: PathBuf,
    /// `None`: what is in its place is the same already.
    beside: Option<PathBuf>,
}

impl Staged {
    fn new(target: PathBuf, content: &[u8], mode: u32) -> Result<Self, NodeError> {
        if is_same(&target, content, mode)? {
            return Ok(Self { target, beside: None });
        }
        let beside = beside(&target);
        let staged = Self { target, beside: Some(beside.clone()) };
        match write(&beside, content, mode) {
            Ok(()) => Ok(staged),
            Err(cause) => Err(NodeError::Write { path: beside, cause }),
        }
    }

    /// Renamed within its folder, which is the one kind of arrival that wakes containerd.
    fn place(mut self) -> Result<Change, NodeError> {
        let path = self.target.clone();
        let Some(beside) = self.beside.clone() else {
            return Ok(Change { path, outcome: Outcome::Unchanged });
        };
        let failed = |cause| NodeError::Place { path: path.clone(), cause };
        fs::rename(&beside, &self.target).map_err(failed)?;
        self.beside = None;
        sync_folder(&self.target).map_err(failed)?;
        Ok(Change { path, outcome: Outcome::Installed })
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Some(beside) = &self.beside {
            // It may never have been made; and the next install writes over it.
            let _ = fs::remove_file(beside);
        }
    }
}

/// Temporary name of a file: hidden, and with an extension that no runtime reads. The name is fixed, so that
/// crashes leave one such file at most, and the next install replaces it.
fn beside(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}.berth-new"))
}

fn is_same(target: &Path, content: &[u8], mode: u32) -> Result<bool, NodeError> {
    let failed = |cause| NodeError::Read { path: target.to_owned(), cause };
    if target.is_symlink() {
        // A foreign link to a plugin elsewhere: the link is replaced, and its target is left in place.
        return Ok(false);
    }
    if !is_file(target)? {
        return Ok(false);
    }
    let found = fs::symlink_metadata(target).map_err(failed)?;
    Ok(found.mode() & 0o7777 == mode && found.len() == content.len() as u64 && read(target)? == content)
}

fn write(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    // Closed before the rename: a program that is open for writing cannot be run.
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    // Sets the mode regardless of the umask.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(content)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFLIST: &str = r#"{"cniVersion":"1.0.0","name":"pods","plugins":[{"type":"berth"}]}"#;
    const PROGRAM: &[u8] = b"\x7fELF one";

    /// A node's folders, and what an image brings.
    struct Node {
        folder: tempfile::TempDir,
        args: InstallNode,
    }

    impl Node {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let at = |name: &str| folder.path().join(name);
            let args = InstallNode {
                plugin: at("image-berth"),
                conflist: at("10-berth.conflist"),
                bin_dir: at("bin"),
                conf_dir: at("net.d"),
            };
            fs::create_dir(&args.bin_dir).unwrap();
            fs::create_dir(&args.conf_dir).unwrap();
            fs::write(&args.plugin, PROGRAM).unwrap();
            fs::write(&args.conflist, CONFLIST).unwrap();
            Self { folder, args }
        }

        fn install(&self) -> [Outcome; 2] {
            install(&self.args).unwrap().map(|change| change.outcome)
        }

        fn uninstall(&self) -> Result<[Outcome; 2], NodeError> {
            let InstallNode { bin_dir, conf_dir, .. } = self.args.clone();
            let args = UninstallNode { bin_dir, conf_dir, conflist: "10-berth.conflist".into() };
            Ok(uninstall(&args)?.map(|change| change.outcome))
        }

        /// All files below the node's folders, hidden ones too.
        fn files(&self) -> Vec<String> {
            let folders = [&self.args.bin_dir, &self.args.conf_dir];
            let entries = folders.into_iter().flat_map(|folder| fs::read_dir(folder).unwrap());
            let mut names: Vec<_> =
                entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
            names.sort();
            names
        }

        fn list(&self) -> PathBuf {
            self.args.conf_dir.join("10-berth.conflist")
        }
    }

    #[test]
    fn what_is_the_same_is_left_alone_and_what_differs_is_replaced_by_another_file() {
        let node = Node::new();
        assert_eq!(node.install(), [Outcome::Installed, Outcome::Installed]);
        let inode = |path: &Path| fs::metadata(path).unwrap().ino();
        let (plugin, list) = (node.args.bin_dir.join("berth"), node.list());
        let before = (inode(&plugin), inode(&list));
        assert_eq!(node.install(), [Outcome::Unchanged, Outcome::Unchanged]);
        assert_eq!((inode(&plugin), inode(&list)), before);

        fs::write(&node.args.plugin, b"\x7fELF two").unwrap();
        // Held open, as by a plugin that runs: it keeps its own content.
        let running = File::open(&plugin).unwrap();
        assert_eq!(node.install(), [Outcome::Installed, Outcome::Unchanged]);
        assert_eq!(io::read_to_string(&running).unwrap().as_bytes(), PROGRAM);
        assert_eq!(fs::read(&plugin).unwrap(), b"\x7fELF two");

        fs::set_permissions(&plugin, fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(node.install(), [Outcome::Installed, Outcome::Unchanged]);
        assert_eq!(fs::metadata(&plugin).unwrap().mode() & 0o7777, 0o755);
        assert_eq!(node.files(), ["10-berth.conflist", "berth"]);
    }

    #[test]
    fn the_list_is_roots_alone_and_a_stricter_mode_stays() {
        let node = Node::new();
        node.install();
        let mode = || fs::metadata(node.list()).unwrap().mode() & 0o7777;
        assert_eq!(mode(), 0o600);
        for (found, kept) in [(0o644, 0o600), (0o666, 0o600), (0o440, 0o400), (0o400, 0o400), (0o600, 0o600)]
        {
            fs::set_permissions(node.list(), fs::Permissions::from_mode(found)).unwrap();
            let changed = if found == kept { Outcome::Unchanged } else { Outcome::Installed };
            assert_eq!(node.install(), [Outcome::Unchanged, changed], "{found:o}");
            assert_eq!(mode(), kept, "{found:o}");
        }
        // A new list gets the mode of the one that it replaces.
        fs::set_permissions(node.list(), fs::Permissions::from_mode(0o400)).unwrap();
        fs::write(&node.args.conflist, CONFLIST.replace("pods", "others")).unwrap();
        assert_eq!(node.install(), [Outcome::Unchanged, Outcome::Installed]);
        assert_eq!((mode(), fs::read_to_string(node.list()).unwrap().contains("others")), (0o400, true));
    }

    #[test]
    fn a_crash_between_the_two_leaves_a_plugin_without_a_list_and_the_next_install_ends_it() {
        let node = Node::new();
        let plugin = Staged::new(node.args.bin_dir.join(PLUGIN), PROGRAM, PROGRAM_MODE).unwrap();
        let list = Staged::new(node.list(), b"{ half", LIST_MODE).unwrap();
        plugin.place().unwrap();
        // Simulates a crash: no destructor runs.
        std::mem::forget(list);
        assert_eq!(node.files(), [".10-berth.conflist.berth-new", "berth"]);

        assert_eq!(node.install(), [Outcome::Unchanged, Outcome::Installed]);
        assert_eq!(fs::read_to_string(node.list()).unwrap(), CONFLIST);
        assert_eq!(node.files(), ["10-berth.conflist", "berth"]);
    }

    #[test]
    fn there_is_never_a_list_without_a_plugin() {
        let node = Node::new();
        let plugin = Staged::new(node.args.bin_dir.join(PLUGIN), PROGRAM, PROGRAM_MODE).unwrap();
        let list = Staged::new(node.list(), CONFLIST.as_bytes(), LIST_MODE).unwrap();
        // An obstacle that appeared after the check.
        fs::create_dir(node.args.bin_dir.join(PLUGIN)).unwrap();
        let error = place_both(plugin, list).unwrap_err();
        assert!(matches!(error, NodeError::Place { .. }), "{error}");
        assert_eq!(node.files(), ["berth"], "the folder; no list, and nothing half done");

        let node = Node::new();
        node.install();
        fs::remove_file(node.list()).unwrap();
        fs::create_dir(node.list()).unwrap();
        let error = remove_both(node.list(), node.args.bin_dir.join(PLUGIN)).unwrap_err();
        assert!(matches!(error, NodeError::Remove { .. }), "{error}");
        assert_eq!(node.files(), ["10-berth.conflist", "berth"], "the list cannot go, so the plugin stays");
    }

    #[test]
    fn a_failure_at_the_second_file_changes_neither() {
        let node = Node::new();
        fs::create_dir(node.list()).unwrap();
        let error = install(&node.args).unwrap_err();
        assert!(matches!(error, NodeError::NotAFile { .. }), "{error}");
        assert_eq!(node.files(), ["10-berth.conflist"]);
    }

    #[test]
    fn one_at_a_time() {
        let node = Node::new();
        let turn = lock(&node.args.bin_dir).unwrap();
        assert!(matches!(install(&node.args), Err(NodeError::Busy { .. })));
        assert!(matches!(node.uninstall(), Err(NodeError::Busy { .. })));
        drop(turn);
        node.install();
    }

    #[test]
    fn a_link_is_replaced_and_what_it_leads_to_is_left_alone() {
        let node = Node::new();
        let elsewhere = node.folder.path().join("elsewhere");
        fs::write(&elsewhere, PROGRAM).unwrap();
        std::os::unix::fs::symlink(&elsewhere, node.args.bin_dir.join(PLUGIN)).unwrap();
        assert!(matches!(node.uninstall(), Err(NodeError::NotAFile { .. })), "not installed by Berth");
        fs::write(&node.args.plugin, b"\x7fELF two").unwrap();
        assert_eq!(node.install(), [Outcome::Installed, Outcome::Installed]);
        assert_eq!(fs::read(&elsewhere).unwrap(), PROGRAM);
    }

    #[test]
    fn only_what_is_berths_is_removed_and_again_is_no_error() {
        let node = Node::new();
        node.install();
        fs::write(node.args.bin_dir.join("macvlan"), PROGRAM).unwrap();
        fs::write(node.args.conf_dir.join("20-other.conflist"), r#"{"type":"macvlan"}"#).unwrap();
        fs::create_dir(node.args.conf_dir.join("multus.conf")).unwrap();
        assert_eq!(node.uninstall().unwrap(), [Outcome::Removed, Outcome::Removed]);
        assert_eq!(node.files(), ["20-other.conflist", "macvlan", "multus.conf"]);
        assert_eq!(node.uninstall().unwrap(), [Outcome::Absent, Outcome::Absent]);
    }

    #[test]
    fn a_list_that_is_not_berths_stays_and_so_does_a_plugin_that_others_call() {
        let node = Node::new();
        node.install();
        let foreign = r#"{"name":"x","plugins":[{"type":"macvlan"}]}"#;
        fs::write(node.list(), foreign).unwrap();
        let error = node.uninstall().unwrap_err();
        assert!(matches!(error, NodeError::Conflist { cause: ConflistError::Foreign, .. }), "{error}");
        fs::write(node.list(), CONFLIST).unwrap();
        fs::write(node.args.conf_dir.join("00-multus.conf"), format!(r#"{{"delegates":[{CONFLIST}]}}"#))
            .unwrap();
        let error = node.uninstall().unwrap_err();
        assert!(error.to_string().contains("00-multus.conf"), "{error}");
        assert_eq!(node.files(), ["00-multus.conf", "10-berth.conflist", "berth"]);
    }
}
