//! What runtimes were told, and what they wait for, from the world's own truth.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use berth_ipam::attachment::AttachmentKey;
use berth_ipam::ledger::Ledger;
use berth_ipam::ledger::entry::Phase;
use berth_ipam::ledger::io::{Caller, Input};
use berth_ipam::time::Time;

use crate::world::Link;

/// The settle time of the simulated network.
const SETTLE: Duration = Duration::from_secs(2);

/// ADDs that were told success, and calls without an answer.
#[derive(Debug, Default)]
pub struct Promises {
    /// By attachment: the link and its addresses.
    kept: BTreeMap<AttachmentKey, (u32, Vec<IpAddr>)>,
    /// Attachments whose link was deleted in a living namespace, and when.
    missing: BTreeMap<AttachmentKey, Time>,
    /// Links that something outside of Berth took away.
    lost: BTreeSet<u32>,
    /// Attachments whose DEL came, with the calls that were under way then.
    ended: BTreeSet<(AttachmentKey, u64)>,
    /// By connection and call.
    open: BTreeMap<(u64, u64), String>,
}

impl Promises {
    /// A call comes, or its connection ends.
    pub fn asked(&mut self, input: &Input) {
        let caller = match input {
            Input::Lease(caller, _)
            | Input::Bind(caller, ..)
            | Input::Done(caller, ..)
            | Input::Release(Some(caller), ..)
            | Input::AdminRelease(caller, ..) => caller,
            Input::Hangup(conn) => return self.open.retain(|(other, _), _| other != conn),
            _ => return,
        };
        self.open.insert((caller.conn, caller.call), format!("{input:?}"));
    }

    /// An answer arrived.
    pub fn answered(&mut self, caller: Caller) {
        self.open.remove(&(caller.conn, caller.call));
    }

    /// All connections ended.
    pub fn hang_up(&mut self) {
        self.open.clear();
    }

    /// An ADD was told success, while nothing had ended it meanwhile.
    pub fn told(&mut self, conn: u64, key: AttachmentKey, ifindex: u32, addresses: Vec<IpAddr>) {
        if !self.lost.contains(&ifindex) && !self.ended.contains(&(key.clone(), conn)) {
            self.kept.insert(key, (ifindex, addresses));
        }
    }

    /// A DEL came for the attachment, or an operator forced its release, while ADDs on these connections ran.
    pub fn release(&mut self, key: &AttachmentKey, running: impl Iterator<Item = u64>) {
        self.kept.remove(key);
        self.missing.remove(key);
        self.ended.extend(running.map(|conn| (key.clone(), conn)));
    }

    /// Something outside of Berth took the link away.
    pub fn lost(&mut self, ifindex: u32) {
        self.lost.insert(ifindex);
        self.kept.retain(|_, (other, _)| *other != ifindex);
    }

    /// The same, and its namespace lives.
    pub fn deleted(&mut self, now: Time, key: &AttachmentKey, ifindex: u32) {
        if self.kept.get(key).is_some_and(|(other, _)| *other == ifindex) {
            self.missing.insert(key.clone(), now);
        }
        self.lost(ifindex);
    }

    /// The namespace of the attachment ended: its address is free at once.
    pub fn unsettle(&mut self, key: &AttachmentKey) {
        self.missing.remove(key);
    }

    /// All links ended.
    pub fn end(&mut self) {
        self.kept.clear();
        self.missing.clear();
    }

    /// No address is free before its link has been missing for the settle time.
    pub fn check_settled(&self, now: Time, ledger: Option<&Ledger>) {
        let Some(ledger) = ledger else { return };
        let soon = self.missing.iter().filter(|(_, since)| now.since(**since) < SETTLE);
        for (key, since) in soon {
            let entry = ledger.entry(key).filter(|entry| entry.phase != Phase::Releasing);
            assert!(entry.is_some(), "{key} is released at {now:?}, and its link is missing since {since:?}");
        }
    }

    /// Each has its link with its addresses, and a record that CHECK accepts.
    pub fn check(&self, links: &[Link], ledger: Option<&Ledger>) {
        for (key, (ifindex, addresses)) in &self.kept {
            let link = links.iter().find(|link| link.ifindex == *ifindex && link.key == *key);
            let has =
                link.is_some_and(|link| addresses.iter().all(|address| link.addresses.contains(address)));
            assert!(
                has,
                "an ADD of {key} was told success, and link {ifindex} with {addresses:?} is {link:?}"
            );
            let Some(ledger) = ledger else { continue };
            let recorded: BTreeSet<_> = ledger
                .entry(key)
                .filter(|entry| !entry.del_seen && !matches!(entry.phase, Phase::Held | Phase::Releasing))
                .map(|entry| entry.addresses().into_iter().collect())
                .unwrap_or_default();
            let all = addresses.iter().all(|address| recorded.contains(address));
            assert!(all, "an ADD of {key} was told {addresses:?}, and recorded is {:?}", ledger.entry(key));
        }
    }

    /// Nothing waits.
    pub fn check_answered(&self) {
        assert!(self.open.is_empty(), "never answered: {:?}", self.open.values().collect::<Vec<_>>());
    }
}
