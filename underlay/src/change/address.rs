//! Adding and deleting addresses.

use std::net::IpAddr;

use ipnetwork::IpNetwork;
use rtnetlink::AddressMessageBuilder;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressMessage};

use super::{CREATE, Changer};
use crate::error::Error;

impl Changer {
    /// Adds an address to a link; an existing one is success. `nodad` skips the kernel's IPv6 duplicate
    /// address detection, which costs a second or more; the agent has already probed.
    pub async fn add_address(&self, ifindex: u32, address: IpNetwork, nodad: bool) -> Result<(), Error> {
        let message = address_message(ifindex, address, nodad);
        match self.send(RouteNetlinkMessage::NewAddress(message), CREATE).await {
            Ok(()) => Ok(()),
            Err(cause) if cause.is(libc::EEXIST) => Ok(()),
            Err(cause) => Err(Error::AddAddress { ifindex, address, cause }),
        }
    }

    /// Deletes an address from a link. `Ok(false)`: it, or the link, was gone already.
    pub async fn delete_address(&self, ifindex: u32, address: IpNetwork) -> Result<bool, Error> {
        let message = address_message(ifindex, address, false);
        match self.send(RouteNetlinkMessage::DelAddress(message), 0).await {
            Ok(()) => Ok(true),
            Err(cause) if cause.is(libc::EADDRNOTAVAIL) || cause.is(libc::ENODEV) => Ok(false),
            Err(cause) => Err(Error::DeleteAddress { ifindex, address, cause }),
        }
    }
}

fn address_message(ifindex: u32, address: IpNetwork, nodad: bool) -> AddressMessage {
    match address.ip() {
        IpAddr::V4(v4) => AddressMessageBuilder::<std::net::Ipv4Addr>::new()
            .index(ifindex)
            .address(v4, address.prefix())
            .build(),
        IpAddr::V6(v6) => {
            let mut message = AddressMessageBuilder::<std::net::Ipv6Addr>::new()
                .index(ifindex)
                .address(v6, address.prefix())
                .build();
            if nodad {
                message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            }
            message
        }
    }
}
