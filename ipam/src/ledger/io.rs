//! Input and output of the ledger. Nothing else crosses its edge.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ipnetwork::IpNetwork;

use super::entry::{Entry, Quarantined};
pub use super::error::LedgerError;
pub use super::hearing::Hearing;
use super::occupied::Survey;
pub use super::sight::SearchOutcome;
use super::sight::{Bound, Where};
use crate::access::Standing;
use crate::attachment::{AttachmentKey, PodRef, Role};
use crate::config::{Config, LinkSpec, Route, Wire};
use crate::evidence::{AddressFact, Claim, FdbFact, Intent, LinkFact, NetnsFact};
use crate::identity::{NetnsCookie, NetnsIdentity, Nsid, TxnId};
use crate::mac::Mac;
use crate::name::{ContainerId, IfName, NetworkName, PoolName, SegmentName};
use crate::ports::Interfaces;
use crate::record::{AddressKey, LeaseRecord};
use crate::time::Time;

/// One call on one connection: where an answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Caller {
    /// Number of the connection.
    pub conn: u64,
    /// The call's id on it.
    pub call: u64,
}

/// ADD, first step, as the ledger sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseRequest {
    /// Names the ADD.
    pub txn: TxnId,
    /// Attachment of the ADD.
    pub key: AttachmentKey,
    /// The CNI network name.
    pub cni_network: NetworkName,
    /// The role of the plugin.
    pub role: Role,
    /// The pod's namespace.
    pub netns: NetnsIdentity,
    /// The pod, if named.
    pub pod: Option<PodRef>,
    /// Addresses asked for.
    pub ips: Vec<IpAddr>,
    /// True if the interface has these addresses already, from another IPAM. Then the lease is of exactly
    /// them.
    pub adopt: bool,
    /// MAC that another plugin or the user decided.
    pub mac: Option<Mac>,
    /// Time limit of the wait; `None`: the time limit of the network.
    pub add_timeout: Option<Duration>,
    /// Facts of the cluster about the pod, as far as [`crate::ledger::Ledger::needs`] asks for them.
    pub standing: Standing,
}

/// Report of the plugin about the link in a DEL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkRemoval {
    /// It is gone, or its addresses are.
    Gone,
    /// The namespace cannot be opened.
    Unreachable,
    /// Another plugin removes the link.
    NotMine,
}

