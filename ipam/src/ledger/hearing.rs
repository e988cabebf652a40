//! The ports of the wire: which of them hears, since when without a gap, and for which addresses it
//! heard no answer.
//!
//! A port is a device on which the wire is asked and listened to. Silence belongs to the port that
//! heard it, and every gap of its hearing voids it: whatever was said meanwhile was said unheard. A port
//! of which nothing was reported hears nothing. Left out: what follows for ADDs, quarantines and
//! attachments. The invariant: an address is silent on a port only while that port hears, after a round
//! that no gap touched or after the end of a holder that the port heard alone all the time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use super::io::ProbeResult;
use crate::attachment::AttachmentKey;
use crate::name::IfName;
use crate::record::AddressKey;
use crate::time::Time;

/// A candidate is good if the wire was silent for it within this time.
const SILENCE_IS_GOOD_FOR: Duration = Duration::from_secs(30);
/// A candidate probed ahead is probed again when its silence is this old.
const REFRESH_AFTER: Duration = Duration::from_secs(20);
/// Reason why a port hears nothing before its first report.
const UNREPORTED: &str = "its state was not read yet";

/// A change of what a port of the wire can hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hearing {
    /// It hears from now on.
    Up,
    /// It hears nothing, for this reason.
    Down(String),
    /// It hears, and may have missed anything until now, answers to probes included.
    Gap(String),
    /// It may have missed statements that no probe asked for. Answers to probes have a queue of their own.
    Missed(String),
}

/// An unbroken span of hearing of one port. Two spans are equal only if no gap lies between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(u64);

/// Change that a report brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing has changed.
    None,
    /// The port hears for the first time since the agent's start.
    Begins,
    /// The port hears again, after a time without.
    Returns,
    /// The port hears no longer.
    Ends,
    /// Something may have been missed, answers to probes included.
    Gap,
    /// Statements that no probe asked for may have been missed.
    Missed,
}

/// Purpose of the probes of attachments on a port after a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// Search for another host that has the address.
    Start,
    /// The same, and neighbours may have learnt another MAC for it: it is announced.
    Gap,
}

#[derive(Debug, Clone)]
enum State {
    Hears,
    Deaf(String),
}

#[derive(Debug, Clone)]
struct Port {
    state: State,
    /// Since when it hears without a gap, or hears nothing.
    since: Time,
    span: Span,
    /// Time and reason of the last span's end.
    last_gap: Option<(Time, String)>,
    silent: BTreeMap<AddressKey, Time>,
    /// Attachments to be probed, in this order.
    unattended: VecDeque<(AttachmentKey, After)>,
    /// Time at which the next of them are probed.
    attend_at: Option<Time>,
}

/// A round of probes that is over.
#[derive(Debug)]
pub struct Concluded {
    /// The device on which the wire was asked.
    pub device: IfName,
    /// The answers, or the reason why the round proves nothing.
    pub result: ProbeResult,
    /// True if the links under the device heard its probes for every address.
    pub reached: bool,
}

/// A round of probes under way.
#[derive(Debug, Clone)]
struct Round {
    device: IfName,
    /// Reason why its silence proves nothing.
    broken: Option<String>,
    /// The addresses for which the links under the device heard all probes.
    reached: BTreeSet<IpAddr>,
}

/// See the module's head.
#[derive(Debug, Clone, Default)]
pub struct Hearings {
    by_device: BTreeMap<IfName, Port>,
    rounds: BTreeMap<u64, Round>,
    last_span: u64,
}

/// The state of one port, for operators.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortView<'a> {
    /// Reason why it hears nothing; `None`: it hears.
    pub deaf: Option<&'a str>,
    /// Since when it hears without a gap, or hears nothing; `None`: nothing was reported yet.
    pub since: Option<Time>,
    /// Time and reason of the last gap in its hearing.
    pub last_gap: Option<(Time, &'a str)>,
}

