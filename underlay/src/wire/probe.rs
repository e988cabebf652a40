//! Probe rounds as a pure state machine: the due probes, the replies, and the outcomes.
//!
//! Each address of a round is probed three times, 33 ms apart, and judged 34 ms after its last probe: 100 ms
//! without delays. The interval counts from the probe that was actually sent, so a starved thread probes
//! later instead of bunching its probes. All rounds of a segment share one rate limit, and urgent rounds may
//! use a part of it that is closed to others.
//!
//! Time is an argument; the shell sends and receives. Invariant: *an address is [`Outcome::Silent`] only if
//! all its probes went out, the link was running throughout, no frame was lost, and everything received
//! before its deadline was read*.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use berth_ipam::evidence::Claim;
use berth_ipam::mac::Mac;
use berth_ipam::time::Time;

use super::frame::Statement;

/// Probes sent for each address.
pub const PROBES: u8 = 3;
/// The least distance between two probes for one address.
pub const SPACING: Duration = Duration::from_millis(33);
/// Wait after the last probe for a reply.
pub const LAST_WAIT: Duration = Duration::from_millis(34);
/// Maximum delay of a verdict by a receive queue that never empties.
const FLOOD_PATIENCE: Duration = Duration::from_secs(1);
/// Millionths of one probe, the unit in which the rate limit is counted.
const ONE_PROBE: u64 = 1_000_000;

/// Rate limit of probes on a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Probes per second in the long run, at least 1.
    pub per_second: u32,
    /// Probes that may go out at once after a pause, at least 2. Half of them is kept for urgent rounds.
    pub burst: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { per_second: 300, burst: 64 }
    }
}

/// Urgency of a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// An ADD or a starting node waits for it.
    Now,
    /// Ahead of need.
    Ahead,
}

/// Outcome of a round for one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Every probe went out without a reply.
    Silent,
    /// These claims to the address, one for each MAC in ascending order; never empty.
    Answered(Vec<Claim>),
    /// The round proves nothing, for this reason. No reply had arrived until then.
    Unknown(String),
}

impl Outcome {
    /// True if every probe went out without a reply.
    pub fn is_silent(&self) -> bool {
        matches!(self, Self::Silent)
    }
}

/// One line of a round's result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeResult {
    /// The probed address.
    pub address: IpAddr,
    /// Outcome for the address.
    pub outcome: Outcome,
    /// Time of its last probe; `None` if none was sent.
    pub last_probe: Option<Time>,
    /// True if every probe was received again on the parent, so that it reached the links under it.
    pub reached: bool,
}

/// Names a round until its result is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RoundId(u64);

#[derive(Debug)]
struct Target {
    address: IpAddr,
    sent: u8,
    last_probe: Option<Time>,
    /// The last claim of each MAC.
    answers: BTreeMap<Mac, Time>,
    /// Number of its probes that were received again on the parent.
    came_in: u8,
    failure: Option<String>,
    concluded: bool,
}

/// One set of addresses that are probed together.
#[derive(Debug)]
struct Round {
    id: RoundId,
    priority: Priority,
    /// The mark of its probes.
    mark: Option<u32>,
    targets: Vec<Target>,
}

/// All rounds under way on one segment.
#[derive(Debug)]
pub struct Prober {
    limits: Limits,
    /// Remaining allowance, in millionths of a probe.
    credit: u64,
    credited_at: Time,
    rounds: Vec<Round>,
    next_id: u64,
}

impl Prober {
    /// A prober that has sent nothing yet.
    pub fn new(limits: Limits, now: Time) -> Self {
        let limits = Limits { per_second: limits.per_second.max(1), burst: limits.burst.max(2) };
        let credit = u64::from(limits.burst) * ONE_PROBE;
        Self { limits, credit, credited_at: now, rounds: Vec::new(), next_id: 0 }
    }

    /// Starts a round; each address is probed once however often it is named. Keep rounds short (some
    /// dozens): results are returned when the whole round is over.
    pub fn start(&mut self, addresses: &[IpAddr], priority: Priority) -> RoundId {
        self.start_marked(addresses, priority, None)
    }

