//! The cluster that a node belongs to: everything that talks to the API server, on a thread of its own,
//! so that no answer of its holds up the node.
//!
//! What it brings in are records, declarations and hints about intent; what is carried out are writes of
//! records and reports. Nothing is decided here.

pub mod annotations;
pub mod claim;
pub mod clocks;
pub mod declarations;
pub mod events;
pub mod follow;
pub mod heartbeat;
pub mod leases;
pub mod pods;
pub mod request;
#[cfg(test)]
mod script;
pub mod steward;

use std::path::PathBuf;

use berth_ipam::attachment::PodRef;
use berth_ipam::ledger::Identity;
use berth_ipam::ledger::io::Input;
use berth_ipam::record::AddressKey;
use berth_protocol::response::Finding;
use berth_store::kubernetes::KubernetesStore;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use self::declarations::Refused;
use self::pods::{Annotations, Pods};
use crate::away;
use crate::doctor::finding;
use crate::writer::Writer;

/// Why there is no way to the API server.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The file with the way to it cannot be used.
    #[error("use the kubeconfig {}: it must name a server and a user that this process may be", path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: kube::config::KubeconfigError,
    },
    /// There is no service account.
    #[error("use the service account of this pod; outside of a pod give --kubeconfig FILE")]
    InCluster(#[source] kube::config::InClusterError),
    /// The client could not be made.
    #[error("make a client for the API server")]
    Client(#[source] Box<kube::Error>),
    /// The thread or its runtime could not be started.
    #[error("start the cluster's thread")]
    Thread(#[source] std::io::Error),
}

/// How the API server is reached.
#[derive(Debug, Clone)]
pub struct Options {
    /// A kubeconfig; `None`: the service account of the pod that the agent is in.
    pub kubeconfig: Option<PathBuf>,
    /// The namespace of the agents' own objects.
    pub namespace: String,
}

/// A question after the annotations of a pod.
#[derive(Debug)]
pub struct Ask {
    /// Repeated in the answer.
    pub ticket: u64,
    /// The pod.
    pub pod: PodRef,
}

/// The handle of the thread.
#[derive(Debug)]
pub struct Cluster {
    orders: UnboundedSender<away::Order>,
    asks: UnboundedSender<Ask>,
    pods: Pods,
    refused: Refused,
    /// The answers to [`Cluster::ask`], by ticket.
    pub answers: UnboundedReceiver<(u64, Annotations)>,
}

impl Cluster {
    /// Reads the way to the API server and starts the thread. Whether it answers does not matter yet.
    pub async fn start(
        options: Options,
        identity: &Identity,
        inputs: UnboundedSender<Input>,
    ) -> Result<Self, ClusterError> {
        let config = config(&options).await?;
        let (orders, to_write) = unbounded_channel();
        let (asks, to_ask) = unbounded_channel();
        let (to_agent, answers) = unbounded_channel();
        let (pods, refused) = (Pods::default(), Refused::default());
        let thread = Thread {
            identity: identity.clone(),
            inputs,
            pods: pods.clone(),
            refused: refused.clone(),
            to_write,
            to_ask,
            to_agent,
        };
        let (up, is_up) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("cluster".to_owned())
            .spawn(move || thread.main(config, up))
            .map_err(ClusterError::Thread)?;
        match is_up.await {
            Ok(outcome) => outcome?,
            Err(_) => return Err(ClusterError::Thread(std::io::Error::other("it ended at once"))),
        }
        Ok(Self { orders, asks, pods, refused, answers })
    }

    /// Where the writes of records go.
    pub fn orders(&self) -> UnboundedSender<away::Order> {
        self.orders.clone()
    }

    /// Has the record of an address read live.
    pub fn look_up(&self, key: AddressKey) {
        if self.orders.send(away::Order::LookUp(key)).is_err() {
            tracing::error!("the cluster's thread has ended");
        }
    }

    /// Berth's annotations of a pod, if they are known already.
    pub fn annotations(&self, pod: &PodRef) -> Option<Annotations> {
        self.pods.annotations(pod)
    }

    /// Asks for them.
    pub fn ask(&self, ticket: u64, pod: PodRef) {
        if self.asks.send(Ask { ticket, pod }).is_err() {
            tracing::error!("the cluster's thread has ended");
        }
    }

    /// What `doctor` shows of it.
    pub fn findings(&self) -> Vec<Finding> {
        let refused = self.refused.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let all = refused
            .iter()
            .map(|(object, why)| finding("declared", false, true, format!("{object} cannot be used: {why}")));
        all.collect()
    }
}

async fn config(options: &Options) -> Result<Config, ClusterError> {
    let Some(path) = &options.kubeconfig else {
        return Config::incluster().map_err(ClusterError::InCluster);
    };
    let wrong = |cause| ClusterError::Kubeconfig { path: path.clone(), cause };
    let file = Kubeconfig::read_from(path).map_err(wrong)?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(wrong)
}

/// What the thread works with.
struct Thread {
    identity: Identity,
    inputs: UnboundedSender<Input>,
    pods: Pods,
    refused: Refused,
    to_write: UnboundedReceiver<away::Order>,
    to_ask: UnboundedReceiver<Ask>,
    to_agent: UnboundedSender<(u64, Annotations)>,
}

impl Thread {
    fn main(self, config: Config, up: tokio::sync::oneshot::Sender<Result<(), ClusterError>>) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(up.send(Err(ClusterError::Thread(error)))),
        };
        runtime.block_on(async {
            match Client::try_from(config) {
                Ok(client) => {
                    // Who started the thread may have given up by now; then so does everything below.
                    let _ = up.send(Ok(()));
                    self.run(client).await;
                }
                Err(error) => drop(up.send(Err(ClusterError::Client(Box::new(error))))),
            }
        });
    }

    async fn run(self, client: Client) {
        let Self { identity, inputs, pods, refused, to_write, to_ask, to_agent } = self;
        let writer = Writer::new(KubernetesStore::new(client.clone()));
        tokio::join!(
            away::run(&writer, to_write, &inputs),
            declarations::run(client.clone(), inputs.clone(), refused),
            leases::run(client.clone(), inputs.clone()),
            pods.clone().run(client.clone(), identity.node, inputs.clone()),
            answer(client, pods, to_ask, to_agent),
        );
    }
}

async fn answer(
    client: Client,
    pods: Pods,
    mut asks: UnboundedReceiver<Ask>,
    answers: UnboundedSender<(u64, Annotations)>,
) {
    while let Some(Ask { ticket, pod }) = asks.recv().await {
        let (client, pods, answers) = (client.clone(), pods.clone(), answers.clone());
        tokio::spawn(async move {
            let annotations = pods.ask(&client, &pod).await;
            // Nobody to tell: the agent is ending.
            let _ = answers.send((ticket, annotations));
        });
    }
}
