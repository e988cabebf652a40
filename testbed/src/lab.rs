//! A world with Berth in it: the node's agent runs, pods are attached by the plugin, and the two
//! independent observers (FDB poller, monitor) look on from before the agent's start to its end.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_ipam::mac::Mac;
use serde_json::Value;

use crate::agent::{Agent, AgentSetup};
use crate::cleanup;
use crate::client::{Client, Row};
pub use crate::declare::{Families, NETWORK, network_config, runtime_config};
use crate::error::{Error, Result};
use crate::fdb::{self, FdbWatch};
use crate::monitor::{self, Monitor, Rhythm};
use crate::narrate::{Narrator, Who, short};
use crate::outside::Outside;
use crate::plugin::{Call, Outcome, Plugin};
use crate::report::Builder;
use crate::skip;
use crate::world::{self, PARENT, Pod, World};

/// From one question for `leases` to the next while a release is waited for.
pub const LEASES_INTERVAL: Duration = Duration::from_millis(1);
/// Time limit of the ADD of a free address.
const ADD_LIMIT: Duration = Duration::from_secs(10);
/// The node's name.
pub const NODE: &str = "node-a";

/// Paths of Berth's binaries.
#[derive(Debug, Clone)]
pub struct Binaries {
    /// Path of `berth`.
    pub plugin: PathBuf,
    /// Path of `berth-agent`.
    pub agent: PathBuf,
    /// Path of `berthctl`.
    pub ctl: PathBuf,
}

impl Binaries {
    /// Those in one folder.
    pub fn of(folder: &Path) -> Self {
        let [plugin, agent, ctl] = ["berth", "berth-agent", "berthctl"].map(|name| folder.join(name));
        Self { plugin, agent, ctl }
    }

    /// An error that names the first one that is not there.
    pub fn present(&self) -> Result<()> {
        match [&self.plugin, &self.agent, &self.ctl].into_iter().find(|path| !path.exists()) {
            Some(path) => Err(Error::NoBinary { path: path.clone() }),
            None => Ok(()),
        }
    }
}

/// Options of a run of cases.
#[derive(Debug, Clone)]
pub struct Options {
    /// Binaries to test.
    pub binaries: Binaries,
    /// Multiplies every bound in time.
    pub slack: f64,
    /// Multiplies the number of attachments; 1 is what the bounds are promised for.
    pub scale: f64,
    /// Attach mode of the agents for teardowns (`--rung`); `None`: their choice.
    pub rung: Option<String>,
    /// Sources that are disabled in agents.
    pub deaf: Vec<&'static str>,
    /// The cluster in which they are played; `None`: on a machine alone.
    pub outside: Option<Arc<dyn Outside>>,
    /// Output of the progress lines.
    pub tell: Narrator,
}

impl Options {
    /// Options for tests, with ten times the bounds. `None`, with the reason recorded as a skip, if they
    /// cannot run.
    pub fn of_tests(scale: f64) -> Option<Self> {
        if skip::unless_root() {
            return None;
        }
        let Some(folder) = std::env::var_os("BERTH_BIN_DIR") else {
            skip::because("needs the built binaries; `cargo xtask test` builds them and sets BERTH_BIN_DIR");
            return None;
        };
        let binaries = Binaries::of(Path::new(&folder));
        let (rung, deaf, outside) = (None, Vec::new(), None);
        Some(Self { binaries, slack: 10.0, scale, rung, deaf, outside, tell: Narrator::default() })
    }

    /// `n` attachments, scaled, but never none.
    pub fn scaled(&self, n: usize) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            clippy::cast_sign_loss,
            reason = "a few hundred at most"
        )]
        let scaled = (n as f64 * self.scale).round() as usize;
        scaled.max(1)
    }

    /// Time to wait for a bounded event: longer than the bound, so that a miss is measured.
    pub fn patience(&self, bound: Duration) -> Duration {
        bound.mul_f64(self.slack.max(1.0)) + Duration::from_secs(8)
    }
}

