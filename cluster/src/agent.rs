//! Start of a node's agent: its flags, its files, its credentials for the API server.
//!
//! A cluster without Berth starts none. The agent runs in the node's network namespace as a process of the
//! test bed, not as a pod of the `DaemonSet`: the stand-in runs no containers.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use berth_testbed::cleanup::{self, Process};
use berth_testbed::client::Client;
use berth_testbed::world;

use crate::error::{Error, Result};

/// The service account of the agents in deploy/berth.yaml, as `namespace:name`.
pub const ACCOUNT: &str = "berth-system:berth-agent";
/// Variable that names the fault point at which an agent is killed.
const FAULT: &str = "BERTH_FAULT";
/// Time limit for the agent's first response.
const START_LIMIT: Duration = Duration::from_mins(1);

/// Parameters of an agent's start.
#[derive(Debug, Clone)]
pub struct AgentPlan {
    /// Path of the binary.
    pub binary: PathBuf,
    /// The kubeconfig of [`ACCOUNT`].
    pub kubeconfig: PathBuf,
    /// The node's name.
    pub node: String,
    /// The node's namespace.
    pub netns: PathBuf,
    /// The node's folder.
    pub folder: PathBuf,
    /// Further flags of the agent.
    pub flags: Vec<String>,
}

impl AgentPlan {
    /// Its command line, with all parameters of the agent's mode for Kubernetes.
    fn command(&self) -> Command {
        let file = |name: &str| self.folder.join(name);
        let mut command = Command::new(&self.binary);
        command.args(["--store", "kubernetes", "--node-name", &self.node, "--log", "text"]);
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        command.arg("--state-dir").arg(file("state"));
        command.arg("--socket").arg(file("agent.sock"));
        command.arg("--bpffs").arg(file("bpf").join("berth"));
        command.arg("--boot-id-file").arg(file("boot-id"));
        command.arg("--machine-id-file").arg(file("machine-id"));
        command.args(berth_testbed::agent::trusted());
        command.args(&self.flags).env_remove("NOTIFY_SOCKET").env_remove("KUBECONFIG");
        command
    }

    /// Starts it, to be killed at a fault point if one is named; it may not respond yet.
    pub fn start(&self, fault: Option<&str>) -> Result<Process> {
        let path = self.folder.join("agent.log");
        let opened = File::options().create(true).append(true).open(&path);
        let log = opened.map_err(Error::file(format!("open {}", path.display())))?;
        let second = log.try_clone().map_err(Error::file("share a log"))?;
        let mut command = self.command();
        command.envs(fault.map(|point| (FAULT, point)));
        command.stdin(Stdio::null()).stdout(log).stderr(second);
        Ok(world::start(&mut command, Some(&self.netns))?)
    }

    /// Waits until it responds; returns the time that took.
    pub fn wait_ready(&self, process: &mut Process) -> Result<Duration> {
        let began = Instant::now();
        loop {
            cleanup::interrupted()?;
            if Client::new(&self.folder.join("agent.sock")).status().is_ok() {
                return Ok(began.elapsed());
            }
            if !process.runs() || began.elapsed() > START_LIMIT {
                let state = if process.runs() { "does not answer" } else { "has ended" };
                return Err(failed(&self.folder.join("agent.log"), state));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn failed(log: &Path, state: &str) -> Error {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let end = lines[lines.len().saturating_sub(20)..].join("\n");
    Error::Part { part: "berth-agent", state: state.to_owned(), log: log.to_owned(), end }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_knows_its_node_and_keeps_to_its_folder() {
        let plan = AgentPlan {
            binary: "berth-agent".into(),
            kubeconfig: "k".into(),
            node: "n1".to_owned(),
            netns: "ns".into(),
            folder: "f".into(),
            flags: vec!["--rung".to_owned(), "none".to_owned()],
        };
        let command = plan.command();
        let arguments: Vec<_> = command.get_args().map(|part| part.to_string_lossy()).collect();
        let line = arguments.join(" ");
        for part in ["--store kubernetes", "--node-name n1", "--kubeconfig k", "--socket f/agent.sock"] {
            assert!(line.contains(part), "{line}");
        }
        assert!(line.ends_with("--rung none"));
    }
}
