//! Faults of a proxy, to inject and injected: switches that can be changed while it runs, and counts, so that
//! a test can distinguish a survived fault from one that never happened. Does no I/O.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::request::{Asked, Verb};

/// Status with which a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// 409: the object already exists, or differs from the precondition.
    Conflict,
    /// 410: the requested state is compacted.
    Expired,
    /// 429, with `Retry-After` of this number of seconds.
    TooMany(u32),
    /// 500: internal server error.
    Internal,
}

impl Refusal {
    /// The HTTP status.
    pub fn code(self) -> u16 {
        match self {
            Self::Conflict => 409,
            Self::Expired => 410,
            Self::TooMany(_) => 429,
            Self::Internal => 500,
        }
    }

    /// For how long the client is to stay away, in seconds.
    pub(super) fn retry_after(self) -> Option<u32> {
        match self {
            Self::TooMany(seconds) => Some(seconds),
            Self::Conflict | Self::Expired | Self::Internal => None,
        }
    }

    /// The `Status` that an API server would send.
    pub(super) fn status(self, asked: &Asked) -> String {
        let reason = match self {
            Self::Conflict if asked.verb == Verb::Create => "AlreadyExists",
            Self::Conflict => "Conflict",
            Self::Expired => "Expired",
            Self::TooMany(_) => "TooManyRequests",
            Self::Internal => "InternalError",
        };
        let status = serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "a fault of the test bed", "reason": reason, "code": self.code(),
            "details": {
                "name": asked.name, "kind": asked.resource, "retryAfterSeconds": self.retry_after(),
            },
        });
        status.to_string()
    }
}

/// Handling of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is passed on, and so is its response.
    Pass,
    /// It is never passed on.
    Refuse(Refusal),
    /// It is passed on, but its reply is dropped.
    LoseReply,
}

/// Number of injected faults since the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests of any kind.
    pub requests: u64,
    /// Pieces of watches that were passed on late.
    pub late: u64,
    /// Requests that were held back.
    pub slow: u64,
    /// Requests that were refused, by verb and HTTP status.
    pub refused: BTreeMap<(Verb, u16), u64>,
    /// Requests that were served and had their replies dropped.
    pub lost: BTreeMap<Verb, u64>,
    /// Watches that received an "expired" event in the middle.
    pub expired: u64,
}

/// Settings for all watches.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Streams {
    /// Delay of everything that is passed on.
    pub lag: Duration,
    /// Watches that started when this was less have expired.
    pub epoch: u64,
}

/// Rule for the next requests of a kind.
#[derive(Debug)]
struct Rule {
    verb: Verb,
    resource: String,
    left: u32,
    fate: Fate,
}

#[derive(Debug, Default)]
struct State {
    slow: Duration,
    rules: Vec<Rule>,
    counts: Counts,
}

#[derive(Debug)]
struct Shared {
    streams: watch::Sender<Streams>,
    state: Mutex<State>,
}

/// The switches of one proxy. Clones are the same switches.
#[derive(Debug, Clone)]
pub struct Faults(Arc<Shared>);

impl Default for Faults {
    fn default() -> Self {
        let streams = watch::Sender::new(Streams::default());
        Self(Arc::new(Shared { streams, state: Mutex::default() }))
    }
}

impl Faults {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Delays everything that watches send; other responses are not delayed. With zero, the held events are
    /// sent at once, in their order.
    pub fn lag(&self, lag: Duration) {
        self.0.streams.send_modify(|streams| streams.lag = lag);
    }

    /// Delay of every request before it is passed on.
    pub fn slow(&self, by: Duration) {
        self.state().slow = by;
    }

    /// Refuses the next `times` requests of that kind.
    pub fn refuse(&self, times: u32, verb: Verb, resource: &str, how: Refusal) {
        self.add(times, verb, resource, Fate::Refuse(how));
    }

    /// Passes the next `times` writes of that kind on, and loses the replies to those that were carried out.
    pub fn lose_replies(&self, times: u32, verb: Verb, resource: &str) {
        self.add(times, verb, resource, Fate::LoseReply);
    }

    fn add(&self, left: u32, verb: Verb, resource: &str, fate: Fate) {
        self.state().rules.push(Rule { verb, resource: resource.to_owned(), left, fate });
    }

    /// Ends every open watch with an "expired" event, as an API server does in the middle of one.
    pub fn expire_watches(&self) {
        self.0.streams.send_modify(|streams| streams.epoch += 1);
    }

    /// All is well again.
    pub fn calm(&self) {
        let mut state = self.state();
        state.slow = Duration::ZERO;
        state.rules.clear();
        drop(state);
        self.lag(Duration::ZERO);
    }

    /// Number of injected faults since the start.
    pub fn counts(&self) -> Counts {
        self.state().counts.clone()
    }

