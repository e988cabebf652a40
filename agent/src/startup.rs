//! Reads before the start of the service: epoch, files, the node.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use berth_ipam::config::{Config, Wire};
use berth_ipam::identity::{BootId, NetnsCookie};
use berth_ipam::ledger::io::{Loaded, Note, NoteKind};
use berth_ipam::name::IfName;
use berth_store::journal::Damaged;
use berth_underlay::netns::own_cookie;
use berth_underlay::read::Reader;
use serde::{Deserialize, Serialize};

use crate::committer::{OnDisk, chain};
use crate::strays;

/// Meta row with the agent's namespace and boot.
pub const PLACE: &str = "place";
/// The meta row that lists the shared VLAN devices that the agent made.
pub const VLANS: &str = "vlans";

/// In which namespace the agent is. Numbers of namespaces mean nothing in another one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// ID of the boot.
    pub boot_id: BootId,
    /// The agent's own namespace.
    pub netns: NetnsCookie,
}

/// The declared configuration, read and checked.
pub fn declarations(path: &Path) -> Result<Config, berth_api::ApiError> {
    berth_api::load(path)?.into_config()
}

/// The devices on which probes are sent, each with the networks' names of its segment: a macvlan on `eth1.5`
/// and VLAN 5 on `eth1` share one.
pub fn devices(config: &Config) -> BTreeMap<IfName, BTreeSet<Wire>> {
    let mut devices = BTreeMap::<_, BTreeSet<_>>::new();
    for link in config.networks.values().map(|network| &network.link) {
        if let Some(device) = link.wire_device() {
            devices.entry(device).or_default().insert(link.wire());
        }
    }
    devices
}

/// Devices with lists of MACs that show pods' links.
pub fn listed_parents(config: &Config) -> Vec<IfName> {
    let all: BTreeSet<_> =
        config.networks.values().filter_map(|network| network.link.macvlan_parent()).collect();
    all.into_iter().collect()
}

/// Present place of the agent.
pub fn place(boot_id: &BootId) -> Result<Place, berth_underlay::error::Error> {
    Ok(Place { boot_id: boot_id.clone(), netns: own_cookie()? })
}

/// State that the ledger gets at the start.
pub fn loaded(mut on_disk: OnDisk, place: &Place, config: &Config, hears_all: bool) -> Loaded {
    let before = on_disk.meta.get(PLACE).and_then(|row| serde_json::from_slice::<Place>(row).ok());
    let before =
        before.filter(|before| before.boot_id == place.boot_id).map_or(place.netns, |before| before.netns);
    for entry in on_disk.entries.iter_mut().filter(|entry| entry.boot_id == place.boot_id) {
        // Written by a version that kept one place for all.
        entry.place.get_or_insert(before);
    }
    let strays = match Reader::new() {
        Ok(mut reader) => strays::find(&mut reader, &listed_parents(config)),
        Err(error) => {
            tracing::warn!(%error, "search the node for links of Berth's");
            Vec::new()
        }
    };
    Loaded {
        entries: on_disk.entries,
        quarantine: on_disk.quarantine,
        records: on_disk.records,
        strays,
        place: Some(place.netns),
        former_place: Some(before),
        hears_all,
    }
}

/// The note of a journal that was damaged and set aside.
pub fn damaged_note(damaged: &Damaged) -> Note {
    let text = format!(
        "the journal is damaged and was set aside as {}; its entries are made again from the records and the node: {}",
        damaged.aside.display(),
        chain(&damaged.cause)
    );
    Note {
        kind: NoteKind::Warning,
        code: "journal-set-aside",
        addresses: Vec::new(),
        segment: None,
        key: None,
        text,
    }
}

/// The shared VLAN devices that the agent made in an earlier life.
pub fn made_vlans(meta: &BTreeMap<String, Vec<u8>>) -> BTreeSet<IfName> {
    meta.get(VLANS).and_then(|row| serde_json::from_slice(row).ok()).unwrap_or_default()
}
