//! The thin shell around the pure parts: waits, reads, sends. Blocking; never on an async thread.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use berth_ipam::mac::Mac;
use berth_ipam::time::Time;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::time::{ClockId, clock_gettime};

use super::WireError;
use super::asking::Asking;
use super::device::{Device, has_carrier};
use super::frame::{self, Statement};
use super::probe::{Limits, Priority, ProbeResult, Prober};
use super::socket::{FRAME_ROOM, PacketSocket, Received};
use super::standstill::{Clocks, Pace, Standstill};

/// Reason of a failed round: its replies came faster than they were read.
pub(super) const ANSWERS_LOST: &str = "answers were lost because they came too fast";
/// The reason of a failed round: the thread did not run all the time.
pub(super) const STOOD_STILL: &str = "the agent stood still during the round";
/// Number of frames read before the clock is read again.
const BATCH: usize = 512;

/// The time since boot, as the rest of Berth counts it.
pub fn boot_time() -> Time {
    read(ClockId::Boottime)
}

/// Readings of both clocks that detect a standstill.
pub fn clocks() -> Clocks {
    Clocks { monotonic: read(ClockId::Monotonic), boot: read(ClockId::Boottime) }
}

fn read(clock: ClockId) -> Time {
    let now = clock_gettime(clock);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    Time(seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0)))
}

/// Waits until a descriptor is readable or until `until`; interrupted waits end early. Returns for each
/// descriptor whether it is readable.
pub(super) fn wait<const N: usize>(fds: [BorrowedFd<'_>; N], until: Time) -> rustix::io::Result<[bool; N]> {
    let left = until.since(boot_time());
    let timeout = Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: left.subsec_nanos().into(),
    };
    let mut waits = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN));
    match poll(&mut waits, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(waits.map(|wait| !wait.revents().is_empty())),
        Err(errno) => Err(errno),
    }
}

/// Reads the queue and passes each parsed frame to `each`. True if the queue was emptied.
pub(super) fn drain(
    socket: &PacketSocket,
    mut each: impl FnMut(Statement, Received),
) -> std::io::Result<bool> {
    let mut buffer = [0; FRAME_ROOM];
    for _ in 0..BATCH {
        let Some(received) = socket.receive(&mut buffer)? else { return Ok(true) };
        // A frame that is not a neighbour message passed the coarse kernel filter by accident; nothing is
        // lost.
        let frame = &buffer[..received.length.min(FRAME_ROOM)];
        if let Ok(statement) = frame::read_stripped(frame, received.stripped) {
            each(statement, received);
        }
    }
    Ok(false)
}

/// Sends every probe that is due. The link is checked first: a link without carrier drops frames without an
/// error.
pub(super) fn send_due(prober: &mut Prober, socket: &PacketSocket, own: Mac, running: bool, now: Time) {
    for address in prober.due(now) {
        if !running {
            prober.failed(address, "the link is down or has no carrier");
        } else if let Err(error) = send(socket, own, address, prober.mark(address)) {
            prober.failed(address, &because(&error));
        }
    }
}

/// A probe that cannot be marked is sent unmarked: its missing return shows that the links under the parent
/// do not receive it.
fn send(socket: &PacketSocket, own: Mac, address: IpAddr, mark: Option<u32>) -> Result<(), WireError> {
    let marked = mark.is_some_and(|mark| socket.mark(mark).is_ok());
    let sent = socket.send(&frame::probe(own, address), address);
    if marked {
        // A probe that is marked by mistake reaches more receivers than intended, which is harmless.
        let _ = socket.mark(0);
    }
    sent
}

fn because(error: &WireError) -> String {
    match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// Probes `addresses` once from the calling thread's namespace, from `own_mac`, and waits for the verdict:
/// 100 ms unless the rate limit stretches it. Needs `CAP_NET_RAW`. Closing its socket adds 8 to 18 ms;
/// frequent probes use a [`super::ParentWire`].
pub fn probe_now(ifindex: u32, own_mac: Mac, addresses: &[IpAddr]) -> Result<Vec<ProbeResult>, WireError> {
    let device = Device::by_index(ifindex)?;
    let mut asking = Asking::on(ifindex)?;
    let mut standstill = Standstill::new(clocks());
    let mut due = boot_time();
    let mut prober = Prober::new(Limits::default(), boot_time());
    prober.start(addresses, Priority::Now);
    let receive_error = |cause| WireError::Receive { ifindex, cause };
    // Each turn waits for a frame or the next step, and each address has few steps and bounded patience.
    loop {
        if standstill.look(clocks(), due) != Pace::Steady {
            prober.disturbed(STOOD_STILL);
        }
        let now = boot_time();
        asking.hear(prober.open())?;
        let socket = asking.socket();
        let read = drain(socket, |statement, received| prober.heard(&statement, received.at));
        let drained = read.as_ref().is_ok_and(|drained| *drained);
        if let Err(error) = read {
            prober.disturbed(&format!("receive: {error}"));
        }
        if socket.dropped().map_err(receive_error)? > 0 {
            prober.disturbed(ANSWERS_LOST);
        }
        let running = Device::by_name(&device.name).is_ok_and(|seen| seen.ifindex == ifindex && seen.running);
        if !running {
            prober.disturbed("the link is down or has no carrier");
        }
        if prober.verdict_due(now) && !has_carrier(&device.name)? {
            prober.disturbed("the link has no carrier");
        }
        if let Some((_, results)) = prober.finished(now, drained).into_iter().next() {
            return Ok(results);
        }
        send_due(&mut prober, socket, own_mac, running, now);
        due = prober.wake_at(now).unwrap_or(now);
        wait([socket.as_fd()], due).map_err(|errno| receive_error(errno.into()))?;
    }
}
