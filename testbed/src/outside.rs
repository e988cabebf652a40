//! The cluster of a lab's node, for cases that run in one. A crate with a control plane implements this; this
//! one is independent of Kubernetes.

use std::fmt::Debug;
use std::path::Path;

use crate::error::Result;

/// See the module's head.
pub trait Outside: Debug + Send + Sync {
    /// Connects the namespace `node` to the API server, and replaces Berth's objects by those of `declared`,
    /// in YAML.
    fn join(&self, node: &Path, declared: &str) -> Result<()>;

    /// Makes the node of that name report this machine and this boot.
    fn identify(&self, name: &str, machine: &str, boot: &str) -> Result<()>;

    /// Flags with which an agent uses the API server.
    fn flags(&self) -> Vec<String>;
}
