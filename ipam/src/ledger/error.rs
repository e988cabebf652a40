//! Reasons why the ledger refuses a request, in words that name the failure and its object.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::attachment::AttachmentKey;
use crate::identity::TxnId;
use crate::mac::Mac;
use crate::name::{IfName, NetworkName, PoolName, SegmentName};
use crate::ports::LeftOut;

/// Reason why a request was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// No such network is declared.
    #[error("network {0} is not declared on this node")]
    UnknownNetwork(NetworkName),
    /// The network names no usable pool.
    #[error("network {0} has no enabled pool")]
    NoPool(NetworkName),
    /// Another network is served on its port.
    #[error("network {network} is left out on this node: {why}")]
    LeftOut {
        /// Name of the network.
        network: NetworkName,
        /// Reason of the omission.
        why: Box<LeftOut>,
    },
    /// An address was asked for that no pool of the network may give.
    #[error("address {address} cannot be given: {why}")]
    NotGivable {
        /// Address that is asked for.
        address: IpAddr,
        /// Reason of the refusal.
        why: String,
    },
    /// A pool does not admit the pod, and no other pool of the network does.
    #[error("pool {pool} gives this pod no address: {why}")]
    NotAdmitted {
        /// Name of the pool.
        pool: PoolName,
        /// Reason of the refusal.
        why: String,
    },
    /// A MAC was asked for that is something else's on the segment.
    #[error("the MAC {mac} cannot be given: {why}")]
    MacRefused {
        /// MAC that is asked for.
        mac: Mac,
        /// Reason of the refusal.
        why: String,
    },
    /// A MAC was asked for that a predecessor of the pod did not leave in time.
    #[error("the MAC {mac} is still in use after {waited_ms} ms: {holder}")]
    MacInUse {
        /// MAC that is asked for.
        mac: Mac,
        /// Holder of the MAC.
        holder: String,
        /// Time that the ADD waited.
        waited_ms: u128,
    },
    /// No address became free in time.
    #[error("no free address in {pools} after {waited_ms} ms: {holders}")]
    Exhausted {
        /// The pools that were tried.
        pools: String,
        /// Time that the ADD waited.
        waited_ms: u128,
        /// Holders with their addresses.
        holders: String,
    },
    /// The network's link was edited after the address was recorded.
    #[error("the link of network {} was edited: {key} is recorded on {made_on}", .key.network)]
    Moved {
        /// Attachment of the request.
        key: AttachmentKey,
        /// The device on which it is recorded.
        made_on: IfName,
    },
    /// The attachment exists in another, living namespace.
    #[error("attachment {0} exists already in another namespace that is alive")]
    AttachmentExists(AttachmentKey),
    /// The ADD of the same attachment before this one has neither ended nor been undone.
    #[error("another ADD of {key} is not over after {waited_ms} ms: {state}")]
    FormerAdd {
        /// Attachment of the request.
        key: AttachmentKey,
        /// Time that this ADD waited.
        waited_ms: u128,
        /// The reason code of the attachment's state.
        state: &'static str,
    },
    /// A DEL came for the attachment before its ADD was over.
    #[error("attachment {0} was deleted while its ADD was under way")]
    Deleted(AttachmentKey),
    /// Bind or done for a transaction that is not open.
    #[error("transaction {0} of {1} is not open")]
    NotOpen(TxnId, AttachmentKey),
    /// Another host or interface came to have an address before the attachment used it.
    #[error("{address}, which was recorded for {key}, is in use by now: {by}")]
    TakenMeanwhile {
        /// Attachment of the request.
        key: AttachmentKey,
        /// Address in the error.
        address: IpAddr,
        /// The host or the interface.
        by: String,
    },
    /// The link read back is not the one that was announced.
    #[error("link {ifindex} of {key} is not what the plugin announced: {why}")]
    NotTheLink {
        /// Attachment of the request.
        key: AttachmentKey,
        /// The announced index.
        ifindex: u32,
        /// Fact that was found.
        why: String,
    },
    /// For all of its time the wire could not be asked.
    #[error("the wire on {device} could not be asked for {waited_ms} ms: {why}")]
    Wire {
        /// Device of the port.
        device: IfName,
        /// Time that the ADD waited.
        waited_ms: u128,
        /// Reason of the failure.
        why: String,
    },
    /// Journal or store refused a write.
    #[error("the agent could not write its files: {0}")]
    Storage(String),
    /// A cause other than a lack of addresses kept the ADD waiting for all of its time.
    #[error("no address could be recorded within {waited_ms} ms: {why}")]
    Barred {
        /// Time that the ADD waited.
        waited_ms: u128,
        /// Cause of the wait.
        why: String,
    },
    /// CHECK: nothing is recorded for the attachment.
    #[error("no address is recorded for {0}")]
    NotRecorded(AttachmentKey),
    /// GC: not every attachment that the runtime no longer has could be judged.
    #[error("of {network} could not be judged: {}", .problems.join("; "))]
    NotCollected {
        /// The CNI network.
        network: NetworkName,
        /// Each with its reason.
        problems: Vec<String>,
    },
    /// An operator asked for an address that has no holder.
    #[error("address {0} is free")]
    Free(IpAddr),
    /// An operator named an address that is in use in several segments.
    #[error("address {address} is in use in several segments: {}", listed(segments))]
    Ambiguous {
        /// Address of the request.
        address: IpAddr,
        /// Segments in which it is in use.
        segments: BTreeSet<SegmentName>,
    },
    /// An operator named a segment in which nothing is declared or in use.
    #[error("segment {segment} is in no declaration and no record; known are: {}", listed(known))]
    UnknownSegment {
        /// Name of the segment.
        segment: SegmentName,
        /// Those that there are.
        known: BTreeSet<SegmentName>,
    },
    /// An operator asked to free an address of another node's.
    #[error("address {address} is held by {by}")]
    HeldAbroad {
        /// Address of the request.
        address: IpAddr,
        /// Holder of the address.
        by: String,
    },
    /// An operator asked to free an address that shows life.
    #[error("address {address} is in use by {key}: {evidence}")]
    Alive {
        /// Address of the request.
        address: IpAddr,
        /// Attachment that holds it.
        key: AttachmentKey,
        /// Evidence that shows it.
        evidence: String,
    },
}

fn listed(segments: &BTreeSet<SegmentName>) -> String {
    segments.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
