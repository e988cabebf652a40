//! Signals, scheduling and waiting for processes.
#![expect(unsafe_code, reason = "signals, pidfds and schedulers have no safe form in the standard library")]

use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::check;

/// Number of interrupting signals so far.
static SIGNALS: AtomicU32 = AtomicU32::new(0);

extern "C" fn on_signal(_: libc::c_int) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// Counts SIGINT and SIGTERM from now on instead of dying of them. Children get the default back at exec.
pub fn catch_signals() -> io::Result<()> {
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler does nothing but add to an atomic, which is async-signal-safe.
        let before = unsafe { libc::signal(signal, on_signal as *const () as libc::sighandler_t) };
        if before == libc::SIG_ERR {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Number of SIGINT and SIGTERM since [`catch_signals`].
pub fn signals() -> u32 {
    SIGNALS.load(Ordering::Relaxed)
}

/// Sends `signal` to one process.
pub fn send(pid: u32, signal: libc::c_int) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    // SAFETY: kill takes no pointers; the caller holds the child unreaped, so the pid is its own.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Sends `signal` to every process of a group.
pub fn send_group(leader: u32, signal: libc::c_int) -> io::Result<()> {
    let pid = libc::pid_t::try_from(leader).map_err(io::Error::other)?;
    // SAFETY: kill takes no pointers; the caller holds the leader unreaped, so the group is its own.
    check(unsafe { libc::kill(-pid, signal) }).map(drop)
}

/// Resources that a process and the children that it waited for used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processor time, its own and the kernel's for it.
    pub cpu: Duration,
    /// The most memory that one of them held, in KiB.
    pub memory_kib: u64,
}

/// Waits for the end of a child that has not been reaped; how it ended, and what it used.
pub fn reap(pid: u32) -> io::Result<(ExitStatus, Usage)> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let mut status = 0;
    // SAFETY: rusage is plain data for which zero is valid.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to live values of the types that the call fills.
        match check(unsafe { libc::wait4(pid, &raw mut status, 0, &raw mut usage) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
            Ok(_) => break,
        }
    }
    let time = |value: libc::timeval| {
        Duration::from_secs(value.tv_sec.unsigned_abs()) + Duration::from_micros(value.tv_usec.unsigned_abs())
    };
    let cpu = time(usage.ru_utime) + time(usage.ru_stime);
    Ok((ExitStatus::from_raw(status), Usage { cpu, memory_kib: usage.ru_maxrss.unsigned_abs() }))
}

/// True if a process of that id exists.
pub fn exists(pid: u32) -> bool {
    match send(pid, 0) {
        Ok(()) => true,
        Err(error) => error.raw_os_error() != Some(libc::ESRCH),
    }
}

/// Lets the calling thread run before all ordinary ones, so that its sampling keeps its rhythm on
/// a busy machine. A machine that refuses just samples less evenly; the gaps are recorded.
pub fn run_first() {
    let parameters = libc::sched_param { sched_priority: 10 };
    // SAFETY: the pointer is to a live sched_param; 0 names the calling thread.
    unsafe {
        libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &raw const parameters)
    };
    // SAFETY: mlockall takes no pointers. Reclaimed memory would have to be waited for.
    unsafe { libc::mlockall(libc::MCL_CURRENT) };
}

/// Keeps the calling thread on one processor, counted from 0, if the machine allows that.
pub fn stay_on(processor: usize) {
    // SAFETY: cpu_set_t is plain data for which zero is valid.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is live; a processor that does not fit into it would panic, not write elsewhere.
    unsafe { libc::CPU_SET(processor, &mut set) };
    // SAFETY: the pointer is to a live cpu_set_t of the size given; 0 names the calling thread.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
}

/// Allows this process as many descriptors as it may allow itself; how many that is.
pub fn allow_descriptors() -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live rlimit.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) })?;
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the pointer is to a live rlimit.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })?;
    Ok(limit.rlim_cur)
}

/// A handle on one process that becomes readable at its end.
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens one for a child that has not been reaped.
    pub fn open(pid: u32) -> io::Result<Self> {
        // SAFETY: pidfd_open takes no pointers.
        let raw = unsafe { libc::syscall(libc::SYS_pidfd_open, libc::c_long::from(pid), 0) };
        let raw = check(libc::c_int::try_from(raw).map_err(io::Error::other)?)?;
        // SAFETY: the kernel just made this descriptor for us.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(raw) }))
    }

    /// Waits until the process ended, at most `limit`; whether it ended.
    pub fn wait(&self, limit: Duration) -> io::Result<bool> {
        let millis = libc::c_int::try_from(limit.as_millis()).unwrap_or(libc::c_int::MAX);
        let mut poll = libc::pollfd { fd: self.0.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: the pointer leads to one live pollfd, as the count says.
        match check(unsafe { libc::poll(&raw mut poll, 1, millis) }) {
            Ok(ready) => Ok(ready > 0),
            // A signal came in between: the caller checks its deadline and repeats the call.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
            Err(error) => Err(error),
        }
    }
}

/// Makes reads from a pipe return what is there instead of waiting for its last writer.
pub fn do_not_block(pipe: &impl std::os::fd::AsRawFd) -> io::Result<()> {
    // SAFETY: fcntl with F_SETFL takes an integer, and the descriptor is open.
    check(unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) }).map(drop)
}
