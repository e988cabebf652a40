//! The cables of a cluster: the namespace of the control plane with the management bridge, a namespace with
//! the underlay's switch, and an outsider on the underlay.
//!
//! ```text
//!   cp                         nI (each node)                      wire               outsider
//!   [br-m 10.200.0.1]--veth--[eth0 10.200.1.I]  [u0]--veth--[br-u 10.50.0.1]--veth--[o0]
//!   etcd, API server, ...      agent, plugins     macvlan parent     the gateway        asks
//! ```
//!
//! Nothing listens outside of these namespaces. All addresses are the same in every cluster: two clusters
//! share no cable.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use berth_testbed::cleanup::{NETNS_FOLDER, Netns};
use berth_testbed::world;

use crate::error::Result;

/// The control plane's address on the management network.
pub const CONTROL: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 1);
/// The parent link of every node.
pub const PARENT: &str = "u0";
/// The underlay's subnet.
pub const SUBNET: &str = "10.50.0.0/16";
/// The same of IPv6.
pub const SUBNET6: &str = "fd00:50::/64";
/// Its router: the switch itself. It answers, so it can serve as a target of probes.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 50, 0, 1);
/// The same of IPv6.
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, 1);
/// The outsider's interface.
pub const OUTSIDER_LINK: &str = "o0";
/// The first address of pools.
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 50, 16, 0);
/// The first address of IPv6 pools.
const FIRST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, 0x1000);

/// The pool address with this number, of each family.
pub fn address(number: u32) -> (Ipv4Addr, Ipv6Addr) {
    let v4 = Ipv4Addr::from(u32::from(FIRST) + number);
    (v4, Ipv6Addr::from(u128::from(FIRST6) + u128::from(number)))
}

/// The first `count` addresses, of one family or of both.
pub fn addresses(count: u32, dual: bool) -> Vec<IpAddr> {
    let both = (0..count).map(address);
    both.flat_map(|(v4, v6)| [Some(IpAddr::V4(v4)), dual.then_some(IpAddr::V6(v6))]).flatten().collect()
}

/// A node's address on the management network.
pub fn management(index: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 200, 1, 0)) + index)
}

/// The namespaces that all nodes share.
#[derive(Debug)]
pub struct Network {
    id: String,
    cp: Netns,
    wire: Netns,
    outsider: Netns,
}

/// Creates a namespace with `ip`, which makes the folder of namespaces a shared mount.
pub(crate) fn named(name: &str) -> Result<Netns> {
    let guard = Netns::adopt(Path::new(NETNS_FOLDER).join(name));
    world::run(std::process::Command::new("ip").args(["netns", "add", name]), None)?;
    Ok(guard)
}

impl Network {
    /// Creates the network; `id` is the prefix of every name.
    pub fn build(id: &str) -> Result<Self> {
        let of = |role: &str| named(&format!("{id}-{role}"));
        let (cp, wire, outsider) = (of("cp")?, of("wire")?, of("outsider")?);
        let bridge = "type bridge forward_delay 0 mcast_snooping 0";
        world::ip(
            cp.path(),
            &format!(
                "link set lo up\nlink add br-m {bridge}\nlink set br-m up\naddr add {CONTROL}/16 dev br-m\n\
                 addr add 10.96.0.1/32 dev lo\n"
            ),
        )?;
        // A fixed MAC: otherwise the bridge takes the lowest MAC of its ports and changes it as nodes come
        // and go.
        world::ip(
            wire.path(),
            &format!(
                "link set lo up\nlink add br-u address 02:be:00:00:00:01 {bridge}\nlink set br-u up\n\
                 addr add {GATEWAY}/16 dev br-u\naddr add {GATEWAY6}/64 dev br-u nodad\n\
                 link add o1 type veth peer name {OUTSIDER_LINK} netns {id}-outsider\n\
                 link set o1 master br-u up\n"
            ),
        )?;
        world::ip(outsider.path(), &format!("link set lo up\nlink set {OUTSIDER_LINK} up\n"))?;
        Ok(Self { id: id.to_owned(), cp, wire, outsider })
    }

    /// The start of all names.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Namespace of the control plane.
    pub fn control(&self) -> &Path {
        self.cp.path()
    }

    /// Namespace of the switch.
    pub fn wire(&self) -> &Path {
        self.wire.path()
    }

    /// Namespace of the outsider.
    pub fn outsider(&self) -> &Path {
        self.outsider.path()
    }

    /// Plugs a node in: a management cable and an underlay cable into the namespace `name`.
    pub(crate) fn plug(&self, name: &str, index: u32) -> Result<()> {
        let netns = Path::new(NETNS_FOLDER).join(name);
        world::ip(
            self.control(),
            &format!(
                "link add m{index} type veth peer name eth0 netns {name}\nlink set m{index} master br-m up\n"
            ),
        )?;
        world::ip(
            self.wire(),
            &format!(
                "link add u{index} type veth peer name {PARENT} netns {name}\nlink set u{index} master br-u up\n"
            ),
        )?;
        let address = management(index);
        world::ip(
            &netns,
            &format!(
                "link set lo up\nlink set eth0 up\naddr add {address}/16 dev eth0\n\
                 route add default via {CONTROL}\nlink set {PARENT} up\n"
            ),
        )?;
        Ok(())
    }

    /// Cuts or restores a node's cables: the management one, the underlay one.
    pub fn cable(&self, index: u32, management: bool, underlay: bool) -> Result<()> {
        let state = |up: bool| if up { "up" } else { "down" };
        world::ip(self.control(), &format!("link set m{index} {}\n", state(management)))?;
        Ok(world::ip(self.wire(), &format!("link set u{index} {}\n", state(underlay)))?)
    }

    /// Removes both cables of a node at once: its end of each is gone, too.
    pub(crate) fn unplug(&self, index: u32) {
        // What is gone already need not be pulled.
        let _ = world::ip(self.wire(), &format!("link del u{index}\n"));
        let _ = world::ip(self.control(), &format!("link del m{index}\n"));
    }

    /// The path of a further namespace of this cluster.
    pub(crate) fn path(&self, role: &str) -> PathBuf {
        Path::new(NETNS_FOLDER).join(format!("{}-{role}", self.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_are_counted_from_their_first_address_over_the_end_of_an_octet() {
        let (v4, v6) = address(300);
        assert_eq!((v4.to_string(), v6.to_string()), ("10.50.17.44".to_owned(), "fd00:50::112c".to_owned()));
        assert_eq!(addresses(2, true).len(), 4);
        assert_eq!(addresses(2, false), [IpAddr::V4(address(0).0), IpAddr::V4(address(1).0)]);
        assert_eq!(management(10).to_string(), "10.200.1.10");
    }
}
