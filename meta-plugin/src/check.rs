//! `CHECK`: compares the attachment with the result of ADD, and checks that the reservation still exists.
//!
//! Changes nothing. Additions by later plugins are tolerated: only the content of the result is checked.

use std::time::Duration;

use berth_cni::result::{Ip, Route};
use berth_cni::{Attach, NetConf};
use berth_ipam::attachment::{AttachmentKey, Role};
use berth_protocol::Request;
use berth_protocol::request::Check;
use berth_underlay::facts::RouteFacts;

use crate::delegate::Ipam;
use crate::errors::PluginError;
use crate::links::is_own;
use crate::session;
use crate::settings::Settings;
use crate::world::World;

/// Time limit for the agent's response.
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs the CHECK command.
pub fn check(
    world: &mut impl World,
    conf: &NetConf,
    settings: &Settings,
    attach: &Attach,
) -> Result<(), PluginError> {
    let prev = conf.prev_result()?.ok_or(PluginError::NoPrevResult)?;
    let attachment = AttachmentKey {
        network: settings.network.clone(),
        container_id: attach.container_id.clone(),
        ifname: attach.ifname.clone(),
    };
    // A delegate's interface is the main plugin's business.
    if settings.role(conf)? != Role::Delegate {
        check_interface(world, &attachment, &prev, attach)?;
    }
    let what = "check the reservation";
    session::ask_once(world, what, &Request::Check(Check { attachment }), PATIENCE)?;
    match Ipam::of(conf)? {
        Some(ipam) => ipam.check(world),
        None => Ok(()),
    }
}

fn check_interface(
    world: &mut impl World,
    key: &AttachmentKey,
    prev: &berth_cni::CniResult,
    attach: &Attach,
) -> Result<(), PluginError> {
    let entered = world.enter(&attach.netns).map_err(PluginError::Netns)?;
    if entered.is_own && !attach.netns_override {
        return Err(PluginError::OwnNetns { path: attach.netns.clone() });
    }
    let what = "read the container's interfaces";
    let unknown = |cause| PluginError::Unknown { what, cause };
    let links = world.links().map_err(unknown)?;
    let addresses = world.addresses().map_err(unknown)?;
    let differs = |what: String| Err(PluginError::Differs { what });
    let Some(link) = links.iter().find(|link| link.name == attach.ifname.as_str()) else {
        return differs(format!("interface {} does not exist", attach.ifname));
    };
    let position = prev.container_interface(attach.ifname.as_str());
    let interface = position.and_then(|position| prev.interfaces().into_iter().nth(position));
    if let Some(expected) = interface.and_then(|interface| interface.mac)
        && link.mac != Some(expected)
    {
        let found = link.mac.map_or_else(|| "none".to_owned(), |mac| mac.to_string());
        return differs(format!("the MAC of {} is {found}, not {expected}", attach.ifname));
    }
    if !link.up {
        return differs(format!("the interface {} is down", attach.ifname));
    }
    // Before the routes, which go with their addresses.
    let ips = prev.ips_of(position);
    for ip in &ips {
        if !addresses.iter().any(|held| held.ifindex == link.ifindex && held.address == ip.address) {
            return differs(format!("{} does not have the address {}", attach.ifname, ip.address));
        }
    }
    let routes = world.routes().map_err(unknown)?;
    let own = is_own(link, key, entered.cookie);
    for told in prev.routes() {
        let is_there = |held: &RouteFacts| {
            let over_another = held.ifindex.is_some_and(|index| index != link.ifindex);
            if over_another { is_over_another(&told, held, own, &ips) } else { is_told(&told, held) }
        };
        if !routes.iter().any(is_there) {
            let via = told.via.map_or_else(String::new, |via| format!(" via {via}"));
            return differs(format!("the route to {}{via} is missing", told.to));
        }
    }
    Ok(())
}

/// Compares a route of the container with one of the result, in any table: a later plugin may have moved it.
fn is_told(told: &Route, held: &RouteFacts) -> bool {
    held.to == told.to
        && told.via.is_none_or(|via| held.via == Some(via))
        && told.priority.is_none_or(|priority| held.metric == priority)
}

/// Compares a route over another interface, which matches one of the result in two cases. Some main plugins
/// leave out a route to a destination that another interface serves, but list it. A later plugin may list a
/// route over another interface, by a next hop in another subnet.
fn is_over_another(told: &Route, held: &RouteFacts, own: bool, ips: &[Ip]) -> bool {
    let in_subnet = told.via.is_some_and(|via| ips.iter().any(|ip| ip.address.contains(via)));
    if own { is_told(told, held) && !in_subnet } else { held.to == told.to }
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
