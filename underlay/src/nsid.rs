//! Nsids: the IDs by which the node's namespace names another one without entering it.
//!
//! The kernel's own nsids are small and reused at once, so the nsid of an event may belong to another
//! namespace when the event is read. Berth therefore assigns each namespace an nsid that is not reused soon,
//! which pins nothing. A namespace has one nsid only; the first one stays.
//!
//! An assigned nsid is the time since boot in steps of 1/256 s, or a later one if that is taken. It is reused
//! if its namespace ended within its step, or after 48 days. Random nsids would also be unique, but slow: the
//! kernel keeps nsids in a radix tree and walks all of a namespace's for every event and listener. Neighbours
//! in time share a leaf of that tree.

use std::os::fd::{AsFd, AsRawFd};

use berth_ipam::identity::Nsid;

use crate::error::{Error, Refusal, Unknown};
use crate::facts;
use crate::message::Request;
use crate::netns::NetnsFile;
use crate::random;
use crate::socket::Socket;

/// Number of steps per second.
const STEPS: u64 = 256;

/// Bit set in all assigned nsids, so that one assigned right after boot differs from the kernel's own. The
/// bits below count steps.
const DRAWN: u64 = 1 << 30;

/// Number of nsids that [`assign`] tries.
const DRAWS: usize = 16;

/// Maximum distance of the next candidate from a taken nsid; it doubles each time.
const FIRST_LEAP: u64 = 16;

/// The number of a namespace in the socket's namespace; `None` if it has none yet.
pub fn read(socket: &mut Socket, netns: &NetnsFile) -> Result<Option<Nsid>, Error> {
    try_read(socket, netns).map_err(Error::ReadNsid)
}

fn try_read(socket: &mut Socket, netns: &NetnsFile) -> Result<Option<Nsid>, Refusal> {
    let request = Request::get_nsid(netns.as_fd().as_raw_fd());
    Ok(socket.one(&request, |_, body| facts::nsid(body))?.map(Nsid))
}

/// A new number that [`Nsid::is_drawn`] accepts.
pub fn draw() -> i32 {
    let uptime = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    number(uptime.tv_sec.unsigned_abs(), uptime.tv_nsec.unsigned_abs())
}

/// The number for an uptime.
fn number(seconds: u64, nanoseconds: u64) -> i32 {
    step(seconds.wrapping_mul(STEPS).wrapping_add(nanoseconds * STEPS / 1_000_000_000))
}

/// The number of a step; they come round.
fn step(step: u64) -> i32 {
    i32::try_from((step & (DRAWN - 1)) | DRAWN).unwrap_or(i32::MAX)
}

/// Assigns the nsid `drawn` (31 bits) to the namespace, relative to the socket's namespace, or a later one if
/// that is taken. Returns the existing nsid if the namespace has one. The second value is true if the nsid
/// [`Nsid::is_drawn`].
pub fn assign(socket: &mut Socket, netns: &NetnsFile, drawn: i32) -> Result<(Nsid, bool), Error> {
    let mut number = Nsid(drawn & i32::MAX);
    for attempt in 0..DRAWS {
        match socket.acknowledged(&Request::new_nsid(netns.as_fd().as_raw_fd(), number)) {
            Ok(()) => return Ok((number, number.is_drawn())),
            Err(refusal) if refusal.is(libc::EEXIST) => {}
            Err(refusal) => return Err(Error::AssignNsid(refusal)),
        }
        // The same error means "the namespace has an nsid" and "the nsid is taken".
        if let Some(existing) = read(socket, netns)? {
            return Ok((existing, existing.is_drawn()));
        }
        // A later candidate, at a growing distance: a search assigns hundreds of nsids in one step.
        let behind = u64::from(u32::from_ne_bytes(random::bytes()?)) % (FIRST_LEAP << attempt);
        number = Nsid(step(u64::from(number.0.unsigned_abs()) + 1 + behind));
    }
    Err(Error::AssignNsid(Unknown(format!("{DRAWS} numbers were all taken")).into()))
}

/// The number of a namespace, drawn for it if it had none.
pub fn read_or_assign(socket: &mut Socket, netns: &NetnsFile) -> Result<(Nsid, bool), Error> {
    match read(socket, netns)? {
        Some(nsid) => Ok((nsid, nsid.is_drawn())),
        None => assign(socket, netns, draw()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_told_from_the_kernels_and_do_not_come_back_for_48_days() {
        assert!(Nsid(number(0, 0)).is_drawn() && !Nsid(65_535).is_drawn());
        let (period, second) = (DRAWN / STEPS, 1_000_000_000);
        for (at, part) in [(0, 0), (7, second / 2), (86_400 * 400 + 3, second - 1)] {
            let first = number(at, part);
            assert!(Nsid(first).is_drawn());
            assert_eq!(number(at + period, part), first, "it comes round");
            for later in [1, 60, 86_400, 86_400 * 48, period - 1] {
                assert_ne!(number(at + later, part), first, "{at} {later}");
            }
        }
        assert_ne!(number(5, 0), number(5, second / 250), "another step");
        assert_eq!(step(u64::from(number(5, 0).unsigned_abs()) + 1), number(5, second / 250), "the next one");
        assert_eq!(period / 86_400, 48);
    }
}
