//! The neighbour's ARP requests. Each round uses another sender MAC, which the answers repeat. An answer is
//! thereby matched to its request, and a late answer of an old holder is not taken for a second holder.
//! (Another sender *address* for each round would work too, but fills the neighbour table that all namespaces
//! share, and then no answers arrive.)

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use berth_ipam::mac::Mac;

use super::{Duplicate, Witness};
use crate::netlink::Netlink;
use crate::sys::socket::Socket;

const ETHERTYPE_ARP: u16 = 0x0806;
/// Rounds until a sender MAC is used again: five seconds of late answers.
const ROUNDS: u8 = 200;
/// From one burst to the next.
const BURST_PAUSE: Duration = Duration::from_millis(1);
/// An ARP frame's length, without padding.
const FRAME: usize = 42;

/// Last answer for an address, and its time.
pub type Answers = BTreeMap<Ipv4Addr, (Mac, Instant)>;

/// Pairs that a case planted, and the time of each one's last answer; shared by all askers.
pub type Planted = Arc<Mutex<BTreeMap<(Ipv4Addr, Mac), Option<Instant>>>>;

/// ARP side of the neighbour.
pub struct Asker {
    socket: Socket,
    /// Distinguishes this asker's requests from another's.
    number: u8,
    addresses: Vec<Ipv4Addr>,
    /// Number of requests sent at once.
    burst: usize,
    round: u8,
    heard: Heard,
}

/// Answers received so far.
#[derive(Default)]
struct Heard {
    /// First answer to each request.
    first: BTreeMap<(u8, Ipv4Addr), Mac>,
    /// The last answers, until they are collected.
    last: Answers,
    planted: Planted,
}

impl Asker {
    /// Opens one on `interface` of the calling thread's namespace.
    pub fn open(
        interface: &str,
        number: u8,
        addresses: &[Ipv4Addr],
        burst: usize,
        planted: Planted,
    ) -> io::Result<Self> {
        let links = Netlink::open()?.links(None)?;
        let link = links.into_iter().find(|link| link.name == interface).ok_or(io::ErrorKind::NotFound)?;
        let socket = Socket::packet(ETHERTYPE_ARP, link.ifindex)?;
        let heard = Heard { planted, ..Heard::default() };
        Ok(Self { socket, number, addresses: addresses.to_vec(), burst, round: 0, heard })
    }

    /// Sends a request for every address, and returns requests with two different answers.
    pub fn ask(&mut self) -> io::Result<Vec<Duplicate>> {
        self.round = (self.round + 1) % ROUNDS;
        let round = self.round;
        self.heard.first.retain(|(of, _), _| *of != round);
        let mut found = Vec::new();
        for some in self.addresses.clone().chunks(self.burst) {
            for address in some {
                self.socket.send(&request(sender(self.number, round), *address))?;
            }
            found.extend(self.listen(Instant::now() + BURST_PAUSE)?);
        }
        Ok(found)
    }

    /// Receives answers until `until`, and returns requests with two different answers.
    pub fn listen(&mut self, until: Instant) -> io::Result<Vec<Duplicate>> {
        let mut found = Vec::new();
        let mut buffer = [0; 256];
        loop {
            while let Some(length) = self.socket.receive_now(&mut buffer)? {
                found.extend(
                    parse(self.number, &buffer[..length]).and_then(|answer| self.heard.note(&answer)),
                );
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(found);
            }
            std::thread::sleep(left);
        }
    }

    /// The last answers since the last call.
    pub fn answers(&mut self) -> Answers {
        std::mem::take(&mut self.heard.last)
    }
}

impl Heard {
    /// Takes an answer; a duplicate if another MAC answered the same request.
    fn note(&mut self, answer: &Answer) -> Option<Duplicate> {
        let mut planted = self.planted.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(heard) = planted.get_mut(&(answer.address, answer.mac)) {
            *heard = Some(Instant::now());
            return None;
        }
        drop(planted);
        self.last.insert(answer.address, (answer.mac, Instant::now()));
        let first = *self.first.entry((answer.round, answer.address)).or_insert(answer.mac);
        if first == answer.mac {
            return None;
        }
        let mut holders = [first.to_string(), answer.mac.to_string()];
        holders.sort();
        Some(Duplicate { witness: Witness::Wire, address: IpAddr::V4(answer.address), holders })
    }
}

