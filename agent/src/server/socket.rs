//! Creation of the listening socket: its folder, its mode, and the rule of one agent per path.

use std::fs::{DirBuilder, File, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Maximum number of clients that wait to be accepted; the kernel caps it at `net.core.somaxconn`.
const QUEUE: i32 = 4096;

/// Reason why the socket does not serve.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The folder cannot be created or read.
    #[error("make the socket's folder {}", path.display())]
    Folder {
        /// Path of the folder.
        path: PathBuf,
        /// Error from the kernel.
        #[source]
        cause: io::Error,
    },
    /// Other users could put their own socket in its place.
    #[error(
        "the socket's folder {} may be written by others (mode {mode:o}); run chmod 700 on it, or name another with --socket",
        path.display()
    )]
    FolderOpen {
        /// Path of the folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Another agent serves this path.
    #[error("another agent serves {}; stop it, or name another socket with --socket", path.display())]
    Live {
        /// Path of the socket.
        path: PathBuf,
    },
    /// The path leads to another kind of file.
    #[error("{} is not a socket; remove it, or name another with --socket", path.display())]
    NotASocket {
        /// Path of the object.
        path: PathBuf,
    },
    /// It is unknown whether another agent serves it.
    #[error("find out whether another agent serves {}", path.display())]
    Look {
        /// The socket, or its lock file.
        path: PathBuf,
        /// Error from the kernel.
        #[source]
        cause: io::Error,
    },
    /// The socket cannot be made.
    #[error("listen on {}", path.display())]
    Listen {
        /// Path of the socket.
        path: PathBuf,
        /// Error from the kernel.
        #[source]
        cause: io::Error,
    },
}

/// A listening socket; its file is removed when this is dropped.
#[derive(Debug)]
pub struct BoundSocket {
    path: PathBuf,
    listener: OwnedFd,
    /// Device and inode of the file, so that only our own is ever removed.
    file: (u64, u64),
    /// Held as long as we serve; the kernel lets go of it when the process ends in any way.
    _lock: File,
}

impl BoundSocket {
    /// Listens on `path` with mode 0600. A missing folder is created with mode 0700. A stale socket is
    /// replaced; one with a running server is an error. Needs no runtime.
    pub fn bind(path: &Path) -> Result<Self, ServerError> {
        prepare_folder(path)?;
        let lock = lock(path)?;
        remove_stale(path)?;
        let listen = |cause: io::Error| ServerError::Listen { path: path.to_owned(), cause };
        let listener = listen_on(path).map_err(|errno| listen(errno.into()))?;
        let file = std::fs::symlink_metadata(path).map_err(listen)?;
        Ok(Self { path: path.to_owned(), listener, file: (file.dev(), file.ino()), _lock: lock })
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The listener for the runtime at hand.
    pub(super) fn listener(&self) -> Result<tokio::net::UnixListener, ServerError> {
        let listen = |cause| ServerError::Listen { path: self.path.clone(), cause };
        let listener = std::os::unix::net::UnixListener::from(self.listener.try_clone().map_err(listen)?);
        tokio::net::UnixListener::from_std(listener).map_err(listen)
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.file);
        if ours {
            // A file that stays behind is replaced by the next agent.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn prepare_folder(path: &Path) -> Result<(), ServerError> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let failed = |cause| ServerError::Folder { path: folder.to_owned(), cause };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    let mode = std::fs::metadata(folder).map_err(failed)?.permissions().mode() & 0o7777;
    // With the sticky bit, as in /tmp, others cannot replace what is ours.
    if mode & 0o022 != 0 && mode & 0o1000 == 0 {
        return Err(ServerError::FolderOpen { path: folder.to_owned(), mode });
    }
    Ok(())
}

/// The lock decides between two agents that start at one instant, when neither listens yet.
fn lock(path: &Path) -> Result<File, ServerError> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let lock_path = PathBuf::from(name);
    let look = |cause| ServerError::Look { path: lock_path.clone(), cause };
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(&lock_path)
        .map_err(look)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(ServerError::Live { path: path.to_owned() }),
        Err(TryLockError::Error(cause)) => Err(look(cause)),
    }
}

