//! Everything the testbed makes is a guard that removes it when dropped, and is listed here as well,
//! so that an interrupted run and the run after a killed one can remove it too.
//!
//! Ctrl-C: the first signal makes every wait return [`Error::Interrupted`], so that the guards do
//! their work; a second one, or no end within ten seconds, removes what is listed and exits.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::sys;
pub use crate::sys::process::Usage;

/// Folder of named namespaces, also for `ip netns`.
pub const NETNS_FOLDER: &str = "/run/netns";

/// Folder of cnitool's results, which is fixed.
pub const CNITOOL_RESULTS: &str = "/var/lib/cni/results";

/// Marks every process that the testbed starts; its value is [`prefix`].
pub const MARK: &str = "BERTH_TESTBED";

/// Time limit for an interrupted run to clean up in order.
const GRACE: Duration = Duration::from_secs(10);

/// Objects to remove.
static LISTED: Mutex<BTreeSet<Item>> = Mutex::new(BTreeSet::new());

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Item {
    // The order is the order of removal: processes hold namespaces.
    Process(u32),
    Netns(PathBuf),
    Folder(PathBuf),
}

fn listed() -> MutexGuard<'static, BTreeSet<Item>> {
    // A panic elsewhere must not keep anything from being removed.
    LISTED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Prefix of every name that this process assigns.
pub fn prefix() -> String {
    format!("bt{}", std::process::id())
}

/// A named namespace; unmounted and its name removed on drop.
#[derive(Debug)]
pub struct Netns(PathBuf);

impl Netns {
    /// Creates a namespace with the name `name` for `ip netns`.
    pub fn create(name: &str) -> Result<Self> {
        let path = Path::new(NETNS_FOLDER).join(name);
        listed().insert(Item::Netns(path.clone()));
        let guard = Self(path);
        sys::netns::create(&guard.0).map_err(Error::system(format!("make namespace {name}")))?;
        Ok(guard)
    }

    /// Creates a namespace at a given path, in a folder from [`shared_folder`].
    pub fn create_at(path: &Path) -> Result<Self> {
        listed().insert(Item::Netns(path.to_owned()));
        let guard = Self(path.to_owned());
        let made = sys::netns::create(path);
        made.map_err(Error::system(format!("make namespace {}", path.display())))?;
        Ok(guard)
    }

    /// Takes over the removal of a namespace that was created otherwise.
    pub fn adopt(path: PathBuf) -> Self {
        listed().insert(Item::Netns(path.clone()));
        Self(path)
    }

    /// Path of the namespace.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        remove_netns(&self.0);
        listed().remove(&Item::Netns(self.0.clone()));
    }
}

fn remove_netns(path: &Path) {
    // Either may have been done by the case already; what is gone needs no removal.
    let _ = sys::netns::unmount(path);
    let _ = std::fs::remove_file(path);
}

/// A folder for one world's files; removed with its contents on drop.
#[derive(Debug)]
pub struct Folder(PathBuf);

impl Folder {
    /// Makes it below the machine's folder for temporary files.
    pub fn create(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(name);
        listed().insert(Item::Folder(path.clone()));
        let guard = Self(path);
        std::fs::create_dir_all(&guard.0).map_err(Error::system(format!("make {}", guard.0.display())))?;
        Ok(guard)
    }

    /// Path of the folder.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        remove_folder(&self.0);
        listed().remove(&Item::Folder(self.0.clone()));
    }
}

/// A child process; killed and reaped on drop.
#[derive(Debug)]
pub struct Process {
    child: Child,
    reaped: bool,
}

