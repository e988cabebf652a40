//! `cargo xtask demo --store kubernetes`: the demo's cases in a cluster of one node; and the rows of the
//! conformance suite. The node is the lab's; the control plane, and the cable to it, are created here.
//!
//! One control plane serves all cases: when a lab's node joins, the remains of the previous one are removed.

use std::fmt::{Debug, Formatter};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use berth_testbed::cleanup::{self, Folder};
use berth_testbed::conformance;
use berth_testbed::demo::{self as cases, Settings as Cases};
use berth_testbed::kubernetes::Programs;
use berth_testbed::outside::Outside;
use berth_testbed::world;
use k8s_openapi::api::core::v1::Node;
use kube::Api as Kind;
use kube::api::{Patch, PatchParams, PostParams};

use crate::agent;
use crate::bench::KINDS_ARE_NEW;
use crate::cluster::print_step;
use crate::control::{ControlPlane, Settings, User};
use crate::error::{Error, Result};
use crate::kubelet::{Identity, objects};
use crate::network::{self, CONTROL, Network};

/// Cases that run here: the ninth restores the file of an embedded store (the cluster's tests cover etcd's
/// restore), and the thirteenth is about the node alone.
const CASES: [u32; 11] = [1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12];

/// Parameters of the demo.
#[derive(Debug, Clone)]
pub struct Demo {
    /// Folder of Berth's binaries.
    pub binaries: PathBuf,
    /// Manifest that is applied before.
    pub manifest: PathBuf,
    /// IDs of the cases; empty: all that can run here.
    pub cases: Vec<u32>,
    /// Multiplies every bound.
    pub slack: f64,
    /// Path of the report.
    pub report: PathBuf,
}

/// Plays them; whether all held.
pub fn run(demo: &Demo) -> Result<bool> {
    if let Some(other) = demo.cases.iter().find(|case| !CASES.contains(case)) {
        let text = format!(
            "case {other} is played with --store embedded alone: it is about that store, or the node"
        );
        return Err(Error::Usage(text));
    }
    let outside = Host::build(&demo.manifest)?;
    Ok(cases::run(&Cases {
        binaries: demo.binaries.clone(),
        report: demo.report.clone(),
        slack: demo.slack,
        scale: 1.0,
        cases: if demo.cases.is_empty() { CASES.to_vec() } else { demo.cases.clone() },
        rung: None,
        outside: Some(outside),
    })?)
}

/// `cargo xtask test cni --store kubernetes`: the rows of the conformance suite in the same cluster; whether
/// Berth obeys all of them.
pub fn conform(binaries: &Path, manifest: &Path, filter: Option<&str>) -> Result<bool> {
    let outside = Host::build(manifest)?;
    Ok(conformance::run(&conformance::Settings {
        binaries: binaries.to_owned(),
        other: None,
        filter: filter.map(str::to_owned),
        document: PathBuf::new(),
        write: false,
        outside: Some(outside),
    })?)
}

/// The cluster as a lab sees it.
struct Host {
    // Dropped in this order.
    control: ControlPlane,
    network: Network,
    kubeconfig: PathBuf,
    folder: Folder,
    /// Number of nodes that have joined so far.
    joined: AtomicU32,
}

impl Debug for Host {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Host").field("network", &self.network).finish_non_exhaustive()
    }
}

impl Host {
    /// Builds a control plane, and applies `manifest`.
    fn build(manifest: &Path) -> Result<Arc<dyn Outside>> {
        cleanup::watch_signals()?;
        cleanup::sweep();
        let programs = Programs::of_environment().map_err(|names| Error::NoPrograms { names })?;
        let id = format!("{}-d", cleanup::prefix());
        let folder = Folder::create(&id)?;
        let network = Network::build(&id)?;
        let (users, settings) = ([User::Account(agent::ACCOUNT.to_owned())], Settings::default());
        let control = ControlPlane::start(
            &programs,
            network.control(),
            folder.path(),
            settings,
            &users,
            &mut print_step,
        )?;
        control.kubectl(&["apply", "--server-side", "-f", &manifest.display().to_string()])?;
        std::thread::sleep(KINDS_ARE_NEW);
        let kubeconfig = control.kubeconfig(&users[0]);
        Ok(Arc::new(Self { control, network, kubeconfig, folder, joined: AtomicU32::new(0) }))
    }

    fn take_in(&self, node: &Path, declared: &str) -> Result<()> {
        let number = self.joined.fetch_add(1, Ordering::Relaxed) + 1;
        for kinds in ["ipleases,unet,ippools", "nodes", "leases -n berth-system", "leases -n kube-node-lease"]
        {
            let words = ["delete", "--all", "--wait=true"].into_iter().chain(kinds.split(' '));
            self.control.kubectl(&words.collect::<Vec<_>>())?;
        }
        let address = network::management(number);
        world::ip(
            self.network.control(),
            &format!(
                "link add d{number} type veth peer name mgmt0 netns {}\nlink set d{number} master br-m up\n",
                node.display()
            ),
        )?;
        world::ip(
            node,
            &format!("link set mgmt0 up\naddr add {address}/16 dev mgmt0\nroute add {CONTROL} dev mgmt0\n"),
        )?;
        let path = self.folder.path().join("declared.yaml");
        std::fs::write(&path, declared).map_err(Error::file("write declared.yaml"))?;
        self.control.kubectl(&["apply", "--server-side", "-f", &path.display().to_string()])?;
        Ok(())
    }

    fn name(&self, name: &str, machine: &str, boot: &str) -> Result<()> {
        let identity = Identity {
            name: name.to_owned(),
            address: network::management(self.joined.load(Ordering::Relaxed)),
            machine: machine.to_owned(),
            boot: boot.to_owned(),
            capacity: 250,
            heartbeat: Duration::from_secs(10),
        };
        let object: Node = serde_json::from_value(objects::node(&identity))
            .map_err(|error| Error::Usage(format!("internal error in a node's object: {error}")))?;
        let api = self.control.api()?;
        let (name, status) = (name.to_owned(), objects::node_status(&identity));
        let nodes: Kind<Node> = Kind::all(api.client());
        api.ask("identify a node", async move {
            match nodes.create(&PostParams::default(), &object).await {
                Err(kube::Error::Api(refusal)) if refusal.code == 409 => {
                    nodes.patch_status(&name, &PatchParams::default(), &Patch::Strategic(status)).await
                }
                made => made,
            }
        })?;
        Ok(())
    }
}

fn told(error: &Error) -> berth_testbed::Error {
    berth_testbed::Error::Outside { why: error.chain() }
}

impl Outside for Host {
    fn join(&self, node: &Path, declared: &str) -> berth_testbed::Result<()> {
        self.take_in(node, declared).map_err(|error| told(&error))
    }

    fn identify(&self, name: &str, machine: &str, boot: &str) -> berth_testbed::Result<()> {
        self.name(name, machine, boot).map_err(|error| told(&error))
    }

    fn flags(&self) -> Vec<String> {
        let kubeconfig = self.kubeconfig.display().to_string();
        ["--store", "kubernetes", "--kubeconfig", &kubeconfig].map(str::to_owned).to_vec()
    }
}
