//! The wires: for each device that networks use, one thread that probes and listens.

use std::collections::BTreeMap;
use std::net::IpAddr;

use berth_ipam::ledger::io::{HeardOnWire, Input, ProbeResult};
use berth_ipam::name::IfName;
use berth_underlay::wire::listener::{ParentWire, WireEvent};
use berth_underlay::wire::probe::{Limits, Outcome, Priority};
use berth_underlay::wire::socket::Direction;
use tokio::sync::mpsc::UnboundedSender;

use crate::committer::chain;

/// See the module's head.
#[derive(Debug)]
pub struct Wires {
    by_device: BTreeMap<IfName, ParentWire>,
    refused: BTreeMap<IfName, String>,
    inputs: UnboundedSender<Input>,
}

impl Wires {
    /// No wire yet.
    pub fn new(inputs: UnboundedSender<Input>) -> Self {
        Self { by_device: BTreeMap::new(), refused: BTreeMap::new(), inputs }
    }

    /// Listens on these devices and on no others.
    pub fn listen(&mut self, devices: &[IfName]) {
        self.by_device.retain(|device, _| devices.contains(device));
        self.refused.retain(|device, _| devices.contains(device));
        for device in devices {
            self.open(device);
        }
    }

    /// Devices that are listened on, and those that could not be opened, with the reason.
    pub fn state(&self) -> (Vec<&IfName>, &BTreeMap<IfName, String>) {
        (self.by_device.keys().collect(), &self.refused)
    }

    fn open(&mut self, device: &IfName) {
        if self.by_device.contains_key(device) {
            return;
        }
        let inputs = self.inputs.clone();
        let name = device.clone();
        let report = move |event| match event {
            WireEvent::Heard(heard) => {
                let heard = HeardOnWire {
                    device: name.clone(),
                    address: heard.address,
                    mac: heard.mac,
                    outgoing: heard.direction == Direction::Out,
                };
                let _ = inputs.send(Input::Heard(heard));
            }
            WireEvent::Up { .. } => tracing::info!(device = %name, "the wire is up"),
            WireEvent::Down(reason) => tracing::warn!(device = %name, reason, "the wire is down"),
            WireEvent::Lost(frames) => tracing::warn!(device = %name, frames, "frames were lost"),
        };
        match ParentWire::open(device.as_str(), Limits::default(), report) {
            Ok(wire) => {
                self.refused.remove(device);
                self.by_device.insert(device.clone(), wire);
            }
            Err(error) => drop(self.refused.insert(device.clone(), chain(&error))),
        }
    }

    /// Asks the wire; the answer comes as [`Input::Probed`].
    pub fn probe(&mut self, id: u64, device: &IfName, addresses: Vec<IpAddr>, priority: Priority) {
        self.open(device);
        let inputs = self.inputs.clone();
        let Some(wire) = self.by_device.get(device) else {
            let why = self.refused.get(device).cloned().unwrap_or_default();
            let _ = inputs.send(Input::Probed(id, ProbeResult::Failed(why)));
            return;
        };
        wire.probe(addresses, priority, move |results| {
            let mut answers = Vec::new();
            let mut failed = None;
            for result in results {
                match result.outcome {
                    Outcome::Silent => answers.push((result.address, Vec::new())),
                    Outcome::Answered(macs) => answers.push((result.address, macs)),
                    Outcome::Unknown(why) => failed = Some(why),
                }
            }
            // A round of which a part is unknown is judged by nobody.
            let result = failed.map_or(ProbeResult::Heard(answers), ProbeResult::Failed);
            let _ = inputs.send(Input::Probed(id, result));
        });
    }
}
