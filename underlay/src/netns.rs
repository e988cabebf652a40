//! Network namespaces: opening, comparison, and work inside them.
//!
//! This is the only module that enters a namespace. It does so on a separate thread that exits afterwards,
//! because a thread that has been inside a namespace must not serve other work. A [`NetnsFile`] keeps the
//! namespace alive and hides its end, so the agent holds none (and no socket from inside) for longer than a
//! call. Only the plugin, a process for one call, may hold one.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use berth_ipam::identity::NetnsCookie;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::thread::LinkNameSpaceType;

use crate::error::Error;
use crate::socket::Socket;
use crate::syscall;

/// The namespace of the calling thread. `/proc/self` would be that of the main thread.
const OWN: &str = "/proc/thread-self/ns/net";

/// `NSFS_MAGIC` of the kernel (linux/magic.h).
pub(crate) const NSFS_MAGIC: u64 = 0x6e73_6673;

/// An open network namespace. Keeps it alive: hold it for one call only.
#[derive(Debug)]
pub struct NetnsFile {
    file: File,
    device: u64,
    inode: u64,
}

impl NetnsFile {
    /// Opens the namespace at `path`, after a check that it is one.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let open = |cause| Error::OpenNetns { path: path.to_owned(), cause };
        // A fifo at that path would block an ordinary open, and a terminal might become ours.
        let flags = rustix::fs::OFlags::RDONLY
            | rustix::fs::OFlags::CLOEXEC
            | rustix::fs::OFlags::NONBLOCK
            | rustix::fs::OFlags::NOCTTY;
        let fd = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map_err(|e| open(e.into()))?;
        let file = File::from(fd);
        let kind = rustix::fs::fstatfs(&file).map_err(|e| open(e.into()))?;
        if u64::try_from(kind.f_type).ok() != Some(NSFS_MAGIC)
            || !syscall::is_net_namespace(file.as_fd()).map_err(open)?
        {
            return Err(Error::NotNetns { path: path.to_owned() });
        }
        let metadata = file.metadata().map_err(open)?;
        Ok(Self { device: metadata.dev(), inode: metadata.ino(), file })
    }

    /// The namespace of the calling thread.
    pub fn own() -> Result<Self, Error> {
        Self::open(OWN)
    }

    /// Inode of its nsfs file. The kernel reuses it soon after the namespace's end.
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// Device and inode: equal exactly for two files of one namespace while either is open.
    pub fn device_inode(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// The cookie: the namespace's identity within this boot. Enters the namespace on a short-lived thread,
    /// because the kernel reports the cookie only to a socket created inside.
    pub fn cookie(&self) -> Result<NetnsCookie, Error> {
        run_in(self, own_cookie)?
    }

    /// True if both are the same namespace.
    pub fn is_same(&self, other: &Self) -> bool {
        self.device_inode() == other.device_inode()
    }
}

impl AsFd for NetnsFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The cookie of the calling thread's namespace.
pub fn own_cookie() -> Result<NetnsCookie, Error> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .map_err(|e| Error::Cookie(e.into()))?;
    syscall::netns_cookie(socket.as_fd()).map(NetnsCookie).map_err(Error::Cookie)
}

/// Runs `work` inside the namespace, on a thread that exits afterwards, and waits for it.
///
/// The plugin should do all of its inside work in one call. Sockets and readers opened there may be returned
/// and used outside.
pub fn run_in<T: Send>(netns: &NetnsFile, work: impl FnOnce() -> T + Send) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("in-netns".to_owned())
            .spawn_scoped(scope, || {
                enter(netns)?;
                Ok(work())
            })
            .map_err(Error::Thread)?;
        thread.join().unwrap_or(Err(Error::Panicked))
    })
}

/// A netlink socket opened inside the namespace, which acts there.
pub fn socket_in(netns: &NetnsFile) -> Result<Socket, Error> {
    run_in(netns, Socket::open)?
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one place that enters a namespace, on a thread that exits"
)]
fn enter(netns: &NetnsFile) -> Result<(), Error> {
    rustix::thread::move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|e| Error::EnterNetns(e.into()))
}
