//! Search for links in every namespace that can be named, without entering any.
//!
//! A namespace is named by a file in a folder of mounts, by a mount of its file elsewhere, by a task in it,
//! or by a descriptor of a process outside. An incomplete search is reported as such: it proves presence,
//! never absence. A namespace held only by a socket or by a descriptor in flight is out of reach of this
//! search; the bridge table of the parent covers those.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use berth_ipam::identity::{NetnsCookie, Nsid};

use crate::error::{Error, Unknown};
use crate::facts::LinkFacts;
use crate::netns::{NSFS_MAGIC, NetnsFile};
use crate::nsid;
use crate::read::Reader;

/// Number of reasons kept for an incomplete search; one is enough to distrust it.
const REASONS: usize = 20;

/// Folders that are always searched.
const USUAL: [&str; 2] = ["/run/netns", "/var/run/netns"];

/// Options of a search.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folders with one file for each namespace, besides `/run/netns` and `/var/run/netns`.
    pub folders: Vec<PathBuf>,
    /// True if the search includes namespaces held only by a descriptor of a process, or by a mount in
    /// another mount namespace. This reads every descriptor of the node, and one table per mount namespace.
    pub descriptors: bool,
    /// True if each namespace's cookie is read, by entering it on a short-lived thread.
    pub cookies: bool,
    /// Mount point of the process table.
    pub proc_root: PathBuf,
}

impl Default for Options {
    fn default() -> Self {
        Self { folders: Vec::new(), descriptors: false, cookies: false, proc_root: PathBuf::from("/proc") }
    }
}

/// A namespace that was searched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NsSeen {
    /// Its number; `None` for the reader's own.
    pub nsid: Option<Nsid>,
    /// True if the nsid was assigned by Berth, and is not reused soon.
    pub nsid_is_random: bool,
    /// Cookie of the namespace, if requested.
    pub cookie: Option<NetnsCookie>,
    /// The inode of its file.
    pub inode: u64,
    /// A path that led to it.
    pub path: PathBuf,
}

/// Result of a search.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SearchResult {
    /// True if every namespace that can be named was searched.
    pub complete: bool,
    /// Reasons why it is incomplete, the first 20.
    pub incomplete_because: Vec<String>,
    /// Mounts of namespaces in other mount namespaces that could not be searched, the first 20.
    pub mounts_unseen: Vec<String>,
    /// Every namespace that was searched.
    pub namespaces: Vec<NsSeen>,
    /// Every link, with the place of its namespace in `namespaces`.
    pub links: Vec<(usize, LinkFacts)>,
}

impl SearchResult {
    /// Every link with its namespace.
    pub fn iter(&self) -> impl Iterator<Item = (&NsSeen, &LinkFacts)> {
        self.links.iter().filter_map(|(at, link)| Some((self.namespaces.get(*at)?, link)))
    }
}

/// Searches every namespace that can be named. Assigns an nsid to those without one. The reader must belong
/// to the namespace of these nsids, and the calling thread must be in it.
pub fn search(reader: &mut Reader, options: &Options) -> SearchResult {
    let mut search = Search {
        seen: HashSet::new(),
        own: None,
        witnessed: HashSet::new(),
        witnesses: HashMap::new(),
        refused: Vec::new(),
        result: SearchResult::default(),
    };
    search.own_namespace(reader);
    search.folders(reader, options);
    search.mounts(reader, options);
    search.tasks(reader, options);
    if options.descriptors {
        search.other_mounts(reader, options);
    }
    search.refused(reader, options);
    search.result.complete = search.result.incomplete_because.is_empty();
    search.result
}

/// The paths that may name a namespace, without those of threads and descriptors: files of the folders,
/// mounts and processes. The object at a path may change before it is opened.
pub(crate) fn named(options: &Options) -> impl Iterator<Item = PathBuf> {
    let folders = USUAL.map(PathBuf::from).into_iter().chain(options.folders.clone());
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    let files: Vec<_> = folders.flat_map(|folder| entries(&folder).map(|entry| entry.path())).collect();
    let table = fs::read(options.proc_root.join("self/mountinfo")).unwrap_or_default();
    let is_number = |name: &OsString| name.as_bytes().iter().all(u8::is_ascii_digit);
    let processes = entries(&options.proc_root).filter(move |entry| is_number(&entry.file_name()));
    let processes: Vec<_> = processes.map(|entry| entry.path().join("ns/net")).collect();
    files.into_iter().chain(namespace_mounts(&table)).chain(processes)
}

