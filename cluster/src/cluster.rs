//! A whole cluster: cables, control plane, nodes; everything goes when it is dropped.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Once};
use std::time::{Duration, Instant};

use berth_testbed::census::{self, Holders};
use berth_testbed::cleanup::{self, Folder};
use berth_testbed::kubernetes::Programs;
use kube::api::ListParams;

use crate::agent;
use crate::api::{self, Api};
use crate::cni::{self, Cni, Plan};
use crate::control::{ControlPlane, Settings, User};
use crate::error::{Error, Result};
use crate::habits::Habits;
use crate::network::{self, Network};
use crate::node::{Common, Kit, Node};
use crate::records::{self, Record};
use crate::tally::Tally;

/// Time limit for all nodes to become Ready.
const READY_LIMIT: Duration = Duration::from_mins(1);

/// Options of a cluster.
#[derive(Debug, Clone)]
pub struct Options {
    /// Number of nodes.
    pub nodes: u32,
    /// CNI configuration of the nodes.
    pub cni: Cni,
    /// IPv6 in addition to IPv4.
    pub dual: bool,
    /// Value of `cniVersion`.
    pub version: String,
    /// Number of pods, and of addresses of each family, that the cluster is built for.
    pub pods: u32,
    /// Number of networks, each with its own pools, among which Berth's addresses are divided.
    pub networks: u32,
    /// Folders with plugins; the first that has one counts.
    pub plugins: Vec<PathBuf>,
    /// The agent's binary, for Berth.
    pub agent: Option<PathBuf>,
    /// Further flags of agents.
    pub agent_flags: Vec<String>,
    /// Manifests to apply before nodes start.
    pub manifests: Vec<PathBuf>,
    /// Settings of the control plane.
    pub settings: Settings,
    /// Behaviour of the kubelets at the start.
    pub habits: Habits,
}

impl Options {
    /// A cluster on the floor for `pods` pods, its plugins in `plugins`.
    pub fn floor(nodes: u32, pods: u32, plugins: Vec<PathBuf>) -> Self {
        Self {
            nodes,
            cni: Cni::Floor,
            dual: true,
            version: "0.3.1".to_owned(),
            pods,
            networks: 1,
            plugins,
            agent: None,
            agent_flags: Vec::new(),
            manifests: Vec::new(),
            settings: Settings::default(),
            habits: Habits::default(),
        }
    }
}

impl Options {
    /// Number of pods that a node takes.
    fn share(&self) -> u32 {
        self.pods.div_ceil(self.nodes)
    }

    fn plan(&self) -> Plan {
        Plan { dual: self.dual, version: self.version.clone(), share: self.share(), networks: self.networks }
    }

    /// A cluster with Berth for `pods` pods: binaries in `binaries`, and what `manifest` declares.
    pub fn berth(nodes: u32, pods: u32, binaries: &Path, manifest: &Path) -> Self {
        Self {
            cni: Cni::Berth,
            version: "1.1.0".to_owned(),
            agent: Some(binaries.join("berth-agent")),
            manifests: vec![manifest.to_owned()],
            ..Self::floor(nodes, pods, vec![binaries.to_owned()])
        }
    }
}

/// Callback for each step of a build, with its duration.
pub type Told<'a> = &'a mut dyn FnMut(&str, Duration);

/// Prints a step.
pub fn print_step(what: &str, took: Duration) {
    println!("{:>8.2} s  {what}", took.as_secs_f64());
}

/// Counts the clusters of this process.
static CLUSTERS: AtomicU32 = AtomicU32::new(0);

/// A running cluster.
pub struct Cluster {
    // Dropped in this order: what runs on nodes, what it talks through, what it talks to, where it is.
    /// The nodes; the first has the number 1.
    pub nodes: Vec<Node>,
    kubelets: Api,
    /// The control plane.
    pub control: ControlPlane,
    /// Cables of the cluster.
    pub network: Network,
    /// Counter of the plugins' calls.
    pub tally: Arc<Tally>,
    folder: Folder,
    options: Options,
}

