//! The addresses that the watcher observes on the segments: content of the map WATCH.
//!
//! An address with a holder here is watched for claims of other stations; one without is watched for any
//! claim. The programs count and date claims, and report changes; their values can be read back.

use std::net::IpAddr;

use aya::Ebpf;
use aya::maps::{HashMap, MapData, MapError};
use berth_ebpf_common::{WATCHES_MAX, WatchKey, WatchValue, watch_flag};
use berth_ipam::attachment::AttachmentKey;
use berth_ipam::mac::Mac;
use berth_ipam::time::Time;

use crate::attachments::{gone, number};
use crate::error::Error;

const WATCH: &str = "WATCH";

/// Place at which an address is watched: a device, and the VLAN on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Wire {
    /// The device's index in the agent's namespace.
    pub parent: u32,
    /// The VLAN on it; `None`: untagged.
    pub vlan: Option<u16>,
}

/// Observations of the programs about an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Time of the last claim in a frame from outside.
    pub heard_in: Option<Time>,
    /// Time of the last claim in a frame from this node.
    pub heard_out: Option<Time>,
    /// Last claimant; for an address with a holder, the last other one.
    pub speaker: Option<Mac>,
    /// Number of claims.
    pub hits: u32,
    /// Number of claims by others than the holder.
    pub conflicts: u32,
}

/// See the module's head.
#[derive(Debug)]
pub struct Watches {
    map: HashMap<MapData, [u8; WatchKey::SIZE], [u8; WatchValue::SIZE]>,
}

impl Watches {
    pub(crate) fn open(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let map = ebpf.take_map(WATCH).ok_or(Error::Missing(WATCH))?;
        Ok(Self { map: HashMap::try_from(map).map_err(Error::open(WATCH))? })
    }

    /// Watches an address, or changes its holder; what was counted is kept.
    pub fn watch(
        &mut self,
        wire: Wire,
        address: IpAddr,
        holder: Option<(&AttachmentKey, Mac)>,
    ) -> Result<(), Error> {
        let key = key(wire, address);
        let mut value = self.get(&key)?.unwrap_or_default();
        let (id, mac, flags) = match holder {
            Some((key, mac)) => (number(key), mac.0, watch_flag::BOUND),
            None => (0, [0; 6], 0),
        };
        if (value.id, value.flags) != (id, flags) || (flags != 0 && value.mac != mac) {
            // Another holder: the next claim is a change.
            value = WatchValue { id, mac, flags, other: [0; 6], told: 0, ..value };
        }
        self.map.insert(key, value.to_bytes(), 0).map_err(|error| match &error {
            MapError::SyscallError(call) if call.io_error.raw_os_error() == Some(7) => {
                Error::Full { name: WATCH, capacity: WATCHES_MAX }
            }
            _ => Error::UseMap { operation: "write to", name: WATCH, cause: Box::new(error) },
        })
    }

    /// Stops watching an address.
    pub fn unwatch(&mut self, wire: Wire, address: IpAddr) -> Result<(), Error> {
        gone(self.map.remove(&key(wire, address))).map_err(Error::using("delete from", WATCH))
    }

    /// Stops watching all addresses for which `keep` is false: those of an earlier agent, or of a parent that
    /// is gone.
    pub fn retain(&mut self, keep: impl Fn(Wire, IpAddr) -> bool) -> Result<(), Error> {
        let mut out = Vec::new();
        for bytes in self.map.keys() {
            let bytes = bytes.map_err(Error::using("list", WATCH))?;
            let kept = place(&bytes).is_some_and(|(wire, address)| keep(wire, address));
            if !kept {
                out.push(bytes);
            }
        }
        for bytes in out {
            gone(self.map.remove(&bytes)).map_err(Error::using("delete from", WATCH))?;
        }
        Ok(())
    }

    /// Observations about an address; `None`: it is not watched.
    pub fn known(&self, wire: Wire, address: IpAddr) -> Result<Option<Known>, Error> {
        let time = |ns| (ns != 0).then_some(Time(ns));
        Ok(self.get(&key(wire, address))?.map(|value| {
            let speaker = if value.flags & watch_flag::BOUND == 0 { value.mac } else { value.other };
            Known {
                heard_in: time(value.in_seen),
                heard_out: time(value.out_seen),
                speaker: (speaker != [0; 6]).then_some(Mac(speaker)),
                hits: value.hits,
                conflicts: value.conflicts,
            }
        }))
    }

    fn get(&self, key: &[u8; WatchKey::SIZE]) -> Result<Option<WatchValue>, Error> {
        match self.map.get(key, 0) {
            Ok(bytes) => Ok(Some(WatchValue::from_bytes(&bytes))),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(Error::using("read", WATCH)(error)),
        }
    }
}

pub(crate) fn key(wire: Wire, address: IpAddr) -> [u8; WatchKey::SIZE] {
    let (family, bytes) = match address {
        IpAddr::V4(four) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&four.octets());
            (4, bytes)
        }
        IpAddr::V6(six) => (6, six.octets()),
    };
    WatchKey { parent: wire.parent, vlan: wire.vlan.unwrap_or(0), family, pad: 0, address: bytes }.to_bytes()
}

fn place(bytes: &[u8; WatchKey::SIZE]) -> Option<(Wire, IpAddr)> {
    let key = WatchKey::from_bytes(bytes);
    let address = match key.family {
        4 => {
            let [a, b, c, d, ..] = key.address;
            IpAddr::from([a, b, c, d])
        }
        6 => IpAddr::from(key.address),
        _ => return None,
    };
    Some((Wire { parent: key.parent, vlan: (key.vlan != 0).then_some(key.vlan) }, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_back() {
        for (vlan, address) in [(None, "192.0.2.7"), (Some(12), "2001:db8::7")] {
            let wire = Wire { parent: 3, vlan };
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(place(&key(wire, address)), Some((wire, address)));
        }
        let mut bytes = key(Wire { parent: 3, vlan: None }, "192.0.2.7".parse().unwrap());
        bytes[6] = 5;
        assert_eq!(place(&bytes), None);
    }
}
