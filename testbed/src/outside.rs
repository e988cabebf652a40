//! The cluster that a lab's node belongs to, for cases that are played in one. Who can build a control plane
//! implements this; here nothing is known of Kubernetes.

use std::fmt::Debug;
use std::path::Path;

use crate::error::Result;

/// See the module's head.
pub trait Outside: Debug + Send + Sync {
    /// Takes the namespace `node` in: a way from it to the API server, and of Berth's objects exactly those that
    /// `declared`, YAML, names.
    fn join(&self, node: &Path, declared: &str) -> Result<()>;

    /// A node of that name says that it is this machine in this boot.
    fn identify(&self, name: &str, machine: &str, boot: &str) -> Result<()>;

    /// With which flags an agent uses the API server.
    fn flags(&self) -> Vec<String>;
}
