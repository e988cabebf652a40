//! Evidence: what is known of one attachment at one moment, as a handful of small facts.
//!
//! Each fact has a value for "unknown", and none of them is ever filled in by a guess: a read that
//! failed, a dump that was cut short and a question that was not asked are all different from "no".

use serde::{Deserialize, Serialize};

use crate::mac::Mac;
use crate::time::Time;

/// A claim to an address, heard while the wire was asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Claim {
    /// The MAC that claims the address.
    pub mac: Mac,
    /// The arrival of its last claim.
    pub at: Time,
}

/// Relation of the record's epoch to the present one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Epoch {
    /// Same boot of the same machine.
    Same,
    /// An earlier boot of the same machine.
    Rebooted,
    /// Another machine: this agent's kernel has no evidence about it.
    OtherMachine,
}

/// The namespace in which the link was last known to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NetnsFact {
    /// Its number resolves.
    Alive,
    /// Its number is unknown to the kernel: the namespace is gone.
    Dead,
    /// No namespace that can be named has its cookie, and its number proves nothing.
    Hidden,
    /// The read failed.
    Unknown,
}

/// The link, asked for by number of namespace and index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkFact {
    /// It is there with its MAC.
    Present,
    /// Something with that index is there, under another MAC.
    OtherMac,
    /// Nothing is there.
    Gone,
    /// It was never learnt which link it is (another plugin makes it).
    NeverSeen,
    /// The read failed.
    Unknown,
}

/// The MAC in the parent's list of unicast addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FdbFact {
    /// It is listed: an up macvlan has it, in whatever namespace.
    Present,
    /// It is listed, and a search found a macvlan of that parent that has it, is up and has no alias of the
    /// attachment; the kernel sets no second one up with that MAC.
    Another,
    /// A complete list does not hold it.
    Absent,
    /// This kind of link is never listed (passthru, VLAN device, a foreign main plugin, a macvlan on a parent with
    /// `l2-fwd-offload`).
    Blind,
    /// The list could not be read completely.
    Unknown,
}

/// Departure of a missing link, as far as events report it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Departure {
    /// The kernel said that it was deleted.
    Destroyed,
    /// The kernel said that it went to another namespace.
    Moved,
    /// No event reported it, and none was lost while the link was there to be seen.
    Unheard,
    /// Events were lost, or no source listened: it may have gone either way.
    EventsLost,
}

/// The search of every nameable namespace for the link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SearchFact {
    /// It was not made since the last change.
    NotMade,
    /// The link was found elsewhere.
    Found,
    /// A complete search did not find it.
    NotFound,
    /// A part could not be searched.
    Incomplete,
}

/// Evidence about the addresses on the interfaces of the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressFact {
    /// An interface has one.
    Present,
    /// A complete dump shows none.
    Absent,
    /// The dump was not made or not complete.
    Unknown,
}

/// Intent for the attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Intent {
    /// The attachment is wanted.
    Live,
    /// A DEL came, and the link is Berth's to remove.
    EndOwnLink,
    /// Its ADD is being undone, so the address was never handed on; the link is Berth's to remove.
    UndoOwnLink,
    /// A DEL came; the link is another plugin's.
    EndForeignLink,
    /// Its ADD is being undone, so the address was never handed on; the link is another plugin's.
    UndoForeignLink,
}

/// Evidence about the inhabitants of the namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Inhabitants {
    /// A task is in it, or it never had an inhabitant, or no scan was made: not known to be leaked.
    Assumed,
    /// It was inhabited, and complete scans far enough apart saw no task in it and none that holds it.
    Left,
}

/// The wire, asked about the addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WireFact {
    /// The wire was not asked.
    NotAsked,
    /// A whole round of probes was silent.
    Silent,
    /// Something answered for it.
    Answered,
    /// Links under the parent heard rounds of probes, and for ten seconds nothing was heard of the addresses.
    ChildrenSilent,
}

/// All that is known of one attachment. The verdict is a function of this alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Facts {
    /// The record's epoch.
    pub epoch: Epoch,
    /// State of its namespace.
    pub netns: NetnsFact,
    /// State of its link.
    pub link: LinkFact,
    /// Its MAC on the parent.
    pub fdb: FdbFact,
    /// Departure of a missing link.
    pub departure: Departure,
    /// The search for it.
    pub search: SearchFact,
    /// Its addresses in the namespace.
    pub address: AddressFact,
    /// Intent for the attachment.
    pub intent: Intent,
    /// Inhabitants of the namespace.
    pub inhabitants: Inhabitants,
    /// Answer of the wire.
    pub wire: WireFact,
    /// True if it has been missing for the network's settle time.
    pub settled: bool,
}

impl Facts {
    /// Nothing known beyond a living intent in this boot: the start of every judgement.
    pub const UNKNOWN: Self = Self {
        epoch: Epoch::Same,
        netns: NetnsFact::Unknown,
        link: LinkFact::Unknown,
        fdb: FdbFact::Unknown,
        departure: Departure::EventsLost,
        search: SearchFact::NotMade,
        address: AddressFact::Unknown,
        intent: Intent::Live,
        inhabitants: Inhabitants::Assumed,
        wire: WireFact::NotAsked,
        settled: false,
    };
}
