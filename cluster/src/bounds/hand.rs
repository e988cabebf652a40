//! A runtime without a kubelet: sandboxes on one node that have no pod.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, RwLock};

use berth_testbed::world;
use serde_json::json;

use super::ends::Ends;
use crate::chain::Chains;
use crate::cluster::Cluster;
use crate::error::{Error, Result};
use crate::habits::Habits;
use crate::runtime::{PodName, Runtime, Sandbox};

static SERIAL: AtomicU32 = AtomicU32::new(1);

/// Runtime of one node.
pub struct Hand {
    runtime: Runtime,
    /// The node's namespace.
    pub netns: PathBuf,
}

impl Hand {
    /// With the node's own CNI configuration.
    pub fn of(cluster: &Cluster, node: usize, inhabited: bool) -> Result<Self> {
        let chains = Chains::parse(&cluster.nodes[node].conflists()?)?;
        Self::with(cluster, node, chains, inhabited)
    }

    /// With another CNI configuration.
    pub fn with(cluster: &Cluster, node: usize, chains: Chains, inhabited: bool) -> Result<Self> {
        let node = &cluster.nodes[node];
        let netns =
            node.netns().ok_or_else(|| Error::Usage(format!("{} has no power", node.name())))?.to_owned();
        let habits = Arc::new(RwLock::new(Habits { inhabited, ..Habits::default() }));
        let runtime = node.runtime(&cluster.network, chains, &habits, &cluster.tally);
        Ok(Self { runtime, netns })
    }

    /// A sandbox without an address.
    pub fn empty(&self) -> Result<Sandbox> {
        let name = format!("hand-{}", SERIAL.fetch_add(1, Ordering::Relaxed));
        let pod = PodName { namespace: "bounds".to_owned(), uid: name.clone(), name, annotations: json!({}) };
        self.runtime.sandbox(&pod)
    }

    /// Runs the ADD command.
    pub fn add(&self, sandbox: &mut Sandbox) -> Result<()> {
        self.runtime.add(sandbox).map_err(Error::Usage)
    }

    /// DEL, and the namespace's end.
    pub fn del(&self, mut sandbox: Sandbox) -> Result<()> {
        self.runtime.del(&sandbox, true, None).map_err(Error::Usage)?;
        sandbox.end();
        Ok(())
    }

    /// This number of sandboxes with addresses, with records that the watch has seen.
    pub fn attached(&self, count: usize, ends: &Ends) -> Result<Vec<Sandbox>> {
        let attach = |_| {
            let mut sandbox = self.empty()?;
            self.add(&mut sandbox)?;
            Ok(sandbox)
        };
        let sandboxes: Vec<Sandbox> = (0..count).map(attach).collect::<Result<_>>()?;
        let limit = std::time::Duration::from_secs(10);
        let began = std::time::Instant::now();
        while sandboxes.iter().any(|sandbox| ends.count(&sandbox.id) < sandbox.addresses().len()) {
            if began.elapsed() > limit {
                return Err(Error::Timeout {
                    what: "records of the new sandboxes".to_owned(),
                    within: limit,
                });
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        Ok(sandboxes)
    }
}

/// The MAC of a sandbox's link, as text.
pub fn mac(sandbox: &Sandbox) -> Result<String> {
    let text = sandbox.result.as_ref().and_then(|result| result["interfaces"][0]["mac"].as_str());
    text.map(str::to_owned).ok_or_else(|| Error::Usage("an ADD's result without a MAC".to_owned()))
}

/// Deletes a sandbox's link; its namespace stays.
pub fn delete_link(sandbox: &Sandbox) -> Result<()> {
    let netns =
        sandbox.netns.as_ref().ok_or_else(|| Error::Usage("a sandbox without a namespace".to_owned()))?;
    Ok(world::ip(netns.path(), "link del eth0\n")?)
}