/// Event that the ledger takes.
#[derive(Debug, Clone)]
pub enum Input {
    /// The journal and the store were read, and the node was searched: repair, then serve.
    Loaded(Box<Loaded>),
    /// ADD, first step.
    Lease(Caller, Box<LeaseRequest>),
    /// ADD, second step. `seen` is what the agent's own read of that link said.
    Bind(Caller, TxnId, AttachmentKey, u32, Mac, LinkSeen),
    /// ADD, last step.
    Done(Caller, TxnId, AttachmentKey),
    /// DEL, or an ADD that its plugin undoes (then with its transaction). `None`: from the spool.
    Release(Option<Caller>, AttachmentKey, LinkRemoval, Option<TxnId>),
    /// CHECK of an attachment.
    Check(Caller, AttachmentKey),
    /// GC of a CNI network: these attachments are all that its runtime still has.
    Gc(Caller, NetworkName, BTreeSet<(ContainerId, IfName)>),
    /// A connection ended.
    Hangup(u64),
    /// An operator wants an address freed, in a named segment or in the only one in which it is in use;
    /// with force in spite of evidence of life.
    AdminRelease(Caller, (IpAddr, Option<SegmentName>), bool),
    /// A hint from the kernel, and its source.
    Kernel(Source, KernelHint),
    /// The reads that [`Action::Gather`] asked for.
    Gathered(Vec<Observation>),
    /// Report of a scan of all tasks.
    Scanned(ScanReport),
    /// All probes of that round for these addresses came back in on its device, so that the links under it
    /// heard them. It comes before [`Input::Probed`].
    Reached(u64, BTreeSet<IpAddr>),
    /// A round of probes is over.
    Probed(u64, ProbeResult),
    /// A frame claims an address on a device of this node.
    Heard(HeardOnWire),
    /// Hearing of the port on this device.
    Hearing(IfName, Hearing),
    /// A commit is over.
    Committed(u64, CommitResult),
    /// A link was removed, or not.
    LinkRemoved(AttachmentKey, RemoveResult),
    /// Berth MACs on the parents that no entry explains.
    Strays(Vec<Stray>),
    /// The interfaces of this node that [`Action::Survey`] asked for, after all hints that were queued by then.
    Surveyed(Survey),
    /// The operator's files changed.
    Declared(Box<Config>),
    /// Meaning of the names of devices on this node ([`super::Ledger::named_devices`]).
    Interfaces(Interfaces),
    /// News of a store that other nodes write too.
    Store(StoreNews),
    /// News of this node's pods.
    Pods(PodNews),
    /// Something outside the ledger keeps ADDs waiting, by its code, or (`None`) does so no more.
    Bar(&'static str, Option<String>),
    /// The time advanced.
    Tick,
}

/// News about a store that other nodes write too. All of it may be late, except live reads.
#[derive(Debug, Clone)]
pub enum StoreNews {
    /// All of its records, at start and whenever events were missed.
    Listed {
        /// Those that can be read.
        records: Vec<LeaseRecord>,
        /// Addresses of the other records, by their names.
        unreadable: Vec<AddressKey>,
    },
    /// A record was created or changed.
    Recorded(Box<LeaseRecord>),
    /// A record was deleted; this is how it was last.
    Erased(Box<LeaseRecord>),
    /// A record that cannot be read was created or changed.
    Unreadable(AddressKey),
    /// One that could not be read was deleted.
    UnreadableErased(AddressKey),
    /// The live read that [`Action::LookUp`] asked for.
    Looked(AddressKey, Option<Box<LeaseRecord>>),
    /// That read failed.
    LookFailed(AddressKey),
}

/// News about the pods of this node, by the uid that a runtime calls them by.
#[derive(Debug, Clone)]
pub enum PodNews {
    /// The uids of all wanted pods: neither terminal nor being deleted.
    Listed(BTreeSet<String>),
    /// A pod is wanted.
    Wanted(String),
    /// A pod is no longer wanted.
    Unwanted(String),
    /// The live read that [`Action::LookUpPod`] asked for: true if that pod is wanted. `None`: the read
    /// failed.
    Looked(AttachmentKey, Option<bool>),
}

/// The plugin's link as the agent's own read shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkSeen {
    /// It is there with this MAC.
    There(Mac),
    /// It is not there.
    NotThere,
    /// The read failed.
    Unreadable,
}

/// Facts that are found at start.
#[derive(Debug, Clone, Default)]
pub struct Loaded {
    /// The journal's attachments.
    pub entries: Vec<Entry>,
    /// The journal's quarantine.
    pub quarantine: Vec<Quarantined>,
    /// The store's records.
    pub records: Vec<LeaseRecord>,
    /// Berth's links on the node, wherever they are, and Berth's MACs on the parents.
    pub strays: Vec<Stray>,
    /// The agent's own namespace: numbers of namespaces mean something in it alone.
    pub place: Option<NetnsCookie>,
    /// The same when the agent ran before in this boot, or now: records of older versions do not say theirs.
    pub former_place: Option<NetnsCookie>,
    /// True if events of pods' namespaces are heard. If false, a missing link may always have moved.
    pub hears_all: bool,
}

