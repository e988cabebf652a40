//! One attachment as the agent's own file keeps it, and what is only in memory beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::confirm::{Binding, Silence};
use super::conflict::{Claimed, MacRead};
use super::hearing::Span;
use super::hidden::Listening;
use super::io::{Caller, Source};
use super::leak::Exits;
use super::pace::{self, Pace};
use super::reason::Reason;
use super::repeat::Repeat;
use super::sight::Where;
use crate::attachment::{AttachmentKey, PodRef, Role};
use crate::config::LinkSpec;
use crate::evidence::{Departure, Epoch, Inhabitants, Intent, SearchFact, WireFact};
use crate::identity::{BootId, MachineId, NetnsCookie, NetnsIdentity, Nsid, TxnId};
use crate::mac::{Mac, SALTS};
use crate::name::{IfName, NetworkName, NodeName, PoolName, SegmentName};
use crate::record::{AddressKey, LeaseRecord};
use crate::time::Time;

/// Progress of an attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The intent is journaled; whether the records exist is not known.
    Intent,
    /// The records exist; the plugin may make the link.
    Reserved,
    /// The link is known; the ADD is still open.
    Bound,
    /// The ADD is closed.
    Done,
    /// Proven over; the records are kept for the next sandbox of its pod.
    Held,
    /// The evidence is in: the records are being deleted.
    Releasing,
}

impl Phase {
    /// True if a plugin's transaction is still open.
    pub const fn is_open(self) -> bool {
        matches!(self, Self::Intent | Self::Reserved | Self::Bound)
    }
}

/// One address of an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Held {
    /// The pool it came from.
    pub pool: PoolName,
    /// Its L2 domain.
    pub segment: SegmentName,
    /// Address that is held.
    pub address: IpAddr,
    /// Number of this holder in the sequence of holders of the address.
    pub generation: u64,
}

impl Held {
    /// Key of its record.
    pub fn key(&self) -> AddressKey {
        AddressKey { segment: self.segment.clone(), address: self.address }
    }
}

/// An attachment, as journaled. It carries all that its DEL and its judgement need, so that a
/// network or pool may be deleted while it lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Entry {
    /// Key of the attachment.
    #[serde(flatten)]
    pub key: AttachmentKey,
    /// The CNI network name.
    pub cni_network: NetworkName,
    /// The role of the plugin.
    pub role: Role,
    /// The ADD that made it.
    pub txn: TxnId,
    /// Progress of the attachment.
    pub phase: Phase,
    /// The namespace in which it was made.
    pub netns: NetnsIdentity,
    /// The number of the namespace in which the link is now (it may have been moved).
    pub at: Nsid,
    /// The namespace to which the link was followed; `None`: it is in `netns`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<NetnsIdentity>,
    /// The agent's own namespace in which these numbers were learnt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<NetnsCookie>,
    /// Its index there, once known.
    pub ifindex: Option<u32>,
    /// Its MAC, once known.
    pub mac: Option<Mac>,
    /// The pod, if named.
    pub pod: Option<PodRef>,
    /// Addresses of the attachment.
    pub held: Vec<Held>,
    /// The device in the node's namespace with a list that holds the MAC of the link; `None`: no list does.
    pub fdb_parent: Option<IfName>,
    /// The network's settle time.
    pub settle: Duration,
    /// The network's time for a leaked namespace.
    pub leaked_after: Option<Duration>,
    /// True if the runtime asked for its end.
    pub del_seen: bool,
    /// True if its namespace was seen inhabited.
    pub inhabited: bool,
    /// True if its record was seen to be missing, or is all that is known of it. Then another node may have
    /// given its addresses away meanwhile: they are neither held nor handed on without a question.
    #[serde(default)]
    pub exposed: bool,
    /// Departure of its link, if the kernel reported it: a restart must not forget that. `None`: the link was
    /// last read as there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub departure: Option<Departure>,
    /// The boot in which it was made.
    pub boot_id: BootId,
    /// The machine on which it was made.
    pub machine_id: MachineId,
}

impl Entry {
    /// The records that the store should hold for it.
    pub fn records(&self, node: &NodeName) -> Vec<LeaseRecord> {
        self.held.iter().map(|held| self.record(held, node)).collect()
    }

