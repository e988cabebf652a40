//! Netlink and packet sockets.
#![expect(unsafe_code, reason = "AF_NETLINK and AF_PACKET sockets have no safe form in the standard library")]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

use super::check;

/// A socket in the namespace in which it was opened, wherever its user is.
#[derive(Debug)]
pub struct Socket(OwnedFd);

impl Socket {
    /// A routing netlink socket with strict checking of dump requests.
    pub fn route() -> io::Result<Self> {
        let socket = Self::open(libc::AF_NETLINK, libc::NETLINK_ROUTE)?;
        socket.set(libc::SOL_NETLINK, libc::NETLINK_GET_STRICT_CHK, &1_i32)?;
        socket.timeout(Duration::from_secs(5))?;
        Ok(socket)
    }

    /// A raw packet socket for one protocol (host byte order) on one interface.
    pub fn packet(protocol: u16, ifindex: i32) -> io::Result<Self> {
        let socket = Self::open(libc::AF_PACKET, i32::from(protocol.to_be()))?;
        // SAFETY: sockaddr_ll is plain data for which zero is valid.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::sa_family_t::try_from(libc::AF_PACKET).map_err(io::Error::other)?;
        address.sll_protocol = protocol.to_be();
        address.sll_ifindex = ifindex;
        let length = length_of(&address)?;
        // SAFETY: the pointer is to a live sockaddr_ll of the length given.
        check(unsafe { libc::bind(socket.0.as_raw_fd(), (&raw const address).cast(), length) })?;
        Ok(socket)
    }

    fn open(family: libc::c_int, protocol: libc::c_int) -> io::Result<Self> {
        // SAFETY: socket takes no pointers.
        let raw = check(unsafe { libc::socket(family, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) })?;
        // SAFETY: the kernel just made this descriptor for us.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(raw) }))
    }

    fn set<T>(&self, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
        let length = length_of(value)?;
        // SAFETY: the pointer is to a live value of the length given.
        let done = unsafe {
            libc::setsockopt(self.0.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), length)
        };
        check(done).map(drop)
    }

    /// Sets the time after which a receive fails with `WouldBlock`.
    pub fn timeout(&self, limit: Duration) -> io::Result<()> {
        let value = libc::timeval {
            tv_sec: limit.as_secs().try_into().unwrap_or(libc::time_t::MAX),
            // Zero would mean "for ever".
            tv_usec: limit.subsec_micros().max(1).into(),
        };
        self.set(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &value)
    }

    /// Sends one message.
    pub fn send(&self, message: &[u8]) -> io::Result<()> {
        // SAFETY: pointer and length describe a live slice.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Receives one message into `buffer`; its length.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: pointer and length describe a live slice without other users.
        let got = unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        usize::try_from(got).map_err(|_| io::Error::last_os_error())
    }

    /// Receives one message if one is there.
    pub fn receive_now(&self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let flags = libc::MSG_DONTWAIT;
        // SAFETY: pointer and length describe a live slice without other users.
        let got = unsafe { libc::recv(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), flags) };
        match usize::try_from(got).map_err(|_| io::Error::last_os_error()) {
            Ok(length) => Ok(Some(length)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// Length of a value in the type of the socket calls.
fn length_of<T>(_: &T) -> io::Result<libc::socklen_t> {
    libc::socklen_t::try_from(size_of::<T>()).map_err(io::Error::other)
}
