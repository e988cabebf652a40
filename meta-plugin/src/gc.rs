//! `GC`: the agent judges at once what the runtime does not have any more.
//!
//! The list is checked before anybody is asked: one that is absent would mean everything, and says
//! nothing (cni.md G4).

use std::time::Duration;

use berth_cni::NetConf;
use berth_protocol::Request;
use berth_protocol::request::{Gc, Valid};

use crate::errors::PluginError;
use crate::session;
use crate::world::World;

/// How long the agent may take: it reads about every attachment that is not listed.
const PATIENCE: Duration = Duration::from_secs(25);

/// Hands the list to the agent.
pub fn gc(world: &mut impl World, conf: &NetConf) -> Result<(), PluginError> {
    let valid = conf.valid_attachments()?;
    let valid = valid
        .into_iter()
        .map(|kept| Valid { container_id: kept.container_id, ifname: kept.ifname })
        .collect();
    let what = "collect what the runtime does not have any more";
    session::ask_once(world, what, &Request::Gc(Gc { cni_network: conf.name().clone(), valid }), PATIENCE)
}

#[cfg(test)]
#[path = "gc_tests.rs"]
mod tests;