/// A link or MAC of Berth's making, found on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stray {
    /// MAC of the link.
    pub mac: Mac,
    /// The device with the MAC in its list, if the MAC is seen in one.
    pub parent: Option<IfName>,
    /// Place of the link, if the search found it.
    pub found: Option<StrayLink>,
    /// The addresses of the link that puts the MAC on the list; `None`: which link that is, or what it has,
    /// is not known.
    pub carried: Option<Vec<IpAddr>>,
    /// True if that link has an alias that begins as Berth's do.
    pub marked: bool,
    /// The link and its namespace in words, if the search found it.
    pub place: Option<String>,
}

/// A stray link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StrayLink {
    /// The attachment that its alias names.
    pub key: Option<AttachmentKey>,
    /// The cookie of the namespace in which it is.
    pub cookie: Option<NetnsCookie>,
    /// That namespace's number.
    pub at: Nsid,
    /// True if that number was drawn at random.
    pub at_is_random: bool,
    /// That namespace's inode.
    pub inode: u64,
    /// Its index there.
    pub ifindex: u32,
    /// Addresses of the link.
    pub addresses: Vec<IpAddr>,
}

/// Source of a hint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Messages of the kernel's about links and namespaces.
    Netlink,
    /// A program in the kernel, on the rung of that name.
    Program(&'static str),
    /// A packet socket on a parent.
    Socket,
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Netlink => "netlink",
            Self::Program(rung) => rung,
            Self::Socket => "packet socket",
        })
    }
}

/// A hint: something to look at. No hint decides anything alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelHint {
    /// The link of an attachment is being torn down, and perhaps its whole namespace with it. Only
    /// programs name attachments.
    LinkTornDown(AttachmentKey, bool),
    /// The link of an attachment is leaving its namespace, or its queueing discipline is replaced.
    LinkLeaving(AttachmentKey),
    /// The link of an attachment, which left its namespace before, is being torn down wherever it went: a program
    /// followed the device itself.
    DepartedTornDown(AttachmentKey),
    /// The namespace of these attachments ended.
    NamespaceEnded(Vec<AttachmentKey>),
    /// Some namespaces are about to end; which ones is not known.
    NamespacesEnding,
    /// A task in the namespace of these attachments exits, perhaps the last one.
    TaskExits(Vec<AttachmentKey>, i32),
    /// A link was deleted.
    LinkGone(Option<Nsid>, u32, Option<Mac>),
    /// A link went to another namespace.
    LinkMoved(Option<Nsid>, u32, Option<Mac>),
    /// A namespace ended.
    NamespaceGone(Nsid),
    /// An interface got an address; without a number, one of the agent's own namespace.
    AddressSeen(Option<Nsid>, u32, IpAddr),
    /// An interface lost an address.
    AddressGone(Option<Nsid>, u32, IpAddr),
    /// Events were lost.
    Overrun,
}

/// One attachment to read about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Attachment to read about.
    pub key: AttachmentKey,
    /// Repeated in the observation.
    pub stamp: u64,
    /// Place of the namespace.
    pub netns: Where,
    /// The link's index there; `None`: look for one of `macs`.
    pub ifindex: Option<u32>,
    /// The MACs that it may have; empty: unknown.
    pub macs: Vec<Mac>,
    /// The device with a list that shows the link.
    pub fdb_parent: Option<IfName>,
    /// Addresses of the attachment.
    pub addresses: Vec<IpAddr>,
    /// True if Berth made its link. Then the link has the attachment's alias, or a MAC derived for it.
    pub made_by_us: bool,
    /// True if every nameable namespace is searched for the link.
    pub search: bool,
    /// Intent for the attachment. If its end is wanted, its addresses are read even while its link is there.
    pub intent: Intent,
    /// The links of other attachments.
    pub bound: Bound,
}

/// Result of the reads about one attachment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// Attachment that was read.
    pub key: AttachmentKey,
    /// The target's stamp.
    pub stamp: u64,
    /// State of its namespace.
    pub netns: NetnsFact,
    /// State of its link.
    pub link: LinkFact,
    /// Its MAC on the parent.
    pub fdb: FdbFact,
    /// State of its addresses.
    pub address: AddressFact,
    /// Index and MAC of its link, if this read learnt them; with [`LinkFact::OtherMac`] the MAC that the link
    /// has.
    pub learnt: Option<(u32, Mac)>,
    /// The number that its namespace has here, where that was sought.
    pub number: Option<Nsid>,
    /// The search, if one was made.
    pub search: Option<SearchOutcome>,
}

