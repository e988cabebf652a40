//! A node: a namespace with a management cable and an underlay cable, a folder as its disk, a kubelet's
//! stand-in, and an agent if the cluster has Berth.
//!
//! Its disk holds configuration, plugins, agent's state, sandboxes' records and machine ID: it survives a
//! loss of power. Everything else is lost at once: processes, namespaces, cables. A boot brings another boot
//! ID.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use berth_testbed::cleanup::{self, Netns, Process};
use kube::Client;

use crate::agent::AgentPlan;
use crate::api::Api;
use crate::chain::Chains;
use crate::cni::{Cni, Place, Plan};
use crate::error::{Error, Result};
use crate::habits::Habits;
use crate::kubelet::{Disk, Identity, Kubelet};
use crate::network::{self, Network};
use crate::runtime::Runtime;
use crate::tally::Tally;

/// Parts that all nodes share.
pub struct Common<'a> {
    /// Cables of the cluster.
    pub network: &'a Network,
    /// The thread on which kubelets run.
    pub api: &'a Api,
    /// Counter of the plugins' calls.
    pub tally: &'a Arc<Tally>,
}

/// A node, with its power on or off.
pub struct Node {
    // Dropped in this order.
    agent: Option<Process>,
    kubelet: Option<Kubelet>,
    netns: Option<Netns>,
    name: String,
    index: u32,
    folder: PathBuf,
    boots: u32,
    capacity: u32,
    heartbeat: Duration,
    client: Client,
    plan: Option<AgentPlan>,
    disk: Disk,
    /// Its kubelet's habits; they can be changed at any time.
    pub habits: Arc<RwLock<Habits>>,
}

/// Specification of a node.
#[derive(Debug, Clone)]
pub struct Kit {
    /// The CNI configuration.
    pub cni: Cni,
    /// Configuration that all nodes share.
    pub plan: Plan,
    /// Folders with plugins; the first that has one counts.
    pub plugins: Vec<PathBuf>,
    /// Number of pods that a node takes.
    pub capacity: u32,
    /// Interval at which a kubelet renews its node's Lease.
    pub heartbeat: Duration,
    /// Deviations at the start.
    pub habits: Habits,
}

impl Node {
    /// Creates a node's disk; the power is off. `client` has the credentials of this node's kubelet.
    pub fn install(folder: &Path, index: u32, kit: &Kit, client: Client) -> Result<Self> {
        let name = Self::name_of(index);
        let folder = folder.join(&name);
        for part in ["net.d", "bin", "state"] {
            let path = folder.join(part);
            std::fs::create_dir_all(&path).map_err(Error::file(format!("make {}", path.display())))?;
        }
        cleanup::shared_folder(&folder.join("netns"))?;
        link_plugins(&kit.plugins, &folder.join("bin"))?;
        let place = Place { name: &name, index, folder: &folder };
        let node = Self {
            agent: None,
            kubelet: None,
            netns: None,
            boots: 0,
            capacity: kit.capacity,
            heartbeat: kit.heartbeat,
            client,
            plan: None,
            disk: Disk::default(),
            habits: Arc::new(RwLock::new(kit.habits.clone())),
            name: name.clone(),
            index,
            folder: folder.clone(),
        };
        for (position, text) in kit.cni.conflists(&kit.plan, place)?.iter().enumerate() {
            // Read in the order of their names; the first is called the same, however many there are.
            let name =
                if position == 0 { "10-cluster".to_owned() } else { format!("20-cluster-{position:04}") };
            node.write(&format!("net.d/{name}.conflist"), text)?;
        }
        node.write("machine-id", &format!("{}\n", node.machine()))?;
        Ok(node)
    }

    /// The name of the node with that number.
    pub fn name_of(index: u32) -> String {
        format!("n{index}")
    }

