//! Reason why the kernel refused a link, in a message that names the parent, the value and the holder.
//!
//! The kernel reports `Device or resource busy` or `Invalid argument`. The meaning is determined afterwards,
//! from the parent and from the agent's leases. If neither explains it, the kernel's error is reported alone.

use std::time::Duration;

use berth_ipam::attachment::AttachmentKey;
use berth_ipam::config::MacvlanMode;
use berth_ipam::mac::Mac;
use berth_ipam::name::IfName;
use berth_protocol::response::{LeaseRow, LinkPlan};
use berth_protocol::{Request, Response};
use berth_underlay::error::Error as KernelError;
use rustix::io::Errno;

use crate::errors::PluginError;
use crate::world::{NewLink, World};

pub const EBUSY: i32 = Errno::BUSY.raw_os_error();
pub const EINVAL: i32 = Errno::INVAL.raw_os_error();
const EEXIST: i32 = Errno::EXIST.raw_os_error();

/// Time limit for the agent to name a holder.
const PATIENCE: Duration = Duration::from_secs(1);

/// The refusal of a new link of the attachment, with what explains it.
pub fn of_link(
    world: &mut impl World,
    key: &AttachmentKey,
    new: &NewLink<'_>,
    cause: KernelError,
) -> PluginError {
    let (LinkPlan::Macvlan { parent, .. } | LinkPlan::Vlan { parent, .. }) = new.plan;
    let refused = match &cause {
        KernelError::CreateLink { cause, .. } => {
            [EBUSY, EINVAL, EEXIST].into_iter().find(|errno| cause.is(*errno))
        }
        _ => None,
    };
    let explained = refused.and_then(|errno| explain(world, key, new, parent, errno));
    match explained {
        Some((why, advice)) => {
            PluginError::LinkRefused { parent: parent.clone(), why, advice, cause: Box::new(cause) }
        }
        None => PluginError::Kernel { what: "create the interface", cause },
    }
}

/// The refusal of a requested MAC, which the parent or another macvlan of it has.
pub fn of_mac(
    world: &mut impl World,
    key: &AttachmentKey,
    parent: &IfName,
    mac: Mac,
    cause: KernelError,
) -> PluginError {
    if world.parent(parent).is_ok_and(|facts| facts.is_some_and(|facts| facts.mac == Some(mac))) {
        let why = format!("the requested MAC {mac} is its own MAC");
        let advice = "request another MAC or none".to_owned();
        return PluginError::LinkRefused { parent: parent.clone(), why, advice, cause: Box::new(cause) };
    }
    let holder = holder(world, key, |row| row.mac == Some(mac));
    let holder = holder.unwrap_or_else(|| "an interface without a lease on this node".to_owned());
    PluginError::MacTaken { mac, parent: parent.clone(), holder, cause: Box::new(cause) }
}

/// Reason and advice for the operator.
fn explain(
    world: &mut impl World,
    key: &AttachmentKey,
    new: &NewLink<'_>,
    parent: &IfName,
    errno: i32,
) -> Option<(String, String)> {
    if let (LinkPlan::Vlan { id, .. }, EEXIST) = (new.plan, errno) {
        let holder = holder(world, key, |row| row.network.as_ref() == Some(&key.network));
        let by = holder.map_or_else(String::new, |holder| format!(", for {holder}"));
        let why = format!("VLAN {id} already exists on it{by}");
        return Some((why, "an exclusive VLAN has one interface; delete the other one first".to_owned()));
    }
    let facts = world.parent(parent).ok().flatten()?;
    if let Some(controller) = facts.controller {
        let why = format!("it is a port of {controller}, which receives all its frames");
        return Some((why, format!("remove it from {controller}, or name {controller} as link.parent")));
    }
    if let Some(mtu) = new.mtu.filter(|mtu| *mtu > facts.mtu) {
        let why = format!("MTU {mtu} is larger than its MTU {}", facts.mtu);
        let advice = "lower link.mtu of the UnderlayNetwork, or raise the parent's MTU on this node";
        return Some((why, advice.to_owned()));
    }
    let LinkPlan::Macvlan { mode, .. } = new.plan else { return None };
    if errno == EINVAL {
        let holder = holder(world, key, |row| row.network.as_ref() == Some(&key.network));
        let by = holder.map_or_else(String::new, |holder| format!("; this network has {holder}"));
        let why = match mode {
            MacvlanMode::Passthru => {
                format!("mode passthru requires it alone, but it already has a macvlan{by}")
            }
            _ => format!(
                "it cannot have a macvlan of mode {}: one of mode passthru may use it exclusively{by}",
                word(*mode)
            ),
        };
        return Some((
            why,
            "delete the other macvlan first, or change link.mode of the networks on it".to_owned(),
        ));
    }
    let why = "another driver, such as ipvlan or macsec, receives all its frames".to_owned();
    (errno == EBUSY).then(|| (why, "remove that interface, or name another link.parent".to_owned()))
}

fn word(mode: MacvlanMode) -> &'static str {
    match mode {
        MacvlanMode::Bridge => "bridge",
        MacvlanMode::Private => "private",
        MacvlanMode::Vepa => "vepa",
        MacvlanMode::Passthru => "passthru",
    }
}

/// Description of the first lease of another attachment of the node that matches; `None` also if the agent does not
/// respond.
fn holder(world: &mut impl World, key: &AttachmentKey, fits: impl Fn(&LeaseRow) -> bool) -> Option<String> {
    // The ADD that is refused has a lease, too.
    let own = (Some(&key.network), Some(&key.container_id), Some(&key.ifname));
    let others =
        |row: &LeaseRow| (row.network.as_ref(), row.container_id.as_ref(), row.ifname.as_ref()) != own;
    let Ok(Response::Leases(rows)) = world.ask(&Request::Leases, PATIENCE) else { return None };
    let row = rows.into_iter().find(|row| row.container_id.is_some() && others(row) && fits(row))?;
    let pod = row.pod.map(|pod| format!("pod {}/{}", pod.namespace, pod.name));
    let who = pod.or_else(|| row.container_id.map(|id| format!("container {id}")))?;
    Some(format!("{who} with {}", row.address))
}
