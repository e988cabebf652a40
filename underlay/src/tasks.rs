//! Who is in a network namespace, and who holds it from outside: read from `/proc`, without entering.
//!
//! [`TaskScan`] lists every task (threads too) with its namespace. [`Holders`] finds descriptors of
//! given namespaces and sockets that live in them; it is dearer and is only asked once the scan found
//! nobody. Bind mounts are no holders: a leaked namespace is exactly a mount that was left behind.
//!
//! Left out: any conclusion. The invariant: *whatever could not be read makes the answer incomplete*,
//! and an incomplete answer proves that nobody is there for no namespace at all. A scan is no snapshot:
//! a task that forks while the list is read may be missed, so the caller needs two scans.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

mod holders;
mod stat;
mod syscall;

pub use holders::{Held, Holder, Holders, Means};
use stat::Stat;

/// Reasons kept in an incomplete answer; one is enough to know, some help to find the cause.
const REASONS: usize = 16;

/// The scan of all tasks.
#[derive(Debug, Clone, Copy)]
pub struct TaskScan;

/// What a scan saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    /// Whether every task that lived throughout was seen. If not, absence proves nothing.
    pub complete: bool,
    /// Why it is not complete, at most 16 reasons.
    pub incomplete_because: Vec<String>,
    /// Every task seen.
    pub tasks: Vec<TaskSeen>,
}

/// One task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskSeen {
    /// Its process (thread group).
    pub pid: i32,
    /// Its own id; equal to `pid` for a process's first thread.
    pub tid: i32,
    /// When it started, in clock ticks since boot. With `tid` it names the task within this boot.
    pub start_time: u64,
    /// The inode of its network namespace.
    pub netns_inode: u64,
    /// Its name; anybody can choose any, so it proves nothing.
    pub comm: String,
    /// The parent process.
    pub ppid: i32,
}

/// The reasons why an answer is incomplete, few of many.
#[derive(Debug, Default)]
struct Doubts(Vec<String>);

impl Doubts {
    fn add(&mut self, reason: impl FnOnce() -> String) {
        if self.0.len() < REASONS {
            self.0.push(reason());
        }
    }
}

impl TaskScan {
    /// Lists every task below `proc_root` (normally `/proc`). Needs `CAP_SYS_PTRACE` and sight of the
    /// initial process namespace; without either the scan is incomplete.
    pub fn run(proc_root: &Path) -> Scan {
        let mut doubts = Doubts::default();
        blindness(proc_root, &mut doubts);
        let own = OwnNetns::read();
        let mut tasks = Vec::new();
        for (pid, tid, path) in all_tasks(proc_root, &mut doubts) {
            match look_at(&path, own.as_ref()) {
                Ok(Some((stat, netns_inode))) => {
                    let Stat { comm, ppid, start_time, .. } = stat;
                    tasks.push(TaskSeen { pid, tid, start_time, netns_inode, comm, ppid });
                }
                Ok(None) => {}
                Err(error) => doubts.add(|| format!("task {tid} of process {pid}: {error}")),
            }
        }
        Scan { complete: doubts.0.is_empty(), incomplete_because: doubts.0, tasks }
    }
}

impl Scan {
    /// The tasks in the namespace with this inode. Only for a complete scan does an empty answer mean
    /// that nobody is there.
    pub fn tasks_in(&self, netns_inode: u64) -> impl Iterator<Item = &TaskSeen> {
        self.tasks.iter().filter(move |task| task.netns_inode == netns_inode)
    }

    /// The tasks in that namespace that count as its inhabitants: those of none of the processes in
    /// `visitors` (see [`own_process_tree`]).
    pub fn inhabitants<'a>(
        &'a self,
        netns_inode: u64,
        visitors: &'a HashSet<i32>,
    ) -> impl Iterator<Item = &'a TaskSeen> {
        self.tasks_in(netns_inode).filter(|task| !visitors.contains(&task.pid))
    }
}

/// The processes whose tasks are mere visitors of a pod's namespace: `pid` (the agent), every process
/// named `berth` (a plugin), and all that descend from them.
///
/// Use it only to decide whether a namespace was ever *inhabited*. Whether somebody is in it *now* must
/// count every task, because any pod can name its process `berth`.
pub fn own_process_tree(scan: &Scan, pid: i32) -> HashSet<i32> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    let mut open = vec![pid];
    for task in scan.tasks.iter().filter(|task| task.tid == task.pid) {
        children.entry(task.ppid).or_default().push(task.pid);
        if task.comm == "berth" {
            open.push(task.pid);
        }
    }
    let mut tree = HashSet::new();
    while let Some(next) = open.pop() {
        if tree.insert(next) {
            open.extend(children.get(&next).into_iter().flatten());
        }
    }
    tree
}

