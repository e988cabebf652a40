//! Events of the programs, in the agent's types.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use berth_ebpf_common::{DeviceEvent, Kind, LAYOUT, Source, WireEvent, flag, kind_of};
use berth_ipam::attachment::AttachmentKey;
use berth_ipam::identity::NetnsCookie;
use berth_ipam::mac::Mac;
use berth_ipam::time::Time;

/// A hint from the kernel. It proves nothing: the agent reads the state before it acts on one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeEvent {
    /// The link of an attachment is being torn down.
    DeviceDown {
        /// Key of the attachment; `None`: an earlier agent followed it and this one does not.
        key: Option<AttachmentKey>,
        /// The namespace it is in; 0 on kernels below 5.14.
        cookie: NetnsCookie,
        /// The link's index there.
        ifindex: u32,
        /// The link's name; chosen by the pod.
        name: String,
        /// The link's first IPv4 addresses.
        ipv4: Vec<Ipv4Addr>,
        /// True if the whole namespace is being torn down; `None`: unknown on this kernel.
        namespace_ends: Option<bool>,
        /// Time and source of the event.
        seen: Seen,
    },
    /// The link of an attachment is leaving its namespace. No later link with its index is taken for it; if it
    /// turns out to be there still, follow it again. The device itself is followed on, see
    /// [`Self::DepartedDown`].
    DeviceLeaving {
        /// Key of the attachment; `None`: an earlier agent followed it and this one does not.
        key: Option<AttachmentKey>,
        /// Time and source of the event.
        seen: Seen,
    },
    /// A link that left its namespace is being torn down, wherever it is.
    DepartedDown {
        /// Key of the attachment; `None`: an earlier agent followed it and this one does not.
        key: Option<AttachmentKey>,
        /// The namespace that it left; 0 on kernels below 5.14.
        cookie: NetnsCookie,
        /// The link's index there.
        ifindex: u32,
        /// Time and source of the event.
        seen: Seen,
    },
    /// A namespace ended, and all devices in it are gone.
    NamespaceEnd {
        /// The attachments that were in it.
        keys: Vec<AttachmentKey>,
        /// Cookie of the namespace; 0 on kernels below 5.14.
        cookie: NetnsCookie,
        /// Time and source of the event.
        seen: Seen,
    },
    /// Some namespaces are about to be torn down; the event does not name them.
    NamespacesEnding {
        /// Time and source of the event.
        seen: Seen,
    },
    /// A task exits in the namespace of attachments: it may be the last one. Not reported again for this
    /// namespace before [`crate::Probes::rearm`].
    TaskExit {
        /// The attachments in it.
        keys: Vec<AttachmentKey>,
        /// Cookie of the namespace; 0 on kernels below 5.14.
        cookie: NetnsCookie,
        /// Inode of the namespace.
        inode: u64,
        /// ID of the task.
        pid: u32,
        /// Time and source of the event.
        seen: Seen,
    },
    /// A frame claimed a watched address on the segment.
    Wire(Heard),
    /// Events were lost since the last one: read everything again.
    Lost(u64),
}

/// Time and source of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Time at which the kernel saw it.
    pub at: Time,
    /// Program that reported it.
    pub by: Source,
}

/// A frame that claimed a watched address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// Index of the device on which it was seen.
    pub parent: u32,
    /// The VLAN on it.
    pub vlan: Option<u16>,
    /// Address in question.
    pub address: IpAddr,
    /// MAC of the claim.
    pub mac: Mac,
    /// Holder of the address, if it has one here and another station claimed it.
    pub holder: Option<(Option<AttachmentKey>, Mac)>,
    /// Number of claims of the address so far.
    pub hits: u32,
    /// Time and direction of the frame.
    pub seen: Seen,
}

impl Heard {
    /// True if the frame came from this node.
    pub fn is_outgoing(&self) -> bool {
        self.seen.by == Source::Egress
    }
}

/// An event in the form of the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Raw {
    Device(Kind, Source, DeviceEvent),
    Wire(Kind, Source, WireEvent),
}

/// Reads one event; `None`: of another version, kind or length.
pub(crate) fn read(bytes: &[u8]) -> Option<Raw> {
    let (version, kind) = kind_of(bytes)?;
    if version != LAYOUT {
        return None;
    }
    let bytes: &[u8; 64] = bytes.try_into().ok()?;
    let source = Source::from_byte(bytes[2])?;
    match Kind::from_byte(kind)? {
        kind @ (Kind::DeviceDown
        | Kind::DeviceLeaving
        | Kind::DepartedDown
        | Kind::NetnsEnd
        | Kind::NetnsHint
        | Kind::TaskExit) => Some(Raw::Device(kind, source, DeviceEvent::from_bytes(bytes))),
        kind @ (Kind::WireHeard | Kind::WireConflict) => {
            Some(Raw::Wire(kind, source, WireEvent::from_bytes(bytes)))
        }
    }
}

