//! The stand-in for the wire of eth1 (eth2 is always up): a port that goes down and up, foreign hosts that take and leave
//! addresses at any time, frames that are lost, and rounds of probes that span all of it.
//!
//! The port's thread tells things in their order, and late. A round is as naive as can be: what it did
//! not hear it calls silent, even if the port was down meanwhile. The check comes from the world's
//! truth: no address is decided for a pod while a foreign host has it, except where no evidence
//! could exist by then. That is: the statement, or the word of the gap that hid it, is still under way;
//! the host took it unasked and unannounced within the last [`SILENCE`]; it took it so while a pod had
//! it; or a former holder, proven dead, hands it over.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use berth_ipam::attachment::AttachmentKey;
use berth_ipam::config::Wire;
use berth_ipam::evidence::Claim;
use berth_ipam::identity::TxnId;
use berth_ipam::ledger::io::{HeardOnWire, Hearing, Input, ProbeResult, StoreWrite};
use berth_ipam::mac::Mac;
use berth_ipam::name::IfName;
use berth_ipam::time::Time;

/// The MAC of all foreign hosts; a host that answers once only has another.
const HOST: Mac = Mac([2, 0, 0, 0, 0, 7]);
/// For how long silence counts, and a little.
const SILENCE: Duration = Duration::from_secs(31);

/// From when on it could be known that a foreign host has an address.
#[derive(Debug, Clone, Copy)]
enum Evident {
    /// When so many things were told.
    Told(u64),
    /// At that time, unless a pod has the address.
    At(Time),
    /// Never: it came while a pod had the address.
    Never,
}

#[derive(Debug)]
struct Round {
    id: u64,
    /// The last claim of a foreign host about each address.
    heard: BTreeMap<IpAddr, Claim>,
    /// Whether what it heard, and could still hear, is lost.
    deafened: bool,
}

impl Round {
    fn hear(&mut self, at: Time, address: IpAddr) {
        self.heard.insert(address, Claim { mac: HOST, at });
    }
}

#[derive(Debug, Default)]
pub struct Segment {
    up: bool,
    foreign: BTreeMap<IpAddr, Evident>,
    /// Those that a foreign host ever had.
    ever: BTreeSet<IpAddr>,
    queue: VecDeque<Input>,
    queued: u64,
    told: u64,
    rounds: Vec<Round>,
    /// Decisions are made once; what is written again later is none.
    decided: BTreeSet<(IpAddr, TxnId)>,
    /// Those that rest on the proved end of a former holder, in the life of one agent.
    handed: BTreeSet<(IpAddr, TxnId)>,
}

fn device() -> IfName {
    "eth1".parse().unwrap()
}

impl Segment {
    pub fn new() -> Self {
        Self { up: true, ..Self::default() }
    }

    /// A new agent listens: nothing that came before is known to it.
    pub fn listen(&mut self) {
        self.queue.clear();
        self.rounds.clear();
        self.handed.clear();
        self.told = self.queued;
        for evident in self.foreign.values_mut() {
            *evident = Evident::Told(self.told);
        }
        self.tell_state();
        self.tell(Input::Hearing("eth2".parse().unwrap(), Hearing::Up));
    }

    fn tell(&mut self, input: Input) {
        self.queued += 1;
        self.queue.push_back(input);
    }

    fn tell_state(&mut self) {
        let hearing = if self.up { Hearing::Up } else { Hearing::Down("the link is down".to_owned()) };
        self.tell(Input::Hearing(device(), hearing));
    }

    /// How many things are still to be told.
    pub fn waits(&self) -> bool {
        !self.queue.is_empty()
    }

    /// The next thing that the port's thread tells.
    pub fn next(&mut self) -> Option<Input> {
        let input = self.queue.pop_front()?;
        self.told += 1;
        Some(input)
    }

    pub fn set_up(&mut self, up: bool) {
        if self.up == up {
            return;
        }
        self.up = up;
        self.deafen();
        self.tell_state();
    }

    fn deafen(&mut self) {
        for round in &mut self.rounds {
            round.deafened = true;
            round.heard.clear();
        }
    }

    /// A foreign host takes an address and tells all of it, or none. `lost`: the port's thread is too
    /// slow for that frame. `leased`: a pod has it.
    pub fn take(&mut self, now: Time, address: IpAddr, announces: bool, lost: bool, leased: bool) {
        if self.foreign.contains_key(&address) {
            return;
        }
        let evident = if !self.up {
            // The word that the port is down was told before.
            Evident::Told(self.queued)
        } else if announces {
            for round in self.rounds.iter_mut().filter(|round| !round.deafened) {
                round.hear(now, address);
            }
            self.tell(if lost {
                Input::Hearing(device(), Hearing::Missed("too fast".to_owned()))
            } else {
                let wire = Wire { parent: device(), vlan: None };
                Input::Heard(HeardOnWire { wire, address, mac: HOST, outgoing: false, at: now })
            });
            Evident::Told(self.queued)
        } else if leased {
            Evident::Never
        } else {
            Evident::At(now + SILENCE)
        };
        self.foreign.insert(address, evident);
        self.ever.insert(address);
    }