/// What may hide tasks without any error showing it.
fn blindness(proc_root: &Path, doubts: &mut Doubts) {
    const CAP_SYS_PTRACE: u32 = 19;
    const PF_KTHREAD: u64 = 0x0020_0000;
    match effective_capabilities() {
        Ok(held) if held >> CAP_SYS_PTRACE & 1 == 1 => {}
        Ok(_) => doubts.add(|| "CAP_SYS_PTRACE is not held: the tasks of others may be hidden".to_owned()),
        Err(error) => doubts.add(|| format!("read the own capabilities: {error}")),
    }
    // Kernel threads exist in the initial process namespace only, and kthreadd is its process 2.
    match Stat::read(&proc_root.join("2")) {
        Ok(stat) if stat.flags & PF_KTHREAD != 0 => {}
        _ => doubts.add(|| {
            format!(
                "{} does not show the whole machine: run in the host's process namespace (hostPID)",
                proc_root.display()
            )
        }),
    }
}

fn effective_capabilities() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/thread-self/status")?;
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no CapEff line"))
}

/// Every task's process id, own id and directory.
fn all_tasks(proc_root: &Path, doubts: &mut Doubts) -> Vec<(i32, i32, PathBuf)> {
    let mut tasks = Vec::new();
    for (pid, process) in numbered(proc_root, doubts) {
        for (tid, path) in numbered(&process.join("task"), doubts) {
            tasks.push((pid, tid, path));
        }
    }
    tasks
}

/// The entries of a directory whose names are numbers. A directory that is gone has none: a task's has
/// left with it, and a root that is none was found out by [`blindness`].
fn numbered(directory: &Path, doubts: &mut Doubts) -> Vec<(i32, PathBuf)> {
    let mut found = Vec::new();
    let mut doubt = |error: &io::Error| doubts.add(|| format!("list {}: {error}", directory.display()));
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => {
            if !has_left(&error) {
                doubt(&error);
            }
            return found;
        }
    };
    for entry in entries {
        match entry {
            Ok(entry) => {
                if let Some(number) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                    found.push((number, entry.path()));
                }
            }
            Err(error) if has_left(&error) => {}
            Err(error) => doubt(&error),
        }
    }
    found
}

/// Whether an error says that the task ended.
fn has_left(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

/// A task's own account and its namespace; `None` if it left.
fn look_at(task: &Path, own: Option<&OwnNetns>) -> io::Result<Option<(Stat, u64)>> {
    let gone = |error: io::Error| if has_left(&error) { Ok(None) } else { Err(error) };
    let stat = match Stat::read(task) {
        Ok(stat) => stat,
        Err(error) => return gone(error),
    };
    let inode = match netns_inode(task) {
        Ok(inode) => inode,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            // A task that ends between look-up and read is refused as well. And a task that only its
            // own guards may inspect still shows its namespace's statistics to everybody.
            match Stat::read(task) {
                Ok(stat) if stat.has_ended() => return Ok(None),
                Err(error) if has_left(&error) => return Ok(None),
                _ => {}
            }
            match own {
                Some(own) if own.is_that_of(task) => own.inode,
                _ => return Err(error),
            }
        }
        Err(error) => return gone(error),
    };
    Ok(Some((stat, inode)))
}

/// The inode in a task's `ns/net` link.
fn netns_inode(task: &Path) -> io::Result<u64> {
    let link = fs::read_link(task.join("ns/net"))?;
    bracketed(&link.to_string_lossy(), "net").ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("unexpected link {}", link.display()))
    })
}

/// The number in `kind:[number]`.
fn bracketed(link: &str, kind: &str) -> Option<u64> {
    link.strip_prefix(kind)?.strip_prefix(":[")?.strip_suffix(']')?.parse().ok()
}

/// The calling thread's namespace: its inode, and the inode of its statistics in `/proc`, which names
/// the namespace as well and is readable for every task.
struct OwnNetns {
    inode: u64,
    statistics: u64,
}

impl OwnNetns {
    fn read() -> Option<Self> {
        let own = Path::new("/proc/thread-self");
        let statistics = fs::metadata(own.join("net/dev")).ok()?.ino();
        Some(Self { inode: netns_inode(own).ok()?, statistics })
    }

    fn is_that_of(&self, task: &Path) -> bool {
        fs::metadata(task.join("net/dev")).is_ok_and(|seen| seen.ino() == self.statistics)
    }
}

#[cfg(test)]
mod tests;
