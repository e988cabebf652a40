//! The command line of `berthctl`.

use std::net::IpAddr;
use std::path::PathBuf;

use berth_ipam::name::{IfName, SegmentName};
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Shows and corrects the state of this node's Berth agent, and installs Berth on a node.
///
/// Exit codes: 0 done, 1 refused or unhealthy, 2 wrong usage, 3 no agent.
#[derive(Debug, Parser)]
#[command(name = "berthctl", version)]
pub(crate) struct Flags {
    /// The agent's Unix socket.
    #[arg(long, global = true, value_name = "PATH", default_value = "/run/berth/agent.sock")]
    pub(crate) socket: PathBuf,
    /// The form of the output.
    #[arg(short, long, global = true, value_enum, value_name = "FORM", default_value_t = Output::Table)]
    pub(crate) output: Output,
    /// The command to run.
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// The form of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Tables for the terminal.
    Table,
    /// For programs; `events` prints one object a line.
    Json,
}

/// Commands of berthctl.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Every address that is not free, with its holder.
    Leases {
        /// Those of one segment alone.
        #[arg(long, value_name = "SEGMENT")]
        segment: Option<SegmentName>,
    },
    /// Every pool with its counts.
    Pools,
    /// Shows the holder of an address, since when, and all observations and verdicts about it.
    Explain {
        /// The address, without a prefix length.
        address: IpAddr,
        /// Its segment, where it is in use in several.
        #[arg(long, value_name = "SEGMENT")]
        segment: Option<SegmentName>,
    },
    /// Shows the agent's recent observations and actions.
    Events {
        /// Stay and print what happens from now on.
        #[arg(long, short)]
        follow: bool,
    },
    /// Free an address by hand. Refused while there is evidence of life.
    Release {
        /// The address, without a prefix length.
        address: IpAddr,
        /// Its segment, where it is in use in several.
        #[arg(long, value_name = "SEGMENT")]
        segment: Option<SegmentName>,
        /// Free it in spite of evidence of life; it is quarantined first.
        #[arg(long)]
        force: bool,
    },
    /// The agent's health: rungs, capabilities, mounts, store, spool.
    Doctor {
        /// Checks one subject in detail instead.
        #[command(subcommand)]
        at: Option<DoctorAt>,
    },
    /// Put the plugin and then the CNI list into the runtime's folders, if they differ. Needs no agent.
    InstallNode(InstallNode),
    /// Remove the CNI list and then the plugin from the runtime's folders. Needs no agent.
    ///
    /// Empty the node first: a pod that is left cannot be ended without the plugin.
    UninstallNode(UninstallNode),
}

/// Flags of `install-node`.
#[derive(Debug, Clone, Args)]
pub(crate) struct InstallNode {
    /// The binary `berth`.
    #[arg(long, value_name = "FILE")]
    pub(crate) plugin: PathBuf,
    /// The CNI list; it keeps its file name, which ends in .conflist.
    #[arg(long, value_name = "FILE")]
    pub(crate) conflist: PathBuf,
    /// Folder in which the runtime looks for plugins.
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub(crate) bin_dir: PathBuf,
    /// Folder in which the runtime looks for configurations.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub(crate) conf_dir: PathBuf,
}

/// Flags of `uninstall-node`.
#[derive(Debug, Clone, Args)]
pub(crate) struct UninstallNode {
    /// The file name of the CNI list.
    #[arg(long, value_name = "NAME", default_value = "10-berth.conflist")]
    pub(crate) conflist: PathBuf,
    /// Folder in which the runtime looks for plugins.
    #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
    pub(crate) bin_dir: PathBuf,
    /// Folder in which the runtime looks for configurations.
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    pub(crate) conf_dir: PathBuf,
}

/// Subjects that `doctor` can check in detail.
#[derive(Debug, Subcommand)]
pub(crate) enum DoctorAt {
    /// Probe the gateway from a temporary macvlan with a new MAC: shows port security.
    Underlay {
        /// The parent interface.
        parent: IfName,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        super::Flags::command().debug_assert();
    }
}
