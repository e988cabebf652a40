//! Which CNI configuration the nodes of a cluster have: the floor (upstream's `macvlan` with `host-local`),
//! Berth, or any file that somebody gives. Pure, but for the reading of that file.
//!
//! In a file these words are replaced, each for its node: `@NODE@` its name, `@FOLDER@` a folder of its own,
//! `@PARENT@` the underlay's link, `@VERSION@` the CNI version, `@SUBNET@`, `@START@`, `@END@` and
//! `@SUBNET6@`, `@START6@`, `@END6@` its share of the addresses.

use std::fmt::{Display, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::chain::ANNOTATIONS;
use crate::error::{Error, Result};
use crate::network::{self, PARENT, SUBNET, SUBNET6};

/// The `UnderlayNetwork` of Berth's configuration.
pub const NETWORK: &str = "lan";

/// What the nodes use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cni {
    /// Upstream's `macvlan` with `host-local`, each node with a range of its own: the least that any
    /// plugin does.
    Floor,
    /// Berth.
    Berth,
    /// The list in a file.
    File(PathBuf),
}

/// What all nodes have in common.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// IPv6 beside IPv4.
    pub dual: bool,
    /// `cniVersion`.
    pub version: String,
    /// How many addresses of each family a node has, where each has its own.
    pub share: u32,
}

/// What differs between nodes.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The node's name.
    pub name: &'a str,
    /// Its number, from 1.
    pub index: u32,
    /// Its folder.
    pub folder: &'a Path,
}

impl Cni {
    /// The conflist of a node.
    pub fn conflist(&self, plan: &Plan, place: Place<'_>) -> Result<String> {
        match self {
            Self::Floor => Ok(list(plan, "floor", &floor(plan, place))),
            Self::Berth => Ok(list(plan, NETWORK, &berth(place))),
            Self::File(path) => {
                let text = std::fs::read_to_string(path);
                let text = text.map_err(Error::file(format!("read {}", path.display())))?;
                Ok(filled(&text, plan, place))
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

fn list(plan: &Plan, name: &str, plugin: &Value) -> String {
    format!("{:#}\n", json!({"cniVersion": plan.version, "name": name, "plugins": [plugin]}))
}

/// What Berth is told of the underlay: one network, and a pool of `pods` addresses of each family.
pub fn objects(plan: &Plan, pods: u32) -> String {
    let ((first, first6), (last, last6)) = (network::address(0), network::address(pods.max(1) - 1));
    let head = |kind: &str, name: &str| {
        format!("---\napiVersion: berth.dev/v1alpha1\nkind: {kind}\nmetadata:\n  name: {name}\nspec:\n")
    };
    let pools = if plan.dual { "lan-v4, lan-v6" } else { "lan-v4" };
    let link = format!("  link:\n    type: macvlan\n    parent: {PARENT}\n    mode: bridge\n");
    let mut text = format!("{}{link}  pools: [{pools}]\n", head("UnderlayNetwork", NETWORK));
    let mut pool = |name: &str, subnet: &str, first: &dyn Display, last: &dyn Display| {
        text.push_str(&head("IPPool", name));
        let _ = writeln!(text, "  subnet: {subnet}\n  ranges: [\"{first}-{last}\"]");
    };
    pool("lan-v4", SUBNET, &first, &last);
    if plan.dual {
        pool("lan-v6", SUBNET6, &first6, &last6);
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

fn berth(place: Place<'_>) -> Value {
    json!({
        "type": "berth", "network": NETWORK, "socket": place.folder.join("agent.sock"),
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
        Plan { dual: true, version: "0.3.1".to_owned(), share: 100 }
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
            let chain = Chain::parse(&cni.conflist(&plan(), place(1)).unwrap()).unwrap();
            assert_eq!(chain.len(), 1);
        }
        let single = Plan { dual: false, ..plan() };
        assert!(!Cni::Floor.conflist(&single, place(1)).unwrap().contains("fd00"));
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
    fn words_of_a_file_are_those_of_its_node() {
        let text = filled("@NODE@ @PARENT@ @VERSION@ @START@-@END@ @START6@ @OTHER@", &plan(), place(2));
        assert_eq!(text, "n2 u0 0.3.1 10.50.16.100-10.50.16.199 fd00:50::1064 @OTHER@");
    }
}