impl Hearings {
    /// Takes note of what a port can hear. Nothing that was silent before a gap is silent after it, and
    /// rounds that a gap touched prove nothing.
    pub fn report(&mut self, now: Time, device: &IfName, hearing: &Hearing) -> Change {
        let known = self.by_device.get(device).map(|port| &port.state);
        let (change, state, why) = match (known, hearing) {
            (None, Hearing::Up) => (Change::Begins, State::Hears, None),
            (Some(State::Deaf(why)), Hearing::Up) => (Change::Returns, State::Hears, Some(why.clone())),
            (Some(State::Deaf(_)), Hearing::Down(why)) => {
                let why = why.clone();
                return self.explain(device, why);
            }
            (_, Hearing::Down(why)) => (Change::Ends, State::Deaf(why.clone()), Some(why.clone())),
            (Some(State::Hears), Hearing::Gap(why)) => (Change::Gap, State::Hears, Some(why.clone())),
            (Some(State::Hears), Hearing::Missed(why)) => (Change::Missed, State::Hears, Some(why.clone())),
            (Some(State::Hears), Hearing::Up) | (_, Hearing::Gap(_) | Hearing::Missed(_)) => {
                return Change::None;
            }
        };
        self.last_span += 1;
        let port = Port {
            state,
            since: now,
            span: Span(self.last_span),
            last_gap: why.clone().map(|why| (now, why)),
            silent: BTreeMap::new(),
            unattended: VecDeque::new(),
            attend_at: None,
        };
        let before = self.by_device.insert(device.clone(), port);
        if change != Change::Missed {
            self.break_rounds(device, &why.unwrap_or_else(|| UNREPORTED.to_owned()));
        } else if let (Some(port), Some(before)) = (self.by_device.get_mut(device), before) {
            // Answers have a queue of their own: only unasked statements may be missing.
            (port.unattended, port.attend_at) = (before.unattended, before.attend_at);
        }
        change
    }

    /// The reason of a port that is deaf already is another one by now.
    fn explain(&mut self, device: &IfName, why: String) -> Change {
        if let Some(port) = self.by_device.get_mut(device) {
            port.state = State::Deaf(why);
        }
        Change::None
    }

    fn break_rounds(&mut self, device: &IfName, why: &str) {
        for round in self.rounds.values_mut().filter(|round| round.device == *device) {
            round.broken.get_or_insert_with(|| why.to_owned());
        }
    }

    /// Reason why a port hears nothing; `None`: it hears.
    pub fn deaf(&self, device: &IfName) -> Option<&str> {
        match self.by_device.get(device).map(|port| &port.state) {
            None => Some(UNREPORTED),
            Some(State::Deaf(why)) => Some(why),
            Some(State::Hears) => None,
        }
    }

    /// True if a port is known to hear nothing. A port without a report may be opened by a question.
    pub fn is_known_deaf(&self, device: &IfName) -> bool {
        self.by_device.contains_key(device) && self.deaf(device).is_some()
    }

    /// The present span of a port's hearing; `None`: it hears nothing.
    pub fn span(&self, device: &IfName) -> Option<Span> {
        let port = self.by_device.get(device)?;
        matches!(port.state, State::Hears).then_some(port.span)
    }

