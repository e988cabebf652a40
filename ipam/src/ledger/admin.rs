//! An operator frees an address: refused on evidence of life, which is named; with force the
//! address is quarantined first.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::Ledger;
use super::commit::Pending;
use super::entry::Phase;
use super::io::{Caller, Flush, JournalWrite, LedgerError, NoteKind, Reply, Step};
use super::reason::Reason;
use crate::name::SegmentName;
use crate::record::AddressKey;
use crate::time::Time;

/// Number of operators that may wait for the judgement of one attachment.
const OPERATORS_MAX: usize = 16;

impl Ledger {
    /// The one segment in which an address is in use, or the named one. `None`: it is in use in none.
    pub fn segment_in_use(
        &self,
        address: IpAddr,
        named: Option<&SegmentName>,
    ) -> Result<Option<SegmentName>, LedgerError> {
        let keys = || {
            let books = self.holders.keys().chain(self.quarantine.keys()).chain(self.shared.abroad.keys());
            books.chain(self.occupied.keys())
        };
        let mut used: BTreeSet<_> =
            keys().filter(|key| key.address == address).map(|key| key.segment.clone()).collect();
        if let Some(named) = named {
            let declared = self.config.pools.values().map(|pool| &pool.segment);
            let known: BTreeSet<_> = declared.chain(keys().map(|key| &key.segment)).cloned().collect();
            if !known.contains(named) {
                return Err(LedgerError::UnknownSegment { segment: named.clone(), known });
            }
            return Ok(Some(named.clone()));
        }
        if used.len() > 1 {
            return Err(LedgerError::Ambiguous { address, segments: used });
        }
        Ok(used.pop_first())
    }

    pub(super) fn admin_release(
        &mut self,
        now: Time,
        caller: Caller,
        (address, segment): (IpAddr, Option<SegmentName>),
        force: bool,
    ) {
        let key = match self.segment_in_use(address, segment.as_ref()) {
            Ok(segment) => segment.map(|segment| AddressKey { segment, address }),
            Err(error) => return self.reply(caller, Step::Other, Err(error)),
        };
        if let Some(shut) = key.as_ref().and_then(|key| self.quarantine.get(key)).cloned() {
            if !force {
                let text = format!(
                    "{address} is quarantined; it is free again as soon as the wire is silent for it"
                );
                return self.reply(caller, Step::Other, Ok(Reply::Released(text)));
            }
            if let Some(guard) = shut.guard {
                let evidence =
                    "its interface may still be up, and the node's own wire cannot hear it".to_owned();
                let error = LedgerError::Alive { address, key: guard.holder, evidence };
                return self.reply(caller, Step::Other, Err(error));
            }
            self.quarantine.remove(&shut.key);
            self.give_back(now, &shut.key);
            let journal = vec![JournalWrite::Unquarantine(shut.key)];
            self.commit(Pending::Nothing, Step::Other, journal, Flush::Lazy, Vec::new());
            let text = format!("{address} left the quarantine by force");
            self.serve_line(now);
            return self.reply(caller, Step::Other, Ok(Reply::Released(text)));
        }
        let holder = key.as_ref().and_then(|key| self.holders.get(key)).cloned();
        let Some(key) = holder else {
            let abroad = key.as_ref().and_then(|key| self.shared.abroad.get(key));
            let reply = if let Some(abroad) = abroad {
                Err(LedgerError::HeldAbroad { address, by: abroad.who.clone() })
            } else if let Some(text) = self.on_interface(address) {
                let text = format!("{address} is on {text}; it is free as soon as no interface has it");
                Ok(Reply::Released(text))
            } else {
                Err(LedgerError::Free(address))
            };
            return self.reply(caller, Step::Other, reply);
        };
        let Some(slot) = self.slots.get_mut(&key) else {
            return self.reply(caller, Step::Other, Err(LedgerError::NotRecorded(key)));
        };
        if slot.live.operators.len() >= OPERATORS_MAX {
            let evidence = format!("{OPERATORS_MAX} operators wait for its judgement");
            return self.reply(caller, Step::Other, Err(LedgerError::Alive { address, key, evidence }));
        }
        slot.live.operators.push(caller);
        if slot.entry.phase == Phase::Held {
            return self.end_hold(now, &key, Reason::Operator);
        }
        if force {
            slot.live.quarantine = Some(Reason::Forced);
            self.note(
                NoteKind::Action,
                "forced",
                vec![address],
                Some(&key),
                "an operator forced its release".into(),
            );
            self.finalize(now, &key, Reason::Forced);
        } else {
            self.gather(key, true);
        }
    }
}
