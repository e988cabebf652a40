//! Events: what the programs put into the ring. Each is 64 bytes and starts with the same four.

use crate::bytes::layout;

/// Kind of the event; the second byte of every event. Unknown values are counted and skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A followed device is being torn down.
    DeviceDown = 1,
    /// A namespace with followed attachments has ended.
    NetnsEnd = 2,
    /// Some namespaces are about to be torn down; the event does not name them.
    NetnsHint = 3,
    /// A task in a namespace with followed attachments is exiting.
    TaskExit = 4,
    /// A frame claimed a watched address that has no holder here.
    WireHeard = 5,
    /// A frame of another station claimed an address that has a holder here.
    WireConflict = 6,
    /// A followed device leaves its namespace; or it is down and its queueing discipline is replaced.
    DeviceLeaving = 7,
    /// A device that left is being torn down, in any namespace.
    DepartedDown = 8,
}

impl Kind {
    /// From the byte of an event.
    pub fn from_byte(byte: u8) -> Option<Self> {
        [
            Self::DeviceDown,
            Self::NetnsEnd,
            Self::NetnsHint,
            Self::TaskExit,
            Self::WireHeard,
            Self::WireConflict,
            Self::DeviceLeaving,
            Self::DepartedDown,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }
}

/// Program that saw it; the third byte of every event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Source {
    /// At the entry of a kernel function.
    Fentry = 1,
    /// At a tracepoint with typed arguments.
    TpBtf = 2,
    /// At a breakpoint on a kernel function.
    Kprobe = 3,
    /// A frame that came in.
    Ingress = 4,
    /// A frame that went out.
    Egress = 5,
}

impl Source {
    /// From the byte of an event.
    pub fn from_byte(byte: u8) -> Option<Self> {
        [Self::Fentry, Self::TpBtf, Self::Kprobe, Self::Ingress, Self::Egress]
            .into_iter()
            .find(|source| *source as u8 == byte)
    }
}

/// Bits of [`DeviceEvent::flags`].
pub mod flag {
    /// The device's namespace has no user left: it is being torn down itself.
    pub const NETNS_DYING: u8 = 1;
}

/// Version and kind of an event with a kind that is not checked yet; `None`: too short for an event.
pub fn kind_of(bytes: &[u8]) -> Option<(u8, u8)> {
    Some((*bytes.first()?, *bytes.get(1)?))
}

layout! {
    /// A device, a namespace or a task in it: [`Kind::DeviceDown`], [`Kind::NetnsEnd`],
    /// [`Kind::NetnsHint`], [`Kind::TaskExit`], [`Kind::DeviceLeaving`], [`Kind::DepartedDown`].
    pub struct DeviceEvent[64] {
        /// Always [`crate::LAYOUT`] here.
        version: u8,
        /// Number of a [`Kind`].
        kind: u8,
        /// Number of a [`Source`].
        source: u8,
        /// Bits of [`flag`].
        flags: u8,
        /// The device's index in its namespace, of [`Kind::DepartedDown`] in the one that it left; of a task its
        /// process id; else 0.
        ifindex: u32,
        /// `CLOCK_BOOTTIME`, in nanoseconds.
        at_ns: u64,
        /// The namespace's cookie, of [`Kind::DepartedDown`] that of the one that it left; 0 on kernels that
        /// assign it late.
        cookie: u64,
        /// Number that user space assigned to the attachment or the namespace; 0: none.
        id: u64,
        /// The namespace's inode.
        inode: u32,
        /// The processor it happened on.
        cpu: u32,
        /// The device's name, ended by zeros; chosen by the pod.
        name: [u8; 16],
        /// The device's first two IPv4 addresses as on the wire; 0.0.0.0: none.
        ipv4: [[u8; 4]; 2],
    }
}

layout! {
    /// A frame that claimed a watched address: [`Kind::WireHeard`], [`Kind::WireConflict`].
    pub struct WireEvent[64] {
        /// Always [`crate::LAYOUT`] here.
        version: u8,
        /// Number of a [`Kind`].
        kind: u8,
        /// A [`Source`]: which way the frame went.
        source: u8,
        /// 4 or 6.
        family: u8,
        /// The index of the device on which it was seen.
        parent: u32,
        /// `CLOCK_BOOTTIME`, in nanoseconds.
        at_ns: u64,
        /// The VLAN id; 0: untagged.
        vlan: u16,
        /// ARP operation, or ICMPv6 type.
        operation: u16,
        /// MAC of the claim.
        mac: [u8; 6],
        /// The holder, for [`Kind::WireConflict`]; else the MAC of the previous claim, or zeros.
        known: [u8; 6],
        /// The address; an IPv4 one is in the first four bytes.
        address: [u8; 16],
        /// Number that user space assigned to the watch.
        id: u64,
        /// Number of claims so far.
        hits: u32,
        /// Number of claims by others than the holder.
        conflicts: u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_an_event_belongs_to_a_field() {
        let bytes: [u8; 64] = core::array::from_fn(|at| u8::try_from(at).unwrap());
        assert_eq!(DeviceEvent::from_bytes(&bytes).to_bytes(), bytes);
        assert_eq!(WireEvent::from_bytes(&bytes).to_bytes(), bytes);
    }

    #[test]
    fn unknown_kinds_and_sources_are_none() {
        assert_eq!(Kind::from_byte(6), Some(Kind::WireConflict));
        assert_eq!(Kind::from_byte(7), Some(Kind::DeviceLeaving));
        assert_eq!(Kind::from_byte(8), Some(Kind::DepartedDown));
        assert_eq!(Kind::from_byte(9), None);
        assert_eq!(Kind::from_byte(0), None);
        assert_eq!(Source::from_byte(9), None);
        assert_eq!(kind_of(&[1]), None);
    }
}
