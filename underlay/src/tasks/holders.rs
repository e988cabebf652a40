//! Descriptors of given namespaces, and sockets that belong to them, held by any task.
//!
//! A socket of a task that left the namespace keeps it alive and leaves no trace in `/proc`. So each socket that
//! the own namespace does not list is duplicated for an instant and asked for its namespace. The duplicate is
//! closed at once, because it keeps a pod's namespace alive.
//!
//! Left out, because nothing shows them: descriptors in flight inside a Unix socket, and references of the
//! kernel itself (a network file system mounted from inside). A held *link* stays visible in the FDB, which
//! the caller reads as well.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags, fstat, stat, statx};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::stat::Stat;
use super::{Doubts, bracketed, has_left, named, netns_inode, numbered, syscall};

/// `PIDFD_THREAD` (Linux 6.9): a pidfd of one thread, which may have a separate descriptor table.
const PIDFD_THREAD: PidfdFlags = PidfdFlags::from_bits_retain(0o200);

/// Number of rereads of a descriptor that changes during the scan.
const RETRIES: usize = 3;

/// The scan for holders.
#[derive(Debug, Clone, Copy)]
pub struct Holders;

/// Kind of reference to a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Means {
    /// By a descriptor of the namespace itself.
    Descriptor,
    /// By a socket that belongs to it.
    Socket,
    /// By a tun or tap device in it.
    Tun,
}

/// One task's hold on one namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The namespace's inode.
    pub netns_inode: u64,
    /// The holding process.
    pub pid: i32,
    /// Thread of the table in which the descriptor was found.
    pub tid: i32,
    /// Name of the task.
    pub comm: String,
    /// Kind of reference.
    pub means: Means,
}

/// Result of the scan for holders.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// True if every descriptor was identified. If false, absence proves nothing for any namespace.
    pub complete: bool,
    /// Reasons why it is incomplete, at most 16.
    pub incomplete_because: Vec<String>,
    /// Every hold that was found.
    pub holders: Vec<Holder>,
}

impl Holders {
    /// Searches for holders of the namespaces with these inodes. Needs `CAP_SYS_PTRACE` and `CAP_NET_ADMIN`,
    /// and `proc_root` must show the caller's own PID namespace.
    ///
    /// `trusted` are processes that the operator vouches for: if the kernel hides their descriptors, the scan
    /// skips them instead of being incomplete. Normally empty.
    pub fn run(proc_root: &Path, inodes: &HashSet<u64>, trusted: &HashSet<i32>) -> Held {
        let mut doubts = Doubts::default();
        super::blindness(proc_root, &mut doubts);
        Self::examine(proc_root, inodes, trusted, doubts)
    }

    /// The scan itself, with what is already doubtful.
    pub(super) fn examine(
        proc_root: &Path,
        inodes: &HashSet<u64>,
        trusted: &HashSet<i32>,
        mut doubts: Doubts,
    ) -> Held {
        // Process ids are handed to the kernel, which reads them in the caller's own namespace.
        if !shows_own_process_namespace(proc_root) {
            doubts.add(|| {
                format!("{} belongs to another process namespace than this process", proc_root.display())
            });
            return Held { complete: false, incomplete_because: doubts.0, holders: Vec::new() };
        }
        let mut search = Search::new(inodes, doubts);
        for (pid, process) in numbered(proc_root, &mut search.doubts) {
            search.process(pid, &process, trusted.contains(&pid));
        }
        let Search { mut doubts, holders, .. } = search;
        if !doubts.0.is_empty() && attaching_is_off(proc_root) {
            doubts.0.insert(
                0,
                "kernel.yama.ptrace_scope is 3: no socket of another process can be examined until the next boot"
                    .to_owned(),
            );
        }
        Held { complete: doubts.0.is_empty(), incomplete_because: doubts.0, holders }
    }
}

fn shows_own_process_namespace(proc_root: &Path) -> bool {
    let Ok(status) = fs::read_to_string(proc_root.join("self/status")) else { return false };
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    // One number for each namespace from that of the mount down to the task's own.
    line.is_some_and(|numbers| numbers.trim() == std::process::id().to_string())
}

/// True if the system forbids a process to duplicate another's descriptors.
fn attaching_is_off(proc_root: &Path) -> bool {
    let scope = fs::read_to_string(proc_root.join("sys/kernel/yama/ptrace_scope"));
    scope.is_ok_and(|scope| scope.trim() == "3")
}

/// Result of inspecting one descriptor.
enum Look {
    /// It holds this namespace.
    Holds(Means, u64),
    /// It holds no namespace in question.
    Harmless,
    /// The descriptor changed: read it again.
    Changed,
}