    /// Number of requests still to be refused or to lose their replies.
    pub fn left(&self) -> u32 {
        self.state().rules.iter().map(|rule| rule.left).sum()
    }

    /// Handling of a request, and its delay before. The oldest matching rule applies.
    pub(super) fn fate(&self, asked: &Asked) -> (Duration, Fate) {
        let mut guard = self.state();
        let state = &mut *guard;
        state.counts.requests += 1;
        if !state.slow.is_zero() {
            state.counts.slow += 1;
        }
        let fits =
            |rule: &&mut Rule| rule.left > 0 && rule.verb == asked.verb && rule.resource == asked.resource;
        let fate = state.rules.iter_mut().find(fits).map_or(Fate::Pass, |rule| {
            rule.left -= 1;
            rule.fate
        });
        if let Fate::Refuse(how) = fate {
            *state.counts.refused.entry((asked.verb, how.code())).or_default() += 1;
        }
        (state.slow, fate)
    }

    /// True if the planned loss of a reply happens now: only the reply to a served request is dropped. If the
    /// request failed, the next one's reply is.
    pub(super) fn lost(&self, asked: &Asked, carried_out: bool) -> bool {
        if carried_out {
            *self.state().counts.lost.entry(asked.verb).or_default() += 1;
        } else {
            self.lose_replies(1, asked.verb, &asked.resource);
        }
        carried_out
    }

    /// Settings for a new watch.
    pub(super) fn streams(&self) -> watch::Receiver<Streams> {
        self.0.streams.subscribe()
    }

    pub(super) fn was_late(&self) {
        self.state().counts.late += 1;
    }

    pub(super) fn has_expired(&self) {
        self.state().counts.expired += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(verb: Verb, resource: &str) -> Asked {
        Asked { verb, resource: resource.to_owned(), name: "x".to_owned() }
    }

    #[test]
    fn rules_are_used_up_one_request_at_a_time_and_by_their_kind_alone() {
        let faults = Faults::default();
        faults.refuse(2, Verb::Create, "ipleases", Refusal::TooMany(1));
        faults.refuse(1, Verb::Create, "ipleases", Refusal::Internal);
        assert_eq!(faults.fate(&asked(Verb::Create, "pods")).1, Fate::Pass);
        assert_eq!(faults.fate(&asked(Verb::Delete, "ipleases")).1, Fate::Pass);
        let fates: Vec<Fate> = (0..4).map(|_| faults.fate(&asked(Verb::Create, "ipleases")).1).collect();
        let refused = Fate::Refuse(Refusal::TooMany(1));
        assert_eq!(fates, [refused, refused, Fate::Refuse(Refusal::Internal), Fate::Pass]);
        let counts = faults.counts();
        assert_eq!(counts.refused, [((Verb::Create, 429), 2), ((Verb::Create, 500), 1)].into());
        assert_eq!((counts.requests, faults.left()), (6, 0));
    }

    #[test]
    fn only_the_reply_to_what_was_carried_out_is_lost() {
        let faults = Faults::default();
        faults.lose_replies(1, Verb::Update, "ipleases");
        let update = asked(Verb::Update, "ipleases");
        assert_eq!(faults.fate(&update).1, Fate::LoseReply);
        assert!(!faults.lost(&update, false), "a refusal is passed on");
        assert_eq!((faults.left(), faults.counts().lost.len()), (1, 0));
        assert_eq!(faults.fate(&update).1, Fate::LoseReply);
        assert!(faults.lost(&update, true));
        assert_eq!((faults.left(), faults.counts().lost), (0, [(Verb::Update, 1)].into()));
    }

    #[test]
    fn calm_ends_every_fault() {
        let faults = Faults::default();
        faults.slow(Duration::from_secs(1));
        faults.lag(Duration::from_secs(5));
        faults.refuse(1, Verb::List, "pods", Refusal::Expired);
        assert_eq!(faults.fate(&asked(Verb::Get, "pods")), (Duration::from_secs(1), Fate::Pass));
        faults.calm();
        assert_eq!(faults.fate(&asked(Verb::List, "pods")), (Duration::ZERO, Fate::Pass));
        assert_eq!(faults.streams().borrow().lag, Duration::ZERO);
    }

    #[test]
    fn a_refusal_reads_like_an_api_servers() {
        let text = Refusal::TooMany(3).status(&asked(Verb::Delete, "ipleases"));
        let status: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&status["code"], &status["details"]["retryAfterSeconds"]), (&429.into(), &3.into()));
        let reason = |verb| Refusal::Conflict.status(&asked(verb, "ipleases"));
        assert!(
            reason(Verb::Create).contains("AlreadyExists") && reason(Verb::Update).contains("\"Conflict\"")
        );
    }
}
