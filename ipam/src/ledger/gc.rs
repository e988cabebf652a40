//! GC: the runtime names the attachments that it still has of one CNI network, and all others are judged at
//! once.
//!
//! Its word is a hint like any other: an attachment with a living namespace is kept, whatever the list says
//! (another runtime, or a list made too early), and one with an open ADD is not even looked at. The answer
//! comes when all were judged and what is over is free; one that could not be judged does not keep the others
//! from it.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Ledger;
use super::entry::Phase;
use super::io::{Caller, LedgerError, Reply, Step};
use crate::attachment::AttachmentKey;
use crate::evidence::{Facts, NetnsFact};
use crate::name::{ContainerId, IfName, NetworkName};
use crate::time::Time;
use crate::verdict::{Next, Row, Verdict};

/// Time that a GC waits for its judgements.
const PATIENCE: Duration = Duration::from_secs(20);

/// A GC that waits for judgements.
#[derive(Debug, Clone)]
pub(super) struct Collection {
    caller: Caller,
    network: NetworkName,
    waiting: BTreeSet<AttachmentKey>,
    problems: Vec<String>,
    until: Time,
}

impl Collection {
    /// Time at which it gives up.
    pub(super) fn wakes_at(&self) -> Time {
        self.until
    }
}

impl Ledger {
    pub(super) fn collect_garbage(
        &mut self,
        now: Time,
        caller: Caller,
        network: NetworkName,
        valid: &BTreeSet<(ContainerId, IfName)>,
    ) {
        let waiting: BTreeSet<_> = self
            .slots
            .values()
            .filter(|slot| {
                let key = &slot.entry.key;
                slot.entry.cni_network == network
                    && !slot.entry.phase.is_open()
                    && slot.entry.phase != Phase::Held
                    && !valid.contains(&(key.container_id.clone(), key.ifname.clone()))
            })
            .map(|slot| slot.entry.key.clone())
            .collect();
        for key in &waiting {
            if self.slots.get(key).is_some_and(|slot| slot.entry.phase != Phase::Releasing) {
                self.gather(key.clone(), false);
            }
        }
        self.collections.push(Collection {
            caller,
            network,
            waiting,
            problems: Vec::new(),
            until: now + PATIENCE,
        });
    }

    /// A verdict on an attachment: what is kept is done with, what is over is waited for.
    pub(super) fn judged_for_gc(&mut self, key: &AttachmentKey, facts: &Facts, row: &Row) {
        let goes_on = match row.verdict {
            Verdict::Release => true,
            Verdict::Suspect => row.next != Next::Settle,
            // Kept because its teardown is not finished.
            Verdict::Keep => facts.netns == NetnsFact::Dead,
            _ => false,
        };
        if goes_on {
            return;
        }
        for collection in &mut self.collections {
            if collection.waiting.remove(key) && row.verdict == Verdict::Unknown {
                collection.problems.push(format!("{key}: {} ({})", row.why, row.id));
            }
        }
    }

    /// Forgets the collections of a connection that ended: their answers have no receiver.
    pub(super) fn forget_collections(&mut self, conn: u64) {
        self.collections.retain(|collection| collection.caller.conn != conn);
    }

    /// Answers the collections with all judgements in, and those out of time.
    pub(super) fn answer_collections(&mut self, now: Time) {
        let mut open = Vec::new();
        for mut collection in std::mem::take(&mut self.collections) {
            collection.waiting.retain(|key| self.slots.contains_key(key));
            if !collection.waiting.is_empty() && now < collection.until {
                open.push(collection);
                continue;
            }
            let late = collection.waiting.iter().map(|key| format!("{key}: no verdict in time"));
            collection.problems.extend(late);
            let Collection { caller, network, problems, .. } = collection;
            let reply = if problems.is_empty() {
                Ok(Reply::Done)
            } else {
                Err(LedgerError::NotCollected { network, problems })
            };
            self.reply(caller, Step::Other, reply);
        }
        self.collections = open;
    }
}