    /// Installs an agent, which the next boot starts.
    pub fn equip(&mut self, binary: &Path, kubeconfig: &Path, network: &Network, flags: &[String]) {
        self.plan = Some(AgentPlan {
            binary: binary.to_owned(),
            kubeconfig: kubeconfig.to_owned(),
            node: self.name.clone(),
            netns: network.path(&self.name),
            folder: self.folder.clone(),
            flags: flags.to_vec(),
        });
    }

    /// Name of the node.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its number, from 1.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Folder that is its disk.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its namespace, while the power is on.
    pub fn netns(&self) -> Option<&Path> {
        self.netns.as_ref().map(Netns::path)
    }

    /// Power state requested in the file `power` of its folder; `None`: no request.
    pub fn asked_for_power(&self) -> Option<bool> {
        match std::fs::read_to_string(self.folder.join("power")).ok()?.trim() {
            "on" => Some(true),
            "off" => Some(false),
            _ => None,
        }
    }

    /// Its kubelet, while it runs.
    pub fn kubelet(&self) -> Option<&Kubelet> {
        self.kubelet.as_ref()
    }

    /// Its agent's process id, while it runs.
    pub fn agent_pid(&self) -> Option<u32> {
        self.agent.as_ref().map(Process::pid)
    }

    /// Parameters of its agent's start.
    pub fn agent_plan(&self) -> Option<&AgentPlan> {
        self.plan.as_ref()
    }

    /// Changes its agent's kubeconfig, from its next start on.
    pub fn lead_agent(&mut self, kubeconfig: &Path) {
        if let Some(plan) = &mut self.plan {
            kubeconfig.clone_into(&mut plan.kubeconfig);
        }
    }

    /// Sends SIGSTOP to its agent: it neither receives nor sends.
    pub fn pause_agent(&self) {
        if let Some(agent) = &self.agent {
            agent.signal(libc::SIGSTOP);
        }
    }

    /// Sends SIGCONT to its agent.
    pub fn resume_agent(&self) {
        if let Some(agent) = &self.agent {
            agent.signal(libc::SIGCONT);
        }
    }

    /// True if its agent has not ended by itself.
    pub fn agent_runs(&mut self) -> bool {
        self.agent.as_mut().is_some_and(Process::runs)
    }

    /// The sandboxes that live: their container ids and addresses. Waits for calls in flight.
    pub fn attachments(&self) -> Vec<(String, Vec<IpAddr>)> {
        let records: Vec<_> =
            self.disk.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        let living = records.iter().filter_map(|record| {
            let sandbox = record.held.lock().unwrap_or_else(PoisonError::into_inner);
            sandbox.lives().then(|| (sandbox.id.clone(), sandbox.addresses()))
        });
        living.collect()
    }

    /// Sandboxes on its disk, ended or not.
    pub fn sandboxes(&self) -> usize {
        self.disk.lock().map_or(0, |disk| disk.len())
    }

    fn machine(&self) -> String {
        format!("{:032x}", 0xbe00 + u64::from(self.index))
    }

    fn boot_id(&self) -> String {
        format!("{:08x}-{:04x}-4000-8000-000000000000", self.boots, self.index)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(name);
        std::fs::write(&path, text).map_err(Error::file(format!("write {}", path.display())))
    }

    /// Power on: another boot id, namespace and cables; then the agent, and the kubelet.
    pub fn boot(&mut self, common: &Common<'_>) -> Result<()> {
        self.boots += 1;
        self.write("boot-id", &format!("{}\n", self.boot_id()))?;
        let path = common.network.path(&self.name);
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        self.netns = Some(network::named(&name)?);
        common.network.plug(&name, self.index)?;
        self.start_agent()?;
        self.start_kubelet(common)
    }

    /// Starts the agent, if the node has one, and waits until it responds.
    pub fn start_agent(&mut self) -> Result<Option<Duration>> {
        self.start_agent_to_die(None)
    }

