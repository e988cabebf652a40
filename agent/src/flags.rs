//! The command line of `berth-agent`. Every path can be moved, so several agents run on one kernel.

use std::path::PathBuf;

use berth_ipam::name::{NameError, NodeName};
use berth_probes::{Allowed, LogLevel};
use clap::{Parser, ValueEnum};

/// Gives pods addresses on the underlay, and takes them back once their holders are provably gone.
#[derive(Debug, Clone, PartialEq, Eq, Parser)]
#[command(name = "berth-agent", version)]
pub struct Flags {
    /// A YAML file, or a folder of them, with `UnderlayNetwork` and `IPPool` documents (only with
    /// --store embedded: in a cluster they are objects of the API server).
    #[arg(
        long,
        value_name = "FILE|DIR",
        required_if_eq("store", "embedded"),
        required_unless_present = "store"
    )]
    pub config: Option<PathBuf>,
    /// Place of the leases: a file of this node, or the API server of its cluster.
    #[arg(long, value_enum, value_name = "KIND", default_value_t = StoreKind::Embedded)]
    pub store: StoreKind,
    /// Access to the API server [default: the service account of the agent's pod].
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The namespace of the agents' own objects in the cluster.
    #[arg(long, value_name = "NAME", default_value = "berth-system")]
    pub namespace: String,
    /// Folder of leases, journal, sign of life and spool.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/berth")]
    pub state_dir: PathBuf,
    /// The Unix socket for the plugin and berthctl.
    #[arg(long, value_name = "PATH", default_value = "/run/berth/agent.sock")]
    pub socket: PathBuf,
    /// Folder of the pinned eBPF programs and maps.
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/berth")]
    pub bpffs: PathBuf,
    /// Attach mode of the eBPF programs that see interfaces end: the best that can be proved, a certain one,
    /// or none (netlink then replaces them, and a packet socket replaces the watcher on the segment).
    #[arg(long, value_name = "any|fentry|tp_btf|kprobe|none", default_value = "any")]
    pub rung: Allowed,
    /// A file with the eBPF programs [default: those that the agent was built with].
    #[arg(long, value_name = "FILE")]
    pub ebpf_object: Option<PathBuf>,
    /// Log level of the eBPF programs: code below the level costs nothing.
    #[arg(long, value_name = "off|error|warn|info|debug|trace", default_value = "warn")]
    pub ebpf_log: LogLevel,
    /// This node's name [default: the host name].
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<NodeName>,
    /// The file that holds the id of this boot.
    #[arg(long, value_name = "FILE", default_value = "/proc/sys/kernel/random/boot_id")]
    pub boot_id_file: PathBuf,
    /// The file that holds the id of this machine.
    #[arg(long, value_name = "FILE", default_value = "/etc/machine-id")]
    pub machine_id_file: PathBuf,
    /// A process that the operator vouches for: it keeps no pod's namespace. If the kernel hides its
    /// descriptors, leaked namespaces are still judged. May be repeated.
    #[arg(long, value_name = "PID")]
    pub trusted_pid: Vec<i32>,
    /// The form of the log on stderr.
    #[arg(long, value_enum, value_name = "FORM", default_value_t = LogForm::Text)]
    pub log: LogForm,
}

/// Place of the records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StoreKind {
    /// One file of this node.
    Embedded,
    /// The API server, shared by all nodes.
    Kubernetes,
}

/// The form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogForm {
    /// Lines for people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The host name cannot serve as the node's name.
#[derive(Debug, thiserror::Error)]
#[error("use the host name as the node's name; give another one with --node-name")]
pub struct NodeNameError(#[source] NameError);

impl Flags {
    /// The node's name: the given one, else the host name.
    pub fn node(&self) -> Result<NodeName, NodeNameError> {
        if let Some(name) = &self.node_name {
            return Ok(name.clone());
        }
        let uname = rustix::system::uname();
        uname.nodename().to_string_lossy().parse().map_err(NodeNameError)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::CommandFactory;

    use super::*;

    fn parse(args: &[&str]) -> Result<Flags, clap::Error> {
        Flags::try_parse_from([&["berth-agent"], args].concat())
    }

    #[test]
    fn the_definition_is_consistent() {
        Flags::command().debug_assert();
    }

    #[test]
    fn defaults_are_the_documented_ones() {
        let flags = parse(&["--config", "/etc/berth"]).unwrap();
        assert_eq!(flags.state_dir, Path::new("/var/lib/berth"));
        assert_eq!(flags.socket, Path::new("/run/berth/agent.sock"));
        assert_eq!(flags.bpffs, Path::new("/sys/fs/bpf/berth"));
        assert_eq!(flags.boot_id_file, Path::new("/proc/sys/kernel/random/boot_id"));
        assert_eq!(flags.machine_id_file, Path::new("/etc/machine-id"));
        assert_eq!((flags.log, flags.node_name.clone()), (LogForm::Text, None));
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!(flags.node().unwrap().as_str(), host.trim_end());
    }

    #[test]
    fn every_path_can_be_moved() {
        let args = [
            "--config",
            "c",
            "--state-dir",
            "s",
            "--socket",
            "k",
            "--bpffs",
            "b",
            "--node-name",
            "n1",
            "--boot-id-file",
            "i",
            "--machine-id-file",
            "m",
            "--log",
            "json",
        ];
        let flags = parse(&args).unwrap();
        assert_eq!(flags.node().unwrap().as_str(), "n1");
        assert_eq!(
            [
                flags.config.as_ref().unwrap(),
                &flags.state_dir,
                &flags.socket,
                &flags.bpffs,
                &flags.boot_id_file,
                &flags.machine_id_file
            ],
            ["c", "s", "k", "b", "i", "m"].map(Path::new)
        );
        assert_eq!(flags.log, LogForm::Json);
    }

    #[test]
    fn a_cluster_needs_no_file_of_declarations() {
        let flags = parse(&["--store", "kubernetes", "--kubeconfig", "k"]).unwrap();
        assert_eq!((flags.store, flags.config), (StoreKind::Kubernetes, None));
        assert_eq!(flags.namespace, "berth-system");
    }

    #[test]
    fn the_daemon_set_gives_flags_that_are_taken() {
        let manifest = include_str!("../../deploy/agent.yaml");
        let (_, after) = manifest.split_once("            - berth-agent\n").unwrap();
        let flags = after.lines().map_while(|line| line.trim_start().strip_prefix("- "));
        let flags: Vec<_> = flags.take_while(|flag| flag.starts_with("--")).collect();
        // kubelet fills in variables.
        let flags: Vec<_> = flags.iter().map(|flag| flag.replace("$(NODE_NAME)", "n1")).collect();
        let flags = parse(&flags.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
        assert_eq!((flags.store, flags.node().unwrap().as_str()), (StoreKind::Kubernetes, "n1"));
    }

    #[test]
    fn bad_input_is_refused_with_the_flag_named() {
        for (args, word) in [
            (vec![], "--config"),
            (vec!["--store", "etcd"], "--store"),
            (vec!["--config", "c", "--node-name", "a b"], "--node-name"),
            (vec!["--config", "c", "--log", "xml"], "--log"),
            (vec!["--config", "c", "--sockt", "x"], "--sockt"),
        ] {
            let error = parse(&args).unwrap_err().to_string();
            assert!(error.contains(word), "{args:?}: {error}");
        }
    }
}
