//! Arbitrary bytes, given to every parser of kernel replies, with the properties that must hold for the
//! results. For the fuzzer and this crate's tests; operators' binaries do not contain it.
//!
//! The properties: no input causes a panic or a hang, and an answer counts as complete only if a second,
//! simpler parser of the same datagram agrees. The second one shares only constants with the first. Left out:
//! the truth of a fact, which only a kernel can show (underlay/tests).

use berth_ipam::identity::Nsid;

use crate::error::Unknown;
use crate::message::{Ending, attributes};
use crate::reply::{Exchange, Progress, error_text};
use crate::{facts, monitor};

/// The request's sequence number in every trial.
const SEQUENCE: u32 = 7;
/// The parent that entries of a bridge table are read for.
const PARENT: u32 = 3;
/// The longest body of one message that [`framed`] makes.
const BODY_MAX: usize = 255;

/// Parses `input` as a datagram of replies, and each message's body as every type that a body can have. The
/// first byte selects the request, and whether the rest is a raw datagram or must be framed first: few random
/// changes leave all lengths valid.
pub fn netlink(input: &[u8]) {
    let Some((&mode, rest)) = input.split_first() else { return };
    let ending = match mode % 3 {
        0 => Ending::Ack,
        1 => Ending::One,
        _ => Ending::Dump,
    };
    let framed = if mode & 0x80 == 0 { None } else { Some(framed(rest)) };
    let datagram = framed.as_deref().unwrap_or(rest);
    let seen = std::cell::Cell::new(0_usize);
    let mut each = |kind: u16, body: &[u8]| {
        seen.set(seen.get() + 1);
        if read(kind, body) { Ok(()) } else { Err(Unknown("malformed".to_owned())) }
    };
    let mut exchange = Exchange::new(ending, SEQUENCE);
    let outcome = exchange.feed(datagram, &mut each);
    let (end, payloads) = whole(datagram, ending);
    assert_eq!(outcome == Ok(Progress::Complete), end == End::Good, "{outcome:?} {end:?}");
    assert!(seen.get() <= payloads, "more messages than there are");
    if end == End::Changed {
        assert_eq!(outcome, Ok(Progress::Interrupted));
    }
    let mut events = Vec::new();
    monitor::read_events(datagram, Some(Nsid(1)), &mut events);
    assert!(events.len() <= datagram.len() / 16 + 1, "at most one event a message, and one for the rest");
}

/// Reads a body by every reader; whether the one for this kind of message was content.
fn read(kind: u16, body: &[u8]) -> bool {
    let _ = error_text(u16::MAX, body);
    let _ = error_text(0x200, body);
    let _ = facts::moved_to(body);
    assert!(attributes(body).count() <= body.len() / 4 + 1, "each attribute takes four bytes or is the last");
    let link = facts::link(body);
    if let Ok(link) = &link {
        assert!(link.ifindex != 0 && link.parent_index != Some(0));
    }
    let address = facts::address(body);
    if let Ok(Some(facts)) = &address {
        let most = if facts.address.is_ipv4() { 32 } else { 128 };
        assert!(facts.address.prefix() <= most);
    }
    let route = facts::route(body);
    if let Ok(Some(route)) = &route {
        assert!(route.via.is_none_or(|via| via.is_ipv4() == route.to.is_ipv4()), "{route:?}");
    }
    let entry = facts::fdb_entry(body, PARENT);
    if let Ok(Some(mac)) = &entry {
        assert!(mac.0[0] & 1 == 0, "a group address cannot be a holder");
    }
    let number = facts::nsid(body);
    if let Ok(Some(number)) = &number {
        assert!(*number >= 0);
    }
    match kind {
        16 | 17 => link.is_ok(),
        20 | 21 => address.is_ok(),
        24 => route.is_ok(),
        28 => entry.is_ok(),
        88 | 89 => number.is_ok(),
        _ => true,
    }
}

/// Messages with valid lengths and the valid sequence number: each is a type, a byte of flags, a length and
/// that number of bytes.
fn framed(mut rest: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    while let [kind, flags, length, tail @ ..] = rest {
        let (body, next) = tail.split_at(usize::from(*length).min(BODY_MAX).min(tail.len()));
        rest = next;
        let total = u32::try_from(16 + body.len()).unwrap_or(u32::MAX);
        datagram.extend(total.to_ne_bytes());
        datagram.extend(u16::from(*kind).to_ne_bytes());
        // The flags that have a meaning here, without all others.
        datagram.extend((u16::from(flags & 1) << 4 | u16::from(flags >> 1 & 3) << 8).to_ne_bytes());
        datagram.extend(SEQUENCE.to_ne_bytes());
        datagram.extend([0; 4]);
        datagram.extend(body);
        datagram.resize(datagram.len().next_multiple_of(4), 0);
    }
    datagram
}

/// Result of the simple parser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The answer is complete and counts.
    Good,
    /// The datagram is complete, and the kernel reports a change during the dump.
    Changed,
    /// Any other case.
    Other,
}

/// The simple reader: the messages first, then what each means. And how many of them carry something.
fn whole(datagram: &[u8], ending: Ending) -> (End, usize) {
    let word =
        |at: usize| datagram.get(at..at + 4).and_then(|four| Some(u32::from_ne_bytes(four.try_into().ok()?)));
    let half =
        |at: usize| datagram.get(at..at + 2).and_then(|two| Some(u16::from_ne_bytes(two.try_into().ok()?)));
    let (mut at, mut payloads, mut sound, mut steady) = (0, 0, true, true);
    while at < datagram.len() {
        let length = word(at).map_or(0, |length| length as usize);
        let Some(body) = datagram.get(at + 16..at.saturating_add(length)) else {
            return (End::Other, payloads);
        };
        let (kind, flags, own) = (half(at + 4), half(at + 6), word(at + 8) == Some(SEQUENCE));
        at += length.next_multiple_of(4);
        if !own {
            continue;
        }
        steady &= flags.is_none_or(|flags| flags & 0x10 == 0);
        let code = body.get(..4);
        let last = match kind {
            Some(1) => false,
            Some(2) => {
                sound &= ending == Ending::Ack && code == Some(&[0; 4]);
                true
            }
            Some(3) => {
                sound &= ending == Ending::Dump && code == Some(&[0; 4]);
                true
            }
            Some(4) => {
                sound = false;
                false
            }
            kind => {
                payloads += 1;
                sound &= read(kind.unwrap_or(0), body);
                ending == Ending::One
            }
        };
        if last {
            let end = match (sound, steady) {
                (true, true) => End::Good,
                (true, false) => End::Changed,
                (false, _) => End::Other,
            };
            return (end, payloads);
        }
    }
    (End::Other, payloads)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_trial_reaches_every_end() {
        let link = [&[16, 0, 16, 0, 0, 0, 0, 5][..], &[0; 11]].concat();
        let framed_dump = [&[0x83][..], &link, &[3, 0, 4, 0, 0, 0, 0]].concat();
        netlink(&framed_dump);
        assert_eq!(whole(&framed(&framed_dump[1..]), Ending::Dump), (End::Good, 1));
        let mut changed = framed_dump;
        changed[2] = 1;
        netlink(&changed);
        assert_eq!(whole(&framed(&changed[1..]), Ending::Dump), (End::Changed, 1));
        assert_eq!(whole(&framed(&changed[1..]), Ending::Ack), (End::Other, 1));
    }

    proptest! {
        #[test]
        fn no_bytes_break_a_promise(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            netlink(&bytes);
        }
    }
}