struct Search {
    /// Searched namespaces, by device and inode.
    seen: HashSet<(u64, u64)>,
    own: Option<(u64, u64)>,
    /// Namespaces that have a witness, by device and inode.
    witnessed: HashSet<(u64, u64)>,
    /// For each namespace that a task led to, that task's folder, by the inode of the namespace's
    /// statistics: see [`Search::refused`].
    witnesses: HashMap<u64, PathBuf>,
    /// Folders of tasks with a namespace that the kernel does not reveal.
    refused: Vec<PathBuf>,
    result: SearchResult,
}

/// A task that ended during the search is not a gap.
fn has_left(cause: &io::Error) -> bool {
    cause.kind() == io::ErrorKind::NotFound || cause.raw_os_error() == Some(libc::ESRCH)
}

/// The namespace of a task, by device and inode.
fn namespace_of(task: &Path) -> io::Result<(u64, u64)> {
    fs::metadata(task.join("ns/net")).map(|metadata| (metadata.dev(), metadata.ino()))
}

/// The inode of the statistics of a task's namespace.
fn statistics_of(task: &Path) -> Option<u64> {
    fs::metadata(task.join("net/dev")).ok().map(|metadata| metadata.ino())
}

impl Search {
    fn incomplete(&mut self, path: &Path, why: impl std::fmt::Display) {
        if self.result.incomplete_because.len() < REASONS {
            let comm = comm_of(path).map(|comm| format!(" ({comm})")).unwrap_or_default();
            self.result.incomplete_because.push(format!("{}{comm}: {why}", path.display()));
        }
    }

    fn own_namespace(&mut self, reader: &mut Reader) {
        let path = Path::new("/proc/thread-self/ns/net");
        match NetnsFile::own() {
            Ok(own) => {
                self.own = Some(own.device_inode());
                self.look(reader, path, &own, false);
            }
            Err(error) => self.incomplete(path, chain(&error)),
        }
    }

    fn folders(&mut self, reader: &mut Reader, options: &Options) {
        for folder in USUAL.map(PathBuf::from).iter().chain(&options.folders) {
            let entries = match fs::read_dir(folder) {
                Ok(entries) => entries,
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => continue,
                Err(cause) => {
                    self.incomplete(folder, cause);
                    continue;
                }
            };
            for entry in entries {
                match entry {
                    Ok(entry) => self.mount(reader, options, &entry.path()),
                    Err(cause) => self.incomplete(folder, cause),
                }
            }
        }
    }

    /// Namespaces mounted elsewhere in the agent's mount namespace, as runtimes do.
    fn mounts(&mut self, reader: &mut Reader, options: &Options) {
        let path = options.proc_root.join("self/mountinfo");
        match fs::read(&path) {
            Ok(table) => {
                for mount in namespace_mounts(&table) {
                    self.mount(reader, options, &mount);
                }
            }
            Err(cause) => self.incomplete(&path, cause),
        }
    }

    /// Namespaces mounted in the mount namespaces of others. A table names the inode of each, which is that of one
    /// namespace while it is mounted, so only those that were not seen are opened.
    fn other_mounts(&mut self, reader: &mut Reader, options: &Options) {
        let mut tables = HashSet::new();
        for process in self.numbered(&options.proc_root) {
            // A thread may have a mount namespace of its own.
            for task in self.numbered(&process.join("task")) {
                // The table is read even if the task refuses inspection.
                let id = fs::metadata(task.join("ns/mnt")).ok().map(|metadata| metadata.ino());
                if id.is_some_and(|id| tables.contains(&id)) {
                    continue;
                }
                match fs::read(task.join("mountinfo")) {
                    Ok(table) => {
                        tables.extend(id);
                        self.mounted_there(reader, options, &task, &table);
                    }
                    // A task that has exited and is not reaped has no mount namespace.
                    Err(cause) if has_left(&cause) || cause.raw_os_error() == Some(libc::EINVAL) => {}
                    Err(cause) => self.unseen_mount(&task.join("mountinfo"), &cause),
                }
            }
        }
    }

    /// Looks into the namespaces that a task's table of mounts names.
    fn mounted_there(&mut self, reader: &mut Reader, options: &Options, task: &Path, table: &[u8]) {
        for (inode, mount) in namespace_inodes(table) {
            if self.seen.iter().any(|(_, seen)| *seen == inode) {
                continue;
            }
            let below = mount.strip_prefix("/").unwrap_or(&mount);
            let path = task.join("root").join(below);
            match NetnsFile::open(&path) {
                Ok(netns) if netns.inode() == inode => self.look(reader, &path, &netns, options.cookies),
                // Unmounted since, or gone with its table.
                _ if !still_mounts(task, inode) => {}
                _ => self.unseen_mount(&path, &"cannot be opened"),
            }
        }
    }