impl Cluster {
    /// Builds one and waits until all its nodes are Ready.
    pub fn start(options: &Options, told: Told<'_>) -> Result<Self> {
        static SWEEP: Once = Once::new();
        cleanup::interrupted()?;
        SWEEP.call_once(cleanup::sweep);
        if options.nodes == 0 || options.nodes > 250 || options.pods < options.nodes {
            return Err(Error::Usage("a cluster has 1 to 250 nodes, and at least a pod for each".to_owned()));
        }
        if options.networks == 0 || !options.pods.is_multiple_of(options.networks) {
            let text =
                format!("{} pods cannot be spread evenly over {} networks", options.pods, options.networks);
            return Err(Error::Usage(text));
        }
        let programs = Programs::of_environment().map_err(|names| Error::NoPrograms { names })?;
        let id = format!("{}-k{}", cleanup::prefix(), CLUSTERS.fetch_add(1, Ordering::Relaxed));
        let folder = Folder::create(&id)?;
        let began = Instant::now();
        let network = Network::build(&id)?;
        told("bridges", began.elapsed());

        let nodes = (1..=options.nodes).map(|index| User::Node(Node::name_of(index)));
        let account = User::Account(agent::ACCOUNT.to_owned());
        let users: Vec<User> = nodes.chain([account]).collect();
        let path = folder.path();
        let control =
            ControlPlane::start(&programs, network.control(), path, options.settings, &users, told)?;
        let began = Instant::now();
        for manifest in &options.manifests {
            control.kubectl(&["apply", "--server-side", "-f", &manifest.display().to_string()])?;
            told(&format!("apply {}", manifest.display()), began.elapsed());
        }
        if options.cni == Cni::Berth {
            let pools = path.join("pools.yaml");
            let text = cni::objects(&options.plan(), options.pods);
            std::fs::write(&pools, text).map_err(Error::file("write pools.yaml"))?;
            control.kubectl(&["apply", "--server-side", "-f", &pools.display().to_string()])?;
            told("network and pools", began.elapsed());
        }
        let kubelets = control.api_of(&User::Admin)?;
        let (tally, options) = (Arc::default(), options.clone());
        let mut cluster = Self { nodes: Vec::new(), kubelets, control, network, tally, folder, options };
        let began = Instant::now();
        for index in 1..=cluster.options.nodes {
            cluster.add_node(index)?;
        }
        told("start of nodes", began.elapsed());
        cluster.await_nodes()?;
        told("nodes Ready", began.elapsed());
        Ok(cluster)
    }

    fn add_node(&mut self, index: u32) -> Result<()> {
        let options = &self.options;
        let fast = options.settings.fast_failure;
        let kit = Kit {
            cni: options.cni.clone(),
            plan: options.plan(),
            plugins: options.plugins.clone(),
            capacity: options.share(),
            heartbeat: Duration::from_secs(if fast { 2 } else { 10 }),
            habits: options.habits.clone(),
        };
        let identity = self.control.kubeconfig(&User::Node(Node::name_of(index)));
        let what = format!("the client of node {index}");
        let client = self.kubelets.wait(&what, async move { api::client(&identity).await })??;
        let mut node = Node::install(&self.folder.path().join("nodes"), index, &kit, client)?;
        if let Some(binary) = &self.options.agent {
            let account = self.control.kubeconfig(&User::Account(agent::ACCOUNT.to_owned()));
            node.equip(binary, &account, &self.network, &self.options.agent_flags);
        }
        let (network, api, tally) = (&self.network, &self.kubelets, &self.tally);
        node.boot(&Common { network, api, tally })?;
        self.nodes.push(node);
        Ok(())
    }

    /// Waits until the API server reports every node as Ready and schedulable.
    pub fn await_nodes(&self) -> Result<()> {
        use k8s_openapi::api::core::v1::Node as NodeObject;
        let api = self.control.api()?;
        self.wait_until("all nodes Ready", READY_LIMIT, || {
            let nodes: kube::Api<NodeObject> = kube::Api::all(api.client());
            let listed = api.ask("list nodes", async move { nodes.list(&ListParams::default()).await })?;
            let ready = listed.items.iter().filter(|node| is_ready(node)).count();
            Ok(ready == self.nodes.len())
        })
    }