    /// Whether a foreign host ever had it.
    pub fn is_foreign(&self, address: IpAddr) -> bool {
        self.ever.contains(&address)
    }

    pub fn leave(&mut self, address: IpAddr) {
        self.foreign.remove(&address);
    }

    pub fn all_leave(&mut self) {
        self.foreign.clear();
    }

    /// The machine stands still, and what is said meanwhile is unheard.
    pub fn pause(&mut self, taken: Option<IpAddr>) {
        self.deafen();
        self.tell(Input::Hearing(device(), Hearing::Gap("the machine stood still".to_owned())));
        if let Some(address) = taken {
            self.foreign.entry(address).or_insert(Evident::Told(self.queued));
            self.ever.insert(address);
        }
    }

    /// A round begins. False: it cannot.
    pub fn ask(&mut self, now: Time, id: u64, on: &IfName, addresses: &[IpAddr]) -> bool {
        if *on != device() {
            return true;
        }
        if !self.up {
            self.tell(Input::Probed(id, ProbeResult::Failed("the link is down".to_owned())));
            return false;
        }
        let mut round = Round { id, heard: BTreeMap::new(), deafened: false };
        self.answer(now, &mut round, addresses);
        self.rounds.push(round);
        true
    }

    fn answer(&self, now: Time, round: &mut Round, addresses: &[IpAddr]) {
        for address in addresses.iter().filter(|address| self.foreign.contains_key(*address)) {
            round.hear(now, *address);
        }
    }

    /// The last probe of a round is answered, and its result told, with what else was said about these
    /// addresses. `reached`: those for which links under the device heard it.
    pub fn conclude(
        &mut self,
        now: Time,
        id: u64,
        said: Vec<(IpAddr, Vec<Claim>)>,
        reached: BTreeSet<IpAddr>,
    ) {
        self.tell(Input::Reached(id, reached));
        let Some(index) = self.rounds.iter().position(|round| round.id == id) else {
            return self.tell(Input::Probed(id, ProbeResult::Heard(said)));
        };
        let mut round = self.rounds.remove(index);
        let addresses: Vec<_> = said.iter().map(|(address, _)| *address).collect();
        if !round.deafened {
            self.answer(now, &mut round, &addresses);
        }
        let Round { mut heard, deafened, .. } = round;
        let result = if self.up {
            let line = |(address, claims): (IpAddr, Vec<Claim>)| {
                let others = claims.into_iter().filter(|_| !deafened);
                (address, heard.remove(&address).into_iter().chain(others).collect())
            };
            ProbeResult::Heard(said.into_iter().map(line).collect())
        } else {
            ProbeResult::Failed("the link is down".to_owned())
        };
        self.tell(Input::Probed(id, result));
    }

    /// The node claims these addresses for its pods: none of them is known to be a foreign host's.
    pub fn announced(&self, on: &IfName, claims: &[(IpAddr, Mac)]) {
        for (address, mac) in claims.iter().filter(|_| *on == device()) {
            let known =
                matches!(self.foreign.get(address), Some(Evident::Told(count)) if *count <= self.told);
            assert!(!known, "{address} is announced at {mac} while a foreign host has it");
        }
    }

    /// A transaction is told to use an address: no foreign host can be known to have it.
    pub fn check_use(&self, on: Option<&IfName>, (address, txn): (IpAddr, &TxnId)) {
        let Some(Evident::Told(count)) = self.foreign.get(&address) else { return };
        let excused = on != Some(&device()) || self.handed.contains(&(address, txn.clone()));
        assert!(excused || *count > self.told, "{txn} is to use {address} while a foreign host has it");
    }

    /// Addresses are decided for pods by these writes.
    pub fn decide(
        &mut self,
        now: Time,
        writes: &[StoreWrite],
        device_of: impl Fn(&AttachmentKey) -> Option<IfName>,
    ) {
        for write in writes {
            let (record, handed) = match write {
                StoreWrite::Create(record) => (record, false),
                StoreWrite::HandOver { record, .. } => (record, true),
                _ => continue,
            };
            if device_of(&record.key) != Some(device()) {
                continue;
            }
            let decision = (record.address, record.txn.clone());
            if handed {
                self.handed.insert(decision.clone());
            }
            let first = self.decided.insert(decision);
            let Some(evident) = self.foreign.get_mut(&record.address) else { continue };
            let known = match *evident {
                Evident::Told(count) => count <= self.told,
                Evident::At(at) => {
                    *evident = Evident::Never;
                    at <= now
                }
                Evident::Never => false,
            };
            assert!(
                handed || !first || !known,
                "{} is given to {} while a foreign host has it",
                record.address,
                record.key
            );
        }
    }
}
