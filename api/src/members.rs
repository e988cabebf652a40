//! Assignable addresses of a subnet: the arithmetic of ranges and exclusions.
//!
//! Invariant: the gateway, the network address and the broadcast address (IPv6: the subnet-router anycast
//! address) are never members, whatever the ranges contain. Subnets of one or two addresses have neither
//! network nor broadcast address (RFC 3021, RFC 6164).

use std::net::IpAddr;

use berth_ipam::interval::{Family, IntervalSet, to_bits};
use ipnetwork::IpNetwork;

/// First and last address of a range.
pub type Span = (u128, u128);

/// Parses `A-B`, a CIDR or one address inside `subnet`; the error contains advice.
pub fn span(text: &str, subnet: IpNetwork) -> Result<Span, String> {
    let (first, last) = if let Some((first, last)) = text.split_once('-') {
        (address(first, subnet)?, address(last, subnet)?)
    } else if text.contains('/') {
        let block: IpNetwork = text.parse().map_err(|_| form())?;
        if block.ip() != block.network() {
            return Err(format!("the CIDR has host bits; write {}/{}", block.network(), block.prefix()));
        }
        inside(block.network(), subnet)?;
        bounds(block)
    } else {
        let one = address(text, subnet)?;
        (one, one)
    };
    let (_, end) = bounds(subnet);
    if first > last {
        return Err("the first address is after the last; exchange them".to_owned());
    }
    if last > end {
        return Err(format!("it reaches beyond the subnet {subnet}; keep it inside"));
    }
    Ok((first, last))
}

/// The members of a pool. The error is the index of a range that contains only addresses that are never
/// assigned.
pub fn members(
    subnet: IpNetwork,
    ranges: Option<&[Span]>,
    exclude: &[Span],
    gateway: Option<IpAddr>,
) -> Result<IntervalSet, usize> {
    let whole = [bounds(subnet)];
    let mut set = IntervalSet::new();
    for (index, &(first, last)) in ranges.unwrap_or(&whole).iter().enumerate() {
        let mut part = IntervalSet::new();
        part.insert(first, last);
        for address in reserved(subnet, gateway) {
            part.remove(address, address);
        }
        if part.is_empty() && ranges.is_some() {
            return Err(index);
        }
        set = set.union(&part);
    }
    for &(first, last) in exclude {
        set.remove(first, last);
    }
    Ok(set)
}

/// First and last address of a block, as numbers.
pub fn bounds(block: IpNetwork) -> Span {
    (to_bits(block.network()), to_bits(block.broadcast()))
}

/// Addresses that are never assigned.
fn reserved(subnet: IpNetwork, gateway: Option<IpAddr>) -> Vec<u128> {
    let (first, last) = bounds(subnet);
    let mut reserved: Vec<_> = gateway.map(to_bits).into_iter().collect();
    if last - first >= 2 {
        reserved.push(first);
        if Family::of(subnet.ip()) == Family::V4 {
            reserved.push(last);
        }
    }
    reserved
}

fn address(text: &str, subnet: IpNetwork) -> Result<u128, String> {
    inside(text.parse().map_err(|_| form())?, subnet)
}

fn inside(address: IpAddr, subnet: IpNetwork) -> Result<u128, String> {
    if subnet.contains(address) {
        Ok(to_bits(address))
    } else {
        Err(format!("{address} is outside the subnet {subnet}; use an address inside it"))
    }
}

fn form() -> String {
    "write an address, a CIDR or first-last without blanks, as in 192.0.2.10, 192.0.2.64/26 or \
     192.0.2.10-192.0.2.99"
        .to_owned()
}