    /// Checks every 50 ms until `done`, at most `limit`.
    pub fn wait_until(
        &self,
        what: &str,
        limit: Duration,
        mut done: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        let began = Instant::now();
        while !done()? {
            cleanup::interrupted()?;
            if began.elapsed() > limit {
                return Err(Error::Timeout { what: what.to_owned(), within: limit });
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Number of pods that run on all nodes, as their kubelets reported to the API server.
    pub fn running(&self) -> usize {
        self.nodes.iter().filter_map(Node::kubelet).map(super::kubelet::Kubelet::count).sum()
    }

    /// Number of sandboxes that the present kubelets reported to the API server.
    pub fn reported(&self) -> u64 {
        self.nodes.iter().filter_map(Node::kubelet).map(super::kubelet::Kubelet::reported).sum()
    }

    /// Number of pods that kubelets manage, in any phase.
    pub fn pods(&self) -> usize {
        self.nodes.iter().filter_map(Node::kubelet).map(super::kubelet::Kubelet::pods).sum()
    }

    /// Number of sandboxes on all nodes' disks.
    pub fn sandboxes(&self) -> usize {
        self.nodes.iter().map(Node::sandboxes).sum()
    }

    /// Powers off all nodes at the same time.
    pub fn power_off_all(&mut self) {
        let network = &self.network;
        std::thread::scope(|scope| {
            for node in &mut self.nodes {
                scope.spawn(move || node.power_off(network));
            }
        });
    }

    /// Powers on all nodes at the same time.
    pub fn power_on_all(&mut self) -> Result<()> {
        let common = Common { network: &self.network, api: &self.kubelets, tally: &self.tally };
        std::thread::scope(|scope| {
            let boots: Vec<_> =
                self.nodes.iter_mut().map(|node| scope.spawn(|| node.boot(&common))).collect();
            let failed = || Error::Usage("the thread of a node's boot panicked".to_owned());
            boots.into_iter().try_for_each(|boot| boot.join().unwrap_or_else(|_| Err(failed())))
        })
    }

    /// Powers off one node.
    pub fn power_off(&mut self, index: usize) {
        if let Some(node) = self.nodes.get_mut(index) {
            node.power_off(&self.network);
        }
    }

    /// Starts the kubelet of a node again, after `kill_kubelet`.
    pub fn start_kubelet(&mut self, index: usize) -> Result<()> {
        let (network, api, tally) = (&self.network, &self.kubelets, &self.tally);
        match self.nodes.get_mut(index) {
            Some(node) => node.start_kubelet(&Common { network, api, tally }),
            None => Ok(()),
        }
    }

    /// Powers on one node.
    pub fn power_on(&mut self, index: usize) -> Result<()> {
        let (network, api, tally) = (&self.network, &self.kubelets, &self.tally);
        match self.nodes.get_mut(index) {
            Some(node) => node.boot(&Common { network, api, tally }),
            None => Ok(()),
        }
    }

    /// The records of all addresses, as the API server has them.
    pub fn records(&self) -> Result<Vec<Record>> {
        let text = self.control.api()?.text(records::PATH)?;
        records::read(&text)
    }

    /// The sandboxes that live, on all nodes: their container ids and addresses.
    pub fn attachments(&self) -> Vec<(String, Vec<IpAddr>)> {
        self.nodes.iter().flat_map(Node::attachments).collect()
    }

    /// Differences between records and living sandboxes: records without a living holder, and addresses
    /// without a record. Empty: each address of each living sandbox has its record, and no other record
    /// exists.
    pub fn strayed(&self) -> Result<Vec<String>> {
        Ok(records::compare(&self.records()?, &self.attachments()))
    }

    /// MACs that answer for each address of the pools, probed on the segment by the outsider: in this number
    /// of rounds, and in `more` for addresses without an answer.
    pub fn census(&self, rounds: u32, more: u32) -> Result<Holders> {
        let addresses = network::addresses(self.options.pods, self.options.dual);
        let (netns, link) = (self.network.outsider(), network::OUTSIDER_LINK);
        Ok(census::take(netns, link, &addresses, rounds, more)?)
    }

    /// Folder of its files and logs.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Options that it was built with.
    pub fn options(&self) -> &Options {
        &self.options
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.power_off(&self.network);
        }
    }
}

/// True if a node is Ready and has no taint that keeps pods away.
fn is_ready(node: &k8s_openapi::api::core::v1::Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_ref());
    ready && taints.is_none_or(Vec::is_empty)
}
