//! An operator frees an address: refused on evidence of life, which is named; with force the
//! address is quarantined first.

use std::net::IpAddr;

use super::Ledger;
use super::commit::Pending;
use super::entry::Phase;
use super::io::{Caller, Flush, JournalWrite, LedgerError, NoteKind, Reply, Step};
use crate::time::Time;

/// How many operators may wait for the judgement of one attachment.
const OPERATORS_MAX: usize = 16;

impl Ledger {
    pub(super) fn admin_release(&mut self, now: Time, caller: Caller, address: IpAddr, force: bool) {
        if let Some(shut) = self.quarantine.values().find(|shut| shut.key.address == address).cloned() {
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
        let holder = self.holders.iter().find(|(key, _)| key.address == address).map(|(_, key)| key.clone());
        let Some(key) = holder else {
            let reply = self.on_interface(address).map_or(Err(LedgerError::Free(address)), |text| {
                Ok(Reply::Released(format!(
                    "{address} is on {text}; it is free as soon as no interface has it"
                )))
            });
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
            return self.end_hold(now, &key, "operator");
        }
        if force {
            slot.live.quarantine = Some("forced");
            self.note(
                NoteKind::Action,
                "forced",
                vec![address],
                Some(&key),
                "an operator forced its release".into(),
            );
            self.finalize(now, &key, "forced");
        } else {
            self.gather(key, true);
        }
    }
}
