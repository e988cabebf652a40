//! The three calls of the holder scan that no used crate wraps.

#![expect(unsafe_code, reason = "kcmp and the namespace ioctls have no safe wrapper in the crates in use")]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// `TUNGETDEVNETNS`: the namespace of the device of a tun descriptor.
const TUN_DEVICE_NAMESPACE: libc::Ioctl = 0x54e3;

/// True if two tasks share one descriptor table.
pub(super) fn share_descriptors(one: i32, other: i32) -> io::Result<bool> {
    const KCMP_FILES: libc::c_int = 2;
    // SAFETY: kcmp takes plain numbers.
    match unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_FILES, 0, 0) } {
        0 => Ok(true),
        1.. => Ok(false),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A descriptor of the namespace of a socket. Needs `CAP_NET_ADMIN` over it.
pub(super) fn netns_of_socket(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    namespace_ioctl(socket, libc::SIOCGSKNS as libc::Ioctl)
}

/// A descriptor of the namespace of a tun descriptor's device.
pub(super) fn netns_of_tun(tun: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    namespace_ioctl(tun, TUN_DEVICE_NAMESPACE)
}

fn namespace_ioctl(fd: BorrowedFd<'_>, number: libc::Ioctl) -> io::Result<OwnedFd> {
    // SAFETY: both ioctls take no argument and return a new descriptor or -1.
    let raw = unsafe { libc::ioctl(fd.as_raw_fd(), number) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel just created this descriptor, and no other owner exists.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
