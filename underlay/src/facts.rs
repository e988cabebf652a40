//! Contents of kernel replies as plain values. Pure.
//!
//! The pod chooses names and aliases, and they need not be UTF-8. They are decoded lossily, so that no pod
//! can make a whole list unreadable by an odd name. Any other malformed value is an error: a list with a gap
//! would be read as "absent".

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use berth_ipam::config::MacvlanMode;
use berth_ipam::identity::Nsid;
use berth_ipam::mac::Mac;
use ipnetwork::IpNetwork;

use crate::error::{Checked, Unknown};
use crate::message::{attributes, i32_at, u16_at, u32_at};

const IFF_UP: u32 = 1;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_IFALIAS: u16 = 20;
const IFLA_CARRIER: u16 = 33;
const IFLA_CARRIER_CHANGES: u16 = 35;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const IFLA_INFO_SLAVE_KIND: u16 = 4;
const IFLA_MACVLAN_MODE: u16 = 1;
const IFLA_VLAN_ID: u16 = 1;
const IFLA_VLAN_PROTOCOL: u16 = 5;
/// `ETH_P_8021Q` in network byte order.
const DOT1Q: [u8; 2] = [0x81, 0x00];
const IFLA_NEW_NETNSID: u16 = 45;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_FLAGS: u16 = 8;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const RTA_TABLE: u16 = 15;
const NDA_LLADDR: u16 = 2;
const NTF_SELF: u8 = 2;
const NETNSA_NSID: u16 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// `IFA_F_TENTATIVE`: duplicate address detection is still running.
pub const ADDRESS_TENTATIVE: u32 = 0x40;
/// `IFA_F_DADFAILED`: another node has the address.
pub const ADDRESS_DAD_FAILED: u32 = 0x08;

/// Properties of one link.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LinkFacts {
    /// Its index in its namespace.
    pub ifindex: u32,
    /// Its name; not checked, because the pod may have chosen it.
    pub name: String,
    /// Its MAC; `None` for links without an Ethernet address.
    pub mac: Option<Mac>,
    /// True if it is set up (`IFF_UP`), regardless of its carrier.
    pub up: bool,
    /// Carrier state; `None`: the driver does not report it.
    pub carrier: Option<bool>,
    /// Number of carrier changes since the link was created.
    pub carrier_changes: u32,
    /// The index of the device that it is enslaved to: a bridge, a bond, a VRF.
    pub master: Option<u32>,
    /// Kind of the master, as in `bridge`, if the kernel reports it.
    pub slave_kind: Option<String>,
    /// MTU in bytes.
    pub mtu: u32,
    /// Its kind, as in `macvlan`; `None` for hardware.
    pub kind: Option<String>,
    /// The mode, of a macvlan.
    pub macvlan_mode: Option<MacvlanMode>,
    /// The 802.1Q id, of a VLAN device; `None` for one with another tag (802.1ad).
    pub vlan_id: Option<u16>,
    /// The index of its parent, in the *parent's* namespace (`IFLA_LINK`).
    pub parent_index: Option<u32>,
    /// Nsid of the parent's namespace, relative to the *reader's* namespace; `None`: the parent is in the
    /// link's own namespace.
    pub parent_nsid: Option<Nsid>,
    /// Alias of the link (`IFLA_IFALIAS`).
    pub alias: Option<String>,
}

/// One address of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddressFacts {
    /// Interface index of the link.
    pub ifindex: u32,
    /// The address with its prefix length.
    pub address: IpNetwork,
    /// `IFA_F_*` bits, as [`ADDRESS_TENTATIVE`].
    pub flags: u32,
}

/// One unicast route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteFacts {
    /// Destination of the route.
    pub to: IpNetwork,
    /// The next hop, if there is one.
    pub via: Option<IpAddr>,
    /// The outgoing link; `None` with several next hops.
    pub ifindex: Option<u32>,
    /// The routing table; 254 is the main one.
    pub table: u32,
    /// The metric; of two routes to one destination in a table the lower one is used.
    pub metric: u32,
}