/// Report of a scan of all tasks.
#[derive(Debug, Clone, Default)]
pub struct ScanReport {
    /// True if every task was readable.
    pub complete: bool,
    /// The inode of a namespace and a task in it (process id and start time); the agent's own
    /// tasks, plugins and their children are left out.
    pub tenants: Vec<(u64, (i32, u64))>,
    /// Inodes with any task in them now. All tasks count, because any pod can name its process like a plugin.
    pub occupied: BTreeSet<u64>,
    /// Inodes held by a descriptor or a socket of a process.
    pub held: BTreeSet<u64>,
    /// True if all descriptors and sockets were readable.
    pub holders_complete: bool,
    /// Tasks that were not readable, with process and name; a bounded number of them.
    pub unread: Vec<String>,
}

/// The end of a round of probes.
#[derive(Debug, Clone)]
pub enum ProbeResult {
    /// The claims to each address; an empty list is silence.
    Heard(Vec<(IpAddr, Vec<Claim>)>),
    /// The round could not be run.
    Failed(String),
}

/// A frame that spoke for an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeardOnWire {
    /// The wire on which it was heard.
    pub wire: Wire,
    /// Address that is claimed.
    pub address: IpAddr,
    /// MAC that claims the address.
    pub mac: Mac,
    /// True if the frame came from this node.
    pub outgoing: bool,
    /// The arrival of the frame.
    pub at: Time,
}

impl HeardOnWire {
    /// Claim of the frame to its address.
    pub fn claim(&self) -> Claim {
        Claim { mac: self.mac, at: self.at }
    }
}

/// Result of a link's removal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RemoveResult {
    /// It was removed.
    Removed,
    /// There was none.
    NotThere,
    /// The kernel refused.
    Failed(String),
}

/// A change of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalWrite {
    /// Write an attachment.
    Put(Box<Entry>),
    /// Forget an attachment.
    Remove(AttachmentKey),
    /// Write a quarantined address.
    Quarantine(Box<Quarantined>),
    /// Forget a quarantined address.
    Unquarantine(AddressKey),
}

/// A change of the store. Each is conditional on what the record says, so that repeating one is safe.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreWrite {
    /// Create the record if the address has none; success too if the record names this transaction.
    Create(Box<LeaseRecord>),
    /// Change the record, if it names the transaction `of`; create it, if there is none.
    Replace {
        /// The record as it shall be.
        record: Box<LeaseRecord>,
        /// The transaction of the owner that is replaced.
        of: TxnId,
    },
    /// Change the owner, if the record names the transaction `of`. Refused if there is none: then another
    /// owner may have had the address meanwhile.
    HandOver {
        /// The record as it shall be.
        record: Box<LeaseRecord>,
        /// The transaction of the owner that hands over.
        of: TxnId,
    },
    /// Delete the record, if it names the transaction `of`; success too if there is none.
    Delete {
        /// Address of the record.
        address: AddressKey,
        /// The transaction of its owner.
        of: TxnId,
    },
}

impl StoreWrite {
    /// Address of the record that the write changes.
    pub fn address_key(&self) -> AddressKey {
        match self {
            Self::Create(record) | Self::Replace { record, .. } | Self::HandOver { record, .. } => {
                record.address_key()
            }
            Self::Delete { address, .. } => address.clone(),
        }
    }
}

/// Result of one change of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreResult {
    /// The change is made.
    Done,
    /// There was none to delete. The change is made, but it is not known if the address had another owner
    /// meanwhile.
    NoneThere,
    /// There was none to hand over: not done.
    Lost,
    /// The record is another's.
    Others(Box<LeaseRecord>),
    /// It failed; whether it took effect is not known.
    Failed(String),
}

