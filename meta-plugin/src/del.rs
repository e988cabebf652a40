//! `DEL`: removes the interface (or its addresses), then releases the addresses.
//!
//! Needs neither the parent, the namespace, the pod, the pool nor the agent. Steps that it cannot do are left
//! to the agent and reported to it. It fails only if neither the agent nor the disk takes the release and the
//! link was not seen gone.

use berth_cni::{CniResult, Detach, NetConf};
use berth_ipam::attachment::{AttachmentKey, Role};
use berth_protocol::fault;
use berth_protocol::request::{LinkRemoval, Release};

use crate::delegate::Ipam;
use crate::errors::{PluginError, chain};
use crate::links::{Removal, is_own, remove_own};
use crate::release;
use crate::settings::Settings;
use crate::world::{Entered, World};

/// State of the interface after the removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cleared {
    role: Role,
    link: LinkRemoval,
    /// True if the interface was seen to be gone from the namespace at `CNI_NETNS`.
    seen_gone: bool,
}

/// Runs the DEL command.
pub fn del(
    world: &mut impl World,
    conf: &NetConf,
    settings: &Settings,
    detach: &Detach,
) -> Result<(), PluginError> {
    let key = AttachmentKey {
        network: settings.network.clone(),
        container_id: detach.container_id.clone(),
        ifname: detach.ifname.clone(),
    };
    fault::point("del.start");

    let cleared = clear(world, conf, settings, detach, &key);
    fault::point("del.link-removed");

    let release = Release {
        attachment: key,
        cni_network: conf.name().clone(),
        role: cleared.role,
        link: cleared.link,
        txn: None,
    };
    let outcome = release::hand_over(world, release);
    fault::point("del.released");
    match outcome {
        // The agent finds out by itself that the link is gone; failing would only stop the chain.
        Err(error) if cleared.seen_gone => world.note(&chain(&error)),
        outcome => outcome?,
    }
    // Last: from here on the other IPAM may give the address to any pod. Berth's record refuses such a pod
    // until the link is gone.
    match Ipam::of(conf)? {
        Some(ipam) => ipam.del(world),
        None => Ok(()),
    }
}

fn clear(
    world: &mut impl World,
    conf: &NetConf,
    settings: &Settings,
    detach: &Detach,
    key: &AttachmentKey,
) -> Cleared {
    if settings.delegate {
        return Cleared { role: Role::Delegate, link: LinkRemoval::NotMine, seen_gone: false };
    }
    // An unreadable prevResult must not keep the address: it only names objects to remove.
    let prev = conf.prev_result().unwrap_or_else(|error| {
        world.note(&error.to_string());
        None
    });
    let role = role_by_result(prev.as_ref(), key);
    let Some(entered) = enter(world, detach) else {
        return Cleared { role, link: LinkRemoval::Unreachable, seen_gone: false };
    };
    match remove_own(world, key, entered.cookie) {
        Removal::Removed => Cleared { role: Role::Main, link: LinkRemoval::Gone, seen_gone: true },
        Removal::Failed => Cleared { role, link: LinkRemoval::Unreachable, seen_gone: false },
        Removal::NoneHere => clear_chained(world, prev.as_ref(), key, entered, role),
    }
}

/// Role of Berth according to the result. A main plugin's DEL gets the result of the whole chain as
/// `prevResult`, so the result must show whether Berth created the interface. A wrong guess is harmless: the
/// agent uses its record.
fn role_by_result(prev: Option<&CniResult>, key: &AttachmentKey) -> Role {
    let Some(prev) = prev else { return Role::Main };
    let interfaces = prev.interfaces();
    let interface =
        prev.container_interface(key.ifname.as_str()).and_then(|position| interfaces.get(position));
    match interface.and_then(|interface| interface.mac) {
        Some(mac) if !mac.belongs_to(key) => Role::Chained,
        _ => Role::Main,
    }
}

/// Enters the container's namespace, if there is one that may be touched.
fn enter(world: &mut impl World, detach: &Detach) -> Option<Entered> {
    let path = detach.netns.as_ref()?;
    match world.enter(path) {
        Ok(entered) if entered.is_own && !detach.netns_override => {
            world.note(&format!("{} is the node's own namespace and was left alone", path.display()));
            None
        }
        Ok(entered) => Some(entered),
        Err(error) => {
            world.note(&chain(&error));
            None
        }
    }
}

/// The attachment has no link of Berth's here: removes the addresses of the result from the main plugin's
/// link. The path may lead to another container now, so the link must have the MAC of the result.
///
/// For the same reason a missing link here proves little. The agent, which identifies the namespace by its
/// cookie, decides.
fn clear_chained(
    world: &mut impl World,
    prev: Option<&CniResult>,
    key: &AttachmentKey,
    entered: Entered,
    role: Role,
) -> Cleared {
    let unsettled = |seen_gone| Cleared { role, link: LinkRemoval::Unreachable, seen_gone };
    let Ok(links) = world.links() else { return unsettled(false) };
    let Some(link) = links.iter().find(|link| link.name == key.ifname.as_str()) else {
        return unsettled(true);
    };
    let (Some(prev), Role::Chained) = (prev, role) else { return unsettled(false) };
    debug_assert!(!is_own(link, key, entered.cookie), "own links were removed before");
    let position = prev.container_interface(key.ifname.as_str());
    let named = position.and_then(|position| prev.interfaces().into_iter().nth(position));
    if link.mac.is_none() || named.and_then(|interface| interface.mac) != link.mac {
        return unsettled(false);
    }
    let addresses: Vec<_> = prev.ips_of(position).iter().map(|ip| ip.address).collect();
    if addresses.is_empty() {
        return unsettled(false);
    }
    match world.remove_addresses(link.ifindex, &addresses) {
        Ok(()) => Cleared { role, link: LinkRemoval::Gone, seen_gone: true },
        Err(error) => {
            world.note(&format!("cannot remove the addresses: {}", chain(&error)));
            unsettled(false)
        }
    }
}

#[cfg(test)]
#[path = "del_tests.rs"]
mod tests;
