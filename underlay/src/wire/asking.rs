//! The socket by which a parent's wire is asked, apart from the one that listens.
//!
//! Its filter lets claims of the addresses under question pass and nothing else, so that its queue is
//! not lost to the frames of others: what it loses are answers, and only that voids a round. Between rounds
//! it hears nothing.

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
    /// A socket on an interface of the calling thread's namespace, which hears nothing yet.
    pub fn on(ifindex: u32) -> Result<Self, WireError> {
        let socket = PacketSocket::hearing(ifindex, &filter::nothing())?;
        Ok(Self { socket, heard: BTreeSet::new() })
    }

    /// The socket.
    pub fn socket(&self) -> &PacketSocket {
        &self.socket
    }

    /// Hears claims of `wanted` from now on. A filter that lets more pass is kept until nothing is wanted.
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
