//! Flags of a cluster. Paths from `cargo xtask` come in environment variables.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cluster::Options;
use crate::cni::Cni;
use crate::control::Settings;
use crate::error::{Error, Result};
use crate::habits::Habits;

/// Names the folder with upstream's newest plugins.
pub const TOOLS_VARIABLE: &str = "BERTH_TOOLS_DIR";
/// Names the folder with Berth's binaries.
pub const BINARIES_VARIABLE: &str = "BERTH_BIN_DIR";
/// Folder of Debian's plugins.
const DEBIAN: &str = "/usr/lib/cni";
/// Manifests of agents, CRDs and their rights; the first one that exists is applied.
const MANIFESTS: [&str; 2] = ["deploy/berth.yaml", "deploy/crds.yaml"];

/// A CNI configuration that is built in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum BuiltIn {
    /// Berth, with an agent on every node.
    Berth,
    /// Upstream's macvlan with host-local, a range for each node: the floor.
    HostLocal,
}

/// Address families of the pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Family {
    /// Only IPv4 addresses.
    V4,
    /// IPv4 and IPv6.
    Dual,
}

/// Flags of a cluster.
#[expect(clippy::struct_excessive_bools, reason = "each is a separate flag")]
#[derive(Debug, Clone, clap::Args)]
pub struct ClusterArgs {
    /// Number of nodes.
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=250))]
    pub nodes: u32,
    /// Number of pods that fit, and of addresses of each family in the pools.
    #[arg(long, default_value_t = 60, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=20000))]
    pub pods: u32,
    /// Number of networks, each with its own pools, among which Berth's addresses are divided. A pod selects
    /// one by the annotation v1.multus-cni.io/default-network, as with Multus.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub networks: u32,
    /// The CNI configuration of the nodes.
    #[arg(long, value_enum, default_value_t = BuiltIn::HostLocal)]
    pub cni: BuiltIn,
    /// Another one: a conflist, in which @NODE@, @FOLDER@, @PARENT@, @VERSION@, @SUBNET@, @START@, @END@,
    /// @SUBNET6@, @START6@, @END6@ are replaced for each node.
    #[arg(long, value_name = "FILE", conflicts_with = "cni")]
    pub cni_config: Option<PathBuf>,
    /// A folder with plugins, before the usual ones (may be repeated).
    #[arg(long, value_name = "DIR")]
    pub cni_bin: Vec<PathBuf>,
    /// A manifest to apply before the nodes start (may be repeated).
    #[arg(long, value_name = "FILE")]
    pub apply: Vec<PathBuf>,
    /// Address families of the pods.
    #[arg(long, value_enum, default_value_t = Family::Dual)]
    pub family: Family,
    /// The version of CNI.
    #[arg(long, default_value = "0.3.1", value_name = "VERSION")]
    pub cni_version: String,
    /// Keep Kubernetes' default time-out of dead nodes (50 s), instead of 10 s.
    #[arg(long)]
    pub slow_failure: bool,
    /// Let etcd wait for the disk at every write.
    #[arg(long)]
    pub durable: bool,
    /// A process in every sandbox, as a pause container.
    #[arg(long)]
    pub inhabited: bool,
    /// Number of CNI commands that a node has in flight.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub in_flight: u16,
    /// From a pod's end to its DEL, in milliseconds.
    #[arg(long, default_value_t = 0, value_name = "MS")]
    pub late_del: u64,
    /// Number of DELs after each successful one, without namespace and result.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub repeated_dels: u32,
    /// Remove sandboxes without any DEL.
    #[arg(long)]
    pub no_del: bool,
    /// Kill the first DEL of each sandbox after this number of milliseconds.
    #[arg(long, value_name = "MS")]
    pub kill_del: Option<u64>,
    /// Keep the sandboxes of force-deleted pods.
    #[arg(long)]
    pub keep_forced: bool,
}

impl ClusterArgs {
    /// Options of the cluster to build.
    pub fn options(&self) -> Result<Options> {
        let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
        let (tools, binaries) = (variable(TOOLS_VARIABLE), variable(BINARIES_VARIABLE));
        let cni = self.configuration();
        let berth = cni == Cni::Berth;
        let agent = binaries.as_ref().filter(|_| berth).map(|folder| folder.join("berth-agent"));
        if berth && agent.is_none() {
            let what =
                format!("Berth's binaries: `cargo xtask cluster` builds them and sets {BINARIES_VARIABLE}");
            return Err(Error::Usage(what));
        }
        let manifest = MANIFESTS.map(PathBuf::from).into_iter().find(|path| berth && path.exists());
        if berth && manifest.is_none() {
            return Err(Error::Usage(format!("{} is not here: it declares what Berth needs", MANIFESTS[0])));
        }
        let usual = binaries.into_iter().chain(tools).chain([Path::new(DEBIAN).to_owned()]);
        Ok(Options {
            nodes: self.nodes,
            cni,
            dual: self.family == Family::Dual,
            version: self.cni_version.clone(),
            pods: self.pods,
            networks: self.networks,
            plugins: self.cni_bin.iter().cloned().chain(usual).collect(),
            agent,
            agent_flags: Vec::new(),
            manifests: manifest.into_iter().chain(self.apply.iter().cloned()).collect(),
            settings: Settings { fast_failure: !self.slow_failure, durable: self.durable },
            habits: self.habits(),
        })
    }

    fn configuration(&self) -> Cni {
        match (&self.cni_config, self.cni) {
            (Some(path), _) => Cni::File(path.clone()),
            (None, BuiltIn::Berth) => Cni::Berth,
            (None, BuiltIn::HostLocal) => Cni::Floor,
        }
    }

    fn habits(&self) -> Habits {
        Habits {
            in_flight: usize::from(self.in_flight),
            late_del: Duration::from_millis(self.late_del),
            repeated_dels: self.repeated_dels,
            no_del: self.no_del,
            kill_del_after: self.kill_del.map(Duration::from_millis),
            keep_forced: self.keep_forced,
            inhabited: self.inhabited,
            ..Habits::default()
        }
    }
}
