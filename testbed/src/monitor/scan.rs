//! The addresses of all namespaces, read by number from the neighbour's namespace.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use super::{Duplicate, Witness};
use crate::netlink::{Address, Netlink};
use crate::world::{Tracked, TrackedList};

/// Number of attempts for a dump that a change interrupted.
const ATTEMPTS: u32 = 20;

/// Kernel side of the monitor.
pub struct Scanner {
    netlink: Netlink,
    tracked: TrackedList,
}

impl Scanner {
    /// A reader in the namespace in which the nsids were assigned.
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
            let Some(addresses) = self.addresses(tracked.number)? else {
                ended.push(tracked.number);
                continue;
            };
            for (address, _) in addresses {
                let Some(first) = holders.get(&address).filter(|first| first.number != tracked.number) else {
                    holders.insert(address, tracked.clone());
                    continue;
                };
                let first = first.clone();
                // They were read one after the other. Only if the first has it before and after the
                // second is seen with it did both have it at one time.
                let both = self.live(first.number, address)?
                    && self.live(tracked.number, address)?
                    && self.live(first.number, address)?;
                if both {
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

    /// True if a namespace has an address on an interface that is up. Called for suspects only: reading links
    /// takes the kernel's link lock, and no other read here does.
    fn live(&mut self, number: i32, address: IpAddr) -> io::Result<bool> {
        let Some(addresses) = self.addresses(number)? else { return Ok(false) };
        let Some(links) = complete(number, || self.netlink.links(Some(number)))? else { return Ok(false) };
        let up = |ifindex| links.iter().any(|link| link.ifindex == ifindex && link.up);
        Ok(addresses.iter().any(|(held, ifindex)| *held == address && up(*ifindex)))
    }

    /// The addresses of a namespace, with their interfaces; `None` if it has ended.
    fn addresses(&mut self, number: i32) -> io::Result<Option<Vec<(IpAddr, i32)>>> {
        let mut found: Vec<Address> = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let Some(list) = complete(number, || self.netlink.addresses(number, family))? else {
                return Ok(None);
            };
            found.extend(list);
        }
        found.retain(|entry| match entry.address {
            IpAddr::V4(v4) => !v4.is_loopback(),
            // Link-local addresses are unique on a link only; the pools hold none.
            IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
        });
        Ok(Some(found.into_iter().map(|entry| (entry.address, entry.ifindex)).collect()))
    }
}

/// Repeats a dump that a change interrupted; `None` if the namespace has ended.
fn complete<T>(number: i32, mut dump: impl FnMut() -> io::Result<T>) -> io::Result<Option<T>> {
    for _ in 0..ATTEMPTS {
        match dump() {
            Ok(complete) => return Ok(Some(complete)),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The nsid was assigned before the name was listed, and ends with the namespace only.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other(format!("a dump of namespace {number} was interrupted {ATTEMPTS} times")))
}
