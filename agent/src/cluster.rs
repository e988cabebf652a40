//! The cluster of a node: all access to the API server, on a separate thread, so that a slow response does
//! not delay the node.
//!
//! Inputs from it are records, declarations and hints about intent; outputs are writes of records and
//! reports. It takes no decisions.

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
pub mod rights;
#[cfg(test)]
mod script;
pub mod standing;
pub mod steward;

use std::path::PathBuf;
use std::time::Duration;

use berth_ipam::access::{Needs, Standing};
use berth_ipam::attachment::{AttachmentKey, PodRef};
use berth_ipam::ledger::Identity;
use berth_ipam::ledger::io::{Input, Note, PodNews, PoolCount};
use berth_ipam::record::AddressKey;
use berth_protocol::response::Finding;
use berth_store::StoreError;
use berth_store::kubernetes::{self, Contact, KubernetesStore, Settings, TokenNode};
use kube::Client;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};

use self::clocks::Clocks;
use self::declarations::Refused;
use self::events::{Inbox, Recorder};
use self::pods::{Annotations, Pods};
use self::rights::Rights;
use self::steward::tally::Picture;
use crate::doctor::finding;
use crate::writer::Writer;
use crate::{away, clock};

/// Reason why the API server is not accessible.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The client could not be built.
    #[error("find the way to the API server")]
    Connect(#[source] Box<StoreError>),
    /// The thread or its runtime could not be started.
    #[error("start the cluster's thread")]
    Thread(#[source] std::io::Error),
}

/// The API server counts as silent after this long, or after two heartbeats where those take longer.
const SILENT: Duration = Duration::from_secs(30);

/// Settings of the access to the API server.
#[derive(Debug, Clone)]
pub struct Options {
    /// A kubeconfig; `None`: the service account of the pod that the agent is in.
    pub kubeconfig: Option<PathBuf>,
    /// The namespace of the agents' own objects.
    pub namespace: String,
}

/// A question about a pod.
#[derive(Debug)]
enum Ask {
    /// Read of a pod's annotations. The ticket is repeated in the result.
    Annotations(u64, PodRef),
    /// Read of a pod's standing. The ticket is repeated in the result.
    Standing(u64, PodRef, Needs),
    /// Live read: true if the pod of that attachment is wanted.
    Wanted(AttachmentKey, PodRef),
}

/// A result that an ADD waits for.
#[derive(Debug)]
pub enum Answer {
    /// The annotations of its pod.
    Annotations(Annotations),
    /// The standing of its pod, or the reason why it is unknown.
    Standing(Result<Standing, String>),
}

/// The handle of the thread.
#[derive(Debug)]
pub struct Cluster {
    orders: UnboundedSender<away::Order>,
    asks: UnboundedSender<Ask>,
    pods: Pods,
    refused: Refused,
    rights: Rights,
    contact: Contact,
    pace: watch::Receiver<Duration>,
    counts: watch::Sender<Vec<PoolCount>>,
    recorder: Recorder,
    /// The results of [`Cluster::ask`] and [`Cluster::ask_standing`], by ticket.
    pub answers: UnboundedReceiver<(u64, Answer)>,
}

impl Cluster {
    /// Reads the access settings and starts the thread. The API server need not respond yet.
    pub async fn start(
        options: Options,
        identity: &Identity,
        inputs: UnboundedSender<Input>,
    ) -> Result<Self, ClusterError> {
        let (orders, to_write) = unbounded_channel();
        let (asks, to_ask) = unbounded_channel();
        let (to_agent, answers) = unbounded_channel();
        let (counts, counted) = watch::channel(Vec::new());
        let (pace, kept) = watch::channel(heartbeat::PERIOD_MIN);
        let (recorder, inbox) = events::recorder();
        let (pods, refused, contact) = (Pods::default(), Refused::default(), Contact::new(clock::now));
        let rights = Rights::default();
        let thread = Thread {
            identity: identity.clone(),
            namespace: options.namespace.clone(),
            inputs,
            counted,
            inbox,
            pods: pods.clone(),
            refused: refused.clone(),
            rights: rights.clone(),
            contact: contact.clone(),
            pace,
            to_write,
            to_ask,
            to_agent,
        };
        let (up, is_up) = oneshot::channel();
        std::thread::Builder::new()
            .name("cluster".to_owned())
            .spawn(move || thread.main(&options, up))
            .map_err(ClusterError::Thread)?;
        match is_up.await {
            Ok(outcome) => outcome?,
            Err(_) => return Err(ClusterError::Thread(std::io::Error::other("it ended at once"))),
        }
        Ok(Self { orders, asks, pods, refused, rights, contact, pace: kept, counts, recorder, answers })
    }

    /// Queue for the writes of records.
    pub fn orders(&self) -> UnboundedSender<away::Order> {
        self.orders.clone()
    }

    /// Has the record of an address read live.
    pub fn look_up(&self, key: AddressKey) {
        if self.orders.send(away::Order::LookUp(key)).is_err() {
            tracing::error!("the cluster's thread has ended");
        }
    }

    /// Has the counts of this node's pools published, if they changed.
    pub fn count(&self, counts: Vec<PoolCount>) {
        self.counts.send_if_modified(|old| {
            let changed = *old != counts;
            *old = counts;
            changed
        });
    }

    /// Reports a note as an event about the pod of its attachment; `running`: that pod is wanted.
    pub fn tell(&self, note: &Note, pod: Option<&PodRef>, running: bool) {
        self.recorder.tell(note, pod, running);
    }

    /// Berth's annotations of a pod, if they are already read.
    pub fn annotations(&self, pod: &PodRef) -> Option<Annotations> {
        self.pods.annotations(pod)
    }

    /// Requests a read of the annotations.
    pub fn ask(&self, ticket: u64, pod: PodRef) {
        self.ask_for(Ask::Annotations(ticket, pod));
    }

    /// Requests a read of a pod's standing.
    pub fn ask_standing(&self, ticket: u64, pod: PodRef, needs: Needs) {
        self.ask_for(Ask::Standing(ticket, pod, needs));
    }

    /// Has the pod of an attachment read live.
    pub fn look_up_pod(&self, key: AttachmentKey, pod: PodRef) {
        self.ask_for(Ask::Wanted(key, pod));
    }

    fn ask_for(&self, ask: Ask) {
        if self.asks.send(ask).is_err() {
            tracing::error!("the cluster's thread has ended");
        }
    }

    /// Findings for `doctor`.
    pub fn findings(&self) -> Vec<Finding> {
        let refused = self.refused.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let all = refused
            .iter()
            .map(|(object, why)| finding("declared", false, true, format!("{object} cannot be used: {why}")));
        [self.api_server(), self.rights.finding()].into_iter().chain(all).collect()
    }

    fn api_server(&self) -> Finding {
        let silent = SILENT.max(*self.pace.borrow() * 2);
        let (ok, text) = match self.contact.last().map(|at| clock::now().since(at)) {
            Some(ago) if ago < silent => (true, format!("served a request {} s ago", ago.as_secs())),
            Some(ago) => {
                let ago = ago.as_secs();
                (false, format!("has served nothing for {ago} s: ADDs wait, DELs are carried out later"))
            }
            None => (
                false,
                "has served nothing yet: check --kubeconfig, the network and the agent's permissions"
                    .to_owned(),
            ),
        };
        finding("api-server", ok, !ok, text)
    }
}

/// State of the thread.
struct Thread {
    identity: Identity,
    namespace: String,
    inputs: UnboundedSender<Input>,
    counted: watch::Receiver<Vec<PoolCount>>,
    inbox: Inbox,
    pods: Pods,
    refused: Refused,
    rights: Rights,
    contact: Contact,
    pace: watch::Sender<Duration>,
    to_write: UnboundedReceiver<away::Order>,
    to_ask: UnboundedReceiver<Ask>,
    to_agent: UnboundedSender<(u64, Answer)>,
}

impl Thread {
    fn main(self, options: &Options, up: oneshot::Sender<Result<(), ClusterError>>) {
        let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return drop(up.send(Err(ClusterError::Thread(error)))),
        };
        runtime.block_on(async {
            match kubernetes::client(options.kubeconfig.as_deref()).await {
                Ok(client) => {
                    let token = kubernetes::token_node(options.kubeconfig.as_deref()).await;
                    // The starter may have given up; then all work below ends as well.
                    let _ = up.send(Ok(()));
                    Box::pin(self.run(client, token)).await;
                }
                Err(error) => drop(up.send(Err(ClusterError::Connect(Box::new(error))))),
            }
        });
    }

    async fn run(self, client: Client, token: TokenNode) {
        let Self {
            identity, namespace, inputs, counted, inbox, pods, refused, rights, contact, pace, ..
        } = self;
        let store = KubernetesStore::new(client.clone(), contact.clone(), Settings::default());
        let writer = Writer::new(store.clone());
        let (picture, seen) = watch::channel(Picture::default());
        let kept = pace.subscribe();
        let beat = heartbeat::Setup {
            namespace: namespace.clone(),
            me: identity.clone(),
            counts: counted,
            inputs: inputs.clone(),
            pace,
            contact,
            clocks: Clocks::REAL,
        };
        let stewardship = steward::Setup {
            namespace: namespace.clone(),
            me: identity.clone(),
            picture: seen,
            pace: kept,
            clocks: Clocks::REAL,
        };
        tokio::join!(
            away::run(&writer, self.to_write, &inputs),
            declarations::run(client.clone(), inputs.clone(), refused, &picture),
            leases::run(store, inputs.clone(), &picture),
            pods.clone().run(client.clone(), identity.node.clone(), inputs.clone()),
            answer(client.clone(), pods, self.to_ask, self.to_agent, inputs.clone()),
            heartbeat::run(client.clone(), beat),
            steward::run(client.clone(), stewardship),
            rights.watch(client.clone(), namespace, identity.node.clone(), token),
            events::run(client, identity.node, inbox, Clocks::REAL),
        );
    }
}

async fn answer(
    client: Client,
    pods: Pods,
    mut asks: UnboundedReceiver<Ask>,
    answers: UnboundedSender<(u64, Answer)>,
    inputs: UnboundedSender<Input>,
) {
    while let Some(ask) = asks.recv().await {
        let (client, pods) = (client.clone(), pods.clone());
        let (answers, inputs) = (answers.clone(), inputs.clone());
        tokio::spawn(async move {
            // The agent is ending, and the result has no receiver.
            match ask {
                Ask::Annotations(ticket, pod) => {
                    let annotations = pods.ask(&client, &pod).await;
                    let _ = answers.send((ticket, Answer::Annotations(annotations)));
                }
                Ask::Standing(ticket, pod, needs) => {
                    let standing = standing::read(&client, &pod, needs).await;
                    let _ = answers.send((ticket, Answer::Standing(standing)));
                }
                Ask::Wanted(key, pod) => {
                    let wanted = pods::is_wanted(&client, &pod).await;
                    let _ = inputs.send(Input::Pods(PodNews::Looked(key, wanted)));
                }
            }
        });
    }
}
