//! Delivery of a release: to the agent, or else to the spool.

use std::time::Duration;

use berth_protocol::Request;
use berth_protocol::request::Release;

use crate::errors::{PluginError, chain};
use crate::world::World;

/// Maximum silence of the agent before the release goes to the spool.
const SILENCE: Duration = Duration::from_secs(1);

/// Returns once the agent or the disk has the release. An agent that refuses it gets it again from the spool:
/// a failed DEL would stop the whole chain of plugins, and the address would leak.
pub fn hand_over(world: &mut impl World, release: Release) -> Result<(), PluginError> {
    let request = Request::Release(release);
    let Err(refusal) = world.ask(&request, SILENCE) else { return Ok(()) };
    let Request::Release(release) = request else { return Ok(()) };
    world.note(&format!("the release of {} goes to the spool: {}", release.attachment, chain(&refusal)));
    world.spool(release).map_err(PluginError::Spool)
}
