//! `GC`: the agent reconciles every attachment that is missing from the runtime's list.
//!
//! The list is checked before the agent is called: an absent list would mean "remove everything", but does
//! not express that.

use std::time::Duration;

use berth_cni::NetConf;
use berth_protocol::request::{Gc, Valid};
use berth_protocol::{CallError, Request};

use crate::errors::PluginError;
use crate::session;
use crate::world::World;

/// Time limit for the agent's response: it reads the state of every attachment that is not listed.
const PATIENCE: Duration = Duration::from_secs(25);

/// Hands the list to the agent.
pub fn gc(world: &mut impl World, conf: &NetConf) -> Result<(), PluginError> {
    let valid = conf.valid_attachments()?;
    let valid = valid.into_iter().map(|kept| Valid { container_id: kept.container_id, ifname: kept.ifname });
    let valid: Vec<_> = valid.collect();
    let what = "collect the attachments missing from the runtime's list";
    let mut named = valid.len();
    loop {
        let list = Gc { cni_network: conf.name().clone(), valid: valid[..named].to_vec() };
        match session::ask_once(world, what, &Request::Gc(list), PATIENCE) {
            // A listed attachment is only skipped; a living one is kept, listed or not. A list that exceeds a
            // line of the protocol therefore costs the agent some reads.
            Err(PluginError::Agent { cause: CallError::TooLong { .. }, .. }) if named > 0 => named /= 2,
            outcome => {
                if named < valid.len() {
                    let all = valid.len();
                    world.note(&format!("only {named} of the {all} listed attachments fit into the request"));
                }
                return outcome;
            }
        }
    }
}

#[cfg(test)]
#[path = "gc_tests.rs"]
mod tests;