/// Removes a stale socket. The connection is tried too, because the socket may belong to a program that does
/// not use the lock.
fn remove_stale(path: &Path) -> Result<(), ServerError> {
    let look = |cause: io::Error| ServerError::Look { path: path.to_owned(), cause };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(look(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(ServerError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match knock(path) {
        // A full queue (EAGAIN) or another type of socket (EPROTOTYPE) still has an owner.
        Ok(()) | Err(Errno::AGAIN | Errno::PROTOTYPE) => Err(ServerError::Live { path: path.to_owned() }),
        Err(Errno::CONNREFUSED) => std::fs::remove_file(path).map_err(look),
        Err(errno) => Err(look(errno.into())),
    }
}

/// Non-blocking, because a blocking connect to an agent that hangs would hang too.
fn knock(path: &Path) -> rustix::io::Result<()> {
    let socket = unix_socket()?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)
}

fn unix_socket() -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

fn listen_on(path: &Path) -> rustix::io::Result<OwnedFd> {
    let socket = unix_socket()?;
    // The mode of an unbound socket becomes that of its file: it never has another mode.
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    rustix::net::listen(&socket, QUEUE)?;
    Ok(socket)
}

/// Allows this process `wanted` descriptors, or as many as its hard limit permits; returns the number. The
/// usual 1,024 are fewer than the maximum number of connections.
pub fn raise_descriptor_limit(wanted: u64) -> u64 {
    let now = getrlimit(Resource::Nofile);
    let current = now.current.unwrap_or(u64::MAX);
    let target = wanted.min(now.maximum.unwrap_or(u64::MAX));
    if current >= target {
        return current;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(target), maximum: now.maximum }) {
        Ok(()) => target,
        Err(_) => current,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixListener};

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn folder_and_socket_are_for_the_owner_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/agent.sock");
        let socket = BoundSocket::bind(&path).unwrap();
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_a_live_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        drop(UnixListener::bind(&path).unwrap());
        let first = BoundSocket::bind(&path).unwrap();
        let error = BoundSocket::bind(&path).unwrap_err();
        assert!(matches!(error, ServerError::Live { .. }), "{error}");
        drop(first);

        // A program without the lock counts too, also with a full queue.
        let foreign = UnixListener::bind(&path).unwrap();
        rustix::net::listen(&foreign, 0).unwrap();
        let mut waiting = Vec::new();
        for _ in 0..4 {
            assert!(matches!(BoundSocket::bind(&path), Err(ServerError::Live { .. })));
            waiting.extend(unix_socket().inspect(|socket| {
                let _ = rustix::net::connect(socket, &SocketAddrUnix::new(&path).unwrap());
            }));
        }
        drop(foreign);
        std::fs::remove_file(&path).unwrap();
        let _datagram = UnixDatagram::bind(&path).unwrap();
        assert!(matches!(BoundSocket::bind(&path), Err(ServerError::Live { .. })));
    }

    #[test]
    fn what_is_no_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(BoundSocket::bind(&path), Err(ServerError::NotASocket { .. })));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_folder_open_to_others_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let allow =
            |mode| std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        allow(0o777);
        let error = BoundSocket::bind(&path).unwrap_err();
        assert!(error.to_string().contains("mode 777"), "{error}");
        allow(0o1777);
        assert!(BoundSocket::bind(&path).is_ok());
    }

    #[test]
    fn the_file_of_a_successor_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.sock");
        let socket = BoundSocket::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let successor = UnixListener::bind(&path).unwrap();
        drop(socket);
        assert!(path.exists());
        drop(successor);
    }

    #[test]
    fn a_path_that_is_too_long_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x".repeat(120));
        assert!(matches!(BoundSocket::bind(&path), Err(ServerError::Listen { .. })));
    }
}