    /// The same for an agent that is killed at a fault point.
    pub fn start_agent_to_die(&mut self, fault: Option<&str>) -> Result<Option<Duration>> {
        let Some(plan) = &self.plan else { return Ok(None) };
        let bpf = self.folder.join("bpf");
        if !bpf.exists() {
            // A kernel without such a file system has no programs either; the agent works without.
            let _ = cleanup::bpf_folder(&bpf);
        }
        let mut process = plan.start(fault)?;
        let took = plan.wait_ready(&mut process)?;
        self.agent = Some(process);
        Ok(Some(took))
    }

    /// SIGKILL for the agent alone.
    pub fn kill_agent(&mut self) {
        self.agent = None;
    }

    /// Starts the kubelet.
    pub fn start_kubelet(&mut self, common: &Common<'_>) -> Result<()> {
        let identity = Identity {
            name: self.name.clone(),
            address: network::management(self.index),
            machine: self.machine(),
            boot: self.boot_id(),
            capacity: self.capacity,
            heartbeat: self.heartbeat,
        };
        let chains = Chains::parse(&self.conflists()?)?;
        let runtime = Arc::new(self.runtime(common.network, chains, &self.habits, common.tally));
        let disk = Arc::clone(&self.disk);
        self.kubelet = Some(Kubelet::start(common.api, self.client.clone(), identity, runtime, disk));
        Ok(())
    }

    /// A runtime on the node. Its kubelet has one; another one creates sandboxes without pods.
    pub fn runtime(
        &self,
        network: &Network,
        chains: Chains,
        habits: &Arc<RwLock<Habits>>,
        tally: &Arc<Tally>,
    ) -> Runtime {
        let (netns, habits, tally) = (network.path(&self.name), Arc::clone(habits), Arc::clone(tally));
        Runtime::new(&netns, &self.folder.join("netns"), &self.folder.join("bin"), chains, habits, tally)
    }

    /// Content of its configuration folder, ordered by name.
    pub fn conflists(&self) -> Result<Vec<String>> {
        let folder = self.folder.join("net.d");
        let read = || Error::file(format!("read {}", folder.display()));
        let entries: std::io::Result<Vec<_>> = std::fs::read_dir(&folder).map_err(read())?.collect();
        let mut paths: Vec<PathBuf> = entries.map_err(read())?.iter().map(std::fs::DirEntry::path).collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "conflist"));
        paths.sort();
        let texts = paths.iter().map(|path| {
            std::fs::read_to_string(path).map_err(Error::file(format!("read {}", path.display())))
        });
        texts.collect()
    }

    /// Sends SIGKILL to the kubelet alone: pods stay alive without a manager.
    pub fn kill_kubelet(&mut self) {
        if let Some(kubelet) = self.kubelet.take() {
            kubelet.kill();
        }
    }

    /// Powers the node off: everything that runs is gone at once, the disk stays.
    pub fn power_off(&mut self, network: &Network) {
        // The cable first: a real one carries nothing from the moment of the cut.
        network.unplug(self.index);
        self.agent = None;
        if let Some(kubelet) = self.kubelet.take() {
            kubelet.power_off();
        }
        self.netns = None;
        // What an agent pinned is in the kernel's memory, which the power's end empties.
        let bpf = self.folder.join("bpf");
        if bpf.exists() {
            cleanup::unmount(&bpf);
            let _ = std::fs::remove_dir(&bpf);
        }
    }
}

/// Links every plugin of `sources` into `folder`; of two with one name the first counts.
fn link_plugins(sources: &[PathBuf], folder: &Path) -> Result<()> {
    for source in sources {
        // A missing folder has no plugins; the node will report the missing ones.
        for entry in std::fs::read_dir(source).into_iter().flatten().flatten() {
            let target = folder.join(entry.file_name());
            if !target.exists() {
                let linked = std::os::unix::fs::symlink(entry.path(), &target);
                linked.map_err(Error::file(format!("link {}", target.display())))?;
            }
        }
    }
    Ok(())
}