    fn record(&self, held: &Held, node: &NodeName) -> LeaseRecord {
        LeaseRecord {
            segment: held.segment.clone(),
            address: held.address,
            pool: held.pool.clone(),
            key: self.key.clone(),
            cni_network: self.cni_network.clone(),
            role: self.role,
            node: node.clone(),
            boot_id: self.boot_id.clone(),
            machine_id: self.machine_id.clone(),
            pod: self.pod.clone(),
            netns: self.netns.clone(),
            place: self.place,
            txn: self.txn.clone(),
            mac: self.mac,
            generation: held.generation,
        }
    }

    /// An entry for a record that no entry knows: adopted to be judged. Its link is to be found by
    /// its derived MAC; nothing about it is assumed to be over.
    /// `former`: the place of numbers in records that do not say theirs.
    pub fn adopted(
        record: &LeaseRecord,
        link: Option<&LinkSpec>,
        settle: Duration,
        former: Option<NetnsCookie>,
    ) -> Self {
        Self {
            key: record.key.clone(),
            cni_network: record.cni_network.clone(),
            role: record.role,
            txn: record.txn.clone(),
            phase: Phase::Done,
            netns: record.netns.clone(),
            at: record.netns.nsid,
            moved: None,
            place: record.place.or(former),
            ifindex: None,
            mac: record.mac,
            pod: record.pod.clone(),
            held: vec![Held {
                pool: record.pool.clone(),
                segment: record.segment.clone(),
                address: record.address,
                generation: record.generation,
            }],
            fdb_parent: link.and_then(|link| fdb_parent(link, record.role)),
            settle,
            leaked_after: None,
            del_seen: false,
            inhabited: false,
            exposed: false,
            departure: None,
            boot_id: record.boot_id.clone(),
            machine_id: record.machine_id.clone(),
        }
    }

    /// The MACs that its link may have: the known one, else all that Berth would derive.
    pub fn macs(&self) -> Vec<Mac> {
        match self.mac {
            Some(mac) => vec![mac],
            None if self.role == Role::Main => (0..SALTS).map(|salt| Mac::derive(&self.key, salt)).collect(),
            None => Vec::new(),
        }
    }

    /// Its pod, or its container where none was named, in words.
    pub fn holder(&self) -> String {
        match &self.pod {
            Some(pod) => format!("{}/{}", pod.namespace, pod.name),
            None => self.key.container_id.to_string(),
        }
    }

    /// The identity of the namespace in which its link is.
    pub fn identity(&self) -> &NetnsIdentity {
        self.moved.as_ref().unwrap_or(&self.netns)
    }

    /// The namespace in which its link is, in a boot in which its numbers mean something.
    pub fn location(&self, place: Option<NetnsCookie>) -> Where {
        let netns = self.identity();
        if self.moved.is_none() && self.at != self.netns.nsid {
            // Followed by a version that kept no identity of the namespace: the number is all that is known of it.
            let counts = self.at.is_drawn() && self.place == place;
            return if counts { Where::Number(self.at) } else { Where::Nowhere };
        }
        if self.place == place { Where::here(netns.clone()) } else { Where::Sought(netns.clone()) }
    }

    /// True if its link is in the namespace in which it was made.
    pub fn is_at_home(&self) -> bool {
        self.moved.is_none() && self.at == self.netns.nsid
    }

    /// The link is in that namespace, as the agent's own namespace `place` numbers it.
    pub fn is_in(&mut self, netns: NetnsIdentity, place: Option<NetnsCookie>) {
        self.at = netns.nsid;
        self.place = place;
        if netns.cookie == self.netns.cookie {
            self.netns = netns;
            self.moved = None;
        } else {
            self.moved = Some(netns);
        }
    }

    /// Its addresses without more.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.held.iter().map(|held| held.address).collect()
    }

    /// One of its addresses with its segment.
    pub fn held_key(&self, address: IpAddr) -> Option<AddressKey> {
        self.held.iter().find(|held| held.address == address).map(Held::key)
    }
}

/// The device with a list of unicast MACs that shows an attachment's link, if there is one.
pub fn fdb_parent(link: &LinkSpec, role: Role) -> Option<IfName> {
    match role {
        Role::Delegate => None,
        Role::Main | Role::Chained => link.macvlan_parent(),
    }
}