    fn unseen_mount(&mut self, path: &Path, why: &dyn std::fmt::Display) {
        if self.result.mounts_unseen.len() < REASONS {
            self.result.mounts_unseen.push(format!("{}: {why}", path.display()));
        }
    }

    /// Searches a file that may be a namespace. Any other file (such as a leftover of an unmounted one) is
    /// not a gap.
    fn mount(&mut self, reader: &mut Reader, options: &Options, path: &Path) {
        match fs::metadata(path) {
            Ok(metadata) if self.seen.contains(&(metadata.dev(), metadata.ino())) => {}
            Ok(_) => self.open(reader, options, path),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => self.incomplete(path, cause),
        }
    }

    fn tasks(&mut self, reader: &mut Reader, options: &Options) {
        for process in self.numbered(&options.proc_root) {
            for task in self.numbered(&process.join("task")) {
                match namespace_of(&task) {
                    Ok(key) => self.task(reader, options, &task, key),
                    Err(cause) if has_left(&cause) => {}
                    Err(cause) if cause.kind() == io::ErrorKind::PermissionDenied => {
                        self.refused.push(task.clone());
                    }
                    Err(cause) => self.incomplete(&task.join("ns/net"), cause),
                }
                if options.descriptors {
                    self.descriptors(reader, options, &task.join("fd"));
                }
            }
        }
    }

    fn task(&mut self, reader: &mut Reader, options: &Options, task: &Path, key: (u64, u64)) {
        if !self.seen.contains(&key) {
            self.open(reader, options, &task.join("ns/net"));
        }
        // One witness a namespace is enough.
        if self.witnessed.insert(key)
            && let Some(statistics) = statistics_of(task)
        {
            self.witnesses.insert(statistics, task.to_owned());
        }
    }

    /// Some systems forbid inspection of certain tasks, even with every capability. Such a task still shows
    /// its namespace's statistics to every process, as a file that has the namespace's own inode while it
    /// exists. If a task that can be inspected shows the same file, both are in one namespace, and that one
    /// was searched.
    fn refused(&mut self, reader: &mut Reader, options: &Options) {
        for task in std::mem::take(&mut self.refused) {
            let cause = match namespace_of(&task) {
                // A task that was just ending is refused for a moment.
                Ok(key) => {
                    self.task(reader, options, &task, key);
                    continue;
                }
                Err(cause) if has_left(&cause) => continue,
                Err(cause) => cause,
            };
            let statistics = statistics_of(&task);
            let witness = statistics.and_then(|statistics| self.witnesses.get(&statistics));
            // Read again now: while the witness is in its namespace, no other namespace has that inode.
            let holds = witness.is_some_and(|witness| {
                statistics_of(witness) == statistics
                    && namespace_of(witness).is_ok_and(|key| self.seen.contains(&key))
            });
            if !holds {
                self.incomplete(&task.join("ns/net"), cause);
            }
        }
    }

    fn descriptors(&mut self, reader: &mut Reader, options: &Options, folder: &Path) {
        for descriptor in self.numbered(folder) {
            match fs::read_link(&descriptor) {
                Ok(target) if target.as_os_str().as_bytes().starts_with(b"net:[") => {
                    self.mount(reader, options, &descriptor);
                }
                // A descriptor of a mounted namespace shows its mount's path instead.
                Ok(target) if target.is_absolute() && is_namespace(&descriptor) => {
                    self.mount(reader, options, &descriptor);
                }
                Ok(_) => {}
                Err(cause) if has_left(&cause) => {}
                Err(cause) => self.incomplete(&descriptor, cause),
            }
        }
    }

