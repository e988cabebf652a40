//! System calls that no safe crate offers. Interpretation of the results is left to the callers.
#![expect(unsafe_code, reason = "the one place of this half of the crate that talks to libc directly")]

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd};

/// `SO_NETNS_COOKIE` (asm-generic/socket.h; Linux 5.14).
const SO_NETNS_COOKIE: libc::c_int = 71;

/// `NS_GET_NSTYPE` (linux/nsfs.h): kind of the namespace of an nsfs descriptor.
const NS_GET_NSTYPE: libc::c_ulong = 0xb703;

/// `NETLINK_LISTEN_ALL_NSID` (linux/netlink.h), also the type of the control message it brings.
const NETLINK_LISTEN_ALL_NSID: libc::c_int = 8;

/// The cookie of the namespace in which the socket was created.
pub(crate) fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).unwrap_or(8);
    // SAFETY: the pointers lead to a live u64 and to its length; the kernel writes at most that many bytes.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// True if an nsfs descriptor refers to a network namespace.
pub(crate) fn is_net_namespace(namespace: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: this request takes no argument and only returns a number.
    let kind = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_NSTYPE as _) };
    if kind < 0 { Err(io::Error::last_os_error()) } else { Ok(kind == libc::CLONE_NEWNET) }
}

/// A request of the ioctls about interfaces; `None`: no interface can have that name.
pub(crate) fn interface_request(name: &str) -> Option<libc::ifreq> {
    // SAFETY: a plain C structure for which all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() || name.contains('\0') {
        return None;
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Some(request)
}

/// Sends an ethtool request for a device. `request` starts with the command and has room for the whole
/// answer, as the command and the counts in it say.
pub(crate) fn ethtool(socket: BorrowedFd<'_>, device: &str, request: &mut [u8]) -> io::Result<()> {
    let order = interface_request(device);
    let mut order = order.ok_or_else(|| io::Error::from_raw_os_error(libc::ENODEV))?;
    order.ifr_ifru.ifru_data = request.as_mut_ptr().cast();
    // SAFETY: the request leads to a live buffer; the kernel writes no more than the command and its counts allow,
    // for which the callers made room.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut order) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// One datagram of a socket that listens to all namespaces.
pub(crate) struct Datagram {
    /// Number of bytes written to the buffer.
    pub length: usize,
    /// True if the datagram was longer than the buffer, so that something is lost.
    pub truncated: bool,
    /// True if the sender is the kernel (port 0) and not a process.
    pub from_kernel: bool,
    /// The number of the namespace it is about, where the kernel named one.
    pub nsid: Option<i32>,
}

/// Room for control messages; netlink sends up to two small ones. Aligned as `cmsghdr` requires.
#[repr(C, align(8))]
struct Control([u8; 128]);

/// Receives one datagram with its control messages, without waiting.
pub(crate) fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Datagram> {
    let mut control = Control([0; 128]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: both are plain C structures for which all zeroes is a valid value.
    let (mut sender, mut header): (libc::sockaddr_nl, libc::msghdr) =
        unsafe { (mem::zeroed(), mem::zeroed()) };
    header.msg_name = (&raw mut sender).cast();
    header.msg_namelen = libc::socklen_t::try_from(size_of::<libc::sockaddr_nl>()).unwrap_or(12);
    header.msg_iov = &raw mut part;
    header.msg_iovlen = 1;
    header.msg_control = control.0.as_mut_ptr().cast();
    header.msg_controllen = control.0.len() as _;
    // SAFETY: every pointer in the header leads to a live buffer of the length given with it.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) };
    let length = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    Ok(Datagram {
        length,
        truncated: header.msg_flags & libc::MSG_TRUNC != 0,
        from_kernel: sender.nl_pid == 0,
        nsid: namespace_number(&header),
    })
}

fn namespace_number(header: &libc::msghdr) -> Option<i32> {
    // SAFETY: the kernel filled the control buffer of this header, which is alive; the macros stay
    // inside `msg_controllen`, and the payload is read unaligned.
    unsafe {
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            if (*message).cmsg_level == libc::SOL_NETLINK && (*message).cmsg_type == NETLINK_LISTEN_ALL_NSID {
                return Some(libc::CMSG_DATA(message).cast::<i32>().read_unaligned());
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    None
}

/// Hands a socket over to the current tokio runtime, which must have I/O enabled.
pub(crate) fn into_tokio(socket: rtnetlink::sys::Socket) -> rtnetlink::sys::TokioSocket {
    // SAFETY: the descriptor is owned, open and a netlink socket, and ownership moves along.
    unsafe { rtnetlink::sys::TokioSocket::from_raw_fd(socket.into_raw_fd()) }
}
