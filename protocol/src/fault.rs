//! Places where a test may kill the process, to show that nothing leaks or doubles there.
//!
//! Without the feature `fault-points` [`point`] is empty and the environment is never read, so an
//! installed binary cannot be killed this way.

/// The environment variable that names the point at which to die.
pub const VARIABLE: &str = "BERTH_FAULT";

/// The plugin's points in ADD, in order.
pub const PLUGIN_ADD_POINTS: [&str; 6] =
    ["add.start", "add.leased", "add.link-created", "add.bound", "add.configured", "add.done"];

/// The plugin's points in DEL, in order.
pub const PLUGIN_DEL_POINTS: [&str; 3] = ["del.start", "del.link-removed", "del.released"];

/// The agent's points.
pub const AGENT_POINTS: [&str; 10] = [
    "agent.lease.journaled",
    "agent.lease.stored",
    "agent.lease.replied",
    "agent.bind.journaled",
    "agent.bind.replied",
    "agent.done.journaled",
    "agent.done.replied",
    "agent.release.journaled",
    "agent.release.stored",
    "agent.release.replied",
];

/// Kills this process with SIGKILL if [`VARIABLE`] is `name`.
#[cfg(feature = "fault-points")]
pub fn point(name: &str) {
    if std::env::var_os(VARIABLE).is_some_and(|wanted| wanted == name) {
        // Failure is impossible: a process may always signal itself.
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

/// Does nothing: this build has no fault points.
#[cfg(not(feature = "fault-points"))]
#[inline]
pub fn point(_name: &str) {}
