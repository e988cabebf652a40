//! Probe rounds as a pure state machine: who must be asked when, who answered, and what follows.
//!
//! Each address of a round is asked three times, 33 ms apart, and judged 34 ms after its last probe:
//! 100 ms if nothing holds it up. The distance counts from the probe that was really sent, so a thread
//! that was starved asks later instead of bunching its probes. All rounds of a segment share one rate
//! limit, and urgent rounds may use a part of it that others may not.
//!
//! Time is an argument, the shell sends and listens. The invariant: *an address is [`Outcome::Silent`]
//! only if all its probes went out, the link was running throughout, no frame was lost, and everything
//! received before its deadline was read*.

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
/// How long the last probe waits for its answer.
pub const LAST_WAIT: Duration = Duration::from_millis(34);
/// How long a verdict waits for a receive queue that never empties.
const FLOOD_PATIENCE: Duration = Duration::from_secs(1);
/// Millionths of one probe, the unit in which the rate limit is counted.
const ONE_PROBE: u64 = 1_000_000;

/// How fast a segment may be probed.
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

/// How much a round hurries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Somebody waits: an ADD, or a node that starts.
    Now,
    /// Ahead of need.
    Ahead,
}

/// What a round found out about one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Every probe went out and nobody answered.
    Silent,
    /// These claims to the address, one for each MAC in ascending order; never empty.
    Answered(Vec<Claim>),
    /// The round proves nothing, for this reason. Nobody had answered until then.
    Unknown(String),
}

impl Outcome {
    /// Whether nobody answered although everything went out.
    pub fn is_silent(&self) -> bool {
        matches!(self, Self::Silent)
    }
}

/// One line of a round's result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeResult {
    /// The address that was asked for.
    pub address: IpAddr,
    /// What came of it.
    pub outcome: Outcome,
    /// When its last probe was sent; `None` if none was.
    pub last_probe: Option<Time>,
    /// Whether every probe came back in on the parent, so that the links under it heard them.
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
    /// How many of its probes came back in on the parent.
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
    /// What may still be sent now, in millionths of a probe.
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

    /// Begins a round; each address is asked once however often it is named. Keep rounds short (some
    /// dozens): a result is told when the whole round is over.
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

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        self.rounds.is_empty()
    }

    /// The addresses with an open verdict: their claims must be heard.
    pub fn open(&self) -> BTreeSet<IpAddr> {
        let targets = self.rounds.iter().flat_map(|round| &round.targets);
        targets.filter(|target| !target.concluded).map(|target| target.address).collect()
    }

    /// The addresses to be asked now. The shell sends a probe for each, and says so with
    /// [`Prober::failed`] if it could not.
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

    /// A probe for `address` did not go out: the running rounds prove no silence for it any more.
    pub fn failed(&mut self, address: IpAddr, reason: &str) {
        self.spoil(reason, |target| target.address == address);
    }

    /// Frames were lost, or the link stopped: no running round proves silence any more.
    pub fn disturbed(&mut self, reason: &str) {
        self.spoil(reason, |_| true);
    }

    /// Takes note of a frame from the wire that arrived at `at`. Every claim counts, whatever its MAC; a frame of another
    /// VLAN speaks of another segment.
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

    /// Whether an address is ripe for its verdict: the moment for the shell to look at the link itself.
    pub fn verdict_due(&self, now: Time) -> bool {
        let open = self.rounds.iter().flat_map(|round| &round.targets).filter(|target| !target.concluded);
        open.filter(|target| target.failure.is_none()).any(|target| target.is_ripe(now))
    }

    /// Takes the rounds that are over. `drained` says that everything received before `now` was given
    /// to [`Prober::heard`]; without it nothing is judged until patience ends, and then as unknown.
    pub fn finished(&mut self, now: Time, drained: bool) -> Vec<(RoundId, Vec<ProbeResult>)> {
        for target in self.rounds.iter_mut().flat_map(|round| &mut round.targets) {
            target.conclude(now, drained);
        }
        let over = |round: &mut Round| round.targets.iter().all(|target| target.concluded);
        self.rounds.extract_if(.., over).map(Round::result).collect()
    }

    /// Ends every round at once; whoever had not answered by now is unknown.
    pub fn abandon(&mut self, reason: &str) -> Vec<(RoundId, Vec<ProbeResult>)> {
        self.disturbed(reason);
        self.rounds.drain(..).map(Round::result).collect()
    }

    /// When the shell must look again if nothing is heard before; `None` when idle.
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

    /// When something is next to be done: a probe, or the verdict.
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

    /// Whether the last wait is over. A spoilt target is not probed on: it waits for late answers as long
    /// as a whole one would, unless it never asked, when there is nothing to wait for.
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