/// A pod with an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Sandbox of the pod.
    pub pod: Pod,
    /// Its address (of the first pool's family).
    pub address: IpAddr,
    /// Its address of the other family, in a dual-stack lab.
    pub second: Option<IpAddr>,
    /// Its interface's MAC.
    pub mac: Mac,
}

impl Attachment {
    /// All its addresses.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + '_ {
        std::iter::once(self.address).chain(self.second)
    }
}

/// A world with a running agent.
#[derive(Debug)]
pub struct Lab {
    // Dropped in this order: the running processes, the observers, the world.
    agent: Option<Agent>,
    /// Parameters of the agent's start.
    pub setup: AgentSetup,
    /// The plugin on the node.
    pub plugin: Plugin,
    /// The network configuration that the runtime passes.
    pub config: Value,
    monitor: Option<Monitor>,
    rhythm: Rhythm,
    /// The poller of the parent's FDB.
    pub fdb: FdbWatch,
    /// Namespaces of the lab.
    pub world: World,
    /// The addresses of the pool.
    pub addresses: Vec<Ipv4Addr>,
    families: Families,
    /// Output of the progress lines.
    pub tell: Narrator,
}

impl Lab {
    /// Builds a world with a pool of `addresses`, proves the monitor, and starts the agent. `extra`
    /// is added to the spec of the network: YAML lines, indented by two.
    pub fn start(options: &Options, addresses: u16, extra: &str) -> Result<Self> {
        Self::prepare(options, addresses, extra, Families::V4)?.started()
    }

    /// The same with both families.
    pub fn start_dual(options: &Options, addresses: u16) -> Result<Self> {
        Self::prepare(options, addresses, "", Families::Dual)?.started()
    }

    /// The same for hundreds of pods. Each request of the monitor reaches all of them, so it probes every
    /// tenth address only; in the namespaces it reads them all.
    pub fn start_crowd(options: &Options, addresses: u16) -> Result<Self> {
        Self::build(options, addresses, "", Families::V4, monitor::CROWD)?.started()
    }

    fn started(mut self) -> Result<Self> {
        let lab = &mut self;
        let ready = lab.start_agent(None)?;
        lab.tell.say(Who::World, &format!("agent started, answers after {}", short(ready)));
        Ok(self)
    }

    /// The same without starting the agent.
    pub fn prepare(options: &Options, addresses: u16, extra: &str, families: Families) -> Result<Self> {
        Self::build(options, addresses, extra, families, monitor::STEADY)
    }

    fn build(
        options: &Options,
        addresses: u16,
        extra: &str,
        families: Families,
        rhythm: Rhythm,
    ) -> Result<Self> {
        options.binaries.present()?;
        let world = World::build()?;
        let pool = world::pool_addresses(addresses);
        let tell = options.tell.clone();
        let step = if rhythm == monitor::CROWD { 10 } else { 1 };
        let asked: Vec<Ipv4Addr> = pool.iter().copied().step_by(step).collect();
        let mut monitor = Monitor::start(&world, &asked, rhythm)?;
        let planted = asked[asked.len() - 1];
        let proof = monitor.prove(&world, planted)?;
        tell.say(
            Who::World,
            &format!(
                "planted {planted} twice: both witnesses of the monitor reported it after {}",
                short(proof)
            ),
        );
        let fdb = FdbWatch::start(world.node(), PARENT)?;
        if let Err(error) = world.bpffs() {
            tell.say(Who::World, &format!("{}: the agent keeps nothing over its own end", error.chain()));
        }
        let setup = AgentSetup {
            binary: options.binaries.agent.clone(),
            node: world.node().to_owned(),
            folder: world.folder().to_owned(),
            node_name: NODE.to_owned(),
            bpffs: world.bpffs().unwrap_or_else(|_| world.folder().to_owned()).join("berth"),
            rung: options.rung.clone(),
            object: None,
            deaf: options.deaf.clone(),
            outside: options.outside.clone(),
        };
        setup.prepare(&network_config(&pool, extra, families), 1, 1)?;
        let plugin = Plugin { binary: options.binaries.plugin.clone(), node: world.node().to_owned() };
        let mut config = runtime_config(&setup);
        if options.outside.is_some() {
            // The runtime passes the annotations of pods, as every supported one does: these pods have none.
            config["runtimeConfig"] = serde_json::json!({"io.kubernetes.cri.pod-annotations": {}});
        }
        let monitor = Some(monitor);
        let addresses = pool;
        Ok(Self {
            agent: None,
            setup,
            plugin,
            config,
            monitor,
            rhythm,
            fdb,
            world,
            addresses,
            families,
            tell,
        })
    }

