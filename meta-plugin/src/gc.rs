//! `GC`: the agent judges at once what the runtime does not have any more.
//!
//! The list is checked before anybody is asked: one that is absent would mean everything, and says
//! nothing (cni.md G4).

use std::time::Duration;

use berth_cni::NetConf;
use berth_protocol::request::{Gc, Valid};
use berth_protocol::{CallError, Request};

use crate::errors::PluginError;
use crate::session;
use crate::world::World;

/// How long the agent may take: it reads about every attachment that is not listed.
const PATIENCE: Duration = Duration::from_secs(25);

/// Hands the list to the agent.
pub fn gc(world: &mut impl World, conf: &NetConf) -> Result<(), PluginError> {
    let valid = conf.valid_attachments()?;
    let valid = valid.into_iter().map(|kept| Valid { container_id: kept.container_id, ifname: kept.ifname });
    let valid: Vec<_> = valid.collect();
    let what = "collect what the runtime does not have any more";
    let mut named = valid.len();
    loop {
        let list = Gc { cni_network: conf.name().clone(), valid: valid[..named].to_vec() };
        match session::ask_once(world, what, &Request::Gc(list), PATIENCE) {
            // To be named only spares an attachment a judgement; what lives is kept, named or not. So a
            // list that is longer than a line of the protocol costs the agent some reads.
            Err(PluginError::Agent { cause: CallError::TooLong { .. }, .. }) if named > 0 => named /= 2,
            outcome => {
                if named < valid.len() {
                    let all = valid.len();
                    world.note(&format!("of the {all} attachments listed, {named} fit into the request"));
                }
                return outcome;
            }
        }
    }
}

#[cfg(test)]
#[path = "gc_tests.rs"]
mod tests;