/// Result of a commit: the results of its store writes, in order, up to the first that was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommitResult {
    /// The journal was written.
    Journaled(Vec<StoreResult>),
    /// The journal was not written, so the store was not touched.
    Failed(String),
}

impl StoreResult {
    /// True if the change was made, or was not needed.
    pub const fn is_done(&self) -> bool {
        matches!(self, Self::Done | Self::NoneThere)
    }
}

impl CommitResult {
    /// Reason why the commit was not carried out in full; `None`: it was.
    pub fn refusal(&self) -> Option<String> {
        self.first(|result| match result {
            StoreResult::Done | StoreResult::NoneThere => None,
            StoreResult::Lost => Some("the record to be handed over is gone".to_owned()),
            StoreResult::Others(record) => {
                Some(format!("the record of {} is held by {}", record.address, record.key))
            }
            StoreResult::Failed(text) => Some(text.clone()),
        })
    }

    /// Failure of the disk or the store itself. A record of another owner is not a failure: it shows that the
    /// address is no longer this attachment's.
    pub fn trouble(&self) -> Option<String> {
        self.first(|result| match result {
            StoreResult::Failed(text) => Some(text.clone()),
            _ => None,
        })
    }

    fn first(&self, of: impl Fn(&StoreResult) -> Option<String>) -> Option<String> {
        match self {
            Self::Failed(text) => Some(text.clone()),
            Self::Journaled(results) => results.iter().find_map(of),
        }
    }
}

/// Time at which a journal write reaches the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flush {
    /// Before the commit goes on.
    Durable,
    /// With the next durable one.
    Lazy,
}

/// Step of a plugin's call to which a commit belongs; names the fault points of test builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// In a lease.
    Lease,
    /// In a bind.
    Bind,
    /// In a done.
    Done,
    /// In a release.
    Release,
    /// In another step.
    Other,
}

/// Action that the shell carries out.
#[derive(Debug, Clone)]
pub enum Action {
    /// Write the journal, then the store, in order; answer with [`Input::Committed`].
    Commit {
        /// Repeated in the answer.
        op: u64,
        /// For fault points.
        step: Step,
        /// Journal writes, made first.
        journal: Vec<JournalWrite>,
        /// Durability that the journal writes need before the store writes begin.
        flush: Flush,
        /// Then, one by one, up to the first that fails.
        store: Vec<StoreWrite>,
    },
    /// Answer a call.
    Reply(Caller, Step, Result<Reply, LedgerError>),
    /// Read; answer with [`Input::Gathered`], after all hints that were queued by then.
    Gather(Vec<Target>),
    /// Look for Berth MACs that no entry explains; answer with [`Input::Strays`].
    FindStrays,
    /// Read the interfaces of this node: the agent's own namespace, the lists of MACs of these devices, and the
    /// links under them in the namespaces that are named; answer with [`Input::Surveyed`].
    Survey {
        /// Repeated in the answer.
        number: u64,
        /// The devices, each with the names of its wire.
        devices: BTreeMap<IfName, BTreeSet<Wire>>,
        /// Namespaces to look into.
        at: BTreeSet<Nsid>,
        /// True if all namespaces that can be named are looked for and into.
        search: bool,
    },
    /// A report of the programs in the kernel is false: prove them again.
    ProvePrograms,
    /// Look at all tasks, and for these inodes at descriptors and sockets too; answer with [`Input::Scanned`].
    Scan(BTreeSet<u64>),
    /// Ask the wire; answer with [`Input::Probed`].
    Probe {
        /// Repeated in the answer.
        id: u64,
        /// The device to ask on.
        device: IfName,
        /// Addresses to ask for.
        addresses: Vec<IpAddr>,
        /// True if a call waits for the answer.
        urgent: bool,
        /// True if the links under the device shall hear the probes, if a program sees to it. Then
        /// [`Input::Reached`] comes too.
        reach: bool,
    },
    /// Announce on the wire of a device, by one frame each, that these addresses are at these MACs.
    Announce {
        /// Device to announce on.
        device: IfName,
        /// The claims of attachments on it.
        claims: Vec<(IpAddr, Mac)>,
    },
    /// Remove the link with that index (or, where it is unknown, with the attachment's alias or one of these MACs)
    /// from a namespace; answer with [`Input::LinkRemoved`].
    RemoveLink {
        /// Attachment of the link.
        key: AttachmentKey,
        /// Place of the namespace.
        netns: Where,
        /// Index of the link.
        ifindex: Option<u32>,
        /// The MACs that it may have; without them only the attachment's alias makes it removable.
        macs: Vec<Mac>,
    },
    /// Repair is over: requests are served from now on.
    Serve,
    /// The declared configuration was taken over, or refused with reasons.
    ConfigTaken(Result<(), Vec<String>>),
    /// Read the record of an address from the store, not from any cache; answer with
    /// [`StoreNews::Looked`] or [`StoreNews::LookFailed`].
    LookUp(AddressKey),
    /// Read the pod of an attachment, live, and answer with [`PodNews::Looked`].
    LookUpPod(AttachmentKey, PodRef),
    /// Something to remember and show.
    Note(Note),
}

