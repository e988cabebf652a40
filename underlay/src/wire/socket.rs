//! A packet socket on one interface: sends frames, and receives those that its filter accepts.
//!
//! The classic BPF filter is attached *before* the bind, so that no unrelated frame is ever queued. Frames
//! that leave the interface are received too and marked [`Direction::Out`]: the frames of this node's own
//! pods leave through their parent. A VLAN tag that the kernel removed from the frame is read from the
//! control message. Left out: parsing of the frames (see [`super::frame`]).
//!
//! Closing a packet socket waits for an RCU grace period (8 to 18 ms on Linux 6.18): keep one open, do not
//! open one per probe.

#![expect(unsafe_code, reason = "packet sockets have no safe wrapper in the crates in use")]

use std::io;
use std::mem;
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::time::Duration;

use berth_ipam::time::Time;
use rustix::time::{ClockId, clock_gettime};

use super::WireError;
use super::filter;
use super::shell::boot_time;

/// Direction of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From the wire.
    In,
    /// To the wire: from this node or one of its pods.
    Out,
}

/// One received frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Octets in the buffer; a longer frame was cut, which no ARP or neighbour message needs.
    pub length: usize,
    /// Direction of the frame.
    pub direction: Direction,
    /// The VLAN id of the tag that the kernel had taken out of the frame, 0 for a priority alone;
    /// `None`: no tag was taken out.
    pub stripped: Option<u16>,
    /// The arrival of the frame by the kernel's stamp, or the time of the read where that stamp is unusable.
    pub at: Time,
}

/// The room a frame is read into: enough for a neighbour message with every option in use.
pub const FRAME_ROOM: usize = 512;

/// Buffer for a listener that is late: some 2,000 small frames.
const RECEIVE_BUFFER: libc::c_int = 2 << 20;

/// The age up to which a kernel's stamp of an arrival is believed.
const STAMP_MAX: Duration = Duration::from_secs(10);

/// A packet socket on one interface of the namespace in which it was opened. Non-blocking.
#[derive(Debug)]
pub struct PacketSocket {
    fd: OwnedFd,
    ifindex: u32,
}

impl PacketSocket {
    /// A socket that sends, and receives all neighbour messages. Needs `CAP_NET_RAW`.
    pub fn listening(ifindex: u32) -> Result<Self, WireError> {
        Self::hearing(ifindex, &filter::neighbour_messages())
    }

    /// A socket that sends, and receives the frames that this program accepts. Needs `CAP_NET_RAW`.
    pub fn hearing(ifindex: u32, steps: &[libc::sock_filter]) -> Result<Self, WireError> {
        let socket = Self::sending(ifindex)?;
        let fail = |step| move |cause| WireError::Socket { step, ifindex, cause };
        socket.hear(steps)?;
        socket.option(libc::SOL_PACKET, libc::PACKET_AUXDATA, &1_i32).map_err(fail("ask for VLAN tags"))?;
        socket
            .option(libc::SOL_SOCKET, libc::SO_TIMESTAMPNS, &1_i32)
            .map_err(fail("ask for times of arrival"))?;
        // Without CAP_NET_ADMIN the smaller default buffer must do; lost frames are reported anyway.
        if socket.option(libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &RECEIVE_BUFFER).is_err() {
            socket
                .option(libc::SOL_SOCKET, libc::SO_RCVBUF, &RECEIVE_BUFFER)
                .map_err(fail("enlarge the receive buffer"))?;
        }
        socket.bind(libc::ETH_P_ALL).map_err(fail("bind to the interface"))?;
        // Solicitations go to one multicast group per address, which a NIC would otherwise filter out.
        let membership = libc::packet_mreq {
            mr_ifindex: socket.index(),
            mr_type: u16::try_from(libc::PACKET_MR_ALLMULTI).unwrap_or(0),
            mr_alen: 0,
            mr_address: [0; 8],
        };
        socket
            .option(libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &membership)
            .map_err(fail("ask for all multicast frames"))?;
        Ok(socket)
    }

    /// Receives the frames that this program accepts from now on. Queued frames stay queued.
    pub fn hear(&self, steps: &[libc::sock_filter]) -> Result<(), WireError> {
        let program = libc::sock_fprog {
            len: u16::try_from(steps.len()).unwrap_or(u16::MAX),
            filter: steps.as_ptr().cast_mut(),
        };
        self.option(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program).map_err(|cause| WireError::Socket {
            step: "attach the frame filter",
            ifindex: self.ifindex,
            cause,
        })
    }

    /// A socket that only sends: protocol 0 receives nothing. Needs `CAP_NET_RAW`.
    pub fn sending(ifindex: u32) -> Result<Self, WireError> {
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: socket(2) takes plain numbers.
        let raw = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if raw < 0 {
            let cause = io::Error::last_os_error();
            return Err(WireError::Socket { step: "open a packet socket", ifindex, cause });
        }
        // SAFETY: the kernel just created this descriptor, and no other owner exists.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(raw) }, ifindex })
    }