    /// The same with this mark on each probe.
    pub fn start_marked(&mut self, addresses: &[IpAddr], priority: Priority, mark: Option<u32>) -> RoundId {
        let id = RoundId(self.next_id);
        self.next_id += 1;
        let unique: BTreeSet<IpAddr> = addresses.iter().copied().collect();
        let targets = unique.into_iter().map(Target::new).collect();
        self.rounds.push(Round { id, priority, mark, targets });
        self.rounds.sort_by_key(|round| (round.priority, round.id));
        id
    }

    /// True if no round is running.
    pub fn is_idle(&self) -> bool {
        self.rounds.is_empty()
    }

    /// Addresses with an open verdict; their claims must be received.
    pub fn open(&self) -> BTreeSet<IpAddr> {
        let targets = self.rounds.iter().flat_map(|round| &round.targets);
        targets.filter(|target| !target.concluded).map(|target| target.address).collect()
    }

    /// Addresses to probe now. The shell sends a probe for each, and reports a failure with
    /// [`Prober::failed`].
    pub fn due(&mut self, now: Time) -> Vec<IpAddr> {
        self.earn(now);
        let mut due = Vec::new();
        for round in &mut self.rounds {
            let kept = match round.priority {
                Priority::Now => 0,
                Priority::Ahead => u64::from(self.limits.burst / 2) * ONE_PROBE,
            };
            for target in round.targets.iter_mut().filter(|target| target.wants_probe(now)) {
                if self.credit < kept + ONE_PROBE {
                    break;
                }
                self.credit -= ONE_PROBE;
                target.sent += 1;
                target.last_probe = Some(now);
                due.push(target.address);
            }
        }
        due
    }

    /// The mark of probes for `address`.
    pub fn mark(&self, address: IpAddr) -> Option<u32> {
        let mut asking = self.rounds.iter().filter(|round| round.is_open(address));
        asking.find_map(|round| round.mark)
    }

    /// A probe of this host's for `address` came back in on the parent.
    pub fn came_in(&mut self, address: IpAddr) {
        let all = self.rounds.iter_mut().flat_map(|round| &mut round.targets);
        for target in all.filter(|target| target.address == address) {
            target.came_in = target.came_in.saturating_add(1);
        }
    }

    /// Records that a probe for `address` did not go out: the running rounds prove no silence for it.
    pub fn failed(&mut self, address: IpAddr, reason: &str) {
        self.spoil(reason, |target| target.address == address);
    }

    /// Records that frames were lost or the link stopped: no running round proves silence.
    pub fn disturbed(&mut self, reason: &str) {
        self.spoil(reason, |_| true);
    }

    /// Records a frame that arrived at `at`. Every claim counts, from any MAC. A frame of another VLAN
    /// belongs to another segment.
    pub fn heard(&mut self, statement: &Statement, at: Time) {
        if !statement.kind.is_claim() || statement.vlan.is_some() {
            return;
        }
        for target in self.rounds.iter_mut().flat_map(|round| &mut round.targets) {
            if target.address == statement.address {
                let last = target.answers.entry(statement.mac).or_insert(at);
                *last = at.max(*last);
            }
        }
    }

    /// True if an address is ready for its verdict: the moment for the shell to check the link itself.
    pub fn verdict_due(&self, now: Time) -> bool {
        let open = self.rounds.iter().flat_map(|round| &round.targets).filter(|target| !target.concluded);
        open.filter(|target| target.failure.is_none()).any(|target| target.is_ripe(now))
    }

    /// Takes the completed rounds. `drained` is true if everything received before `now` was given to
    /// [`Prober::heard`]. Without it verdicts wait for the time limit, and are unknown then.
    pub fn finished(&mut self, now: Time, drained: bool) -> Vec<(RoundId, Vec<ProbeResult>)> {
        for target in self.rounds.iter_mut().flat_map(|round| &mut round.targets) {
            target.conclude(now, drained);
        }
        let over = |round: &mut Round| round.targets.iter().all(|target| target.concluded);
        self.rounds.extract_if(.., over).map(Round::result).collect()
    }