/// Answer to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// To a lease.
    Grant(Box<Grant>),
    /// To everything else.
    Done,
    /// To an operator.
    Released(String),
}

/// Data that a plugin needs to make and configure the interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The network's link.
    pub link: LinkSpec,
    /// Addresses with their subnet's prefix length and router.
    pub addresses: Vec<(IpNetwork, Option<IpAddr>)>,
    /// Routes of the interface.
    pub routes: Vec<Route>,
    /// True if router advertisements are accepted.
    pub accept_ra: bool,
    /// The link that an ADD before this one bound, by index and MAC: this ADD repeats it.
    pub bound: Option<(u32, Mac)>,
}

/// Something to remember and show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Kind of the note.
    pub kind: NoteKind,
    /// A stable code: the id of a row of the verdict table, or one of docs/verdicts.md.
    pub code: &'static str,
    /// The addresses that it is about.
    pub addresses: Vec<IpAddr>,
    /// Their segment, where it is known.
    pub segment: Option<SegmentName>,
    /// The attachment that it is about.
    pub key: Option<AttachmentKey>,
    /// Description in words.
    pub text: String,
}

/// Kind of a [`Note`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoteKind {
    /// A fact from a source.
    Observation,
    /// Conclusion of the ledger from the facts.
    Verdict,
    /// Action that was carried out.
    Action,
    /// State that requires action.
    Warning,
}

/// The state of an address, for `leases`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// For an open ADD.
    Reserved,
    /// In use by an attachment.
    Bound,
    /// Perhaps no longer in use.
    Suspect,
    /// Over, and kept for the next sandbox of its pod.
    Held,
    /// Without a holder, and not given to any.
    Quarantined,
}

/// The counts of one pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolCount {
    /// Name of the pool.
    pub pool: PoolName,
    /// Its L2 domain.
    pub segment: SegmentName,
    /// Subnet of the pool.
    pub subnet: IpNetwork,
    /// Addresses in it.
    pub total: u128,
    /// Reserved or bound.
    pub bound: u64,
    /// Addresses that are suspect.
    pub suspect: u64,
    /// Kept for the next sandbox of their pods.
    pub held: u64,
    /// Recorded by other nodes.
    pub abroad: u64,
    /// Quarantined, or on an interface of this node.
    pub quarantined: u64,
    /// Addresses that are free.
    pub free: u128,
    /// ADDs in line.
    pub waiting: u64,
}

#[cfg(test)]
mod tests;
