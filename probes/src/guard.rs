//! The segments on which senders may claim only their leases: content of the maps GUARD and PASS.
//!
//! An outgoing claim (ARP, or an address in neighbour discovery) passes if its sender is the MAC that PASS
//! has for the address, or the device's own MAC if PASS has none. All other claims are dropped and counted.
//! The maps are not pinned, because the program ends with its agent.

use std::net::IpAddr;

use aya::Ebpf;
use aya::maps::{HashMap, MapData, MapError};
use berth_ebpf_common::{GuardKey, GuardValue, PassValue, WatchKey};
use berth_ipam::mac::Mac;
use berth_ipam::time::Time;

use crate::attachments::gone;
use crate::error::Error;
use crate::watch::{self, Wire};

const GUARD: &str = "GUARD";
const PASS: &str = "PASS";

/// Frames that a guard dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Number of dropped frames.
    pub dropped: u64,
    /// The last one: when, from which MAC, for which address.
    pub last: Option<(Time, Mac, IpAddr)>,
}

/// See the module's head.
#[derive(Debug)]
pub struct Guards {
    guard: HashMap<MapData, [u8; GuardKey::SIZE], [u8; GuardValue::SIZE]>,
    pass: HashMap<MapData, [u8; WatchKey::SIZE], [u8; PassValue::SIZE]>,
}

impl Guards {
    pub(crate) fn open(ebpf: &mut Ebpf) -> Result<Self, Error> {
        let guard = ebpf.take_map(GUARD).ok_or(Error::Missing(GUARD))?;
        let pass = ebpf.take_map(PASS).ok_or(Error::Missing(PASS))?;
        Ok(Self {
            guard: HashMap::try_from(guard).map_err(Error::open(GUARD))?,
            pass: HashMap::try_from(pass).map_err(Error::open(PASS))?,
        })
    }

    /// Guards a segment on a device with this MAC; the counters are kept.
    pub fn guard(&mut self, wire: Wire, own: Mac) -> Result<(), Error> {
        let before = self.value(wire)?.unwrap_or_default();
        let value = GuardValue { own: own.0, ..before };
        self.guard.insert(key(wire), value.to_bytes(), 0).map_err(Error::using("write to", GUARD))
    }

    /// Stops guarding a segment.
    pub fn unguard(&mut self, wire: Wire) -> Result<(), Error> {
        gone(self.guard.remove(&key(wire))).map_err(Error::using("delete from", GUARD))
    }

    /// Permits claims of an address by one MAC; `None`: by any.
    pub fn pass(&mut self, wire: Wire, address: IpAddr, mac: Option<Mac>) -> Result<(), Error> {
        let value = PassValue { mac: mac.map_or([0; 6], |mac| mac.0), pad: 0 };
        let inserted = self.pass.insert(watch::key(wire, address), value.to_bytes(), 0);
        inserted.map_err(Error::using("write to", PASS))
    }

    /// Permits claims of the address by no pod.
    pub fn unpass(&mut self, wire: Wire, address: IpAddr) -> Result<(), Error> {
        gone(self.pass.remove(&watch::key(wire, address))).map_err(Error::using("delete from", PASS))
    }

    /// Frames that the guard of a segment dropped; `None`: it has none.
    pub fn seen(&self, wire: Wire) -> Result<Option<Seen>, Error> {
        Ok(self.value(wire)?.map(|value| {
            let [a, b, c, d, ..] = value.address;
            let address =
                if value.family == 4 { IpAddr::from([a, b, c, d]) } else { IpAddr::from(value.address) };
            let last = (value.at != 0).then_some((Time(value.at), Mac(value.mac), address));
            Seen { dropped: value.dropped, last }
        }))
    }

    fn value(&self, wire: Wire) -> Result<Option<GuardValue>, Error> {
        match self.guard.get(&key(wire), 0) {
            Ok(bytes) => Ok(Some(GuardValue::from_bytes(&bytes))),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(Error::using("read", GUARD)(error)),
        }
    }
}

fn key(wire: Wire) -> [u8; GuardKey::SIZE] {
    GuardKey { parent: wire.parent, vlan: wire.vlan.unwrap_or(0), pad: 0 }.to_bytes()
}
