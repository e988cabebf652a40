//! A stand-in for the kubelet of one node: it watches the pods bound to the node, creates a sandbox for each,
//! calls the CNI chain, reports the result to the API server, and removes everything again.
//!
//! Several of them share one thread (`api.rs`); blocking work runs elsewhere. One pod is one task
//! (`kubelet/pod.rs`); the watch passes its desired state to it. Sandboxes are kept on the node's "disk" and
//! not in tasks, so that they survive a loss of power, as a runtime's do.

pub(crate) mod objects;
mod pod;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node as NodeObject, Pod};
use kube::api::{Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt as _, watcher as watch_objects};
use kube::{Api as Kind, Client};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::api::Api;
use crate::error::{Error, Result};
use crate::runtime::{Runtime, Sandbox};

pub use pod::Wish;

/// From a request that failed to its next try.
const TRY_AGAIN: Duration = Duration::from_secs(1);

/// Identity that a node reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name of the node.
    pub name: String,
    /// Its management address.
    pub address: Ipv4Addr,
    /// The machine's id.
    pub machine: String,
    /// The boot's id; another one after each loss of power.
    pub boot: String,
    /// Number of pods that it takes.
    pub capacity: u32,
    /// Interval at which it renews its Lease.
    pub heartbeat: Duration,
}

/// Sandboxes by container id.
pub type Disk = Arc<Mutex<BTreeMap<String, Record>>>;

/// A sandbox on the disk. Its pod is outside the lock: a plugin's call holds the lock for seconds, and a
/// search for a pod's sandboxes must not wait for it.
#[derive(Debug, Clone)]
pub struct Record {
    /// The uid of its pod.
    pub uid: String,
    /// Lock of the sandbox.
    pub held: Arc<Mutex<Sandbox>>,
}

/// A running pod, as reported to the API server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// Name of the pod.
    pub name: String,
    /// Container ID of its sandbox.
    pub container: String,
    /// Addresses of the pod.
    pub addresses: Vec<IpAddr>,
}

/// State that all tasks of one kubelet share.
struct Shared {
    identity: Identity,
    client: Client,
    runtime: Arc<Runtime>,
    disk: Disk,
    slots: Semaphore,
    /// Desired state of each pod, by UID.
    wishes: Mutex<BTreeMap<String, watch::Sender<Wish>>>,
    /// Running pods, by UID.
    running: Mutex<BTreeMap<String, Running>>,
    /// Total number of sandboxes reported to the API server.
    reported: AtomicU64,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A running kubelet.
pub struct Kubelet(Arc<Shared>);

impl Kubelet {
    /// Starts a kubelet: registers its node, renews its Lease, watches its pods. The content of `disk` is
    /// sandboxes from before: each gets its DEL before its pod gets a new one.
    pub fn start(api: &Api, client: Client, identity: Identity, runtime: Arc<Runtime>, disk: Disk) -> Self {
        let slots = Semaphore::new(runtime.habits().in_flight);
        let (wishes, running, tasks) = (Mutex::default(), Mutex::default(), Mutex::default());
        let reported = AtomicU64::new(0);
        let shared =
            Arc::new(Shared { identity, client, runtime, disk, slots, wishes, running, reported, tasks });
        let own = [api.spawn(beat(Arc::clone(&shared))), api.spawn(follow(Arc::clone(&shared)))];
        lock(&shared.tasks).extend(own);
        Self(shared)
    }

    /// The pods that run, by uid.
    pub fn running(&self) -> BTreeMap<String, Running> {
        lock(&self.0.running).clone()
    }

    /// Number of sandboxes that it has reported to the API server since its start.
    pub fn reported(&self) -> u64 {
        self.0.reported.load(Ordering::Relaxed)
    }

    /// Number of pods that it manages, until their objects are gone.
    pub fn pods(&self) -> usize {
        lock(&self.0.wishes).len()
    }

    /// Number of running pods.
    pub fn count(&self) -> usize {
        lock(&self.0.running).len()
    }

    /// Ends the sandbox of a pod, as a kill of its pause container does: the pod gets another one.
    pub fn renew(&self, uid: &str) {
        self.0.tell(uid, Wish::Renew);
    }

    /// Stops it immediately, as SIGKILL does: sandboxes survive, plugins in flight continue to their end.
    pub fn kill(self) {
        for task in lock(&self.0.tasks).drain(..) {
            task.abort();
        }
    }