/// Task of the table being read.
struct Subject<'a> {
    pid: i32,
    tid: i32,
    task: &'a Path,
    /// Opened when the first descriptor must be duplicated.
    pidfd: Option<OwnedFd>,
}

struct Search<'a> {
    inodes: &'a HashSet<u64>,
    /// The device number of the file system of namespaces.
    nsfs: Option<u64>,
    /// The namespace of each known socket; `None`: the own one, which is not in question.
    sockets: HashMap<u64, Option<u64>>,
    doubts: Doubts,
    holders: Vec<Holder>,
}

impl<'a> Search<'a> {
    fn new(inodes: &'a HashSet<u64>, mut doubts: Doubts) -> Self {
        let own = Path::new("/proc/thread-self");
        let nsfs = stat(own.join("ns/net")).map(|seen| seen.st_dev).ok();
        if nsfs.is_none() {
            doubts.add(|| "the own network namespace cannot be read".to_owned());
        }
        let mut sockets = HashMap::new();
        if netns_inode(own).is_ok_and(|inode| !inodes.contains(&inode)) {
            sockets.extend(listed_sockets(&own.join("net")).into_iter().map(|inode| (inode, None)));
        }
        Self { inodes, nsfs, sockets, doubts, holders: Vec::new() }
    }

    /// Reads each distinct table of descriptors of one process.
    fn process(&mut self, pid: i32, process: &Path, trusted: bool) {
        let mut read: Vec<i32> = Vec::new();
        for (tid, task) in numbered(&process.join("task"), &mut self.doubts) {
            // A failed comparison counts as "another table": reading one table twice is harmless.
            if read.iter().any(|other| syscall::share_descriptors(tid, *other).unwrap_or(false)) {
                continue;
            }
            let mut subject = Subject { pid, tid, task: &task, pidfd: None };
            match self.table(&mut subject) {
                Ok(()) => read.push(tid),
                Err(error) if has_left(&error) => {}
                Err(error) if trusted && is_refusal(&error) => {}
                // A task that ends meanwhile is refused too, instead of being gone.
                Err(_) if Stat::read(&task).map_or_else(|e| has_left(&e), |stat| stat.has_ended()) => {}
                Err(error) => {
                    self.doubts.add(|| format!("descriptors of {}: {error}", named(pid, tid, &task)));
                }
            }
        }
    }

    fn table(&mut self, subject: &mut Subject<'_>) -> io::Result<()> {
        let directory = subject.task.join("fd");
        for entry in fs::read_dir(&directory)? {
            let name = entry?.file_name();
            let Some(fd) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            self.descriptor(subject, fd)?;
        }
        Ok(())
    }

    fn descriptor(&mut self, subject: &mut Subject<'_>, fd: i32) -> io::Result<()> {
        for _ in 0..RETRIES {
            match self.look(subject, fd)? {
                Look::Changed => {}
                Look::Harmless => return Ok(()),
                Look::Holds(means, netns_inode) => {
                    if self.inodes.contains(&netns_inode) {
                        let comm = Stat::read(subject.task).map(|stat| stat.comm).unwrap_or_default();
                        let (pid, tid) = (subject.pid, subject.tid);
                        self.holders.push(Holder { netns_inode, pid, tid, comm, means });
                    }
                    return Ok(());
                }
            }
        }
        Err(io::Error::other(format!("descriptor {fd} changes faster than it can be read")))
    }

    fn look(&mut self, subject: &mut Subject<'_>, fd: i32) -> io::Result<Look> {
        let path = subject.task.join(format!("fd/{fd}"));
        let link = match fs::read_link(&path) {
            Ok(link) => link.to_string_lossy().into_owned(),
            Err(error) if has_left(&error) => return Ok(Look::Harmless),
            Err(error) => return Err(error),
        };
        if let Some(inode) = bracketed(&link, "net") {
            return Ok(Look::Holds(Means::Descriptor, inode));
        }
        if let Some(inode) = bracketed(&link, "socket") {
            return self.socket(subject, fd, inode);
        }
        if link == "anon_inode:[io_uring]" {
            return self.ring(subject, fd);
        }
        if ["anon_inode:", "pipe:["].iter().any(|prefix| link.starts_with(prefix)) {
            return Ok(Look::Harmless);
        }
        if link == "/dev/net/tun" {
            return tun(subject, fd);
        }
        if link.starts_with("/dev/tap") {
            return Err(io::Error::other(format!(
                "descriptor {fd} is a macvtap: its namespace is not shown"
            )));
        }
        self.file(&path)
    }

