//! Tasks in a network namespace, and holders of it from outside: read from `/proc`, without entering.
//!
//! [`TaskScan`] lists every task (threads too) with its namespace. [`Holders`] finds descriptors of given
//! namespaces and sockets that belong to them; it is expensive and runs only after the scan found no task.
//! Bind mounts are not holders: a leaked namespace is exactly a mount that was left behind.
//!
//! Left out: conclusions. Invariant: *every unreadable entry makes the answer incomplete*, and an incomplete
//! scan never proves a namespace empty. A scan is not a snapshot: it may miss a task that forks during the
//! scan, so the caller needs two scans.

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

/// Number of reasons kept in an incomplete answer; one is enough to distrust it, several help to find the
/// cause.
const REASONS: usize = 16;

/// The scan of all tasks.
#[derive(Debug, Clone, Copy)]
pub struct TaskScan;

/// Result of a scan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scan {
    /// True if every task that existed throughout was seen. If false, absence proves nothing.
    pub complete: bool,
    /// Reasons why it is incomplete, at most 16.
    pub incomplete_because: Vec<String>,
    /// Every task seen.
    pub tasks: Vec<TaskSeen>,
}

/// One task of a scan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskSeen {
    /// Its process (thread group).
    pub pid: i32,
    /// Its own id; equal to `pid` for a process's first thread.
    pub tid: i32,
    /// Start time in clock ticks since boot. With `tid` it identifies the task within this boot.
    pub start_time: u64,
    /// The inode of its network namespace.
    pub netns_inode: u64,
    /// Name of the task. Any process can choose its name, so it proves nothing.
    pub comm: String,
    /// The parent process.
    pub ppid: i32,
}

/// The reasons why an answer is incomplete, up to a limit.
#[derive(Debug, Default)]
struct Doubts(Vec<String>);

impl Doubts {
    fn add(&mut self, reason: impl FnOnce() -> String) {
        if self.0.len() < REASONS {
            self.0.push(reason());
        }
    }
}

/// Description of a task, with its name if that can be read.
fn named(pid: i32, tid: i32, task: &Path) -> String {
    let comm = Stat::read(task).map_or_else(|_| "name unknown".to_owned(), |stat| stat.comm);
    format!("task {tid} of process {pid} ({comm})")
}

impl TaskSeen {
    fn new(pid: i32, tid: i32, netns_inode: u64, stat: Stat) -> Self {
        let Stat { comm, ppid, start_time, .. } = stat;
        Self { pid, tid, start_time, netns_inode, comm, ppid }
    }
}

impl TaskScan {
    /// Lists every task below `proc_root` (normally `/proc`). Needs `CAP_SYS_PTRACE` and sight of the
    /// initial process namespace; without either the scan is incomplete.
    pub fn run(proc_root: &Path) -> Scan {
        let mut doubts = Doubts::default();
        blindness(proc_root, &mut doubts);
        let mut tasks = Vec::new();
        let mut refused = Vec::new();
        for (pid, tid, path) in all_tasks(proc_root, &mut doubts) {
            match look_at(&path) {
                Ok(Look::In(netns_inode, stat)) => tasks.push(TaskSeen::new(pid, tid, netns_inode, stat)),
                Ok(Look::Left) => {}
                Ok(Look::Refused(stat, error)) => refused.push((pid, tid, path, stat, error)),
                Err(error) => doubts.add(|| format!("{}: {error}", named(pid, tid, &path))),
            }
        }
        let places = if refused.is_empty() { HashMap::new() } else { statistics(proc_root, &tasks) };
        for (pid, tid, path, stat, error) in refused {
            // A task that refuses inspection still shows its namespace's statistics to every process. If they
            // are those of another task's namespace, both are in that one.
            match statistics_inode(&path).and_then(|inode| places.get(&inode)) {
                Some(&netns_inode) => tasks.push(TaskSeen::new(pid, tid, netns_inode, stat)),
                None => doubts.add(|| format!("task {tid} of process {pid} ({}): {error}", stat.comm)),
            }
        }
        Scan { complete: doubts.0.is_empty(), incomplete_because: doubts.0, tasks }
    }
}

impl Scan {
    /// Tasks in the namespace with this inode. An empty result means that the namespace has no task only if
    /// the scan is complete.
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

/// The processes with tasks that only visit a pod's namespace: `pid` (the agent), every process named
/// `berth` (a plugin), and all of their descendants.
///
/// Use it only to decide whether a namespace was ever *inhabited*. A decision about its tasks *now* must
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

/// Conditions that hide tasks without an error.
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

/// Entries of a directory that have a number as name. A directory that is gone has none: a task's directory
/// disappears with the task, and [`blindness`] detects a missing root.
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

/// True if an error means that the task ended.
fn has_left(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ESRCH))
}

/// Result of inspecting one task.
enum Look {
    /// It is in the namespace with that inode.
    In(u64, Stat),
    /// It is there, and its namespace is not shown.
    Refused(Stat, io::Error),
    /// The task ended.
    Left,
}

/// A task's own account and its namespace.
fn look_at(task: &Path) -> io::Result<Look> {
    let gone = |error: io::Error| if has_left(&error) { Ok(Look::Left) } else { Err(error) };
    let stat = match Stat::read(task) {
        Ok(stat) => stat,
        Err(error) => return gone(error),
    };
    match netns_inode(task) {
        Ok(inode) => Ok(Look::In(inode, stat)),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => match Stat::read(task) {
            // A task that ends between look-up and read is refused as well.
            Ok(stat) if stat.has_ended() => Ok(Look::Left),
            Err(error) if has_left(&error) => Ok(Look::Left),
            _ => Ok(Look::Refused(stat, error)),
        },
        Err(error) => gone(error),
    }
}

/// The namespaces of the tasks seen, by the inode of their statistics in `/proc`, which names a
/// namespace as well and is readable for every task.
fn statistics(proc_root: &Path, tasks: &[TaskSeen]) -> HashMap<u64, u64> {
    let mut by_netns: HashMap<u64, u64> = HashMap::new();
    for task in tasks {
        if !by_netns.contains_key(&task.netns_inode) {
            let path = proc_root.join(task.pid.to_string()).join("task").join(task.tid.to_string());
            by_netns.extend(statistics_inode(&path).map(|inode| (task.netns_inode, inode)));
        }
    }
    by_netns.into_iter().map(|(netns, statistics)| (statistics, netns)).collect()
}

fn statistics_inode(task: &Path) -> Option<u64> {
    fs::metadata(task.join("net/dev")).ok().map(|seen| seen.ino())
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

#[cfg(test)]
mod tests;
