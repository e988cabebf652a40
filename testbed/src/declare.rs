//! Declarations of a lab: the agent's configuration, and the runtime's network configuration.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::agent::AgentSetup;
use crate::world::{self, PARENT};

/// The CNI network and the `UnderlayNetwork` of every lab.
pub const NETWORK: &str = "lan";

/// Address families of a lab's pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Families {
    /// Only IPv4 addresses.
    V4,
    /// IPv4, and IPv6 from a /64.
    Dual,
}

/// Configuration that the runtime passes to the plugin of the agent that `setup` starts.
pub fn runtime_config(setup: &AgentSetup) -> Value {
    json!({
        "cniVersion": "1.0.0", "name": NETWORK, "type": "berth", "network": NETWORK,
        "socket": setup.socket(), "stateDir": setup.state(), "bootIDFile": setup.folder.join("boot-id"),
    })
}

/// The agent's configuration: one network, a pool of each family.
pub fn network_config(pool: &[Ipv4Addr], extra: &str, families: Families) -> String {
    let (first, last) = (pool[0], pool[pool.len() - 1]);
    let (subnet, gateway) = (world::SUBNET, world::GATEWAY);
    let (names, second) = match families {
        Families::V4 => ("lan-v4", String::new()),
        Families::Dual => {
            ("lan-v4, lan-v6", format!("---\n{}  subnet: fd00:77::/64\n", head("IPPool", "lan-v6")))
        }
    };
    let network = head("UnderlayNetwork", NETWORK);
    let link =
        format!("  link:\n    type: macvlan\n    parent: {PARENT}\n    mode: bridge\n  pools: [{names}]\n");
    let ranges = format!("  subnet: {subnet}\n  ranges: [{first}-{last}]\n  gateway: {gateway}\n");
    let routes = "  routes:\n    - to: 0.0.0.0/0\n";
    format!("{network}{link}{extra}---\n{}{ranges}{routes}{second}", head("IPPool", "lan-v4"))
}

/// The start of a document, up to its spec.
fn head(kind: &str, name: &str) -> String {
    format!("apiVersion: berth.dev/v1alpha1\nkind: {kind}\nmetadata:\n  name: {name}\nspec:\n")
}