/// State of an attachment in addition to its entry. A restart loses it, on purpose: then every fact counts as
/// unknown until it is read again.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one independent thing under way, not a state in disguise"
)]
pub struct Live {
    /// Connection of the open transaction.
    pub owner: Option<u64>,
    /// Repeated ADDs that were answered and have not ended.
    pub repeats: Vec<Repeat>,
    /// Counts changes that make a report under way meaningless.
    pub stamp: u64,
    /// True if a commit is under way.
    pub committing: bool,
    /// True if its ADD was never granted. Then all records that were written for it are taken back, and
    /// nothing else needs to be known.
    pub vain: bool,
    /// One of its addresses, if another MAC claims it. Before its records are written, the attachment does
    /// not get its addresses. After its end the addresses are not given without a question.
    pub disputed: Option<IpAddr>,
    /// The MAC that a read showed on its link in place of the one that was bound.
    pub mac_read: Option<MacRead>,
    /// A claim for one of its addresses that waits for a read of the attachment.
    pub claimed: Option<Claimed>,
    /// The MACs of others that spoke for addresses of it, up to a number.
    pub rivals: BTreeSet<(AddressKey, Mac)>,
    /// The transactions of those that handed over to it by a write of unknown outcome: its records may
    /// still be theirs.
    pub givers: Vec<TxnId>,
    /// Records that turned out to name another transaction of its own or of a giver.
    pub of: BTreeMap<AddressKey, TxnId>,
    /// True if its link is being removed.
    pub removing: bool,
    /// Departure of a missing link.
    pub departure: Departure,
    /// True if a program saw the teardown of the very device after it had left. No report and no loss of
    /// events changes that later.
    pub device_ended: bool,
    /// True if netlink lost events since the link was last read as there.
    pub gap: bool,
    /// True if an end of a link at its place was reported while it was not known if that is still its link.
    pub gone_in_gap: bool,
    /// True if the next read shall search for the link.
    pub search_again: bool,
    /// Sources that reported the departure of its link or the end of its namespace, the first one first.
    /// Empty: no source since the link was last read as there.
    pub told: Vec<Source>,
    /// The last search.
    pub search: SearchFact,
    /// Since when the link has been missing.
    pub missing_since: Option<Time>,
    /// Time of the next read.
    pub recheck_at: Option<Time>,
    /// Number of repeated reads without a change.
    pub rechecks: u32,
    /// The reads for hints.
    pub reads: Pace,
    /// The searches for hints.
    pub searches: Pace,
    /// Answer of the wire.
    pub wire: WireFact,
    /// The silence that its open ADD rests on.
    pub silence: Silence,
    /// A bind that waits for the wire.
    pub binding: Option<Binding>,
    /// Answers of the links under the parent about its addresses, after its link left the sight of every
    /// search.
    pub listening: Listening,
    /// The span of its port's hearing in which it alone was known to have its addresses.
    pub heard_alone: Option<Span>,
    /// Evidence about the inhabitants of the namespace.
    pub inhabitants: Inhabitants,
    /// Tasks seen in the namespace, and when first.
    pub tenants: BTreeMap<(i32, u64), Time>,
    /// Exits of tasks in the namespace.
    pub exits: Exits,
    /// Time of the first in the row of complete scans that saw no task in it.
    pub empty_since: Option<Time>,
    /// Time at which its pod was last asked for by a live read.
    pub pod_asked: Option<Time>,
    /// Time at which a live read reported that its pod is no longer wanted.
    pub pod_over: Option<Time>,
    /// The id of the table's row that fits.
    pub reason: Reason,
    /// True if that row says suspect.
    pub suspect: bool,
    /// Since when the present state holds.
    pub since: Time,
    /// Since when no verdict settled it, whatever reasons alternate; `None`: settled.
    pub unsettled_since: Option<Time>,
    /// Part that the last search did not see, if it was incomplete.
    pub unsearched: Option<String>,
    /// An open transaction without a connection is undone at this time.
    pub orphaned_at: Option<Time>,
    /// Until when a held address is kept.
    pub held_until: Option<Time>,
    /// True if the disk has the intent that it is over.
    pub end_saved: bool,
    /// DELs waiting for the release, and until when.
    pub del_waiters: Vec<(Caller, Time)>,
    /// Operators that wait for the judgement.
    pub operators: Vec<Caller>,
    /// Reason for which its release leaves its addresses in quarantine; `None`: it does not.
    pub quarantine: Option<Reason>,
}

