//! Requests of the read path, byte by byte, and parsing of attributes. Pure.
//!
//! A request can name another namespace (`IFLA_TARGET_NETNSID`) in four forms only: reading a link, dumping
//! links, dumping addresses, deleting a link. The kernel honours it nowhere else: a SETLINK *moves* the link,
//! and a DELADDR changes the requesting node. The attribute's number is therefore private to this module, and
//! no other constructor takes an [`Nsid`].

use berth_ipam::identity::Nsid;

pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
pub(crate) const RTM_NEWADDR: u16 = 20;
pub(crate) const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_GETROUTE: u16 = 26;
const RTM_GETNEIGH: u16 = 30;
const RTM_NEWNSID: u16 = 88;
pub(crate) const RTM_DELNSID: u16 = 89;
const RTM_GETNSID: u16 = 90;

const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_DUMP: u16 = 0x300;

const IFLA_IFNAME: u16 = 3;
const IFLA_EXT_MASK: u16 = 29;
const IFLA_TARGET_NETNSID: u16 = 46;
const IFA_TARGET_NETNSID: u16 = 10;
const NETNSA_NSID: u16 = 1;
const NETNSA_FD: u16 = 3;
const RTEXT_FILTER_SKIP_STATS: u32 = 1 << 3;
const AF_BRIDGE: u8 = 7;

/// Condition that ends the reply to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// An acknowledgement alone.
    Ack,
    /// The one requested message.
    One,
    /// The end message of a dump.
    Dump,
}

/// A request that lacks only its sequence number.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    kind: u16,
    pub ending: Ending,
    body: Vec<u8>,
}

/// Selector of a link.
pub(crate) enum Which<'a> {
    Index(u32),
    Name(&'a str),
}

impl Request {
    fn new(kind: u16, ending: Ending, header: &[u8]) -> Self {
        Self { kind, ending, body: header.to_vec() }
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.body.extend_from_slice(&length.to_ne_bytes());
        self.body.extend_from_slice(&kind.to_ne_bytes());
        self.body.extend_from_slice(value);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
        self
    }

    fn in_namespace(self, attribute: u16, nsid: Option<Nsid>) -> Self {
        match nsid {
            Some(nsid) => self.attribute(attribute, &nsid.0.to_ne_bytes()),
            None => self,
        }
    }

    /// One link, in the socket's own namespace or in the one with that number.
    pub fn get_link(nsid: Option<Nsid>, which: &Which<'_>) -> Self {
        let index = if let Which::Index(index) = which { *index } else { 0 };
        let request = Self::new(RTM_GETLINK, Ending::One, &link_header(index))
            .in_namespace(IFLA_TARGET_NETNSID, nsid)
            .attribute(IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes());
        match which {
            Which::Index(_) => request,
            Which::Name(name) => {
                let mut text = name.as_bytes().to_vec();
                text.push(0);
                request.attribute(IFLA_IFNAME, &text)
            }
        }
    }

    /// All links of a namespace.
    pub fn dump_links(nsid: Option<Nsid>) -> Self {
        Self::new(RTM_GETLINK, Ending::Dump, &link_header(0))
            .in_namespace(IFLA_TARGET_NETNSID, nsid)
            .attribute(IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes())
    }

    /// All addresses of a namespace. The kernel honours the number only under strict checking.
    pub fn dump_addresses(nsid: Option<Nsid>) -> Self {
        Self::new(RTM_GETADDR, Ending::Dump, &[0; 8]).in_namespace(IFA_TARGET_NETNSID, nsid)
    }

    /// All routes of the socket's own namespace: no number here, the kernel would ignore it.
    pub fn dump_routes() -> Self {
        Self::new(RTM_GETROUTE, Ending::Dump, &[0; 12])
    }

    /// The unicast filter and bridge table of one link of the socket's own namespace.
    pub fn dump_fdb(ifindex: u32) -> Self {
        let mut header = [0; 12];
        header[0] = AF_BRIDGE;
        header[4..8].copy_from_slice(&ifindex.to_ne_bytes());
        Self::new(RTM_GETNEIGH, Ending::Dump, &header)
    }

    /// Deletes a link of the namespace with that number.
    pub fn delete_link(nsid: Nsid, ifindex: u32) -> Self {
        Self::new(RTM_DELLINK, Ending::Ack, &link_header(ifindex))
            .in_namespace(IFLA_TARGET_NETNSID, Some(nsid))
    }

