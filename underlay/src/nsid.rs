//! Numbers of namespaces: how the node's namespace names another one without entering it.
//!
//! The kernel's own numbers are small and used again at once, so a number that was read in an event
//! may mean another namespace by then. Berth therefore gives each namespace a number that does not
//! come back soon, which pins nothing. A namespace has one number only; the first one stays.
//!
//! Such a number is the time in steps of 16 s, with chance in its last [`CHANCE_BITS`]. All 31 bits
//! by chance would do as well, but dearly: the kernel keeps numbers in a tree by their digits, and walks
//! all of a namespace's for every event and listener. Neighbours in time share a leaf.

use std::os::fd::{AsFd, AsRawFd};

use berth_ipam::identity::Nsid;

use crate::error::{Error, Refusal, Unknown};
use crate::facts;
use crate::message::Request;
use crate::netns::NetnsFile;
use crate::random;
use crate::socket::Socket;

/// Numbers from here on were drawn by an earlier call: the kernel counts up from 0 and takes the
/// lowest free one, so it gets here only with 65,536 namespaces that have a number.
pub const FIRST_RANDOM: i32 = 1 << 16;

/// So many bits of a number are chance: with 60 ADDs a second for 16 s, one draw of five meets a number
/// that is taken, and is drawn again.
pub const CHANCE_BITS: u32 = 12;

/// A step of time, as a power of two of seconds. The time comes round after 97 days.
const STEP_BITS: u32 = 4;

/// Set in all drawn numbers, so that one that was drawn right after boot is told from the kernel's, too.
const DRAWN: u64 = 1 << 30;

/// How many numbers [`assign`] draws before it gives up.
const DRAWS: usize = 16;

/// The number of a namespace in the socket's namespace; `None` if it has none yet.
pub fn read(socket: &mut Socket, netns: &NetnsFile) -> Result<Option<Nsid>, Error> {
    try_read(socket, netns).map_err(Error::ReadNsid)
}

fn try_read(socket: &mut Socket, netns: &NetnsFile) -> Result<Option<Nsid>, Refusal> {
    let request = Request::get_nsid(netns.as_fd().as_raw_fd());
    Ok(socket.one(&request, |_, body| facts::nsid(body))?.map(Nsid))
}

/// Whether a number is one that was drawn, and so is not used again soon.
pub fn is_random(nsid: Nsid) -> bool {
    nsid.0 >= FIRST_RANDOM
}

/// A new number that [`is_random`] accepts.
pub fn draw() -> Result<i32, Error> {
    let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime).tv_sec;
    Ok(number(uptime.unsigned_abs(), u32::from_ne_bytes(random::bytes()?)))
}

/// The number for `uptime` in seconds, and for chance.
fn number(uptime: u64, chance: u32) -> i32 {
    let steps = uptime >> STEP_BITS << CHANCE_BITS;
    let drawn = (steps & (DRAWN - 1)) | u64::from(chance & ((1 << CHANCE_BITS) - 1)) | DRAWN;
    i32::try_from(drawn).unwrap_or(i32::MAX)
}

/// Gives a namespace the number `drawn` (31 bits) in the socket's namespace, or another drawn one
/// if that is taken; returns the one that it has already, if it has one. The second value says
/// whether the number [`is_random`].
pub fn assign(socket: &mut Socket, netns: &NetnsFile, drawn: i32) -> Result<(Nsid, bool), Error> {
    let mut number = Nsid(drawn & i32::MAX);
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
    Err(Error::AssignNsid(Unknown(format!("{DRAWS} drawn numbers were all taken")).into()))
}

/// The number of a namespace, drawn for it if it had none.
pub fn read_or_assign(socket: &mut Socket, netns: &NetnsFile) -> Result<(Nsid, bool), Error> {
    match read(socket, netns)? {
        Some(nsid) => Ok((nsid, is_random(nsid))),
        None => assign(socket, netns, draw()?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_from_the_kernels_and_do_not_come_back_for_97_days() {
        assert!(is_random(Nsid(number(0, 0))) && !is_random(Nsid(65_535)));
        // Whatever chance says, two moments that are a step apart have no number in common.
        let day = 86_400;
        for later in [16, day, 97 * day] {
            for (uptime, chance) in [(0, 0), (7 * day + 3, u32::MAX), (400 * day, 4_095)] {
                let step = |uptime: u64, chance| number(uptime, chance) >> CHANCE_BITS;
                assert_ne!(step(uptime, chance), step(uptime + later, chance), "{uptime} {later}");
                assert!(number(uptime, chance) >= FIRST_RANDOM);
            }
        }
        assert_eq!(number(15, 9), number(0, 9), "one step");
        assert_ne!(number(0, 8), number(0, 9));
    }
}
