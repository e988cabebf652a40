//! What an ADD asks of the agent, through the agent's absence, and what other verbs ask once.
//!
//! Until *done* every question is repeated every 50 ms under the same transaction while there is no
//! agent, so that an upgrade of the agent fails no ADD. All questions are idempotent for that.

use std::time::Duration;

use berth_protocol::request::{Bind, Done, Lease};
use berth_protocol::response::LeaseGrant;
use berth_protocol::{CallError, Request, Response};

use crate::errors::PluginError;
use crate::world::World;

/// How long to wait before asking again.
const PAUSE: Duration = Duration::from_millis(50);

/// How long, in all, an ADD goes on without any agent.
const ABSENCE: Duration = Duration::from_secs(30);

/// How long the agent may take for a bind or done.
const STEP: Duration = Duration::from_secs(10);

/// What the agent gets beyond the time for which an ADD may wait for an address.
const GRACE: Duration = Duration::from_secs(5);

/// How long an ADD whose configuration sets no `addTimeout` listens: the network's own is the
/// agent's business, and no runtime waits for longer than this.
const LISTEN: Duration = Duration::from_mins(4);

/// A question that is asked once and answered with no more than that it is done.
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
    /// How long the agent was absent, in all.
    absent: Duration,
    /// Whether the agent may have heard of the transaction.
    pub heard: bool,
}

impl Session {
    /// Leases addresses; waits as long as the request says that an address may take.
    pub fn lease(&mut self, world: &mut impl World, lease: Lease) -> Result<LeaseGrant, PluginError> {
        let listen = lease.add_timeout_ms.map_or(LISTEN, |millis| Duration::from_millis(millis) + GRACE);
        let what = "lease addresses";
        match self.ask(world, what, &Request::Lease(lease), listen)? {
            Response::Lease(grant) if !grant.addresses.is_empty() => Ok(grant),
            _ => Err(PluginError::OtherAnswer { what }),
        }
    }

    /// Tells the agent which link has the lease.
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
        // Also bounds an agent that takes every question and dies over it.
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