/// The sender address: in the subnet, so that it is answered, and in no pool.
const SENDER: Ipv4Addr = Ipv4Addr::new(10, 77, 255, 1);

/// The sender MAC of an asker's round. The switch learns it from the request.
fn sender(number: u8, round: u8) -> Mac {
    Mac([0x02, 0xbe, 0, 0, number, round])
}

fn request(own: Mac, wanted: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(FRAME);
    frame.extend([0xff; 6]);
    frame.extend(own.0);
    frame.extend(ETHERTYPE_ARP.to_be_bytes());
    // Ethernet, IPv4, their lengths, "request".
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(own.0);
    frame.extend(SENDER.octets());
    frame.extend([0; 6]);
    frame.extend(wanted.octets());
    frame
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    address: Ipv4Addr,
    mac: Mac,
    round: u8,
}

/// An answer to one of an asker's requests; `None` for any other frame.
fn parse(number: u8, frame: &[u8]) -> Option<Answer> {
    let frame = frame.get(..FRAME)?;
    if frame[12..14] != ETHERTYPE_ARP.to_be_bytes() || frame[14..22] != [0, 1, 8, 0, 6, 4, 0, 2] {
        return None;
    }
    let asker = Mac::from_octets(&frame[32..38])?;
    let round = Some(asker.0[5]).filter(|round| sender(number, *round) == asker)?;
    let address = Ipv4Addr::from(<[u8; 4]>::try_from(&frame[28..32]).ok()?);
    Some(Answer { address, mac: Mac::from_octets(&frame[22..28])?, round })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(round: u8, mac: Mac) -> Vec<u8> {
        let mut frame = request(mac, Ipv4Addr::UNSPECIFIED);
        frame[21] = 2;
        frame[28..32].copy_from_slice(&[10, 77, 0, 10]);
        frame[32..38].copy_from_slice(&sender(1, round).0);
        frame
    }

    #[test]
    fn an_answer_names_holder_and_round() {
        let mac = Mac([2, 0, 0, 0, 0, 7]);
        let parsed = parse(1, &answer(9, mac));
        assert_eq!(parsed, Some(Answer { address: Ipv4Addr::new(10, 77, 0, 10), mac, round: 9 }));
    }

    #[test]
    fn a_planted_pair_is_no_finding_and_every_other_one_is() {
        let [first, second, planted] = [1, 2, 3].map(|last| Mac([2, 0, 0, 0, 0, last]));
        let address = Ipv4Addr::new(10, 77, 0, 10);
        let mut heard = Heard::default();
        heard.planted.lock().unwrap().insert((address, planted), None);
        let mut note = |address, mac, round| heard.note(&Answer { address, mac, round }).is_some();
        assert!(!note(address, planted, 1) && !note(address, first, 1) && !note(address, planted, 1));
        assert!(note(address, second, 1), "a third holder besides the planted one and the first");
        let other = Ipv4Addr::new(10, 77, 0, 11);
        assert!(!note(other, first, 1) && note(other, planted, 1), "of another address it is a finding");
        assert!(heard.planted.lock().unwrap()[&(address, planted)].is_some());
        assert_eq!(heard.last[&address].0, second, "the planted one's answers are not a sign of life");
    }

    #[test]
    fn requests_strangers_answers_and_short_frames_are_none() {
        let own = Mac([2, 0, 0, 0, 0, 1]);
        assert_eq!(parse(1, &request(sender(1, 1), Ipv4Addr::new(10, 77, 0, 10))), None);
        assert_eq!(parse(1, &answer(1, own)[..41]), None);
        let mut other = answer(1, own);
        other[33] = 0;
        assert_eq!(parse(1, &other), None);
        assert_eq!(parse(2, &answer(1, own)), None, "it is the other asker's");
    }
}
