//! State of one interface, read by name or index in the calling thread's namespace.
//!
//! It uses ioctl instead of netlink or sysfs: three calls cost microseconds, and sysfs shows the namespace in
//! which it was mounted. Left out: properties that a probe does not need.

#![expect(unsafe_code, reason = "interface ioctls have no safe wrapper in the crates in use")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use berth_ipam::mac::Mac;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};

use super::WireError;
use crate::syscall;

/// An Ethernet interface at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its index in this namespace.
    pub ifindex: u32,
    /// Name of the interface.
    pub name: String,
    /// Its own MAC.
    pub mac: Mac,
    /// True if it is set up, regardless of its carrier.
    pub up: bool,
    /// True if it is up and the kernel sends through it. It lags a loss of carrier by up to a second (see
    /// [`has_carrier`]), and a return of carrier until frames go out.
    pub running: bool,
}

impl Device {
    /// Reads an interface by its name.
    pub fn by_name(name: &str) -> Result<Self, WireError> {
        let socket = ioctl_socket().map_err(|cause| read_error(name.to_owned(), cause))?;
        let mut request = request_for(name)?;
        let fail = |cause: io::Error| match cause.raw_os_error() {
            Some(libc::ENODEV | libc::ENXIO) => WireError::NoDevice(name.to_owned()),
            _ => read_error(name.to_owned(), cause),
        };
        ioctl(&socket, libc::SIOCGIFINDEX, &mut request).map_err(fail)?;
        // SAFETY: SIOCGIFINDEX succeeded, so the kernel filled this arm of the union.
        let ifindex = unsafe { request.ifr_ifru.ifru_ifindex };
        ioctl(&socket, libc::SIOCGIFHWADDR, &mut request).map_err(fail)?;
        // SAFETY: SIOCGIFHWADDR succeeded, so the kernel filled this arm of the union.
        let hardware = unsafe { request.ifr_ifru.ifru_hwaddr };
        if hardware.sa_family != libc::ARPHRD_ETHER {
            return Err(WireError::NotEthernet(name.to_owned()));
        }
        let mut mac = [0; 6];
        for (octet, value) in mac.iter_mut().zip(hardware.sa_data) {
            *octet = value.to_ne_bytes()[0];
        }
        ioctl(&socket, libc::SIOCGIFFLAGS, &mut request).map_err(fail)?;
        // SAFETY: SIOCGIFFLAGS succeeded, so the kernel filled this arm of the union.
        let flags = i32::from(unsafe { request.ifr_ifru.ifru_flags });
        let both = libc::IFF_UP | libc::IFF_RUNNING;
        Ok(Self {
            ifindex: u32::try_from(ifindex).unwrap_or(0),
            name: name.to_owned(),
            mac: Mac(mac),
            up: flags & libc::IFF_UP != 0,
            running: flags & both == both,
        })
    }

    /// Reason why it carries no frames; `None`: it carries frames.
    pub fn trouble(&self) -> Option<String> {
        let Self { name, up, running, .. } = self;
        match (up, running) {
            (_, true) => None,
            (true, false) => Some(format!("{name} has no carrier")),
            (false, false) => Some(format!("{name} is down")),
        }
    }

    /// Reads an interface by its index.
    pub fn by_index(ifindex: u32) -> Result<Self, WireError> {
        let label = || format!("#{ifindex}");
        let socket = ioctl_socket().map_err(|cause| read_error(label(), cause))?;
        let name = netdevice::index_to_name(&socket, ifindex).map_err(|errno| match errno {
            rustix::io::Errno::NODEV | rustix::io::Errno::NXIO => WireError::NoDevice(label()),
            errno => read_error(label(), errno.into()),
        })?;
        Self::by_name(&name)
    }
}

/// True if an interface has carrier at this moment, or if its driver does not report carrier.
///
/// The flags report carrier too, but the kernel updates them up to a second late, and a frame sent in that
/// time vanishes without an error. This call takes the kernel's link lock, so it may wait for other changes:
/// call it once per verdict, not once per frame.
pub fn has_carrier(name: &str) -> Result<bool, WireError> {
    const ETHTOOL_GLINK: u32 = 0x0a;
    let socket = ioctl_socket().map_err(|cause| read_error(name.to_owned(), cause))?;
    // The command, and room for the number that the kernel writes after it.
    let mut request = [0; 8];
    request[..4].copy_from_slice(&ETHTOOL_GLINK.to_ne_bytes());
    match syscall::ethtool(socket.as_fd(), name, &mut request) {
        Ok(()) => Ok(request[4..] != [0; 4]),
        Err(cause) if cause.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(true),
        Err(cause) if cause.raw_os_error() == Some(libc::ENODEV) => Err(WireError::NoDevice(name.to_owned())),
        Err(cause) => Err(read_error(name.to_owned(), cause)),
    }
}

fn read_error(device: String, cause: io::Error) -> WireError {
    WireError::ReadDevice { device, cause }
}

fn ioctl_socket() -> io::Result<OwnedFd> {
    Ok(socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?)
}

fn request_for(name: &str) -> Result<libc::ifreq, WireError> {
    syscall::interface_request(name).ok_or_else(|| WireError::NoDevice(name.to_owned()))
}

fn ioctl(socket: &OwnedFd, number: libc::c_ulong, request: &mut libc::ifreq) -> io::Result<()> {
    // SAFETY: every request number used here takes one ifreq, and the kernel writes only inside it.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), number as libc::Ioctl, request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
