//! Numbers of namespaces: how the node's namespace names another one without entering it.
//!
//! The kernel's own numbers are small and used again at once, so a number that was read in an event
//! may mean another namespace by then. Berth therefore gives each namespace a random 31-bit number,
//! which pins nothing. A namespace has one number only; the first one stays.

use std::os::fd::{AsFd, AsRawFd};

use berth_ipam::identity::Nsid;

use crate::error::{Error, Refusal, Unknown};
use crate::facts;
use crate::message::Request;
use crate::netns::NetnsFile;
use crate::socket::Socket;

/// Numbers from here on were drawn at random by an earlier call: the kernel counts up from 0 and
/// takes the lowest free one, so it gets here only with 65,536 namespaces that have a number.
pub const FIRST_RANDOM: i32 = 1 << 16;

/// How many numbers [`assign`] draws before it gives up. Two billion numbers make two collisions in
/// a row a sign of something else.
const DRAWS: usize = 8;

/// The number of a namespace in the socket's namespace; `None` if it has none yet.
pub fn read(socket: &mut Socket, netns: &NetnsFile) -> Result<Option<Nsid>, Error> {
    try_read(socket, netns).map_err(Error::ReadNsid)
}

fn try_read(socket: &mut Socket, netns: &NetnsFile) -> Result<Option<Nsid>, Refusal> {
    let request = Request::get_nsid(netns.as_fd().as_raw_fd());
    Ok(socket.one(&request, |_, body| facts::nsid(body))?.map(Nsid))
}

/// Whether a number is one that was drawn at random, and so is not used again soon.
pub fn is_random(nsid: Nsid) -> bool {
    nsid.0 >= FIRST_RANDOM
}

/// A random number that [`is_random`] accepts.
pub fn draw() -> Result<i32, Error> {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|cause| Error::AssignNsid(Unknown(format!("draw a random number: {cause}")).into()))?;
    Ok((i32::from_ne_bytes(bytes) & i32::MAX).max(FIRST_RANDOM))
}

/// Gives a namespace the number `random` (31 bits) in the socket's namespace, or another random one
/// if that is taken; returns the one that it has already, if it has one. The second value says
/// whether the number [`is_random`].
pub fn assign(socket: &mut Socket, netns: &NetnsFile, random: i32) -> Result<(Nsid, bool), Error> {
    let mut number = Nsid(random & i32::MAX);
    for _ in 0..DRAWS {
        match socket.acknowledged(&Request::new_nsid(netns.as_fd().as_raw_fd(), number)) {
            Ok(()) => return Ok((number, is_random(number))),
            Err(refusal) if refusal.is(libc::EEXIST) => {}
            Err(refusal) => return Err(Error::AssignNsid(refusal)),
        }
        // The same error stands for "it has one already" and "that one is taken by another".
        if let Some(existing) = read(socket, netns)? {
            return Ok((existing, is_random(existing)));
        }
        number = Nsid(draw()?);
    }
    Err(Error::AssignNsid(Unknown(format!("{DRAWS} random numbers were all taken")).into()))
}

/// The number of a namespace, assigned at random if it had none.
pub fn read_or_assign(socket: &mut Socket, netns: &NetnsFile) -> Result<(Nsid, bool), Error> {
    match read(socket, netns)? {
        Some(nsid) => Ok((nsid, is_random(nsid))),
        None => assign(socket, netns, draw()?),
    }
}