    /// Request for the nsid of the namespace of a descriptor of this process.
    pub fn get_nsid(descriptor: i32) -> Self {
        Self::new(RTM_GETNSID, Ending::One, &[0; 4]).attribute(NETNSA_FD, &descriptor.to_ne_bytes())
    }

    /// Request that assigns this nsid to the namespace of a descriptor.
    pub fn new_nsid(descriptor: i32, nsid: Nsid) -> Self {
        Self::new(RTM_NEWNSID, Ending::Ack, &[0; 4])
            .attribute(NETNSA_NSID, &nsid.0.to_ne_bytes())
            .attribute(NETNSA_FD, &descriptor.to_ne_bytes())
    }

    /// The whole message, ready to send.
    pub fn encode(&self, sequence: u32) -> Vec<u8> {
        let flags = NLM_F_REQUEST
            | match self.ending {
                Ending::Ack => NLM_F_ACK,
                Ending::One => 0,
                Ending::Dump => NLM_F_DUMP,
            };
        let length = u32::try_from(self.body.len() + 16).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(self.body.len() + 16);
        bytes.extend_from_slice(&length.to_ne_bytes());
        bytes.extend_from_slice(&self.kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&0_u32.to_ne_bytes());
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

fn link_header(ifindex: u32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    header
}

/// The attributes in `bytes`, each with its type (without flag bits) and value. Ends early, with
/// `Err`, at the first that does not fit: a cut message must not pass for a short one.
pub(crate) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = Result<(u16, &[u8]), Cut>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let (Some(length), Some(kind)) = (u16_at(bytes, 0), u16_at(bytes, 2)) else {
            bytes = &[];
            return Some(Err(Cut));
        };
        let length = usize::from(length);
        let Some(value) = bytes.get(4..length) else {
            bytes = &[];
            return Some(Err(Cut));
        };
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Ok((kind & 0x3fff, value)))
    })
}

/// A message or attribute that is shorter than its own length field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a netlink message is truncated")]
pub(crate) struct Cut;

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(crate) fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_laid_out_as_the_kernel_wants_it() {
        let bytes = Request::get_link(Some(Nsid(7)), &Which::Name("e0")).encode(9);
        assert_eq!(u32_at(&bytes, 0), Some(u32::try_from(bytes.len()).unwrap()));
        assert_eq!((u16_at(&bytes, 4), u16_at(&bytes, 6), u32_at(&bytes, 8)), (Some(18), Some(1), Some(9)));
        let found: Vec<_> = attributes(&bytes[32..]).map(Result::unwrap).collect();
        assert_eq!(found, [(46, &7_i32.to_ne_bytes()[..]), (29, &8_u32.to_ne_bytes()[..]), (3, b"e0\0")]);
    }

    #[test]
    fn only_four_requests_name_a_namespace() {
        let with = |request: Request, header: usize| {
            attributes(&request.encode(1)[16 + header..])
                .any(|a| matches!(a, Ok((IFLA_TARGET_NETNSID | IFA_TARGET_NETNSID, _))))
        };
        assert!(with(Request::get_link(Some(Nsid(1)), &Which::Index(1)), 16));
        assert!(with(Request::dump_links(Some(Nsid(1))), 16));
        assert!(with(Request::dump_addresses(Some(Nsid(1))), 8));
        assert!(with(Request::delete_link(Nsid(1), 1), 16));
        assert!(!with(Request::dump_routes(), 12) && !with(Request::dump_fdb(1), 12));
    }

    #[test]
    fn cut_attributes_are_errors_and_not_an_end() {
        let whole = Request::dump_links(Some(Nsid(7))).encode(1);
        for length in 33..whole.len() {
            let last = attributes(&whole[32..length]).last();
            assert!(length == 40 || last == Some(Err(Cut)), "{length}: {last:?}");
        }
        // A length below its own header would never advance.
        assert_eq!(attributes(&[2, 0, 1, 0]).collect::<Vec<_>>(), [Err(Cut)]);
        assert_eq!(attributes(&[0, 0, 1, 0, 9, 9]).collect::<Vec<_>>(), [Err(Cut)]);
    }
}
