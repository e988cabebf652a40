//! Releases on their way from plugins to the agent's disk, and the spool of those that no agent took.

use super::*;

/// A release that a plugin asks for.
#[derive(Debug, Clone)]
struct Wanted {
    key: AttachmentKey,
    link: LinkRemoval,
    txn: Option<TxnId>,
    /// The ADD that it ends, if the agent knew one.
    ends: Option<TxnId>,
}

#[derive(Debug, Default)]
pub struct Spool {
    /// Asked for on a connection.
    asked: BTreeMap<(u64, u64), Wanted>,
    /// The files, each with the call under which it is replayed.
    files: Vec<(Wanted, Option<Caller>)>,
    /// ADDs that wait, by connection.
    parked: BTreeMap<u64, AttachmentKey>,
}

impl World {
    /// A plugin hands a release over.
    pub fn release(&mut self, key: AttachmentKey, link: LinkRemoval, txn: Option<TxnId>) {
        let wanted = Wanted { key, link, txn, ends: None };
        let caller = Caller { conn: self.id(), call: 1 };
        self.hand_over(caller, wanted.clone());
        let ends = self.ends(&wanted);
        self.spool.asked.entry((caller.conn, caller.call)).and_modify(|wanted| wanted.ends = ends);
    }

    fn hand_over(&mut self, caller: Caller, wanted: Wanted) {
        let ends = self.ends(&wanted);
        let Wanted { key, link, txn, .. } = wanted.clone();
        self.spool.asked.insert((caller.conn, caller.call), Wanted { ends, ..wanted });
        self.step(Input::Release(Some(caller), key, link, txn));
    }

    fn ends(&self, wanted: &Wanted) -> Option<TxnId> {
        let entry = self.ledger.as_ref()?.entry(&wanted.key)?;
        let is_ended = entry.phase != Phase::Held && wanted.txn.as_ref().is_none_or(|txn| *txn == entry.txn);
        is_ended.then(|| entry.txn.clone())
    }

    /// The agent replays what is in the spool.
    pub fn replay(&mut self) {
        let waiting: Vec<_> =
            (0..self.spool.files.len()).filter(|at| self.spool.files[*at].1.is_none()).collect();
        for at in waiting {
            let caller = Caller { conn: u64::MAX, call: self.id() };
            self.spool.files[at].1 = Some(caller);
            self.hand_over(caller, self.spool.files[at].0.clone());
        }
    }

    /// An ADD of an attachment waits while a release of it is in the spool: replayed later, that would end the ADD.
    pub fn park(&mut self, conn: u64, key: &AttachmentKey) -> bool {
        let is_spooled = |spool: &Spool| spool.files.iter().any(|(wanted, _)| wanted.key == *key);
        if is_spooled(&self.spool) {
            self.spool.parked.insert(conn, key.clone());
            self.replay();
        }
        is_spooled(&self.spool)
    }

    fn resume(&mut self, key: &AttachmentKey) {
        let free = self.spool.files.iter().all(|(wanted, _)| wanted.key != *key);
        let waiting = self.spool.parked.extract_if(.., |_, of| free && of == key);
        self.events.extend(waiting.map(|(conn, _)| Event::Retry(conn)));
    }

    /// A DEL goes on until its plugin wrote it down: an ADD that runs meanwhile may be ended by it.
    fn write_down(&mut self, wanted: Wanted) {
        if wanted.txn.is_none() {
            self.promises.release(&wanted.key, self.plugins.keys().copied());
        }
        self.spool.files.push((wanted, None));
    }

    /// The agent is gone: plugins that wait write their releases down.
    pub fn spool_open(&mut self) {
        for (_, replay) in &mut self.spool.files {
            *replay = None;
        }
        self.spool.parked.clear();
        for ((conn, _), wanted) in std::mem::take(&mut self.spool.asked) {
            if conn != u64::MAX {
                self.write_down(wanted);
            }
        }
    }

    /// An answer to a release.
    pub fn released(&mut self, caller: Caller, reply: &Result<Reply, LedgerError>) {
        let Some(wanted) = self.spool.asked.remove(&(caller.conn, caller.call)) else { return };
        let file = self.spool.files.iter().position(|(_, replay)| *replay == Some(caller));
        match (reply, file) {
            (Ok(_), None) => {}
            (Ok(_), Some(at)) => {
                self.spool.files.remove(at);
                self.resume(&wanted.key);
            }
            (Err(_), Some(at)) => {
                self.spool.files[at].1 = None;
                self.events.push(Event::Replay);
            }
            (Err(_), None) => {
                self.write_down(wanted);
                self.events.push(Event::Replay);
            }
        }
    }

    /// The ledger answers a call: that a release succeeds means that its end is on the disk.
    pub fn check_on_disk(&self, caller: Caller, reply: &Result<Reply, LedgerError>) {
        let wanted = self.spool.asked.get(&(caller.conn, caller.call)).filter(|_| reply.is_ok());
        let Some(wanted) = wanted else { return };
        let Some(entry) = self.disk.journal.get(&wanted.key.to_string()) else { return };
        // What proof ends is proved again after a crash, and its removal from the journal may wait.
        let is_over =
            |known: &Entry| known.txn != entry.txn || matches!(known.phase, Phase::Releasing | Phase::Held);
        let proved = self.ledger.as_ref().and_then(|ledger| ledger.entry(&wanted.key)).is_none_or(is_over);
        let ended = entry.del_seen || is_over(entry) || wanted.ends.as_ref() != Some(&entry.txn) || proved;
        assert!(ended, "a release of {} was told success, and the journal has {entry:?}", wanted.key);
    }
}