    /// Starts the agent (again) and waits until it responds; returns the time that took.
    pub fn start_agent(&mut self, fault: Option<&str>) -> Result<Duration> {
        self.begin_agent(fault)?;
        self.agent()?.wait_ready()
    }

    /// Starts the agent and does not wait; when that was.
    pub fn begin_agent(&mut self, fault: Option<&str>) -> Result<Instant> {
        let agent = self.setup.start(fault)?;
        let started = agent.started();
        self.agent = Some(agent);
        Ok(started)
    }

    /// The running agent.
    pub fn agent(&mut self) -> Result<&mut Agent> {
        self.agent.as_mut().ok_or_else(|| Error::Monitor("the case has stopped the agent".to_owned()))
    }

    /// Sends SIGKILL to the agent.
    pub fn kill_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.kill();
        }
    }

    /// SIGTERM, which must end it cleanly.
    pub fn stop_agent(&mut self) -> Result<()> {
        self.agent.take().map_or(Ok(()), Agent::stop)
    }

    /// A client of the agent.
    pub fn client(&self) -> Client {
        Client::new(&self.setup.socket())
    }

    /// Every address that is not free.
    pub fn leases(&self) -> Result<Vec<Row>> {
        self.client().leases()
    }

    /// A call of the plugin for a pod.
    pub fn call(&self, command: &str, pod: &Pod) -> Call {
        Call::new(command, &self.config, pod)
    }

    /// ADD for a pod, any address.
    pub fn attach(&self, pod: &Pod) -> Result<Attachment> {
        self.attached(pod, &self.plugin.run(&self.call("ADD", pod))?)
    }

    /// ADD for a pod, a certain address.
    pub fn attach_at(&self, pod: &Pod, address: IpAddr) -> Result<Attachment> {
        self.attach_with(pod, &[address])
    }

    /// ADD for a pod, with the addresses that another one had.
    pub fn attach_as(&self, pod: &Pod, former: &Attachment) -> Result<Attachment> {
        self.attach_with(pod, &former.addresses().collect::<Vec<_>>())
    }

    fn attach_with(&self, pod: &Pod, wanted: &[IpAddr]) -> Result<Attachment> {
        // Requested because they are free: no other pod must be waited for.
        let call = self.call("ADD", pod).addresses(wanted).setting("addTimeout", "3s");
        let attachment = self.attached(pod, &self.plugin.start(&call)?.finish(ADD_LIMIT)?)?;
        let got: Vec<IpAddr> = attachment.addresses().collect();
        if wanted.iter().all(|address| got.contains(address)) {
            return Ok(attachment);
        }
        Err(Error::Plugin { what: "ADD".to_owned(), why: format!("requested {wanted:?}, got {got:?}") })
    }

    /// Attachment of a successful ADD.
    pub fn attached(&self, pod: &Pod, outcome: &Outcome) -> Result<Attachment> {
        let added = outcome.added()?;
        let named =
            |why: &str| Error::Plugin { what: format!("ADD for {}", pod.container_id), why: why.to_owned() };
        let mac = added.mac.ok_or_else(|| named("its result names no MAC"))?;
        let address = *added.addresses.first().ok_or_else(|| named("its result names no address"))?;
        let second = added.addresses.get(1).copied();
        if second.is_some() != (self.families == Families::Dual) {
            return Err(named(&format!("its result has the addresses {:?}", added.addresses)));
        }
        Ok(Attachment { pod: pod.clone(), address, second, mac })
    }

    /// ADD for `count` new pods.
    pub fn attach_many(&self, count: usize) -> Result<Vec<Attachment>> {
        (0..count).map(|_| self.attach(&self.world.pod()?)).collect()
    }

    /// DEL as a runtime sends it.
    pub fn detach(&self, pod: &Pod) -> Result<Outcome> {
        self.plugin.run(&self.call("DEL", pod))
    }

    /// Removes a pod in order: DEL, then its namespace.
    pub fn retire(&self, attachment: &Attachment) -> Result<()> {
        self.detach(&attachment.pod)?.expect_success()?;
        self.world.remove(&attachment.pod);
        Ok(())
    }

    /// Assigns the addresses of each again by a real ADD, and releases them; returns the number of successes.
    /// Ends at the third failure: the result is certain then.
    pub fn prove_free(&self, former: &[Attachment]) -> Result<usize> {
        let (mut given, mut refused) = (0, 0);
        for former in former {
            let pod = self.world.pod()?;
            match self.attach_as(&pod, former) {
                Ok(attachment) => {
                    given += 1;
                    self.retire(&attachment)?;
                }
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => {
                    let address = former.address;
                    self.tell.say(Who::World, &format!("{address} could not be given: {}", error.chain()));
                    self.world.remove(&pod);
                    refused += 1;
                }
            }
            if refused == 3 {
                break;
            }
        }
        Ok(given)
    }

    /// True if the neighbour receives an answer for an address.
    pub fn answers(&self, address: IpAddr) -> Result<bool> {
        match (address, &self.monitor) {
            (IpAddr::V4(address), Some(monitor)) => monitor.answers(address),
            _ => Ok(false),
        }
    }

    /// The monitor, until the case's end.
    pub fn monitor(&self) -> Result<&Monitor> {
        self.monitor.as_ref().ok_or_else(|| Error::Monitor("the case has ended".to_owned()))
    }

    /// Prints the last `lines` of the agent's observations and decisions about an address.
    pub fn tell_history(&self, address: IpAddr, lines: usize) {
        // The history is informational: a missing line fails nothing.
        let history = self.client().history(address).unwrap_or_default();
        for event in &history[history.len().saturating_sub(lines)..] {
            self.tell.say(Who::Agent, &format!("{address} {}: {} ({})", event.kind, event.text, event.code));
        }
    }

    /// Ends the case: what the monitor found becomes checks, and the agent must end cleanly.
    pub fn finish(mut self, case: &mut Builder) -> Result<()> {
        if let Some(monitor) = self.monitor.take() {
            let findings = monitor.finish();
            if let Some(why) = findings.failed {
                return Err(Error::Monitor(why));
            }
            let found: Vec<String> = findings.duplicates.iter().map(|found| format!("{found:?}")).collect();
            case.holds("the monitor reported the planted duplicate on the wire and in the namespaces", true);
            case.none("addresses ever held by two live interfaces", &found);
            case.within(
                "longest time between two samples of the monitor while any thread could run",
                Some(findings.worst_gap),
                self.rhythm.gap_max,
            );
            let (polls, gap) = self.fdb.effort();
            self.tell.say(
                Who::Clock,
                &format!(
                    "{} samples of the monitor, at most {} apart (longest halt of the whole machine {}); \
                     {polls} polls of the FDB, every {}, at most {} apart",
                    findings.samples,
                    short(findings.worst_gap),
                    short(findings.worst_stall),
                    short(fdb::INTERVAL),
                    short(gap),
                ),
            );
        }
        let stopped = self.stop_agent();
        if let Err(Error::Interrupted) = stopped {
            return Err(Error::Interrupted);
        }
        case.none(
            "agent ended cleanly on SIGTERM",
            &stopped.err().map(|error| error.chain()).into_iter().collect::<Vec<_>>(),
        );
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // A case that ended early leaves its monitor here: then the log is of interest.
        if self.monitor.is_some()
            && cleanup::interrupted().is_ok()
            && let Some(agent) = &self.agent
        {
            eprintln!("the end of the agent's log:\n{}", agent.log_end());
        }
    }
}
