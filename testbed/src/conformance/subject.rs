//! The tested plugin, and its configuration by a runtime.
//!
//! Two networks for every plugin: `lan` with room for all, and `tight`, with a single address in its second
//! family, so that one attachment fills it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::agent::AgentSetup;
use crate::outside::Outside;
use crate::world::{GATEWAY, PARENT, SUBNET};

/// The network with room.
pub const LAN: &str = "lan";
/// The network that one attachment fills.
pub const TIGHT: &str = "tight";
/// The single address of the second family of [`TIGHT`].
pub const TIGHT_V6: &str = "fd00:78::5";
/// The subnet of that address.
const TIGHT_SUBNET: &str = "fd00:78::/64";
/// Range of [`LAN`], first and last address.
const LAN_RANGE: [&str; 2] = ["10.77.0.10", "10.77.0.73"];
/// Range of [`TIGHT`] in the first family.
const TIGHT_RANGE: [&str; 2] = ["10.77.1.10", "10.77.1.13"];

/// Source of the addresses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ipam {
    /// The plugin itself: it is `berth`, as main plugin.
    Own,
    /// Berth, as the delegate of another main plugin.
    Berth,
    /// The `host-local` of Debian.
    HostLocal,
    /// Another plugin, without its own configuration.
    Other(String),
}

/// A plugin under test.
#[derive(Debug, Clone)]
pub struct Subject {
    /// The binary that is called.
    pub binary: PathBuf,
    /// Source of the addresses.
    pub ipam: Ipam,
    /// The folder of Berth's binaries.
    pub berth: PathBuf,
    /// Cluster of the API server that keeps Berth's records; `None`: a local store.
    pub outside: Option<Arc<dyn Outside>>,
}

impl Subject {
    /// Berth as main plugin.
    pub fn berth(binaries: &Path) -> Self {
        Self { binary: binaries.join("berth"), ipam: Ipam::Own, berth: binaries.to_owned(), outside: None }
    }

    /// Another plugin, with an IPAM.
    pub fn other(binaries: &Path, plugin: &Path, ipam: &str) -> Self {
        let ipam = match ipam {
            "berth" => Ipam::Berth,
            "host-local" => Ipam::HostLocal,
            other => Ipam::Other(other.to_owned()),
        };
        Self { binary: plugin.to_owned(), ipam, berth: binaries.to_owned(), outside: None }
    }

    /// Name of the plugin in a document's head.
    pub fn title(&self) -> String {
        let name = self.kind();
        match &self.ipam {
            Ipam::Own => "Berth".to_owned(),
            Ipam::Berth => format!("{name} + berth"),
            Ipam::HostLocal => format!("{name} + host-local"),
            Ipam::Other(other) => format!("{name} + {other}"),
        }
    }

    /// True if it is Berth that is called.
    pub fn is_berth(&self) -> bool {
        self.ipam == Ipam::Own
    }

    /// True if the addresses are the agent's.
    pub fn has_agent(&self) -> bool {
        matches!(self.ipam, Ipam::Own | Ipam::Berth)
    }

    /// The `type` of the plugin in a configuration.
    pub fn kind(&self) -> String {
        self.binary.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Folders in which a runtime looks for plugins.
    pub fn path(&self) -> OsString {
        let own = self.binary.parent().unwrap_or_else(|| Path::new("/"));
        // The paths come from build folders and Debian's package; a colon in one would find no delegate.
        std::env::join_paths([own, &self.berth]).unwrap_or_else(|_| own.as_os_str().to_owned())
    }

    /// The configuration of `network` in `version`.
    pub fn config(&self, network: &str, version: &str, setup: &AgentSetup) -> Value {
        let berth = json!({
            "type": "berth", "network": network, "socket": setup.socket(), "stateDir": setup.state(),
            "bootIDFile": setup.folder.join("boot-id"),
        });
        let mut config = json!({"cniVersion": version, "name": network});
        let ipam = match &self.ipam {
            Ipam::Own => {
                merge(&mut config, &berth);
                return config;
            }
            Ipam::Berth => berth,
            Ipam::HostLocal => json!({
                "type": "host-local", "ranges": ranges(network), "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": Self::files(setup),
            }),
            Ipam::Other(kind) => json!({"type": kind}),
        };
        let main = json!({"type": self.kind(), "master": PARENT, "mode": "bridge", "ipam": ipam});
        merge(&mut config, &main);
        config
    }

    /// Folder in which `host-local` keeps its addresses.
    pub fn files(setup: &AgentSetup) -> PathBuf {
        setup.folder.join("host-local")
    }
}

fn merge(into: &mut Value, from: &Value) {
    for (key, value) in from.as_object().into_iter().flatten() {
        into[key] = value.clone();
    }
}

fn ranges(network: &str) -> Value {
    let v4 = |[first, last]: [&str; 2]| json!([{"subnet": SUBNET, "rangeStart": first, "rangeEnd": last, "gateway": GATEWAY}]);
    if network == TIGHT {
        let single = json!([{"subnet": TIGHT_SUBNET, "rangeStart": TIGHT_V6, "rangeEnd": TIGHT_V6}]);
        json!([v4(TIGHT_RANGE), single])
    } else {
        json!([v4(LAN_RANGE)])
    }
}

/// The agent's declaration of both networks. A link that is gone from a living namespace settles
/// sooner than by default: tests wait for it.
pub fn declaration() -> String {
    let head = |kind: &str, name: &str| {
        format!("apiVersion: berth.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n")
    };
    let network = |name: &str, pools: &str, patience: &str| {
        format!(
            "{}  link: {{type: macvlan, parent: {PARENT}, mode: bridge}}\n  pools: [{pools}]\n  \
             addTimeout: {patience}\n  settle: 300ms\n",
            head("UnderlayNetwork", name)
        )
    };
    let v4 = |name: &str, [first, last]: [&str; 2]| {
        format!(
            "{}  subnet: {SUBNET}\n  ranges: [{first}-{last}]\n  gateway: {GATEWAY}\n  \
             routes: [{{to: 0.0.0.0/0}}]\n",
            head("IPPool", name)
        )
    };
    let v6 = format!("{}  subnet: {TIGHT_SUBNET}\n  ranges: ['{TIGHT_V6}']\n", head("IPPool", "tight-v6"));
    [
        network(LAN, "lan-v4", "5s"),
        network(TIGHT, "tight-v4, tight-v6", "300ms"),
        v4("lan-v4", LAN_RANGE),
        v4("tight-v4", TIGHT_RANGE),
        v6,
    ]
    .join("---\n")
}
