//! Addition of routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use berth_ipam::config::Route;
use ipnetwork::IpNetwork;
use rtnetlink::RouteMessageBuilder;
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::route::{RouteAttribute, RouteFlags, RouteMessage, RouteScope};

use super::{CREATE, Changer};
use crate::error::{Error, Unknown};

impl Changer {
    /// Adds a route to the main table; a route that already exists is success. `source` is the source address
    /// of packets that use it.
    ///
    /// `EEXIST` also covers a route to the same destination with the same metric through another gateway.
    /// That route stays; a caller detects it by reading the routes back.
    pub async fn add_route(&self, ifindex: u32, route: &Route, source: Option<IpAddr>) -> Result<(), Error> {
        let wrong = |cause| Error::AddRoute { ifindex, to: route.to, via: route.via, cause };
        let message = route_message(ifindex, route, source).map_err(|unknown| wrong(unknown.into()))?;
        match self.send(RouteNetlinkMessage::NewRoute(message), CREATE).await {
            Ok(()) => Ok(()),
            Err(cause) if cause.is(libc::EEXIST) => Ok(()),
            Err(cause) => Err(wrong(cause)),
        }
    }
}

fn route_message(ifindex: u32, wanted: &Route, source: Option<IpAddr>) -> Result<RouteMessage, Unknown> {
    let mut message = message(ifindex, wanted.to, wanted.via, source)?;
    if wanted.onlink {
        message.header.flags.insert(RouteFlags::Onlink);
    }
    message.attributes.extend(wanted.metric.map(RouteAttribute::Priority));
    Ok(message)
}

fn message(
    ifindex: u32,
    to: IpNetwork,
    via: Option<IpAddr>,
    source: Option<IpAddr>,
) -> Result<RouteMessage, Unknown> {
    match to {
        IpNetwork::V4(to) => {
            // The kernel refuses a destination with host bits.
            let mut route = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(to.network(), to.prefix())
                .output_interface(ifindex);
            route = match via {
                Some(IpAddr::V4(via)) => route.gateway(via),
                Some(IpAddr::V6(via)) => route.via(via),
                None => route.scope(RouteScope::Link),
            };
            match source {
                Some(IpAddr::V4(source)) => Ok(route.pref_source(source).build()),
                None => Ok(route.build()),
                Some(IpAddr::V6(source)) => {
                    Err(Unknown(format!("{source} cannot be the source of an IPv4 route")))
                }
            }
        }
        IpNetwork::V6(to) => {
            let mut route = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(to.network(), to.prefix())
                .output_interface(ifindex);
            route = match via {
                Some(IpAddr::V6(via)) => route.gateway(via),
                None => route,
                Some(IpAddr::V4(via)) => {
                    return Err(Unknown(format!("{via} cannot be the next hop of an IPv6 route")));
                }
            };
            match source {
                Some(IpAddr::V6(source)) => Ok(route.pref_source(source).build()),
                None => Ok(route.build()),
                Some(IpAddr::V4(source)) => {
                    Err(Unknown(format!("{source} cannot be the source of an IPv6 route")))
                }
            }
        }
    }
}
