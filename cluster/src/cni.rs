//! CNI configuration of a cluster's nodes: the floor (upstream's `macvlan` with `host-local`), Berth, or any
//! given file. Pure, except for reading that file.
//!
//! In a file these words are replaced for each node: `@NODE@` by its name, `@FOLDER@` by its own folder,
//! `@PARENT@` by the underlay's link, `@VERSION@` by the CNI version, `@SUBNET@`, `@START@`, `@END@` and
//! `@SUBNET6@`, `@START6@`, `@END6@` by its share of the addresses.

use std::fmt::{Display, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::chain::ANNOTATIONS;
use crate::error::{Error, Result};
use crate::network::{self, PARENT, SUBNET, SUBNET6};

/// The `UnderlayNetwork` of Berth's configuration, if there is one; of several, the start of their names.
const NETWORK: &str = "lan";

/// Name of network `number`, from 1, out of `of`.
pub fn network_name(number: u32, of: u32) -> String {
    if of == 1 { NETWORK.to_owned() } else { format!("{NETWORK}-{number}") }
}

/// CNI configuration of the nodes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cni {
    /// Upstream's `macvlan` with `host-local`, each node with its own range: the minimum that any plugin
    /// does.
    Floor,
    /// Berth, with its agents.
    Berth,
    /// The list in a file.
    File(PathBuf),
}

/// Parts of the configuration that all nodes share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// IPv6 in addition to IPv4.
    pub dual: bool,
    /// Value of `cniVersion`.
    pub version: String,
    /// Number of addresses of each family of a node, if each has its own.
    pub share: u32,
    /// Number of networks, each with its own pools, among which Berth's addresses are divided.
    pub networks: u32,
}

/// Parts of the configuration that differ between nodes.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The node's name.
    pub name: &'a str,
    /// Its number, from 1.
    pub index: u32,
    /// Folder of the node.
    pub folder: &'a Path,
}

impl Cni {
    /// The conflists of a node; the first is for pods that name none.
    pub fn conflists(&self, plan: &Plan, place: Place<'_>) -> Result<Vec<String>> {
        match self {
            Self::Floor => Ok(vec![list(plan, "floor", &floor(plan, place))]),
            Self::Berth => {
                let names = (1..=plan.networks).map(|number| network_name(number, plan.networks));
                Ok(names.map(|name| berth_list(plan, &name, place)).collect())
            }
            Self::File(path) => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(Error::file(format!("read {}", path.display())))?;
                Ok(vec![filled(&text, plan, place)])
            }
        }
    }

    /// Its name in reports.
    pub fn name(&self) -> String {
        match self {
            Self::Floor => "floor".to_owned(),
            Self::Berth => "berth".to_owned(),
            Self::File(path) => path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        }
    }
}

/// The conflist of a node for one of Berth's networks.
pub fn berth_list(plan: &Plan, network: &str, place: Place<'_>) -> String {
    list(plan, network, &berth(network, place))
}

fn list(plan: &Plan, name: &str, plugin: &Value) -> String {
    format!("{:#}\n", json!({"cniVersion": plan.version, "name": name, "plugins": [plugin]}))
}

/// Berth's declarations of the underlay: its networks, and for each a pool with its part of `pods` addresses
/// of each family.
pub fn objects(plan: &Plan, pods: u32) -> String {
    let part = (pods / plan.networks).max(1);
    let all = (1..=plan.networks).map(|number| {
        let first = (number - 1) * part;
        network(plan, &network_name(number, plan.networks), first, first + part - 1)
    });
    all.collect()
}

/// One network, with a pool for each family of the addresses that have these numbers.
pub fn network(plan: &Plan, name: &str, first: u32, last: u32) -> String {
    let ((first, first6), (last, last6)) = (network::address(first), network::address(last));
    let head = |kind: &str, name: &str| {
        format!("---\napiVersion: berth.dev/v1alpha1\nkind: {kind}\nmetadata:\n  name: {name}\nspec:\n")
    };
    let pools = if plan.dual { format!("{name}-v4, {name}-v6") } else { format!("{name}-v4") };
    let link = format!("  link:\n    type: macvlan\n    parent: {PARENT}\n    mode: bridge\n");
    let mut text = format!("{}{link}  pools: [{pools}]\n", head("UnderlayNetwork", name));
    let mut pool = |family: &str, subnet: &str, first: &dyn Display, last: &dyn Display| {
        text.push_str(&head("IPPool", &format!("{name}-{family}")));
        let _ = writeln!(text, "  subnet: {subnet}\n  ranges: [\"{first}-{last}\"]");
    };
    pool("v4", SUBNET, &first, &last);
    if plan.dual {
        pool("v6", SUBNET6, &first6, &last6);
    }
    text
}

/// The first and the last address of a node's share, of each family.
fn share(plan: &Plan, place: Place<'_>) -> [[IpAddr; 2]; 2] {
    let first = (place.index - 1) * plan.share;
    let ((v4, v6), (last4, last6)) =
        (network::address(first), network::address(first + plan.share.max(1) - 1));
    [[v4.into(), last4.into()], [v6.into(), last6.into()]]
}