impl Live {
    /// A read showed the link: what was known of its absence, and since when, is over.
    pub fn link_is_there(&mut self) {
        self.departure = Departure::Unheard;
        self.device_ended = false;
        self.gap = false;
        self.gone_in_gap = false;
        self.told.clear();
        self.search = SearchFact::NotMade;
        self.listening = Listening::Unasked;
        self.missing_since = None;
    }

    /// A new attachment, or one from the journal, of which nothing has been read yet.
    pub fn new(now: Time, reason: Reason, departure: Departure) -> Self {
        Self {
            owner: None,
            repeats: Vec::new(),
            stamp: 0,
            committing: false,
            vain: false,
            disputed: None,
            mac_read: None,
            claimed: None,
            rivals: BTreeSet::new(),
            givers: Vec::new(),
            of: BTreeMap::new(),
            removing: false,
            departure,
            device_ended: false,
            gap: false,
            gone_in_gap: false,
            search_again: false,
            told: Vec::new(),
            search: SearchFact::NotMade,
            missing_since: None,
            recheck_at: None,
            rechecks: 0,
            reads: Pace::new(pace::READS),
            searches: Pace::new(pace::SEARCHES),
            wire: WireFact::NotAsked,
            silence: Silence::Former,
            binding: None,
            listening: Listening::Unasked,
            heard_alone: None,
            inhabitants: Inhabitants::Assumed,
            tenants: BTreeMap::new(),
            exits: Exits::default(),
            empty_since: None,
            pod_asked: None,
            pod_over: None,
            reason,
            suspect: false,
            since: now,
            unsettled_since: None,
            unsearched: None,
            orphaned_at: None,
            held_until: None,
            end_saved: false,
            del_waiters: Vec::new(),
            operators: Vec::new(),
            quarantine: None,
        }
    }
}

/// An entry and what is in memory beside it.
#[derive(Debug, Clone)]
pub struct Slot {
    /// Entry as journaled.
    pub entry: Entry,
    /// State in memory.
    pub live: Live,
}

impl Slot {
    /// Relation of the entry's epoch to the present one.
    pub fn epoch(&self, boot: &BootId, machine: &MachineId) -> Epoch {
        if self.entry.machine_id != *machine {
            Epoch::OtherMachine
        } else if self.entry.boot_id != *boot {
            Epoch::Rebooted
        } else {
            Epoch::Same
        }
    }

    /// Begins its end, by a DEL or an undone ADD.
    pub fn end(&mut self) {
        if !std::mem::replace(&mut self.entry.del_seen, true) {
            // A search made before did not ask whether another link has its MAC.
            self.live.search = SearchFact::NotMade;
        }
    }

    /// Its addresses reached no client and will not: no link is evidence of its life, also after a crash.
    pub fn annul(&mut self) {
        self.live.vain = true;
        self.end();
    }

    /// Intent for the attachment.
    pub fn intent(&self) -> Intent {
        if !self.entry.del_seen {
            Intent::Live
        } else if self.entry.role == Role::Main {
            if self.entry.phase.is_open() { Intent::UndoOwnLink } else { Intent::EndOwnLink }
        } else if self.entry.phase != Phase::Done {
            Intent::UndoForeignLink
        } else {
            Intent::EndForeignLink
        }
    }
}

/// A former holder with an interface that may still be up. The node's own wire cannot hear it, so the kernel
/// is asked before the address is given again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Guard {
    /// Key of the former holder.
    pub holder: AttachmentKey,
    /// The MACs that its link may have.
    pub macs: Vec<Mac>,
    /// The device with a list that shows them.
    pub fdb_parent: Option<IfName>,
    /// Part that the last search for its link did not see.
    #[serde(skip)]
    pub unsearched: Option<String>,
}

/// An address that is not given, because something answers for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Quarantined {
    /// Key of the address.
    #[serde(flatten)]
    pub key: AddressKey,
    /// Pool of the address.
    pub pool: PoolName,
    /// MACs that answer for it.
    pub macs: Vec<Mac>,
    /// Reason code of the quarantine.
    pub reason: String,
    /// The former holder, where an operator forced the release and its interface may still be up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    /// Time of the last claim that was heard; in memory only, because clocks do not survive a boot.
    #[serde(skip)]
    pub heard_at: Time,
    /// Since when; in memory only.
    #[serde(skip)]
    pub since: Time,
    /// Number of rounds in a row that found it silent and that the links under the parent heard too; in
    /// memory only.
    #[serde(skip)]
    pub unanswered: u8,
}
