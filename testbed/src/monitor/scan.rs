//! The addresses of all namespaces, read by number from the neighbour's namespace.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use super::{Duplicate, Witness};
use crate::netlink::{Address, Netlink};
use crate::world::{Tracked, TrackedList};

/// How often a dump that a change interrupted is begun again.
const ATTEMPTS: u32 = 20;

/// The reader.
pub struct Scanner {
    netlink: Netlink,
    tracked: TrackedList,
}

impl Scanner {
    /// A reader that speaks in the namespace where the numbers were given.
    pub fn new(netlink: Netlink, tracked: TrackedList) -> Self {
        Self { netlink, tracked }
    }

    /// One pass over all namespaces.
    pub fn scan(&mut self) -> io::Result<Vec<Duplicate>> {
        let list = match self.tracked.lock() {
            Ok(list) => list.clone(),
            Err(broken) => broken.into_inner().clone(),
        };
        let mut holders: BTreeMap<IpAddr, Tracked> = BTreeMap::new();
        let (mut found, mut ended) = (Vec::new(), Vec::new());
        for tracked in list {
            let Some(addresses) = self.live(tracked.number)? else {
                ended.push(tracked.number);
                continue;
            };
            for address in addresses {
                let Some(first) = holders.get(&address).cloned() else {
                    holders.insert(address, tracked.clone());
                    continue;
                };
                if first.number == tracked.number {
                    continue;
                }
                // The first was read a moment ago: only if it has the address still, both had it
                // when the second was read.
                if self.live(first.number)?.is_some_and(|again| again.contains(&address)) {
                    let mut names = [first.name, tracked.name.clone()];
                    names.sort();
                    found.push(Duplicate { witness: Witness::Namespaces, address, holders: names });
                } else {
                    holders.insert(address, tracked.clone());
                }
            }
        }
        if !ended.is_empty()
            && let Ok(mut list) = self.tracked.lock()
        {
            list.retain(|tracked| !ended.contains(&tracked.number));
        }
        Ok(found)
    }

    /// The addresses on interfaces that are up; `None` if the namespace has ended.
    fn live(&mut self, number: i32) -> io::Result<Option<Vec<IpAddr>>> {
        for _ in 0..ATTEMPTS {
            match self.read(number) {
                Ok(addresses) => return Ok(Some(addresses)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The number was given before the name was listed, and ends with the namespace only.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        Err(io::Error::other(format!("a dump of namespace {number} was interrupted {ATTEMPTS} times")))
    }

    fn read(&mut self, number: i32) -> io::Result<Vec<IpAddr>> {
        let mut addresses: Vec<Address> = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            addresses.extend(self.netlink.addresses(number, family)?);
        }
        addresses.retain(|entry| match entry.address {
            IpAddr::V4(v4) => !v4.is_loopback(),
            // Link-local addresses are unique on a link only; the pools hold none.
            IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
        });
        if addresses.is_empty() {
            return Ok(Vec::new());
        }
        let links = self.netlink.links(Some(number))?;
        let up = |ifindex| links.iter().any(|link| link.ifindex == ifindex && link.up);
        Ok(addresses.into_iter().filter(|entry| up(entry.ifindex)).map(|entry| entry.address).collect())
    }
}
