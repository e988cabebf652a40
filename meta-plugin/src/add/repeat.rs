//! Repeated ADD: an attachment that an earlier ADD established, in the same namespace.
//!
//! The link stays in place, and its connections survive. Missing addresses and routes are added again.
//! Nothing is removed, so an ADD that fails or is killed here leaves the attachment unchanged.

use berth_cni::error::code;
use berth_ipam::attachment::Role;
use berth_protocol::fault;
use berth_protocol::request::Done;
use berth_protocol::response::{BoundLink, LeaseGrant};

use super::{Ground, Link, Order, configure, missing_addresses, missing_route};
use crate::errors::PluginError;
use crate::links::is_own;
use crate::session::Session;
use crate::undo::{Step, Undo};
use crate::world::World;

/// Continues an ADD from the response to lease, which names the attachment's link, to its end.
pub fn repeat(
    world: &mut impl World,
    agent: &mut Session,
    order: &Order,
    ground: &Ground,
    (grant, bound): (&LeaseGrant, BoundLink),
    undo: &mut Undo,
) -> Result<Option<Link>, PluginError> {
    let link = match order.role {
        Role::Delegate => ground.existing.clone(),
        Role::Main | Role::Chained => Some(established(world, order, ground, bound)?),
    };
    match confirm(world, agent, order, ground, (grant, link.as_ref()), undo) {
        // An agent that started in between has the attachment, but not this ADD.
        Err(PluginError::Refused(failure)) if failure.code == code::TRY_AGAIN => {
            let ips: Vec<_> = grant.addresses.iter().map(|granted| granted.address.ip()).collect();
            let given = if order.ipam.is_some() { &ips } else { &order.adopted };
            agent.lease(world, order.lease(ground, given))?;
            confirm(world, agent, order, ground, (grant, link.as_ref()), undo)?;
        }
        outcome => outcome?,
    }
    Ok(link)
}

/// Bind, what is missing on the link, done.
fn confirm(
    world: &mut impl World,
    agent: &mut Session,
    order: &Order,
    ground: &Ground,
    (grant, link): (&LeaseGrant, Option<&Link>),
    undo: &mut Undo,
) -> Result<(), PluginError> {
    if let Some(link) = link {
        agent.bind(world, order.bind(ground, link))?;
        fault::point("add.bound");
        if order.role != Role::Delegate && order.adopted.is_empty() {
            complete(world, order, grant, link, undo)?;
        }
    }
    fault::point("add.configured");
    agent.done(world, Done { txn: ground.txn.clone(), attachment: order.key.clone() })?;
    fault::point("add.done");
    Ok(())
}

/// The attachment's link, where the ADD before left it.
fn established(
    world: &mut impl World,
    order: &Order,
    ground: &Ground,
    bound: BoundLink,
) -> Result<Link, PluginError> {
    let what = "read the interface of an earlier ADD";
    let links = world.links().map_err(|cause| PluginError::Unknown { what, cause })?;
    let ifname = &order.key.ifname;
    let gone = || PluginError::NotAsBound { ifname: ifname.clone(), ifindex: bound.ifindex };
    let found = links.iter().find(|link| link.ifindex == bound.ifindex).ok_or_else(gone)?;
    let known = found.mac == Some(bound.mac) || is_own(found, &order.key, ground.netns.cookie);
    let mac = found.mac.filter(|_| known && found.name == ifname.as_str()).ok_or_else(gone)?;
    Ok(Link { ifindex: found.ifindex, mac, name: ifname.clone() })
}

/// Puts back what the link lacks. The undo takes off the addresses that it did not have.
fn complete(
    world: &mut impl World,
    order: &Order,
    grant: &LeaseGrant,
    link: &Link,
    undo: &mut Undo,
) -> Result<(), PluginError> {
    let what = "read the interface of an earlier ADD";
    let links = world.links().map_err(|cause| PluginError::Unknown { what, cause })?;
    let up = links.iter().any(|found| found.ifindex == link.ifindex && found.up);
    let addresses = missing_addresses(world, grant, link.ifindex)?;
    if up && addresses.is_empty() && missing_route(world, grant, link.ifindex)?.is_none() {
        return Ok(());
    }
    undo.push(Step::RemoveAddresses { ifindex: link.ifindex, addresses });
    configure(world, order, grant, link)
}