    /// The interface's index.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Sends one whole Ethernet frame about `address`.
    pub fn send(&self, frame: &[u8], address: IpAddr) -> Result<(), WireError> {
        let protocol = if address.is_ipv4() { libc::ETH_P_ARP } else { libc::ETH_P_IPV6 };
        let to = self.link_address(protocol);
        // SAFETY: both pointers are valid for the lengths given, and only read.
        let sent = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const to).cast(),
                socklen::<libc::sockaddr_ll>(),
            )
        };
        if sent < 0 {
            let cause = io::Error::last_os_error();
            return Err(WireError::Send { address, ifindex: self.ifindex, cause });
        }
        Ok(())
    }

    /// Marks the frames that are sent from now on; 0: none. Needs `CAP_NET_ADMIN`, or `CAP_NET_RAW` since Linux 5.17.
    pub fn mark(&self, mark: u32) -> io::Result<()> {
        self.option(libc::SOL_SOCKET, libc::SO_MARK, &mark)
    }

    /// Takes the next frame; `None` if none is queued. An interface that went down is an error (`ENETDOWN`)
    /// once, and silence afterwards.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        // SAFETY: these are plain data, for which all zeroes are valid.
        let (mut from, mut header): (libc::sockaddr_ll, libc::msghdr) = unsafe { mem::zeroed() };
        let mut control = [0_u64; 16];
        let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        header.msg_name = (&raw mut from).cast();
        header.msg_namelen = socklen::<libc::sockaddr_ll>();
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = size_of_val(&control) as _;
        // SAFETY: every pointer in the header is valid for the length given with it until the call returns.
        let length = unsafe { libc::recvmsg(self.fd.as_raw_fd(), &raw mut header, 0) };
        let Ok(length) = usize::try_from(length) else {
            let error = io::Error::last_os_error();
            let empty = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
            return if empty { Ok(None) } else { Err(error) };
        };
        let out = from.sll_pkttype == libc::PACKET_OUTGOING;
        let direction = if out { Direction::Out } else { Direction::In };
        let Control { stripped, arrived } = control_of(&header);
        Ok(Some(Received { length, direction, stripped, at: arrival(arrived) }))
    }

    /// Number of frames dropped since the last call because the socket was not read in time.
    pub fn dropped(&self) -> io::Result<u32> {
        let mut statistics = [0_u32; 2];
        let mut length = socklen::<[u32; 2]>();
        // SAFETY: the kernel writes at most `length` octets into the array.
        let result = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                statistics.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(statistics[1]) }
    }

    fn index(&self) -> libc::c_int {
        libc::c_int::try_from(self.ifindex).unwrap_or(libc::c_int::MAX)
    }

    fn link_address(&self, protocol: libc::c_int) -> libc::sockaddr_ll {
        // SAFETY: a sockaddr_ll is plain data, for which all zeroes are valid.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = u16::try_from(libc::AF_PACKET).unwrap_or(0);
        address.sll_protocol = u16::try_from(protocol).unwrap_or(0).to_be();
        address.sll_ifindex = self.index();
        address
    }

    fn bind(&self, protocol: libc::c_int) -> io::Result<()> {
        let address = self.link_address(protocol);
        // SAFETY: the address is valid for the length given, and only read.
        let result = unsafe {
            libc::bind(self.fd.as_raw_fd(), (&raw const address).cast(), socklen::<libc::sockaddr_ll>())
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    fn option<T>(&self, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
        let pointer = std::ptr::from_ref(value).cast();
        // SAFETY: the value is valid for its own size, and only read.
        let result = unsafe { libc::setsockopt(self.fd.as_raw_fd(), level, name, pointer, socklen::<T>()) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn socklen<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).unwrap_or(libc::socklen_t::MAX)
}

/// Metadata of a frame from the kernel.
#[derive(Debug, Clone, Copy, Default)]
struct Control {
    /// The VLAN id of a tag that the kernel had taken out of the frame; 0: a priority alone.
    stripped: Option<u16>,
    /// The arrival of the frame, in nanoseconds of `CLOCK_REALTIME`.
    arrived: Option<u64>,
}

fn control_of(header: &libc::msghdr) -> Control {
    let mut control = Control::default();
    // SAFETY: the kernel filled the control buffer and its length; the CMSG macros stay inside it,
    // and each datum is read only if it is as long as cmsg_len says.
    unsafe {
        let holds = |message: *const libc::cmsghdr, size: libc::socklen_t| {
            (*message).cmsg_len >= libc::CMSG_LEN(size) as _
        };
        let mut message = libc::CMSG_FIRSTHDR(header);
        while !message.is_null() {
            match ((*message).cmsg_level, (*message).cmsg_type) {
                (libc::SOL_PACKET, libc::PACKET_AUXDATA)
                    if holds(message, socklen::<libc::tpacket_auxdata>()) =>
                {
                    let data = libc::CMSG_DATA(message).cast::<libc::tpacket_auxdata>().read_unaligned();
                    let id = data.tp_vlan_tci & 0x0fff;
                    control.stripped = (data.tp_status & libc::TP_STATUS_VLAN_VALID != 0).then_some(id);
                }
                (libc::SOL_SOCKET, libc::SCM_TIMESTAMPNS) if holds(message, socklen::<libc::timespec>()) => {
                    let stamp = libc::CMSG_DATA(message).cast::<libc::timespec>().read_unaligned();
                    control.arrived = nanoseconds(stamp.tv_sec, stamp.tv_nsec);
                }
                _ => {}
            }
            message = libc::CMSG_NXTHDR(header, message);
        }
    }
    control
}

/// A `CLOCK_REALTIME` stamp as time since boot. A stamp that is ahead of that clock or older than
/// [`STAMP_MAX`] was taken before the clock was set. The present time replaces it, as the latest possible
/// arrival.
fn arrival(stamp: Option<u64>) -> Time {
    let wall = clock_gettime(ClockId::Realtime);
    let now = boot_time();
    let age = stamp.and_then(|stamp| nanoseconds(wall.tv_sec, wall.tv_nsec)?.checked_sub(stamp));
    match age.map(Duration::from_nanos) {
        Some(age) if age <= STAMP_MAX => now - age,
        _ => now,
    }
}

fn nanoseconds(seconds: i64, rest: i64) -> Option<u64> {
    u64::try_from(seconds).ok()?.checked_mul(1_000_000_000)?.checked_add(u64::try_from(rest).ok()?)
}
