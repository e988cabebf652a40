//! The socket that sends a parent's probes and receives the replies, apart from the listening socket.
//!
//! Its filter passes only claims of the addresses being probed, so that a flood of other frames cannot fill
//! its queue: a loss here is a loss of replies, and only that voids a round. Between rounds it receives
//! nothing.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::WireError;
use super::filter;
use super::socket::PacketSocket;

/// See the module's head.
#[derive(Debug)]
pub struct Asking {
    socket: PacketSocket,
    /// The addresses for which claims pass the filter.
    heard: BTreeSet<IpAddr>,
}

impl Asking {
    /// Opens a socket on an interface of the calling thread's namespace that receives nothing yet.
    pub fn on(ifindex: u32) -> Result<Self, WireError> {
        let socket = PacketSocket::hearing(ifindex, &filter::nothing())?;
        Ok(Self { socket, heard: BTreeSet::new() })
    }

    /// The packet socket itself.
    pub fn socket(&self) -> &PacketSocket {
        &self.socket
    }

    /// Receives claims of `wanted` from now on. A filter that passes more is kept until `wanted` is empty.
    pub fn hear(&mut self, wanted: BTreeSet<IpAddr>) -> Result<(), WireError> {
        if wanted == self.heard || (!wanted.is_empty() && wanted.is_subset(&self.heard)) {
            return Ok(());
        }
        let program = if wanted.is_empty() { filter::nothing() } else { filter::claims(wanted.iter()) };
        self.socket.hear(&program)?;
        self.heard = wanted;
        Ok(())
    }
}
