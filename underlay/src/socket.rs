//! A blocking netlink socket with a checked path: a request has a valid, complete answer, or an error that
//! names the defect.
//!
//! It acts in the namespace in which it was opened, wherever it is used. Strict checking is on; without it
//! the kernel ignores filters silently. A wait ends after one second of silence from the kernel.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::sys::{Socket as RawSocket, SocketAddr};
use rustix::io::Errno;
use rustix::net::RecvFlags;
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use crate::error::{Error, Refusal, Unknown};
use crate::message::{Ending, Request};
use crate::reply::{Each, Exchange, Progress};

/// Maximum silence of the kernel.
const SILENCE: Duration = Duration::from_secs(1);

/// Number of attempts for a dump that the kernel reports as interrupted.
const DUMP_ATTEMPTS: usize = 5;

/// The kernel's dump datagrams are 32 KiB long, or longer if a single link needs it.
const BUFFER: usize = 128 * 1024;

/// Maximum number of datagrams in one answer: some gigabytes, more than any table of a node.
const MAX_DATAGRAMS: usize = 100_000;

/// A netlink socket for reads and for single requests.
pub struct Socket {
    raw: RawSocket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Socket")
            .field("raw", &self.raw)
            .field("sequence", &self.sequence)
            .finish_non_exhaustive()
    }
}

impl Socket {
    /// Opens one in the calling thread's namespace.
    pub fn open() -> Result<Self, Error> {
        Self::try_open().map_err(Error::OpenSocket)
    }

    fn try_open() -> io::Result<Self> {
        let mut raw = RawSocket::new(NETLINK_ROUTE)?;
        raw.bind_auto()?;
        raw.connect(&SocketAddr::new(0, 0))?;
        raw.set_netlink_get_strict_chk(true)?;
        raw.set_ext_ack(true)?;
        raw.set_cap_ack(true)?;
        set_socket_timeout(raw.as_fd(), Timeout::Recv, Some(SILENCE))?;
        Ok(Self { raw, sequence: 0, buffer: vec![0; BUFFER] })
    }

    /// Sends a request that is answered by an acknowledgement.
    pub(crate) fn acknowledged(&mut self, request: &Request) -> Result<(), Refusal> {
        debug_assert_eq!(request.ending, Ending::Ack);
        self.attempt(request, &mut |_, _| Ok(())).map(|_| ())
    }

    /// Sends a request that is answered by one message.
    pub(crate) fn one<T>(
        &mut self,
        request: &Request,
        parse: impl Fn(u16, &[u8]) -> Result<T, Unknown>,
    ) -> Result<T, Refusal> {
        debug_assert_eq!(request.ending, Ending::One);
        let mut found = None;
        self.attempt(request, &mut |kind, body| {
            found = Some(parse(kind, body)?);
            Ok(())
        })?;
        found.ok_or_else(|| Unknown("the kernel's answer is empty".to_owned()).into())
    }

    /// Dumps a table: all of it, or no list at all. `parse` may leave entries out.
    pub(crate) fn dump<T>(
        &mut self,
        request: &Request,
        parse: impl Fn(u16, &[u8]) -> Result<Option<T>, Unknown>,
    ) -> Result<Vec<T>, Refusal> {
        debug_assert_eq!(request.ending, Ending::Dump);
        for _ in 0..DUMP_ATTEMPTS {
            let mut found = Vec::new();
            let progress = self.attempt(request, &mut |kind, body| {
                found.extend(parse(kind, body)?);
                Ok(())
            })?;
            if progress == Progress::Complete {
                return Ok(found);
            }
        }
        Err(Unknown(format!("the kernel interrupted the list {DUMP_ATTEMPTS} times")).into())
    }

    fn attempt(&mut self, request: &Request, each: &mut Each<'_>) -> Result<Progress, Refusal> {
        self.sequence = self.sequence.wrapping_add(1).max(1);
        let bytes = request.encode(self.sequence);
        self.send(&bytes)?;
        let mut exchange = Exchange::new(request.ending, self.sequence);
        for _ in 0..MAX_DATAGRAMS {
            let length = match self.receive() {
                Ok(length) => length,
                Err(unknown) => return Err(exchange.spoiled().unwrap_or(unknown).into()),
            };
            let progress = exchange.feed(&self.buffer[..length], each)?;
            if progress != Progress::More {
                return Ok(progress);
            }
        }
        Err(Unknown("the kernel's answer does not end".to_owned()).into())
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Unknown> {
        let unknown = |cause: io::Error| Unknown(format!("send to the kernel: {cause}"));
        // A signal interrupts a few times; any other error ends the loop.
        for _ in 0..100 {
            match self.raw.send(bytes, 0) {
                Ok(sent) if sent == bytes.len() => return Ok(()),
                Ok(_) => return Err(Unknown("the kernel took only a part of the request".to_owned())),
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(unknown(cause)),
            }
        }
        Err(unknown(io::ErrorKind::Interrupted.into()))
    }

    /// Fills the buffer with the next datagram. The socket is connected to the kernel (port 0), so datagrams
    /// of other senders do not arrive.
    fn receive(&mut self) -> Result<usize, Unknown> {
        for _ in 0..100 {
            match rustix::net::recv(self.raw.as_fd(), &mut self.buffer[..], RecvFlags::TRUNC) {
                Ok((_, length)) if length > BUFFER => {
                    return Err(Unknown(format!("an answer of {length} bytes exceeds the buffer")));
                }
                Ok((length, _)) => return Ok(length),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    return Err(Unknown(format!("the kernel did not answer within {SILENCE:?}")));
                }
                Err(cause) => return Err(Unknown(format!("receive from the kernel: {cause}"))),
            }
        }
        Err(Unknown("receive from the kernel: interrupted again and again".to_owned()))
    }
}