/// Lookup of the attachments and namespaces behind the numbers in events.
pub(crate) trait Names {
    /// The attachment of a number.
    fn attachment(&self, id: u64) -> Option<AttachmentKey>;
    /// The attachments in a namespace.
    fn inside(&self, netns: u64) -> Vec<AttachmentKey>;
    /// True if the programs can report that a namespace is being torn down.
    fn knows_endings(&self) -> bool;
}

/// The event in the agent's types; `None`: it cannot be interpreted.
pub(crate) fn told(raw: &Raw, names: &impl Names) -> Option<ProbeEvent> {
    match *raw {
        Raw::Device(kind, by, event) => Some(device(kind, by, &event, names)),
        Raw::Wire(kind, by, event) => {
            let address = match event.family {
                4 => {
                    let [a, b, c, d, ..] = event.address;
                    IpAddr::V4(Ipv4Addr::new(a, b, c, d))
                }
                6 => IpAddr::V6(Ipv6Addr::from(event.address)),
                _ => return None,
            };
            let is_conflict = kind == Kind::WireConflict;
            Some(ProbeEvent::Wire(Heard {
                parent: event.parent,
                vlan: (event.vlan != 0).then_some(event.vlan),
                address,
                mac: Mac(event.mac),
                holder: is_conflict.then(|| (names.attachment(event.id), Mac(event.known))),
                hits: event.hits,
                seen: Seen { at: Time(event.at_ns), by },
            }))
        }
    }
}

fn device(kind: Kind, by: Source, event: &DeviceEvent, names: &impl Names) -> ProbeEvent {
    let seen = Seen { at: Time(event.at_ns), by };
    let cookie = NetnsCookie(event.cookie);
    match kind {
        Kind::DeviceDown => ProbeEvent::DeviceDown {
            key: names.attachment(event.id),
            cookie,
            ifindex: event.ifindex,
            name: name(&event.name),
            ipv4: event.ipv4.iter().filter(|four| **four != [0; 4]).map(|four| (*four).into()).collect(),
            namespace_ends: names.knows_endings().then_some(event.flags & flag::NETNS_DYING != 0),
            seen,
        },
        Kind::DeviceLeaving => ProbeEvent::DeviceLeaving { key: names.attachment(event.id), seen },
        Kind::DepartedDown => {
            ProbeEvent::DepartedDown { key: names.attachment(event.id), cookie, ifindex: event.ifindex, seen }
        }
        Kind::NetnsEnd => ProbeEvent::NamespaceEnd { keys: names.inside(event.id), cookie, seen },
        Kind::TaskExit => ProbeEvent::TaskExit {
            keys: names.inside(event.id),
            cookie,
            inode: u64::from(event.inode),
            pid: event.ifindex,
            seen,
        },
        Kind::NetnsHint | Kind::WireHeard | Kind::WireConflict => ProbeEvent::NamespacesEnding { seen },
    }
}

/// A device's name up to its first zero.
pub(crate) fn name(bytes: &[u8; 16]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Nobody;

    impl Names for Nobody {
        fn attachment(&self, _: u64) -> Option<AttachmentKey> {
            None
        }
        fn inside(&self, _: u64) -> Vec<AttachmentKey> {
            Vec::new()
        }
        fn knows_endings(&self) -> bool {
            true
        }
    }

    #[test]
    fn another_version_or_kind_or_length_is_not_guessed_at() {
        let good = DeviceEvent { version: LAYOUT, kind: 1, source: 2, ..DeviceEvent::default() }.to_bytes();
        assert!(matches!(read(&good), Some(Raw::Device(Kind::DeviceDown, Source::TpBtf, _))));
        assert_eq!(read(&good[..63]), None);
        for (at, value) in [(0, LAYOUT + 1), (1, 0), (1, 200), (2, 0)] {
            let mut other = good;
            other[at] = value;
            assert_eq!(read(&other), None, "byte {at} = {value}");
        }
    }

    #[test]
    fn a_device_is_told_in_full() {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(b"net1");
        let event = DeviceEvent {
            kind: 1,
            flags: flag::NETNS_DYING,
            ifindex: 3,
            cookie: 9,
            name: bytes,
            ipv4: [[192, 0, 2, 7], [0; 4]],
            at_ns: 5,
            ..DeviceEvent::default()
        };
        let told = told(&Raw::Device(Kind::DeviceDown, Source::TpBtf, event), &Nobody).unwrap();
        let expected = ProbeEvent::DeviceDown {
            key: None,
            cookie: NetnsCookie(9),
            ifindex: 3,
            name: "net1".to_owned(),
            ipv4: vec![Ipv4Addr::new(192, 0, 2, 7)],
            namespace_ends: Some(true),
            seen: Seen { at: Time(5), by: Source::TpBtf },
        };
        assert_eq!(told, expected);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..130)) {
            if let Some(raw) = read(&bytes) {
                let _ = told(&raw, &Nobody);
            }
        }

        #[test]
        fn sixty_four_bytes_of_this_version(mut bytes in any::<[u8; 64]>(), kind in 0_u8..9, source in 0_u8..8) {
            bytes[..3].copy_from_slice(&[LAYOUT, kind, source]);
            if let Some(raw) = read(&bytes) {
                let _ = told(&raw, &Nobody);
            }
        }
    }
}