    /// A port's state for operators.
    pub fn view(&self, device: &IfName) -> PortView<'_> {
        let port = self.by_device.get(device);
        PortView {
            deaf: self.deaf(device),
            since: port.map(|port| port.since),
            last_gap: port.and_then(|port| port.last_gap.as_ref()).map(|(at, why)| (*at, why.as_str())),
        }
    }

    /// A round of probes begins.
    pub fn asked(&mut self, id: u64, device: IfName) {
        self.rounds.insert(id, Round { device, broken: None, reached: BTreeSet::new() });
    }

    /// The links under the device of a round heard its probes for these addresses.
    pub fn reached(&mut self, id: u64, addresses: BTreeSet<IpAddr>) {
        if let Some(round) = self.rounds.get_mut(&id) {
            round.reached = addresses;
        }
    }

    /// Ends a round. Its result is a failure if a gap touched it and an address got no answer. `None`: no such
    /// round was asked for.
    pub fn concluded(&mut self, id: u64, result: ProbeResult) -> Option<Concluded> {
        let Round { device, broken, reached } = self.rounds.remove(&id)?;
        let broken = broken.or_else(|| self.deaf(&device).map(str::to_owned));
        let silent =
            matches!(&result, ProbeResult::Heard(all) if all.iter().any(|(_, macs)| macs.is_empty()));
        let result = match broken {
            Some(why) if silent => ProbeResult::Failed(why),
            _ => result,
        };
        let reached = match &result {
            ProbeResult::Heard(all) => {
                !all.is_empty() && all.iter().all(|(address, _)| reached.contains(address))
            }
            ProbeResult::Failed(_) => false,
        };
        Some(Concluded { device, result, reached })
    }

    /// No host answers for an address on a port. Counts for nothing while the port hears nothing.
    pub fn silence(&mut self, now: Time, device: &IfName, key: AddressKey) {
        let port = self.by_device.get_mut(device);
        if let Some(port) = port.filter(|port| matches!(port.state, State::Hears)) {
            port.silent.insert(key, now);
        }
    }

    /// An address has a holder, or a host spoke for it: it is silent nowhere.
    pub fn spoken(&mut self, key: &AddressKey) {
        for port in self.by_device.values_mut() {
            port.silent.remove(key);
        }
    }

    /// Statements may have been missed on every port.
    pub fn missed(&mut self, now: Time, why: &str) {
        for device in self.by_device.keys().cloned().collect::<Vec<_>>() {
            self.report(now, &device, &Hearing::Missed(why.to_owned()));
        }
    }

    /// From now on nothing counts as silent.
    pub fn forget(&mut self) {
        for port in self.by_device.values_mut() {
            port.silent.clear();
        }
    }

    /// Forgets what is too old to count.
    pub fn forget_old(&mut self, now: Time) {
        for port in self.by_device.values_mut() {
            port.silent.retain(|_, at| now.since(*at) < SILENCE_IS_GOOD_FOR);
        }
    }

    /// True if an address may be given without another question.
    pub fn is_silent(&self, now: Time, device: &IfName, key: &AddressKey) -> bool {
        self.silent_for(now, device, key).is_some_and(|age| age < SILENCE_IS_GOOD_FOR)
    }

    /// True if its silence is so fresh that it need not be asked for again.
    pub fn is_fresh(&self, now: Time, device: &IfName, key: &AddressKey) -> bool {
        self.silent_for(now, device, key).is_some_and(|age| age < REFRESH_AFTER)
    }

    fn silent_for(&self, now: Time, device: &IfName, key: &AddressKey) -> Option<Duration> {
        let port = self.by_device.get(device)?;
        port.silent.get(key).map(|at| now.since(*at))
    }

    /// Every address that counts as silent somewhere.
    pub fn all_silent(&self) -> BTreeSet<&AddressKey> {
        self.by_device.values().flat_map(|port| port.silent.keys()).collect()
    }

    /// These attachments are to be probed on a port, from `at` on.
    pub fn attend(
        &mut self,
        device: &IfName,
        at: Time,
        keys: impl IntoIterator<Item = (AttachmentKey, After)>,
    ) {
        if let Some(port) = self.by_device.get_mut(device) {
            port.unattended.extend(keys);
            port.attend_at = Some(at).filter(|_| !port.unattended.is_empty());
        }
    }

    /// Time at which attachments are to be probed next.
    pub fn attend_at(&self) -> Option<Time> {
        self.by_device.values().filter_map(|port| port.attend_at).min()
    }

    /// The ports with attachments that are to be probed by now.
    pub fn to_attend(&self, now: Time) -> Vec<IfName> {
        let due = |port: &Port| port.attend_at.is_some_and(|at| at <= now);
        self.by_device.iter().filter(|(_, port)| due(port)).map(|(device, _)| device.clone()).collect()
    }

    /// Takes the next attachments to be probed; more follow at [`Self::attend_more`].
    pub fn take_unattended(&mut self, device: &IfName, most: usize) -> Vec<(AttachmentKey, After)> {
        let Some(port) = self.by_device.get_mut(device) else { return Vec::new() };
        port.attend_at = None;
        let count = most.min(port.unattended.len());
        port.unattended.drain(..count).collect()
    }

    /// The next attachments may be probed, if there are any.
    pub fn attend_more(&mut self, device: &IfName, at: Time) {
        if let Some(port) = self.by_device.get_mut(device) {
            port.attend_at = Some(at).filter(|_| !port.unattended.is_empty());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_silent_on_a_port_that_hears_nothing() {
        let device: IfName = "eth1".parse().unwrap();
        let key = AddressKey { segment: "default".parse().unwrap(), address: [10, 0, 0, 10].into() };
        let now = Time::from_millis(1);
        let mut hearings = Hearings::default();
        hearings.silence(now, &device, key.clone());
        assert!(!hearings.is_silent(now, &device, &key), "nothing was reported of it");
        hearings.report(now, &device, &Hearing::Down("eth1 is down".to_owned()));
        hearings.silence(now, &device, key.clone());
        assert!(!hearings.is_silent(now, &device, &key), "it is down");
        hearings.report(now, &device, &Hearing::Up);
        assert!(!hearings.is_silent(now, &device, &key), "what was called silent before counts for nothing");
        hearings.silence(now, &device, key.clone());
        assert!(hearings.is_silent(now, &device, &key) && hearings.is_fresh(now, &device, &key));
        let late = now + SILENCE_IS_GOOD_FOR;
        assert!(!hearings.is_silent(late, &device, &key));
    }
}