impl Process {
    /// Guards a child that was just started.
    pub fn guard(child: Child) -> Self {
        listed().insert(Item::Process(child.id()));
        Self { child, reaped: false }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Sends a signal, unless it ended and was reaped.
    pub fn signal(&self, signal: i32) {
        if !self.reaped {
            // It may end at any time: a signal to a zombie is not an error, and an error changes nothing.
            let _ = sys::process::send(self.pid(), signal);
        }
    }

    /// Waits for its end, at most `limit`; `None` if it is still there.
    pub fn wait(&mut self, limit: Duration) -> Result<Option<std::process::ExitStatus>> {
        let doing = || Error::system(format!("wait for process {}", self.child.id()));
        let deadline = Instant::now() + limit;
        let handle =
            if self.reaped { None } else { Some(sys::process::PidFd::open(self.pid()).map_err(doing())?) };
        while let Some(handle) = &handle {
            let left = deadline.saturating_duration_since(Instant::now());
            // In slices, so that an interrupt is noticed.
            if handle.wait(left.min(Duration::from_millis(200))).map_err(doing())? {
                break;
            }
            interrupted()?;
            if left.is_zero() {
                return Ok(None);
            }
        }
        let status = self.child.wait().map_err(Error::system("reap a process"))?;
        self.reaped = true;
        listed().remove(&Item::Process(self.pid()));
        Ok(Some(status))
    }

    /// Sends a signal to it and to everything that it started in its process group.
    pub fn signal_group(&self, signal: i32) {
        if !self.reaped {
            let _ = sys::process::send_group(self.pid(), signal);
        }
    }

    /// Waits for its end, at most `limit`, and leaves it unreaped; whether it ended.
    pub fn has_ended(&self, limit: Duration) -> Result<bool> {
        let doing = || Error::system(format!("wait for process {}", self.child.id()));
        let handle = sys::process::PidFd::open(self.pid()).map_err(doing())?;
        let deadline = Instant::now() + limit;
        while !handle.wait(deadline.saturating_duration_since(Instant::now())).map_err(doing())? {
            if Instant::now() >= deadline {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Waits for its end, at most `limit`; how it ended and what it used; `None` if it is still there.
    pub fn finish(&mut self, limit: Duration) -> Result<Option<(std::process::ExitStatus, Usage)>> {
        let doing = || Error::system(format!("wait for process {}", self.child.id()));
        if !self.has_ended(limit)? {
            return Ok(None);
        }
        let ended = sys::process::reap(self.pid()).map_err(doing())?;
        self.reaped = true;
        listed().remove(&Item::Process(self.pid()));
        Ok(Some(ended))
    }

    /// True if it has not ended.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Releases the process from the guard: it continues when this process ends, and its new owner removes
    /// it.
    pub fn let_go(mut self) {
        self.reaped = true;
        listed().remove(&Item::Process(self.pid()));
    }

    /// Kills it and waits for its end.
    pub fn kill(&mut self) {
        if !self.reaped {
            let _ = self.child.kill();
            let _ = self.child.wait();
            self.reaped = true;
            listed().remove(&Item::Process(self.pid()));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a signal to a process that the caller has just seen to be the one that it means.
pub fn signal(pid: u32, signal: i32) {
    let _ = sys::process::send(pid, signal);
}

/// Sends a signal to a process group with a leader that the caller has not reaped.
pub fn signal_group(leader: u32, signal: i32) {
    let _ = sys::process::send_group(leader, signal);
}

/// An error if a signal asked this run to end.
pub fn interrupted() -> Result<()> {
    if sys::process::signals() > 0 { Err(Error::Interrupted) } else { Ok(()) }
}

/// Sleeps, unless interrupted.
pub fn pause(length: Duration) -> Result<()> {
    let end = Instant::now() + length;
    loop {
        interrupted()?;
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(100)));
    }
}

/// Makes this process end in order on SIGINT and SIGTERM. For programs; a test binary keeps the
/// default, and the next run's [`sweep`] removes what it left.
pub fn watch_signals() -> Result<()> {
    static ONCE: Once = Once::new();
    sys::process::catch_signals().map_err(Error::system("catch signals"))?;
    ONCE.call_once(|| {
        std::thread::spawn(|| {
            let mut first = None;
            loop {
                std::thread::sleep(Duration::from_millis(50));
                let signals = sys::process::signals();
                if signals > 0 && first.is_none() {
                    eprintln!("interrupted: removing everything (again: immediately)");
                    first = Some(Instant::now());
                }
                if signals > 1 || first.is_some_and(|at| at.elapsed() > GRACE) {
                    remove_all();
                    std::process::exit(130);
                }
            }
        });
    });
    Ok(())
}

fn remove_all() {
    for item in std::mem::take(&mut *listed()) {
        match item {
            Item::Process(pid) => drop(sys::process::send(pid, libc::SIGKILL)),
            Item::Netns(path) => remove_netns(&path),
            Item::Folder(path) => remove_folder(&path),
        }
    }
}

/// Removes what killed runs left: everything that carries the prefix of a process that is no more.
pub fn sweep() {
    for process in entries("/proc") {
        let Ok(pid) = process.parse::<u32>() else { continue };
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let mark = format!("{MARK}=");
        let left = environment
            .split(|byte| *byte == 0)
            .filter_map(|entry| entry.strip_prefix(mark.as_bytes()))
            .any(|value| orphaned(&String::from_utf8_lossy(value)));
        if left {
            let _ = sys::process::send(pid, libc::SIGKILL);
        }
    }
    for name in entries(NETNS_FOLDER).filter(|name| orphaned(name)) {
        remove_netns(&Path::new(NETNS_FOLDER).join(name));
    }
    for name in entries(CNITOOL_RESULTS).filter(|name| orphaned(name)) {
        let _ = std::fs::remove_file(Path::new(CNITOOL_RESULTS).join(name));
    }
    let temporary = std::env::temp_dir();
    for name in entries(&temporary).filter(|name| orphaned(name)) {
        remove_folder(&temporary.join(name));
    }
}

/// Removes a folder with everything in it, file systems mounted there included.
fn remove_folder(path: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for mounted in mounts.lines().filter_map(|line| line.split(' ').nth(1)) {
        if Path::new(mounted).starts_with(path) {
            let _ = sys::netns::unmount(Path::new(mounted));
        }
    }
    let _ = std::fs::remove_dir_all(path);
}

/// Mounts a disk of this size on a folder of a world, to be filled up. It is removed with the world.
pub fn small_disk(path: &Path, bytes: u64) -> Result<()> {
    sys::netns::mount_memory(path, bytes)
        .map_err(Error::system(format!("mount a small disk on {}", path.display())))
}

/// Mounts a separate BPF file system on a folder of a world. Its pins are removed with the world, and the
/// programs behind them with the pins.
pub fn bpf_folder(path: &Path) -> Result<()> {
    let doing = || Error::system(format!("mount a BPF file system on {}", path.display()));
    std::fs::create_dir_all(path).map_err(doing())?;
    sys::netns::mount_bpf(path).map_err(doing())
}

/// Takes a mount away, if it is one.
pub fn unmount(path: &Path) {
    let _ = sys::netns::unmount(path);
}

/// Creates a folder for namespaces in which a removal reaches every mount namespace, as `ip netns` does with
/// its own. It is removed with the world's folder.
pub fn shared_folder(path: &Path) -> Result<()> {
    let doing = || Error::system(format!("make the shared folder {}", path.display()));
    std::fs::create_dir_all(path).map_err(doing())?;
    sys::netns::share(path).map_err(doing())
}

fn entries(folder: impl AsRef<Path>) -> impl Iterator<Item = String> {
    let list = std::fs::read_dir(folder).into_iter().flatten().flatten();
    list.filter_map(|entry| entry.file_name().into_string().ok())
}

/// True if a process of that id exists and has not ended. Of one that was killed a number can be left for
/// seconds, until its new parent takes note.
fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let ended = stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']));
    sys::process::exists(pid) && !ended
}

/// True if `name` starts as [`prefix`] does, with the id of a process that does not exist.
fn orphaned(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("bt") else { return false };
    let digits = rest.split('-').next().unwrap_or_default();
    // A number without the following dash may belong to another name.
    let ours = rest.len() == digits.len() || rest.as_bytes().get(digits.len()) == Some(&b'-');
    ours && digits.parse::<u32>().is_ok_and(|pid| !lives(pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_dead_runs_are_orphaned() {
        assert!(!orphaned(&format!("{}-1-node", prefix())));
        // Process ids end far below this one.
        assert!(orphaned("bt4294967-1-node") && orphaned("bt4294967"));
        for other in ["cni-123", "bt", "btrfs-1", "bt12x-1", "node"] {
            assert!(!orphaned(other), "{other}");
        }
    }

    #[test]
    fn who_has_ended_and_was_not_reaped_does_not_live() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        while lives(child.id()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!lives(child.id()) && sys::process::exists(child.id()) && lives(std::process::id()));
        child.wait().unwrap();
    }

    #[test]
    fn a_dropped_process_is_dead_and_reaped() {
        let child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let mut process = Process::guard(child);
        let pid = process.pid();
        assert!(process.wait(Duration::from_millis(1)).unwrap().is_none());
        drop(process);
        assert!(!sys::process::exists(pid));
    }
}
