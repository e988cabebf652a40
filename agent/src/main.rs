//! `berth-agent`: wires the parts together in the order in which they may depend on each other.

use std::process::ExitCode;

use anyhow::Context as _;
use berth_agent::agent::{Agent, Hands, Paths, Signals};
use berth_agent::changer::Changer;
use berth_agent::cluster::{self, Cluster};
use berth_agent::committer::{Committer, Order};
use berth_agent::event_filter::EventFilter;
use berth_agent::flags::{Flags, StoreKind};
use berth_agent::hints::Feed;
use berth_agent::notify::Notifier;
use berth_agent::observer::Observer;
use berth_agent::parents::Parents;
use berth_agent::programs::Programs;
use berth_agent::server::{BoundSocket, CONNECTIONS_MAX, Connections, raise_descriptor_limit, serve};
use berth_agent::wires::Wires;
use berth_agent::{capabilities, deaf, epoch::Epoch, logging, object, startup};
use berth_ipam::config::Config;
use berth_ipam::ledger::io::{Input, Source};
use berth_ipam::ledger::{Identity, Ledger};
use berth_probes::{Object, Options};
use clap::Parser as _;
use tokio::sync::mpsc;

/// Number of descriptors that the agent may need: one for each connection, and some for itself.
const DESCRIPTORS: u64 = 4096;
/// Maximum number of calls that wait for the main loop.
const CALLS_WAITING: usize = 1024;

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("berth-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> anyhow::Result<()> {
    let flags = Flags::parse();
    logging::init(flags.log, flags.ebpf_log)?;
    berth_probes::share_one_heap();
    // Before the runtime, so that every thread is born without the others.
    let held = capabilities::reduce()?;
    raise_descriptor_limit(DESCRIPTORS);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let result = runtime.block_on(run(flags, held));
    runtime.shutdown_background();
    result
}

async fn run(flags: Flags, held: capabilities::Held) -> anyhow::Result<()> {
    let identity = identity(&flags)?;
    let (to_loop, inputs) = mpsc::unbounded_channel();
    let cluster = cluster(&flags, &identity, &to_loop).await?;
    let config = match &flags.config {
        Some(path) if cluster.is_none() => startup::declarations(path)?,
        _ => Config::default(),
    };
    std::fs::create_dir_all(&flags.state_dir).context("create --state-dir")?;
    let socket = BoundSocket::bind(&flags.socket)?;
    let away = cluster.as_ref().map(Cluster::orders);
    let (committer, on_disk) = Committer::start(&flags.state_dir, away, to_loop.clone())?;
    // The subscription comes before the search, so that events in between are received.
    let [feed, claims] = [Source::Netlink, Source::Socket].map(|by| Feed::new(to_loop.clone(), by));
    let (rooms, filter) = ([feed.room(), claims.room()], EventFilter::default());
    let observer = Observer::start(feed, filter.clone(), deaf::to("netlink"))?;
    let changer = Changer::start(to_loop.clone())?;
    let damaged = on_disk.damaged.as_ref().map(startup::damaged_note);
    let place = startup::place(&identity.boot_id)?;
    let parents = Parents::new(startup::made_vlans(&on_disk.meta))?;
    let mut wires = Wires::new(claims).context("draw the mark of probes")?;
    wires.listen(startup::devices(&config));
    let object = flags.ebpf_object.map(Object::File).or_else(|| object::embedded().map(Object::Embedded));
    let programs = Programs::start(object.map(|object| Options {
        bpffs: Some(flags.bpffs.clone()),
        allowed: flags.rung,
        log: flags.ebpf_log,
        mark: wires.mark(),
        ..Options::new(object)
    }));
    let loaded = startup::loaded(on_disk, &place, &config, observer.hears_all);
    let row = serde_json::to_vec(&place).context("describe the namespace")?;
    committer.send(Order::PutMeta(startup::PLACE, row));
    let connections = Connections::new();
    let (calls, events) = mpsc::channel(CALLS_WAITING);
    let signals = Signals::new().context("listen for signals")?;
    let hands = Hands {
        committer,
        observer,
        rooms,
        filter,
        changer,
        programs,
        wires,
        parents,
        connections: connections.clone(),
        inputs: to_loop,
        trusted: flags.trusted_pid.iter().copied().collect(),
        notifier: Notifier::from_env(),
        capabilities: held,
        cluster,
    };
    let path = flags.config.filter(|_| hands.cluster.is_none());
    let paths = Paths { config: path, state_dir: flags.state_dir, bpffs: flags.bpffs };
    let ledger = ledger(&identity, config, hands.cluster.is_some());
    let agent = Agent::new(identity, ledger, hands, paths).with_notes(damaged);
    let server = async move { serve(&socket, CONNECTIONS_MAX, calls, connections).await };
    tokio::select! {
        result = server => result.context("serve the socket"),
        () = agent.run(Input::Loaded(Box::new(loaded)), events, inputs, signals) => Ok(()),
    }
}

fn ledger(identity: &Identity, config: Config, is_shared: bool) -> Ledger {
    let mut ledger = Ledger::new(identity.clone(), config);
    if is_shared {
        ledger = ledger.shared();
    }
    if deaf::to("reconcile") {
        ledger.scan_on_exits_only();
    }
    ledger
}

/// The cluster, if the node belongs to one.
async fn cluster(
    flags: &Flags,
    identity: &Identity,
    to_loop: &mpsc::UnboundedSender<Input>,
) -> anyhow::Result<Option<Cluster>> {
    if flags.store == StoreKind::Embedded {
        return Ok(None);
    }
    let options =
        cluster::Options { kubeconfig: flags.kubeconfig.clone(), namespace: flags.namespace.clone() };
    Ok(Some(Cluster::start(options, identity, to_loop.clone()).await?))
}

fn identity(flags: &Flags) -> anyhow::Result<Identity> {
    let epoch = Epoch::read(&flags.boot_id_file, &flags.machine_id_file)?;
    Ok(Identity { node: flags.node()?, boot_id: epoch.boot_id, machine_id: epoch.machine_id })
}
