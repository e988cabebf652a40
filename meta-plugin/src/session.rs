//! Calls of an ADD to the agent, continued across the agent's absence, and single calls of other verbs.
//!
//! Until *done* a call is repeated every 50 ms under the same transaction while the agent is absent, so that
//! an upgrade of the agent fails no ADD. All calls are idempotent for that purpose.

use std::time::Duration;

use berth_protocol::request::{Bind, Done, Lease};
use berth_protocol::response::LeaseGrant;
use berth_protocol::{CallError, Request, Response};

use crate::errors::PluginError;
use crate::world::World;

/// Pause before the next attempt.
const PAUSE: Duration = Duration::from_millis(50);

/// Total time for which an ADD continues without an agent.
const ABSENCE: Duration = Duration::from_secs(30);

/// Time limit for a bind or done.
const STEP: Duration = Duration::from_secs(10);

/// Time for the agent in addition to the time limit for an address.
const GRACE: Duration = Duration::from_secs(5);

/// Time limit of an ADD without `addTimeout` in its configuration. The agent applies the network's own limit,
/// and no runtime waits for longer than this.
const LISTEN: Duration = Duration::from_mins(4);

/// A single call with a plain `done` as its response.
pub fn ask_once(
    world: &mut impl World,
    what: &'static str,
    request: &Request,
    within: Duration,
) -> Result<(), PluginError> {
    match world.ask(request, within) {
        Ok(Response::Done) => Ok(()),
        Ok(_) => Err(PluginError::OtherAnswer { what }),
        Err(CallError::Refused(failure)) => Err(PluginError::Refused(failure)),
        Err(cause) => Err(PluginError::Agent { what, cause }),
    }
}

/// One ADD's conversation with the agent.
#[derive(Debug, Default)]
pub struct Session {
    /// Total time of the agent's absence.
    absent: Duration,
    /// True if the agent may have received the transaction.
    pub heard: bool,
}

impl Session {
    /// Leases addresses; waits as long as the request allows.
    pub fn lease(&mut self, world: &mut impl World, lease: Lease) -> Result<LeaseGrant, PluginError> {
        let listen = lease.add_timeout_ms.map_or(LISTEN, |millis| Duration::from_millis(millis) + GRACE);
        let what = "lease addresses";
        match self.ask(world, what, &Request::Lease(lease), listen)? {
            Response::Lease(grant) if !grant.addresses.is_empty() => Ok(grant),
            _ => Err(PluginError::OtherAnswer { what }),
        }
    }

    /// Reports the link of the lease to the agent.
    pub fn bind(&mut self, world: &mut impl World, bind: Bind) -> Result<(), PluginError> {
        self.step(world, "bind the link", &Request::Bind(bind))
    }

    /// Closes the transaction.
    pub fn done(&mut self, world: &mut impl World, done: Done) -> Result<(), PluginError> {
        self.step(world, "close the attachment", &Request::Done(done))
    }

    fn step(
        &mut self,
        world: &mut impl World,
        what: &'static str,
        request: &Request,
    ) -> Result<(), PluginError> {
        match self.ask(world, what, request, STEP)? {
            Response::Done => Ok(()),
            _ => Err(PluginError::OtherAnswer { what }),
        }
    }

    fn ask(
        &mut self,
        world: &mut impl World,
        what: &'static str,
        request: &Request,
        within: Duration,
    ) -> Result<Response, PluginError> {
        // Also bounds an agent that takes every request and crashes on it.
        let deadline = world.boottime() + within + ABSENCE;
        loop {
            let cause = match world.ask(request, within) {
                Ok(response) => {
                    self.heard = true;
                    return Ok(response);
                }
                Err(CallError::Refused(failure)) => {
                    self.heard = true;
                    return Err(PluginError::Refused(failure));
                }
                Err(cause) => cause,
            };
            // An empty path means that the agent was there and hung up.
            self.heard |= !matches!(&cause, CallError::Absent { socket, .. } if !socket.is_empty());
            if !cause.is_absence() {
                return Err(PluginError::Agent { what, cause });
            }
            if self.absent >= ABSENCE || world.boottime() >= deadline {
                return Err(PluginError::AgentAbsent { waited: self.absent, cause });
            }
            world.sleep(PAUSE);
            self.absent += PAUSE;
        }
    }
}
