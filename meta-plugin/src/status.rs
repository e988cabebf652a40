//! `STATUS`: reports whether an ADD would be served.
//!
//! An error takes the node out of service after some seconds, so it is reserved for lasting conditions: an
//! agent that reports one itself, or one that has been absent for longer than any upgrade.

use std::time::Duration;

use berth_ipam::name::NetworkName;
use berth_protocol::{CallError, Request, Response};

use crate::errors::{PluginError, chain};
use crate::world::World;

/// Time limit for the agent's response.
const PATIENCE: Duration = Duration::from_millis(500);

/// Maximum absence of the agent.
const ABSENCE: Duration = Duration::from_mins(1);

/// Reports whether the node can attach containers.
pub fn status(world: &mut impl World, network: Option<NetworkName>) -> Result<(), PluginError> {
    let silence = match world.ask(&Request::Status { network }, PATIENCE) {
        Ok(Response::Status(status)) if status.ready => return Ok(()),
        Ok(Response::Status(status)) => {
            return Err(PluginError::Unavailable { why: status.reasons.join("; ") });
        }
        Ok(_) => return Err(PluginError::OtherAnswer { what: "report its status" }),
        Err(CallError::Refused(failure)) => {
            return Err(PluginError::Unavailable { why: failure.to_string() });
        }
        Err(silence) => silence,
    };
    let now = world.boottime();
    let last = world.alive().filter(|alive| Some(&alive.boot_id) == world.boot_id().as_ref());
    // Without a sign of life in this boot, the agent's absence began with the boot.
    let since = last.map_or(Duration::ZERO, |alive| Duration::from_millis(alive.boottime_ms));
    let absence = now.saturating_sub(since);
    if absence > ABSENCE {
        let why = format!("no agent for {} s: {}", absence.as_secs(), chain(&silence));
        return Err(PluginError::Unavailable { why });
    }
    world.note(&format!(
        "the agent has been absent for at most {} s: {}",
        absence.as_secs(),
        chain(&silence)
    ));
    Ok(())
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
