//! Repeated ADDs: an ADD of an attachment that an ADD before has established, in the same namespace.
//!
//! The attachment stays what it is: its transaction, its record and its link are those of the ADD that
//! made it. A repeated ADD only gets the same answer, once a read has shown the link, and is remembered
//! until it ends. So its failure or death changes nothing, whatever it reached.
//!
//! Invariant: nothing in this file ends an attachment or changes its transaction.

use super::Ledger;
use super::commit::Pending;
use super::entry::{Entry, Live, Phase, Slot};
use super::io::{Caller, Flush, JournalWrite, LeaseRequest, LedgerError, LinkSeen, Reply, Step};
use super::line::Stage;
use super::reason::Reason;
use crate::attachment::{AttachmentKey, Role};
use crate::evidence::{Facts, LinkFact, NetnsFact};
use crate::identity::TxnId;
use crate::mac::Mac;
use crate::time::Time;

/// Number of repeated ADDs of one attachment that are remembered; a further one takes the place of the
/// oldest, which is refused at its next step.
const REPEATS_MAX: usize = 16;

/// One repeated ADD that was answered and has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repeat {
    txn: TxnId,
    conn: u64,
}

impl Live {
    fn repeats(&self, txn: &TxnId) -> bool {
        self.repeats.iter().any(|repeat| repeat.txn == *txn)
    }

    fn begin_repeat(&mut self, txn: TxnId, conn: u64) {
        self.end_repeat(&txn);
        if self.repeats.len() >= REPEATS_MAX {
            self.repeats.remove(0);
        }
        self.repeats.push(Repeat { txn, conn });
    }

    /// True if there was one.
    pub fn end_repeat(&mut self, txn: &TxnId) -> bool {
        let before = self.repeats.len();
        self.repeats.retain(|repeat| repeat.txn != *txn);
        self.repeats.len() < before
    }

    /// Ends those of a connection; whether there was one.
    pub fn end_repeats_of(&mut self, conn: u64) -> bool {
        let before = self.repeats.len();
        self.repeats.retain(|repeat| repeat.conn != conn);
        self.repeats.len() < before
    }
}

impl Slot {
    /// True if an ADD in that namespace repeats the one that established this attachment.
    fn is_repeated_by(&self, request: &LeaseRequest) -> bool {
        let Entry { phase, del_seen, netns, .. } = &self.entry;
        *phase == Phase::Done && !del_seen && netns.cookie == request.netns.cookie
    }

    /// True if a plugin that may put an address of this attachment on another plugin's link is at work. Its
    /// own link Berth removes, together with the addresses that are put on it.
    pub fn may_be_addressed(&self) -> bool {
        let Live { owner, orphaned_at, repeats, .. } = &self.live;
        let open = self.entry.phase.is_open() && (owner.is_some() || orphaned_at.is_some());
        self.entry.role == Role::Chained && (open || !repeats.is_empty())
    }
}

impl Ledger {
    /// True if the request repeats an ADD that has ended well.
    pub(super) fn is_repeated(&self, request: &LeaseRequest) -> bool {
        self.slots.get(&request.key).is_some_and(|slot| slot.is_repeated_by(request))
    }

    /// A read is in: repeated ADDs of the attachment are answered if it shows the link, or another
    /// plugin's that was never learnt.
    pub(super) fn answer_repeats(&mut self, key: &AttachmentKey, facts: &Facts) {
        let there = matches!(facts.link, LinkFact::Present | LinkFact::OtherMac | LinkFact::NeverSeen);
        if facts.netns != NetnsFact::Alive || !there {
            return;
        }
        let Some(slot) = self.slots.get(key) else { return };
        let asked: Vec<_> = self
            .line
            .iter()
            .filter(|waiter| {
                let request = &waiter.request;
                waiter.stage == Stage::InLine && request.key == *key && slot.is_repeated_by(request)
            })
            .map(|waiter| (waiter.caller, waiter.request.clone()))
            .collect();
        for (caller, request) in asked {
            let answer = self.regrant(&request);
            if answer.is_err() && !self.bars.is_empty() {
                continue; // What was granted can be said again once the declarations are read.
            }
            self.line.retain(|waiter| waiter.request.txn != request.txn);
            if let Some(slot) = self.slots.get_mut(key).filter(|_| answer.is_ok()) {
                slot.live.begin_repeat(request.txn, caller.conn);
            }
            self.reply(caller, Step::Lease, answer);
        }
    }

