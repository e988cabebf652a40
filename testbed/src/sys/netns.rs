//! Namespaces made, entered and removed by own system calls: faster and better timed than `ip netns`,
//! and compatible with it (bind mounts in `/run/netns`).
#![expect(unsafe_code, reason = "mount, unshare and setns have no safe form in the standard library")]

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::{Child, Command};

use super::check;

/// asm-generic/socket.h, since Linux 5.14.
const SO_NETNS_COOKIE: libc::c_int = 71;

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))
}

/// Creates a new network namespace and mounts it on a new file `path`.
pub fn create(path: &Path) -> io::Result<()> {
    File::options().write(true).create_new(true).open(path)?;
    let target = c_path(path)?;
    let made = on_a_thread(move || {
        // SAFETY: unshare takes no pointers; it changes this thread only, which ends right after.
        check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
        let (source, kind) = (c"/proc/thread-self/ns/net", c"none");
        // SAFETY: all pointers are to NUL-terminated strings that outlive the call; no data is passed.
        let mounted = unsafe {
            libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), libc::MS_BIND, std::ptr::null())
        };
        check(mounted).map(drop)
    });
    if made.is_err() {
        // The file is useless without its mount; the first error is the one to report.
        let _ = std::fs::remove_file(path);
    }
    made
}

/// Unmounts the namespace from `path`, which stays as an empty file. The namespace stays alive while another
/// reference exists.
pub fn unmount(path: &Path) -> io::Result<()> {
    let target = c_path(path)?;
    // SAFETY: the pointer is to a NUL-terminated string that outlives the call.
    check(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) }).map(drop)
}

/// Mounts an empty file system of this size on the folder `path`.
pub fn mount_memory(path: &Path, bytes: u64) -> io::Result<()> {
    mount_new(path, c"tmpfs", &format!("size={bytes}"))
}

/// Mounts a new BPF file system on the folder `path`. It shows only its own pins, and ends with this mount.
pub fn mount_bpf(path: &Path) -> io::Result<()> {
    mount_new(path, c"bpf", "mode=0700")
}

/// Makes the folder `path` a separate mount that is the same in every mount namespace: a mount below it that
/// is removed is removed everywhere, so that no copy keeps a namespace alive.
pub fn share(path: &Path) -> io::Result<()> {
    let target = c_path(path)?;
    let mount = |source: *const libc::c_char, flags: libc::c_ulong| {
        let nothing = std::ptr::null();
        // SAFETY: the pointers are null or to NUL-terminated strings that outlive the call.
        check(unsafe { libc::mount(source, target.as_ptr(), nothing, flags, nothing.cast()) })
    };
    mount(target.as_ptr(), libc::MS_BIND)?;
    mount(std::ptr::null(), libc::MS_SHARED).map(drop)
}

fn mount_new(path: &Path, kind: &CStr, options: &str) -> io::Result<()> {
    let (target, data) = (c_path(path)?, CString::new(options)?);
    // SAFETY: all pointers are to NUL-terminated strings that outlive the call.
    let mounted =
        unsafe { libc::mount(c"none".as_ptr(), target.as_ptr(), kind.as_ptr(), 0, data.as_ptr().cast()) };
    check(mounted).map(drop)
}

/// Runs `work` inside the namespace at `path`, on a thread that ends right after. Sockets that
/// `work` returns stay in that namespace.
pub fn inside<T: Send>(path: &Path, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let netns = File::open(path)?;
    on_a_thread(move || {
        enter(&netns)?;
        // Held no longer than needed: a descriptor keeps a namespace alive.
        drop(netns);
        work()
    })
}

/// The cookie of the namespace at `path`: its identity within the boot.
pub fn cookie(path: &Path) -> io::Result<u64> {
    // Any socket will do; this one needs no link that is up.
    let probe = inside(path, || std::net::UdpSocket::bind("0.0.0.0:0"))?;
    let (mut cookie, mut length) = (0_u64, 8);
    // SAFETY: the pointers are to a value of the length given, and to that length.
    let read = unsafe {
        libc::getsockopt(
            probe.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    check(read).map(|_| cookie)
}

/// Moves the calling thread permanently.
fn enter(netns: &File) -> io::Result<()> {
    // SAFETY: setns takes no pointers, and the descriptor is open.
    check(unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        scope.spawn(work).join().unwrap_or_else(|_| Err(io::Error::other("a helper thread panicked")))
    })
}

/// Starts `command` inside the namespace at `path`: a child starts in the namespace of the thread that
/// creates it. No fork is used: a fork copies this process's page tables and so stops the threads that
/// measure.
pub fn spawn_inside(command: &mut Command, path: &Path) -> io::Result<Child> {
    inside(path, || command.spawn())
}
