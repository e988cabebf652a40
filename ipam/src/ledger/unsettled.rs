//! Attachments and addresses that no verdict settles: kept as in use, and shown to an operator.
//!
//! An attachment is settled while its row says keep and nothing is left to do, and no DEL came for it.
//! Everything else is transitional, and has a way out that the table names. What lasts longer than
//! [`LASTING`] is listed with that way out. Left out: any conclusion; nothing is freed from here.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::Ledger;
use super::entry::{Live, Phase, Slot};
use super::io::SearchOutcome;
use super::reason::Reason;
use super::view::View;
use crate::attachment::{AttachmentKey, PodRef};
use crate::evidence::{Departure, Intent, SearchFact};
use crate::name::NetworkName;
use crate::time::Time;
use crate::verdict::{Ending, Hand, Next, Row, Verdict};

/// Time after which an unsettled state is listed.
pub const LASTING: Duration = Duration::from_mins(1);

/// No verdict was reached since the agent's start or since the adoption.
pub const UNJUDGED: Ending = Ending {
    by: "The first verdict.",
    hand: Hand::Needed("the agent's log has what keeps it from reading the kernel"),
};
/// The evidence is in, and the records are not deleted yet.
pub const RELEASING: Ending = Ending {
    by: "The journal and the store take the end of the record.",
    hand: Hand::Needed("see `store`, `records` and `api-server` in `berthctl doctor`"),
};
/// A quarantined address with a former holder that may still be up.
pub const GUARDED: Ending = Ending {
    by: "No list of MACs and no namespace shows the interface of the former holder, and the address is silent.",
    hand: Hand::Needed("remove the interface of the former holder"),
};
/// A quarantined address that something answers for.
pub const QUARANTINED: Ending = Ending {
    by: "The address is silent on the wire.",
    hand: Hand::Possible("take the address from the machine that answers, or leave it out of the pool"),
};
/// An address that an interface of this node has.
pub const OCCUPIED: Ending = Ending {
    by: "The interface loses the address, or ends.",
    hand: Hand::Possible("take the address from the interface, or leave it out of the pool"),
};

/// One attachment or address that lasts unsettled.
#[derive(Debug, Clone)]
pub struct Unsettled<'a> {
    /// Addresses that are unsettled.
    pub addresses: Vec<IpAddr>,
    /// The attachment; of a quarantined address the former holder.
    pub key: &'a AttachmentKey,
    /// Its pod, if named.
    pub pod: Option<&'a PodRef>,
    /// The reason code.
    pub reason: &'a str,
    /// Reason in one sentence; `None`: the code says all.
    pub why: Option<&'static str>,
    /// Part that an incomplete search could not see; `None`: the last search was complete, or none was made.
    pub unsearched: Option<&'a str>,
    /// Reason why the last probes of the links under the parent proved nothing; `None`: they did, or none
    /// were made.
    pub unproved: Option<&'a str>,
    /// Since when it is unsettled.
    pub since: Time,
    /// Evidence or action that ends it.
    pub ending: Ending,
}

impl Live {
    /// An attachment from the journal or the store, of which nothing has been read yet.
    pub(super) fn unjudged(now: Time, reason: Reason) -> Self {
        Self { unsettled_since: Some(now), ..Self::new(now, reason, Departure::EventsLost) }
    }

    /// Takes note of a search.
    pub(super) fn searched(&mut self, outcome: &SearchOutcome) {
        (self.search, self.unsearched) = match outcome {
            SearchOutcome::Found { .. } => (SearchFact::Found, None),
            SearchOutcome::NotFound => (SearchFact::NotFound, None),
            SearchOutcome::Incomplete(why) | SearchOutcome::Unexplained(why) => {
                (SearchFact::Incomplete, Some(why.clone()))
            }
        };
    }

    /// Takes note of a verdict.
    pub(super) fn judged(&mut self, now: Time, row: &Row, intent: Intent) {
        let settled = (row.verdict, row.next) == (Verdict::Keep, Next::Wait) && intent == Intent::Live;
        self.unsettled_since = (!settled).then(|| self.unsettled_since.unwrap_or(now));
    }
}

impl Slot {
    /// End of the present state, if it is not simply in use.
    fn ending(&self) -> Option<Ending> {
        match (self.entry.phase, self.live.reason) {
            (Phase::Releasing, _) => Some(RELEASING),
            (_, Reason::Restarted | Reason::Adopted) => Some(UNJUDGED),
            (_, reason) => reason.ending(),
        }
    }
}

impl View<'_> {
    /// End of the state of this address; `None` while an ADD is open or the address is held.
    pub fn ending(&self) -> Option<Ending> {
        match self {
            Self::Held { slot, .. } => slot.ending(),
            Self::Shut(shut) if shut.guard.is_some() => Some(GUARDED),
            Self::Shut(_) => Some(QUARANTINED),
            Self::Occupied(_) => Some(OCCUPIED),
        }
    }
}

impl Ledger {
    /// Every attachment that no verdict settled for longer than [`LASTING`], and every quarantined address
    /// that waits as long for the end of its former holder's interface.
    pub fn unsettled(&self, now: Time) -> Vec<Unsettled<'_>> {
        let lasting = |since: &Time| now.since(*since) > LASTING;
        let judged = self.slots.values().filter(|slot| {
            let over = slot.entry.del_seen || slot.entry.phase == Phase::Releasing;
            over || slot.entry.phase == Phase::Done
        });
        let attachments = judged.filter_map(|slot| {
            let since = slot.live.unsettled_since.filter(&lasting)?;
            Some(Unsettled {
                addresses: slot.entry.addresses(),
                key: &slot.entry.key,
                pod: slot.entry.pod.as_ref(),
                reason: slot.live.reason.code(),
                why: slot.live.reason.row().map(|row| row.why),
                unsearched: slot.live.unsearched.as_deref(),
                unproved: slot.live.listening.failure(),
                since,
                ending: slot.ending()?,
            })
        });
        let guarded = self.quarantine.values().filter(|shut| lasting(&shut.since)).filter_map(|shut| {
            Some(Unsettled {
                addresses: vec![shut.key.address],
                key: &shut.guard.as_ref()?.holder,
                pod: None,
                reason: &shut.reason,
                why: None,
                unsearched: shut.guard.as_ref()?.unsearched.as_deref(),
                unproved: None,
                since: shut.since,
                ending: GUARDED,
            })
        });
        attachments.chain(guarded).collect()
    }

    /// The holders of networks that are not declared on this node, and their addresses. Empty until the
    /// declarations are known.
    pub fn undeclared(&self) -> BTreeMap<&NetworkName, Vec<(&AttachmentKey, IpAddr)>> {
        let mut holders = BTreeMap::<_, Vec<_>>::new();
        if !self.serving || !self.bars.is_empty() {
            return holders;
        }
        for slot in self.slots.values() {
            let key = &slot.entry.key;
            if !self.config.networks.contains_key(&key.network) {
                let addresses = slot.entry.held.iter().map(|held| (key, held.address));
                holders.entry(&key.network).or_default().extend(addresses);
            }
        }
        holders
    }
}