    /// Entries of a folder of `/proc` that have a number as name.
    fn numbered(&mut self, folder: &Path) -> Vec<PathBuf> {
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(cause) if has_left(&cause) => return Vec::new(),
            Err(cause) => {
                self.incomplete(folder, cause);
                return Vec::new();
            }
        };
        let mut found = Vec::new();
        for entry in entries {
            match entry {
                Ok(entry) if entry.file_name().as_bytes().iter().all(u8::is_ascii_digit) => {
                    found.push(entry.path());
                }
                Ok(_) => {}
                Err(cause) if has_left(&cause) => {}
                Err(cause) => self.incomplete(folder, cause),
            }
        }
        found
    }

    fn open(&mut self, reader: &mut Reader, options: &Options, path: &Path) {
        match NetnsFile::open(path) {
            Ok(netns) => self.look(reader, path, &netns, options.cookies),
            Err(Error::NotNetns { .. }) => {}
            Err(Error::OpenNetns { cause, .. }) if has_left(&cause) => {}
            // A socket or similar file in such a folder cannot be opened, and is not a namespace.
            Err(Error::OpenNetns { cause, .. }) if cause.raw_os_error() == Some(libc::ENXIO) => {}
            Err(error) => self.incomplete(path, chain(&error)),
        }
    }

    fn look(&mut self, reader: &mut Reader, path: &Path, netns: &NetnsFile, with_cookie: bool) {
        if !self.seen.insert(netns.device_inode()) {
            return;
        }
        match self.look_into(reader, path, netns, with_cookie) {
            Ok((seen, links)) => {
                let at = self.result.namespaces.len();
                self.result.namespaces.push(seen);
                self.result.links.extend(links.into_iter().map(|link| (at, link)));
            }
            Err(unknown) => self.incomplete(path, unknown),
        }
    }

    fn look_into(
        &self,
        reader: &mut Reader,
        path: &Path,
        netns: &NetnsFile,
        with_cookie: bool,
    ) -> Result<(NsSeen, Vec<LinkFacts>), Unknown> {
        let unknown = |error: Error| Unknown(chain(&error));
        let (nsid, nsid_is_random) = if self.own == Some(netns.device_inode()) {
            (None, false)
        } else {
            let (nsid, random) = nsid::read_or_assign(reader.socket(), netns).map_err(unknown)?;
            (Some(nsid), random)
        };
        let cookie = if with_cookie { Some(netns.cookie().map_err(unknown)?) } else { None };
        let links = reader.links(nsid)?;
        let seen = NsSeen { nsid, nsid_is_random, cookie, inode: netns.inode(), path: path.to_owned() };
        Ok((seen, links))
    }
}

/// True if a path leads to an nsfs file of any kind. Does not open it, because that can have side effects.
fn is_namespace(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|kind| u64::try_from(kind.f_type).ok() == Some(NSFS_MAGIC))
}

/// Name of the task to which a path of the process table belongs.
fn comm_of(path: &Path) -> Option<String> {
    let is_number = |name: &std::ffi::OsStr| name.as_bytes().iter().all(u8::is_ascii_digit);
    let mut tasks = path.ancestors().filter(|folder| folder.file_name().is_some_and(is_number));
    let comm = tasks.find_map(|task| fs::read_to_string(task.join("comm")).ok())?;
    Some(comm.trim_end().to_owned())
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

/// The mount points of network namespaces in a `mountinfo` table (`proc_pid_mountinfo(5)`). Pure.
fn namespace_mounts(table: &[u8]) -> Vec<PathBuf> {
    namespace_inodes(table).into_iter().map(|(_, point)| point).collect()
}

/// The inodes of those namespaces, each with its mount point.
fn namespace_inodes(table: &[u8]) -> Vec<(u64, PathBuf)> {
    let found = table.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let (root, point) = (fields.nth(3)?, fields.next()?);
        let inode = std::str::from_utf8(root).ok()?.strip_prefix("net:[")?.strip_suffix(']')?;
        Some((inode.parse().ok()?, PathBuf::from(OsString::from_vec(unescape(point)))))
    });
    found.collect()
}

fn still_mounts(process: &Path, inode: u64) -> bool {
    let table = fs::read(process.join("mountinfo")).unwrap_or_default();
    namespace_inodes(&table).iter().any(|(other, _)| *other == inode)
}

/// The kernel writes space, tab, newline and backslash as a backslash and three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = tail.get(..3).filter(|_| *first == b'\\').and_then(|digits| {
            digits.iter().try_fold(0_u8, |sum, digit| {
                let digit = digit.checked_sub(b'0').filter(|digit| *digit < 8)?;
                sum.checked_mul(8)?.checked_add(digit)
            })
        });
        if let Some(byte) = octal {
            plain.push(byte);
            rest = &tail[3..];
        } else {
            plain.push(*first);
            rest = tail;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_of_namespaces_are_found_with_strange_names() {
        let table = b"24 1 8:1 / / rw - ext4 /dev/x rw\n\
            90 24 0:4 net:[4026532222] /run/netns/a\\040b\\134c rw shared:1 - nsfs nsfs rw\n\
            91 24 0:4 mnt:[4026532223] /run/snap/x rw - nsfs nsfs rw\n\nshort line\n";
        assert_eq!(namespace_mounts(table), [PathBuf::from("/run/netns/a b\\c")]);
        assert_eq!(namespace_inodes(table)[0].0, 4_026_532_222);
        assert_eq!(unescape(b"a\\9\\04"), b"a\\9\\04");
    }
}