fn floor(plan: &Plan, place: Place<'_>) -> Value {
    let [v4, v6] = share(plan, place);
    let range = |subnet: &str, [start, end]: [IpAddr; 2]| json!([{"subnet": subnet, "rangeStart": start, "rangeEnd": end}]);
    let mut ranges = vec![range(SUBNET, v4)];
    ranges.extend(plan.dual.then(|| range(SUBNET6, v6)));
    json!({
        "type": "macvlan", "master": PARENT, "mode": "bridge",
        "ipam": {"type": "host-local", "dataDir": place.folder.join("host-local"), "ranges": ranges},
    })
}

fn berth(network: &str, place: Place<'_>) -> Value {
    json!({
        "type": "berth", "network": network, "socket": place.folder.join("agent.sock"),
        "stateDir": place.folder.join("state"), "bootIDFile": place.folder.join("boot-id"),
        "capabilities": {ANNOTATIONS: true},
    })
}

fn filled(text: &str, plan: &Plan, place: Place<'_>) -> String {
    let [[start, end], [start6, end6]] = share(plan, place);
    let words = [
        ("@NODE@", place.name.to_owned()),
        ("@FOLDER@", place.folder.display().to_string()),
        ("@PARENT@", PARENT.to_owned()),
        ("@VERSION@", plan.version.clone()),
        ("@SUBNET@", SUBNET.to_owned()),
        ("@START@", start.to_string()),
        ("@END@", end.to_string()),
        ("@SUBNET6@", SUBNET6.to_owned()),
        ("@START6@", start6.to_string()),
        ("@END6@", end6.to_string()),
    ];
    words.into_iter().fold(text.to_owned(), |text, (word, value)| text.replace(word, &value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::Chain;

    fn place(index: u32) -> Place<'static> {
        Place { name: "n2", index, folder: Path::new("f") }
    }

    fn plan() -> Plan {
        Plan { dual: true, version: "0.3.1".to_owned(), share: 100, networks: 1 }
    }

    #[test]
    fn nodes_share_the_pool_without_overlap_and_without_a_gap() {
        let [[start, end], [start6, _]] = share(&plan(), place(2));
        let (before, _) = network::address(99);
        assert_eq!((u32::from(before) + 1).to_be_bytes(), <[u8; 4]>::try_from(bytes(start)).unwrap());
        assert_eq!(end, IpAddr::V4(network::address(199).0));
        assert_eq!(start6, IpAddr::V6(network::address(100).1));
    }

    fn bytes(address: IpAddr) -> Vec<u8> {
        match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        }
    }

    #[test]
    fn the_lists_that_are_built_in_are_lists() {
        for cni in [Cni::Floor, Cni::Berth] {
            let lists = cni.conflists(&plan(), place(1)).unwrap();
            assert_eq!((lists.len(), Chain::parse(&lists[0]).unwrap().len()), (1, 1));
        }
        let single = Plan { dual: false, ..plan() };
        assert!(!Cni::Floor.conflists(&single, place(1)).unwrap()[0].contains("fd00"));
    }

    #[test]
    fn berths_pools_hold_as_many_addresses_as_there_are_pods() {
        let text = objects(&plan(), 1000);
        assert!(text.contains("[\"10.50.16.0-10.50.19.231\"]"), "{text}");
        assert!(text.contains("[\"fd00:50::1000-fd00:50::13e7\"]"), "{text}");
        let single = objects(&Plan { dual: false, ..plan() }, 1);
        assert!(single.contains("10.50.16.0-10.50.16.0") && !single.contains("v6"), "{single}");
    }

    #[test]
    fn several_networks_share_the_addresses_without_overlap_and_without_a_gap() {
        let several = Plan { networks: 100, ..plan() };
        let lists = Cni::Berth.conflists(&several, place(1)).unwrap();
        assert_eq!(lists.len(), 100);
        assert!(lists[99].contains("\"network\": \"lan-100\""), "{}", lists[99]);
        let text = objects(&several, 1000);
        for (pool, range) in [("lan-1-v4", "10.50.16.0-10.50.16.9"), ("lan-2-v4", "10.50.16.10-10.50.16.19")]
        {
            let at = text.find(pool).unwrap();
            assert!(text[at..].contains(range), "{pool}");
        }
        assert!(
            text.contains("[\"10.50.19.222-10.50.19.231\"]") && text.contains("pools: [lan-7-v4, lan-7-v6]")
        );
    }

    #[test]
    fn words_of_a_file_are_those_of_its_node() {
        let text = filled("@NODE@ @PARENT@ @VERSION@ @START@-@END@ @START6@ @OTHER@", &plan(), place(2));
        assert_eq!(text, "n2 u0 0.3.1 10.50.16.100-10.50.16.199 fd00:50::1064 @OTHER@");
    }
}