    /// A namespace that was opened through a bind mount has the mount's path as its name, so every remaining
    /// file is checked for its type, without triggering a network file system.
    fn file(&self, path: &Path) -> io::Result<Look> {
        let seen = match statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::INO) {
            Ok(seen) => seen,
            Err(errno) if has_left(&errno.into()) => return Ok(Look::Harmless),
            Err(errno) => return Err(errno.into()),
        };
        let device = rustix::fs::makedev(seen.stx_dev_major, seen.stx_dev_minor);
        let namespace = self.nsfs == Some(device);
        // Other kinds of namespaces share the file system and the numbering, never a number.
        Ok(if namespace { Look::Holds(Means::Descriptor, seen.stx_ino) } else { Look::Harmless })
    }

    fn socket(&mut self, subject: &mut Subject<'_>, fd: i32, inode: u64) -> io::Result<Look> {
        let known = self.sockets.get(&inode).copied();
        let netns = if let Some(known) = known {
            known
        } else {
            let Some(copy) = duplicate(subject, fd)? else { return Ok(Look::Harmless) };
            if fstat(&copy)?.st_ino != inode {
                return Ok(Look::Changed);
            }
            let namespace = syscall::netns_of_socket(copy.as_fd())?;
            let netns = Some(fstat(&namespace)?.st_ino);
            self.sockets.insert(inode, netns);
            netns
        };
        Ok(netns.map_or(Look::Harmless, |netns| Look::Holds(Means::Socket, netns)))
    }

    /// Files that were registered with a ring stay open without a descriptor; only their names are shown.
    fn ring(&self, subject: &Subject<'_>, fd: i32) -> io::Result<Look> {
        let info = match fs::read_to_string(subject.task.join(format!("fdinfo/{fd}"))) {
            Ok(info) => info,
            Err(error) if has_left(&error) => return Ok(Look::Harmless),
            Err(error) => return Err(error),
        };
        let suspicious = |line: &str| {
            let inode = line.split_once("socket:[").and_then(|(_, rest)| rest.split_once(']'));
            let own = inode
                .and_then(|(digits, _)| digits.parse().ok())
                .and_then(|inode: u64| self.sockets.get(&inode));
            (line.contains("socket:[") && own != Some(&None)) || line.contains("net:[")
        };
        if info.lines().any(suspicious) {
            return Err(io::Error::other(format!(
                "descriptor {fd} is a ring that keeps sockets or namespaces"
            )));
        }
        Ok(Look::Harmless)
    }
}

fn tun(subject: &mut Subject<'_>, fd: i32) -> io::Result<Look> {
    let Some(copy) = duplicate(subject, fd)? else { return Ok(Look::Harmless) };
    let namespace = syscall::netns_of_tun(copy.as_fd())?;
    Ok(Look::Holds(Means::Tun, fstat(&namespace)?.st_ino))
}

fn is_refusal(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::PermissionDenied
}

/// A duplicate of a task's descriptor; `None` if it is closed. The caller drops it at once.
fn duplicate(subject: &mut Subject<'_>, fd: i32) -> io::Result<Option<OwnedFd>> {
    let pidfd = match &mut subject.pidfd {
        Some(pidfd) => pidfd,
        none => {
            let pid = Pid::from_raw(subject.tid).ok_or(io::ErrorKind::InvalidInput)?;
            let flags = if subject.tid == subject.pid { PidfdFlags::empty() } else { PIDFD_THREAD };
            none.insert(pidfd_open(pid, flags)?)
        }
    };
    match pidfd_getfd(pidfd, fd, PidfdGetfdFlags::empty()) {
        Ok(copy) => Ok(Some(copy)),
        Err(rustix::io::Errno::BADF) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// The socket inodes that a namespace's own tables list. A missing table only means more duplicates.
fn listed_sockets(net: &Path) -> HashSet<u64> {
    const TABLES: [(&str, usize); 13] = [
        ("tcp", 9),
        ("tcp6", 9),
        ("udp", 9),
        ("udp6", 9),
        ("udplite", 9),
        ("udplite6", 9),
        ("raw", 9),
        ("raw6", 9),
        ("icmp", 9),
        ("icmp6", 9),
        ("unix", 6),
        ("packet", 8),
        ("netlink", 9),
    ];
    let mut inodes = HashSet::new();
    for (table, column) in TABLES {
        let bytes = fs::read(net.join(table)).unwrap_or_default();
        for line in String::from_utf8_lossy(&bytes).lines().skip(1) {
            let inode: Option<u64> = line.split_whitespace().nth(column).and_then(|field| field.parse().ok());
            inodes.extend(inode.filter(|inode| *inode != 0));
        }
    }
    inodes
}