    /// Ends every round at once; an address without a reply is unknown.
    pub fn abandon(&mut self, reason: &str) -> Vec<(RoundId, Vec<ProbeResult>)> {
        self.disturbed(reason);
        self.rounds.drain(..).map(Round::result).collect()
    }

    /// Time of the next turn of the shell if no frame arrives before; `None` when idle.
    pub fn wake_at(&self, now: Time) -> Option<Time> {
        let open = self.rounds.iter().flat_map(|round| &round.targets).filter(|target| !target.concluded);
        let next = open.map(Target::next).min()?;
        if next > now {
            return Some(next);
        }
        // Something is due and was not sent: the rate limit holds it up. One probe's worth of time
        // later there is credit for one more.
        Some(now + Duration::from_micros(ONE_PROBE / u64::from(self.limits.per_second) + 1))
    }

    fn earn(&mut self, now: Time) {
        let micros = u64::try_from(now.since(self.credited_at).as_micros()).unwrap_or(u64::MAX);
        let most = u64::from(self.limits.burst) * ONE_PROBE;
        let earned = micros.saturating_mul(u64::from(self.limits.per_second));
        self.credit = self.credit.saturating_add(earned).min(most);
        self.credited_at = self.credited_at.max(now);
    }

    fn spoil(&mut self, reason: &str, which: impl Fn(&Target) -> bool) {
        for target in self.rounds.iter_mut().flat_map(|round| &mut round.targets) {
            if which(target) && !target.concluded {
                target.failure.get_or_insert_with(|| reason.to_owned());
            }
        }
    }
}

impl Round {
    fn is_open(&self, address: IpAddr) -> bool {
        self.targets.iter().any(|target| target.address == address && !target.concluded)
    }

    fn result(self) -> (RoundId, Vec<ProbeResult>) {
        (self.id, self.targets.into_iter().map(Target::result).collect())
    }
}

impl Target {
    fn new(address: IpAddr) -> Self {
        let answers = BTreeMap::new();
        Self { address, sent: 0, last_probe: None, answers, came_in: 0, failure: None, concluded: false }
    }

    /// Time of the next probe or of the verdict.
    fn next(&self) -> Time {
        match self.last_probe {
            None => Time::default(),
            Some(last) if self.sent < PROBES && self.failure.is_none() => last + SPACING,
            Some(last) => last + LAST_WAIT,
        }
    }

    fn wants_probe(&self, now: Time) -> bool {
        self.sent < PROBES && self.failure.is_none() && now >= self.next()
    }

    /// True if the last wait is over. A spoilt target is not probed further: it waits for late replies as
    /// long as a complete one, unless it was never probed.
    fn is_ripe(&self, now: Time) -> bool {
        let asked = self.sent == PROBES || self.failure.is_some();
        asked && self.last_probe.is_none_or(|last| now >= last + LAST_WAIT)
    }

    fn conclude(&mut self, now: Time, drained: bool) {
        if self.concluded {
            return;
        }
        if !self.is_ripe(now) {
            return;
        }
        if !drained {
            if now < self.next() + FLOOD_PATIENCE {
                return;
            }
            self.failure.get_or_insert_with(|| "more frames arrive than can be read".to_owned());
        }
        self.concluded = true;
    }

    fn result(self) -> ProbeResult {
        let outcome = match self.failure {
            _ if !self.answers.is_empty() => {
                Outcome::Answered(self.answers.into_iter().map(|(mac, at)| Claim { mac, at }).collect())
            }
            Some(reason) => Outcome::Unknown(reason),
            None => Outcome::Silent,
        };
        let reached = self.sent > 0 && self.came_in >= self.sent;
        ProbeResult { address: self.address, outcome, last_probe: self.last_probe, reached }
    }
}

#[cfg(test)]
mod tests;