    /// The node's power goes: plugins in flight die, and with them all sandboxes' namespaces. What is on the
    /// disk stays.
    pub fn power_off(self) {
        self.0.runtime.power_off();
        let disk = Arc::clone(&self.0.disk);
        self.kill();
        let records: Vec<Record> = lock(&disk).values().cloned().collect();
        for record in records {
            // A plugin's call holds it until the plugin has exited.
            lock(&record.held).end();
        }
    }
}

/// True if the desired state changes. A pending restart is completed before a plain run.
fn turn(old: &mut Wish, wish: Wish) -> bool {
    if *old == Wish::Renew && wish == Wish::Run {
        return false;
    }
    std::mem::replace(old, wish) != wish
}

/// Registers the node, then renews its Lease for ever.
async fn beat(shared: Arc<Shared>) {
    let id = &shared.identity;
    while register(&shared).await.is_err() {
        tokio::time::sleep(TRY_AGAIN).await;
    }
    let leases: Kind<Lease> = Kind::namespaced(shared.client.clone(), "kube-node-lease");
    loop {
        let body = objects::lease(id);
        let parameters = PatchParams::apply("kubelet").force();
        // A beat that is lost is followed by the next one.
        let renewed = leases.patch(&id.name, &parameters, &Patch::Apply(&body)).await;
        tokio::time::sleep(if renewed.is_ok() { id.heartbeat } else { TRY_AGAIN }).await;
    }
}

async fn register(shared: &Shared) -> Result<()> {
    let id = &shared.identity;
    let doing = || Error::request(format!("register node {}", id.name));
    let nodes: Kind<NodeObject> = Kind::all(shared.client.clone());
    let object = serde_json::from_value(objects::node(id))
        .map_err(|error| Error::Usage(format!("internal error in a node's object: {error}")))?;
    match nodes.create(&PostParams::default(), &object).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 409 => {
            let body = objects::node_status(id);
            let patched =
                nodes.patch_status(&id.name, &PatchParams::default(), &Patch::Strategic(body)).await;
            patched.map(drop).map_err(doing())
        }
        Err(error) => Err(doing()(error)),
    }
}

/// Watches the node's pods without end, and passes each task the desired state of its pod.
async fn follow(shared: Arc<Shared>) {
    let pods: Kind<Pod> = Kind::all(shared.client.clone());
    let config = watcher::Config::default().fields(&format!("spec.nodeName={}", shared.identity.name));
    let mut events = watch_objects(pods, config).default_backoff().boxed();
    let mut seen = Vec::new();
    loop {
        match events.try_next().await {
            Ok(Some(Event::Init)) => seen.clear(),
            Ok(Some(Event::InitApply(pod))) => {
                seen.extend(pod.metadata.uid.clone());
                shared.applied(&pod);
            }
            Ok(Some(Event::InitDone)) => shared.listed(&seen),
            Ok(Some(Event::Apply(pod))) => shared.applied(&pod),
            Ok(Some(Event::Delete(pod))) => {
                if let Some(uid) = &pod.metadata.uid {
                    shared.tell(uid, Wish::Gone);
                }
            }
            // The back-off is the stream's; it lists again by itself.
            Err(error) => shared.runtime.tally.complain("watch pods", &error),
            Ok(None) => return,
        }
    }
}

impl Shared {
    /// Applies a pod event of the watch.
    fn applied(self: &Arc<Self>, pod: &Pod) {
        let Some(facts) = pod::Facts::of(pod) else { return };
        let wish = pod::wish(pod);
        let mut wishes = lock(&self.wishes);
        if let Some(sender) = wishes.get(&facts.pod.uid) {
            // An unchanged desired state wakes no task.
            sender.send_if_modified(|old| turn(old, wish));
            return;
        }
        let (sender, receiver) = watch::channel(wish);
        wishes.insert(facts.pod.uid.clone(), sender);
        drop(wishes);
        self.keep(tokio::spawn(pod::live(Arc::clone(self), facts, receiver)));
    }

    fn tell(&self, uid: &str, wish: Wish) {
        if let Some(sender) = lock(&self.wishes).get(uid) {
            sender.send_if_modified(|old| turn(old, wish));
        }
    }

    /// The wish for another sandbox is fulfilled, unless another one came meanwhile.
    fn renewed(&self, uid: &str) {
        if let Some(sender) = lock(&self.wishes).get(uid) {
            sender.send_if_modified(|old| {
                *old == Wish::Renew && std::mem::replace(old, Wish::Run) != Wish::Run
            });
        }
    }

    /// Completes a list: pods missing from it are gone, and so are the pods of older sandboxes.
    fn listed(self: &Arc<Self>, seen: &[String]) {
        let mut known: Vec<String> = lock(&self.wishes).keys().cloned().collect();
        known.retain(|uid| !seen.contains(uid));
        for uid in &known {
            self.tell(uid, Wish::Gone);
        }
        let orphans: Vec<_> = lock(&self.disk)
            .values()
            .filter(|record| !seen.contains(&record.uid) && !known.contains(&record.uid))
            .map(|record| Arc::clone(&record.held))
            .collect();
        if !orphans.is_empty() {
            let shared = Arc::clone(self);
            let task = tokio::spawn(async move {
                for orphan in orphans {
                    shared.take_down(orphan).await;
                }
            });
            self.keep(task);
        }
    }

    /// Keeps a task, so that all can be ended.
    fn keep(&self, task: JoinHandle<()>) {
        let mut tasks = lock(&self.tasks);
        // Finished tasks are dropped when there may be many.
        if tasks.len() == tasks.capacity() {
            tasks.retain(|task| !task.is_finished());
        }
        tasks.push(task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_to_be_made_anew_is_not_forgotten_and_what_is_to_end_ends() {
        let mut wish = Wish::Run;
        assert!(turn(&mut wish, Wish::Renew) && !turn(&mut wish, Wish::Run));
        assert_eq!(wish, Wish::Renew);
        assert!(turn(&mut wish, Wish::Stop));
        assert_eq!(wish, Wish::Stop);
    }
}