    /// The same answer again, unless the request names addresses that the attachment does not have.
    fn regrant(&self, request: &LeaseRequest) -> Result<Reply, LedgerError> {
        let held = self.slots.get(&request.key).map(|slot| slot.entry.addresses()).unwrap_or_default();
        match request.ips.iter().find(|ip| request.adopt && !held.contains(ip)) {
            Some(address) => Err(LedgerError::NotGivable {
                address: *address,
                why: format!("an ADD of {} before this one was given {held:?}", request.key),
            }),
            None => self.grant(&request.key),
        }
    }

    /// Bind of a repeated ADD: its link must be the attachment's. `None`: the transaction is none.
    pub(super) fn bind_repeat(
        &mut self,
        caller: Caller,
        txn: &TxnId,
        key: &AttachmentKey,
        (ifindex, mac): (u32, Mac),
        seen: LinkSeen,
    ) -> Option<Result<Reply, LedgerError>> {
        let slot = self.established(key).filter(|slot| slot.live.repeats(txn))?;
        let refuse = |why: String| LedgerError::NotTheLink { key: key.clone(), ifindex, why };
        let bound = slot.entry.ifindex;
        if let Some(other) = bound.filter(|index| *index != ifindex) {
            return Some(Err(refuse(format!("an ADD before this one bound link {other}"))));
        }
        match seen {
            LinkSeen::There(there) if there == mac => {}
            LinkSeen::There(other) => {
                return Some(Err(refuse(format!("it has the MAC {other} instead of {mac}"))));
            }
            LinkSeen::NotThere => {
                return Some(Err(refuse("no link has that index in the pod's namespace".to_owned())));
            }
            LinkSeen::Unreadable => return Some(Err(refuse("it could not be read back".to_owned()))),
        }
        slot.live.begin_repeat(txn.clone(), caller.conn);
        if bound == Some(ifindex) {
            return Some(Ok(Reply::Done));
        }
        slot.entry.ifindex = Some(ifindex);
        slot.entry.mac = Some(mac);
        slot.live.stamp += 1;
        let journal = vec![JournalWrite::Put(Box::new(slot.entry.clone()))];
        self.commit(Pending::Nothing, Step::Other, journal, Flush::Durable, Vec::new());
        Some(Ok(Reply::Done))
    }

    /// Done of a repeated ADD; whether the transaction is one.
    pub(super) fn done_repeat(&mut self, caller: Caller, txn: &TxnId, key: &AttachmentKey) -> bool {
        let Some(slot) = self.established(key) else { return false };
        if !slot.live.end_repeat(txn) {
            return false;
        }
        self.answer_done(caller, key);
        true
    }

    /// Answers an ADD that ended before with success, once its end is on the disk, which is written in order.
    pub(super) fn answer_done(&mut self, caller: Caller, key: &AttachmentKey) {
        let Some(slot) = self.slots.get(key) else { return };
        let journal = vec![JournalWrite::Put(Box::new(slot.entry.clone()))];
        let then = Pending::Answer { key: key.clone(), caller };
        self.commit(then, Step::Done, journal, Flush::Durable, Vec::new());
    }

    /// The attachment, if an ADD ended well and no DEL came.
    fn established(&mut self, key: &AttachmentKey) -> Option<&mut Slot> {
        let steady = |slot: &&mut Slot| slot.entry.phase == Phase::Done && !slot.entry.del_seen;
        self.slots.get_mut(key).filter(steady)
    }

    /// Looks again at attachments with an end that waits for the plugin of that connection.
    pub(super) fn end_repeats(&mut self, conn: u64) {
        let mut ended = Vec::new();
        for (key, slot) in &mut self.slots {
            if slot.live.end_repeats_of(conn) && slot.entry.del_seen {
                ended.push(key.clone());
            }
        }
        for key in ended {
            self.gather(key, false);
        }
    }

    /// A DEL came while a plugin may still put the address on another plugin's link: the attachment
    /// waits for the end of that plugin. True if it does.
    pub(super) fn awaits_plugin(&mut self, now: Time, key: &AttachmentKey) -> bool {
        let Some(slot) = self.slots.get_mut(key) else { return false };
        if !slot.entry.del_seen || !slot.may_be_addressed() {
            return false;
        }
        if slot.live.reason != Reason::AddOpen {
            slot.live.reason = Reason::AddOpen;
            slot.live.since = now;
            let text = "kept until the plugin of an ADD ends, which may still put the address on the link";
            self.observe(key, "add-open", text.to_owned());
        }
        true
    }
}