fn malformed(what: &str) -> Unknown {
    Unknown(format!("the kernel's description of {what} is malformed"))
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

/// Reads the body of a `RTM_NEWLINK` or `RTM_DELLINK`.
pub(crate) fn link(body: &[u8]) -> Checked<LinkFacts> {
    let wrong = || malformed("a link");
    let ifindex = u32_at(body, 4).filter(|index| *index != 0).ok_or_else(wrong)?;
    let flags = u32_at(body, 8).ok_or_else(wrong)?;
    let mut facts = LinkFacts { ifindex, up: flags & IFF_UP != 0, ..LinkFacts::default() };
    for attribute in attributes(body.get(16..).ok_or_else(wrong)?) {
        let (kind, value) = attribute.map_err(|_| wrong())?;
        match kind {
            IFLA_IFNAME => facts.name = text(value),
            IFLA_ADDRESS => facts.mac = Mac::from_octets(value),
            IFLA_MTU => facts.mtu = u32_at(value, 0).ok_or_else(wrong)?,
            IFLA_MASTER => facts.master = Some(u32_at(value, 0).ok_or_else(wrong)?),
            IFLA_CARRIER => facts.carrier = Some(value.first().ok_or_else(wrong)? != &0),
            IFLA_CARRIER_CHANGES => facts.carrier_changes = u32_at(value, 0).ok_or_else(wrong)?,
            IFLA_LINK => facts.parent_index = Some(u32_at(value, 0).ok_or_else(wrong)?),
            IFLA_LINK_NETNSID => facts.parent_nsid = Some(Nsid(i32_at(value, 0).ok_or_else(wrong)?)),
            IFLA_IFALIAS => facts.alias = Some(text(value)),
            IFLA_LINKINFO => link_info(value, &mut facts)?,
            _ => {}
        }
    }
    // A link that names itself as parent has none: some kernels report veth ends and loopback so.
    facts.parent_index = facts.parent_index.filter(|parent| *parent != 0);
    Ok(facts)
}

fn link_info(info: &[u8], facts: &mut LinkFacts) -> Checked<()> {
    let wrong = || malformed("a link's kind");
    let mut data: &[u8] = &[];
    for attribute in attributes(info) {
        let (kind, value) = attribute.map_err(|_| wrong())?;
        match kind {
            IFLA_INFO_KIND => facts.kind = Some(text(value)),
            IFLA_INFO_DATA => data = value,
            IFLA_INFO_SLAVE_KIND => facts.slave_kind = Some(text(value)),
            _ => {}
        }
    }
    let mut dot1q = true;
    for attribute in attributes(data) {
        let (kind, value) = attribute.map_err(|_| wrong())?;
        match (facts.kind.as_deref(), kind) {
            (Some("macvlan"), IFLA_MACVLAN_MODE) => {
                facts.macvlan_mode = macvlan_mode(u32_at(value, 0).ok_or_else(wrong)?);
            }
            (Some("vlan"), IFLA_VLAN_ID) => facts.vlan_id = Some(u16_at(value, 0).ok_or_else(wrong)?),
            (Some("vlan"), IFLA_VLAN_PROTOCOL) => dot1q = value == DOT1Q,
            _ => {}
        }
    }
    facts.vlan_id = facts.vlan_id.filter(|_| dot1q);
    Ok(())
}

/// `MACVLAN_MODE_*` (`linux/if_link.h`); `None` for modes that Berth does not make.
fn macvlan_mode(number: u32) -> Option<MacvlanMode> {
    match number {
        1 => Some(MacvlanMode::Private),
        2 => Some(MacvlanMode::Vepa),
        4 => Some(MacvlanMode::Bridge),
        8 => Some(MacvlanMode::Passthru),
        _ => None,
    }
}

/// Nsid of the new namespace if this `RTM_DELLINK` is a move, relative to the *old* namespace (-1: it has no
/// nsid there); `None` if it is not a move.
pub(crate) fn moved_to(body: &[u8]) -> Option<i32> {
    let (_, value) =
        attributes(body.get(16..)?).filter_map(Result::ok).find(|(kind, _)| *kind == IFLA_NEW_NETNSID)?;
    i32_at(value, 0)
}

/// Reads the body of a `RTM_NEWADDR` or `RTM_DELADDR`; `None` for families other than IP.
pub(crate) fn address(body: &[u8]) -> Checked<Option<AddressFacts>> {
    let wrong = || malformed("an address");
    let [family, prefix, flags, _, index @ ..] = body else { return Err(wrong()) };
    let ifindex = u32_at(index, 0).ok_or_else(wrong)?;
    let (mut flags, mut local, mut address) = (u32::from(*flags), None, None);
    for attribute in attributes(body.get(8..).ok_or_else(wrong)?) {
        let (kind, value) = attribute.map_err(|_| wrong())?;
        match kind {
            IFA_LOCAL => local = ip(*family, value),
            IFA_ADDRESS => address = ip(*family, value),
            IFA_FLAGS => flags = u32_at(value, 0).ok_or_else(wrong)?,
            _ => {}
        }
    }
    if !matches!(*family, AF_INET | AF_INET6) {
        return Ok(None);
    }
    // With a peer, IFA_ADDRESS is the peer's and IFA_LOCAL ours.
    let own = local.or(address).ok_or_else(wrong)?;
    let address = IpNetwork::new(own, *prefix).map_err(|_| wrong())?;
    Ok(Some(AddressFacts { ifindex, address, flags }))
}

/// Reads the body of a `RTM_NEWROUTE`; `None` for anything but unicast IP routes.
pub(crate) fn route(body: &[u8]) -> Checked<Option<RouteFacts>> {
    const RTN_UNICAST: u8 = 1;
    const RTM_F_CLONED: u32 = 0x200;
    let wrong = || malformed("a route");
    let [family, prefix, _, _, table, _, _, kind, ..] = body else { return Err(wrong()) };
    let unspecified = match *family {
        AF_INET => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AF_INET6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return Ok(None),
    };
    if *kind != RTN_UNICAST || u32_at(body, 8).ok_or_else(wrong)? & RTM_F_CLONED != 0 {
        return Ok(None);
    }
    let (mut to, mut via, mut ifindex) = (unspecified, None, None);
    let (mut table, mut metric) = (u32::from(*table), 0);
    for attribute in attributes(body.get(12..).ok_or_else(wrong)?) {
        let (kind, value) = attribute.map_err(|_| wrong())?;
        match kind {
            RTA_DST => to = ip(*family, value).ok_or_else(wrong)?,
            RTA_GATEWAY => via = Some(ip(*family, value).ok_or_else(wrong)?),
            RTA_OIF => ifindex = Some(u32_at(value, 0).ok_or_else(wrong)?),
            RTA_PRIORITY => metric = u32_at(value, 0).ok_or_else(wrong)?,
            RTA_TABLE => table = u32_at(value, 0).ok_or_else(wrong)?,
            _ => {}
        }
    }
    let to = IpNetwork::new(to, *prefix).map_err(|_| wrong())?;
    Ok(Some(RouteFacts { to, via, ifindex, table, metric }))
}

/// Parses one bridge-table entry: the MAC, if it is a unicast MAC that the link `ifindex` itself listens to.
/// Entries that a bridge learned for its ports are MACs of others.
pub(crate) fn fdb_entry(body: &[u8], ifindex: u32) -> Checked<Option<Mac>> {
    let wrong = || malformed("a bridge table entry");
    let index = u32_at(body, 4).ok_or_else(wrong)?;
    let flags = *body.get(10).ok_or_else(wrong)?;
    if index != ifindex || flags & NTF_SELF == 0 {
        return Ok(None);
    }
    let mut mac = None;
    for attribute in attributes(body.get(12..).ok_or_else(wrong)?) {
        let (kind, value) = attribute.map_err(|_| wrong())?;
        if kind == NDA_LLADDR {
            mac = Some(Mac::from_octets(value).ok_or_else(wrong)?);
        }
    }
    Ok(mac.filter(|mac| mac.0[0] & 1 == 0))
}

/// Reads the number out of a `RTM_NEWNSID` or `RTM_DELNSID`; `None` for "has none".
pub(crate) fn nsid(body: &[u8]) -> Checked<Option<i32>> {
    let wrong = || malformed("a namespace's number");
    for attribute in attributes(body.get(4..).ok_or_else(wrong)?) {
        let (kind, value) = attribute.map_err(|_| wrong())?;
        if kind == NETNSA_NSID {
            let number = i32_at(value, 0).ok_or_else(wrong)?;
            return Ok((number >= 0).then_some(number));
        }
    }
    Err(wrong())
}

fn ip(family: u8, value: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => <[u8; 4]>::try_from(value).ok().map(IpAddr::from),
        AF_INET6 => <[u8; 16]>::try_from(value).ok().map(IpAddr::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(value.len() + 4).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn link_of(attributes: &[Vec<u8>]) -> Checked<LinkFacts> {
        let mut body = vec![0; 16];
        body[4] = 3;
        body[8] = 1;
        body.extend(attributes.concat());
        link(&body)
    }

    #[test]
    fn a_name_that_is_no_text_spoils_no_list() {
        let facts =
            link_of(&[attribute(IFLA_IFNAME, b"a\xff\xfe\0"), attribute(IFLA_IFALIAS, b"\xff")]).unwrap();
        assert!(facts.name.starts_with('a') && facts.up);
        assert!(link_of(&[attribute(IFLA_MTU, &[1])]).is_err(), "a truncated number is an error");
    }

    #[test]
    fn the_kind_is_read_whatever_the_order() {
        let kind = attribute(IFLA_INFO_KIND, b"macvlan\0");
        let data = attribute(IFLA_INFO_DATA, &attribute(IFLA_MACVLAN_MODE, &8_u32.to_ne_bytes()));
        for info in [[kind.clone(), data.clone()].concat(), [data, kind].concat()] {
            let facts = link_of(&[attribute(IFLA_LINKINFO | 0x8000, &info)]).unwrap();
            assert_eq!(
                (facts.kind.as_deref(), facts.macvlan_mode),
                (Some("macvlan"), Some(MacvlanMode::Passthru))
            );
        }
        let vlan = [
            attribute(IFLA_INFO_KIND, b"vlan\0"),
            attribute(IFLA_INFO_DATA, &attribute(IFLA_VLAN_ID, &100_u16.to_ne_bytes())),
        ];
        assert_eq!(link_of(&[attribute(IFLA_LINKINFO, &vlan.concat())]).unwrap().vlan_id, Some(100));
    }

    #[test]
    fn only_the_parents_own_unicast_entries_count() {
        let entry = |index: u32, flags: u8, mac: [u8; 6]| {
            let mut body = vec![7, 0, 0, 0];
            body.extend(index.to_ne_bytes());
            body.extend([0, 0, flags, 0]);
            body.extend(attribute(NDA_LLADDR, &mac));
            fdb_entry(&body, 5).unwrap()
        };
        let mac = [0xb2, 0, 0, 0, 0, 1];
        assert_eq!(entry(5, NTF_SELF, mac), Some(Mac(mac)));
        assert_eq!(entry(6, NTF_SELF, mac), None, "of another link");
        assert_eq!(entry(5, 4, mac), None, "learnt by a bridge");
        assert_eq!(entry(5, NTF_SELF, [0x33, 0x33, 0, 0, 0, 1]), None, "multicast");
    }

    #[test]
    fn the_own_end_of_a_point_to_point_address_counts() {
        let mut body = vec![AF_INET, 32, 0, 0, 3, 0, 0, 0];
        body.extend(attribute(IFA_ADDRESS, &[192, 0, 2, 9]));
        body.extend(attribute(IFA_LOCAL, &[192, 0, 2, 1]));
        assert_eq!(address(&body).unwrap().unwrap().address.to_string(), "192.0.2.1/32");
        assert!(address(&[AF_INET, 32, 0, 0, 3, 0, 0, 0]).is_err(), "an address without an address");
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = (link(&bytes), address(&bytes), route(&bytes), fdb_entry(&bytes, 1), nsid(&bytes), moved_to(&bytes));
        }
    }
}
