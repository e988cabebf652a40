//! The stage of the tests: one world with an agent in it, the plugin under test, and what the kernel
//! and the store hold, read by the testbed's own means.
//!
//! Rows share a stage, one after the other. After each, [`Stage::clear`] takes away what it left; a
//! stage that does not come clean is replaced, so that no row sees another's remains.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::answer::{Answer, Play, Stop, holds};
use super::subject::{self, Ipam, LAN, Subject, TIGHT};
use crate::agent::{Agent, AgentSetup, NETLINK, RECONCILE};
use crate::cleanup;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::lab::NODE;
use crate::netlink::Link;
use crate::plugin::{Call, Plugin, Running};
use crate::world::{self, POD_LINK, Pod, World};

/// Time limit for an ended attachment's address to be free; tight bounds are the demo's.
pub const SOON: Duration = Duration::from_secs(8);
/// Time limit of a call that promises to be fast: ten times 50 ms.
pub const FAST: Duration = Duration::from_millis(500);
/// From one look to the next while something is waited for.
const LOOK: Duration = Duration::from_millis(4);
/// The version that brought GC and STATUS.
pub const LAST_VERSION: &str = "1.1.0";

/// An address that is not free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Address in question.
    pub address: IpAddr,
    /// Container ID of the holder.
    pub container_id: String,
    /// Interface of the holder.
    pub ifname: String,
}

/// A world with the plugin under test.
#[derive(Debug)]
pub struct Stage<'a> {
    // Dropped in this order: the agent ends before its files go.
    agent: Option<Agent>,
    /// Parameters of the agent's start.
    pub setup: AgentSetup,
    /// The plugin under test, on the node.
    pub plugin: Plugin,
    /// The tested plugin.
    pub subject: &'a Subject,
    /// The newest supported version of the plugin, of those in the suite.
    pub newest: String,
    /// Versions that the plugin reports.
    pub versions: Vec<String>,
    /// Namespaces of the stage.
    pub world: World,
    pods: Vec<Pod>,
    serial: u32,
}

impl<'a> Stage<'a> {
    /// Builds the stage.
    pub fn build(subject: &'a Subject) -> Result<Self> {
        Self::with(subject, None, Vec::new())
    }

    /// The same with an agent that notices nothing by itself.
    pub fn deaf(subject: &'a Subject) -> Result<Self> {
        Self::with(subject, Some("none"), vec![NETLINK, RECONCILE])
    }

    fn with(subject: &'a Subject, rung: Option<&str>, deaf: Vec<&'static str>) -> Result<Self> {
        let world = World::build()?;
        let setup = AgentSetup {
            binary: subject.berth.join("berth-agent"),
            node: world.node().to_owned(),
            folder: world.folder().to_owned(),
            node_name: NODE.to_owned(),
            bpffs: world.bpffs().unwrap_or_else(|_| world.folder().to_owned()).join("berth"),
            rung: rung.map(str::to_owned),
            object: None,
            // A stage with disabled sources exists next to another one: a cluster has one node of that name.
            outside: subject.outside.clone().filter(|_| deaf.is_empty()),
            deaf,
        };
        setup.prepare(&subject::declaration(), 1, 1)?;
        let plugin = Plugin { binary: subject.binary.clone(), node: world.node().to_owned() };
        let (agent, pods) = (None, Vec::new());
        let versions = spoken(&plugin)?;
        let newest = versions.last().cloned().unwrap_or_else(|| LAST_VERSION.to_owned());
        let mut stage = Self { agent, setup, plugin, subject, newest, versions, world, pods, serial: 0 };
        stage.start_agent()?;
        Ok(stage)
    }

    /// Starts the agent, if the addresses are its own and it does not run.
    pub fn start_agent(&mut self) -> Result<()> {
        if self.subject.has_agent() && self.agent.is_none() {
            self.agent.insert(self.setup.start(None)?).wait_ready()?;
        }
        Ok(())
    }

    /// Sends SIGKILL to the agent.
    pub fn kill_agent(&mut self) {
        if let Some(agent) = self.agent.take() {
            agent.kill();
        }
    }

    /// Sends SIGSTOP to the agent.
    pub fn pause_agent(&self) {
        if let Some(agent) = &self.agent {
            agent.pause();
        }
    }

    /// Sends SIGCONT to the agent.
    pub fn resume_agent(&self) {
        if let Some(agent) = &self.agent {
            agent.resume();
        }
    }

    /// A new pod with a sandbox.
    pub fn pod(&mut self) -> Play<Pod> {
        let pod = self.world.pod()?;
        if !self.subject.has_agent() {
            // Other plugins wait for duplicate address detection of an IPv6 address: seconds that show
            // nothing here.
            world::trust_addresses(&pod.netns)?;
        }
        self.pods.push(pod.clone());
        Ok(pod)
    }

    /// The same for a pod with this uid in kubelet.
    pub fn pod_of(&mut self, uid: &str) -> Play<Pod> {
        Ok(Pod { uid: Some(uid.to_owned()), ..self.pod()? })
    }

    /// A pod with the sandbox path of another, removed pod.
    pub fn pod_at(&mut self, former: &Pod) -> Play<Pod> {
        let pod = self.world.pod_named(&former.name)?;
        self.pods.push(pod.clone());
        Ok(pod)
    }

    /// A number that no other call of this stage got.
    pub fn serial(&mut self) -> u32 {
        self.serial += 1;
        self.serial
    }

    /// The configuration of the network with room, in the newest version.
    pub fn config(&self) -> Value {
        self.config_in(&self.newest)
    }

    /// The same in another version.
    pub fn config_in(&self, version: &str) -> Value {
        self.subject.config(LAN, version, &self.setup)
    }

    /// The configuration of the network that one attachment fills.
    pub fn tight(&self) -> Value {
        self.subject.config(TIGHT, &self.newest, &self.setup)
    }

    /// A call for a pod.
    pub fn call(&self, command: &str, config: &Value, pod: &Pod) -> Call {
        self.reach(Call::new(command, config, pod))
    }

    /// A call without an attachment.
    pub fn bare(&self, command: &str, config: &Value) -> Call {
        self.reach(Call::bare(command, config))
    }

    fn reach(&self, call: Call) -> Call {
        call.variable("CNI_PATH", &self.subject.path().to_string_lossy())
    }

    /// Runs a call; `what` describes it, the same in every run.
    pub fn ask(&self, what: &str, call: &Call) -> Play<Answer> {
        Ok(Answer::new(what, self.plugin.run(call)?))
    }

    /// Starts a call.
    pub fn start(&self, call: &Call) -> Play<Running> {
        Ok(self.plugin.start(call)?)
    }

    /// Waits for the end of a call.
    pub fn finish(what: &str, running: Running) -> Play<Answer> {
        Ok(Answer::new(what, running.finish(Duration::from_secs(30))?))
    }

    /// An ADD of the network with room, which must succeed; its result.
    pub fn add(&self, pod: &Pod) -> Play<Value> {
        self.add_with(&self.config(), pod)
    }

    /// An ADD that must succeed; its result.
    pub fn add_with(&self, config: &Value, pod: &Pod) -> Play<Value> {
        self.ask("ADD", &self.call("ADD", config, pod))?.result()
    }

    /// A DEL of the network with room, which must succeed.
    pub fn del(&self, pod: &Pod) -> Play {
        self.del_with(&self.config(), pod)
    }

    /// A DEL that must succeed.
    pub fn del_with(&self, config: &Value, pod: &Pod) -> Play {
        self.ask("DEL", &self.call("DEL", config, pod))?.silent()
    }

    /// The links that a pod's sandbox has, loopback left out; none once it is gone.
    pub fn links(&self, pod: &Pod) -> Play<Vec<Link>> {
        let links = self.world.links(pod)?.unwrap_or_default();
        Ok(links.into_iter().filter(|link| link.name != "lo").collect())
    }

    /// The addresses in a pod's sandbox.
    pub fn addresses(&self, pod: &Pod) -> Play<Vec<IpAddr>> {
        Ok(self.world.addresses(pod)?)
    }

    /// Links of the node's own namespace, one per line.
    pub fn node_links(&self) -> Play<String> {
        Ok(world::ip_shows(self.world.node(), "-brief link show")?)
    }

    /// Every address that is not free.
    pub fn held(&self) -> Play<Vec<Held>> {
        match &self.subject.ipam {
            Ipam::Own | Ipam::Berth => {
                let rows = Client::new(&self.setup.socket()).leases()?;
                Ok(rows.into_iter().map(Held::from).collect())
            }
            Ipam::HostLocal => Ok(files(&Subject::files(&self.setup))),
            Ipam::Other(_) => Err(Stop::Senseless("the store of this IPAM is not known here")),
        }
    }

    /// The addresses that a pod holds, whichever its interface.
    pub fn held_by(&self, pod: &Pod) -> Play<Vec<IpAddr>> {
        let held = self.held()?;
        Ok(held.iter().filter(|h| h.container_id == pod.container_id).map(|h| h.address).collect())
    }

    /// A breach unless the pod's addresses are those of its ADD's `result`, in the store and in the kernel.
    pub fn keeps(&self, pod: &Pod, result: &Value, short: &str) -> Play {
        let given = addresses_of(result);
        let (held, mut here) = (self.held_by(pod)?, self.addresses(pod)?);
        here.retain(|address| given.contains(address));
        let kept = !given.is_empty() && here.len() == given.len() && given.iter().all(|a| held.contains(a));
        holds(kept, short, &(given, held, self.links(pod)?))
    }

    /// A breach unless the pod soon holds nothing.
    pub fn freed(&self, pod: &Pod, short: &str) -> Play {
        let begin = Instant::now();
        // A reference with files as its store frees immediately or never.
        let patience = if self.subject.has_agent() { SOON } else { Duration::ZERO };
        loop {
            let held = self.held_by(pod)?;
            if held.is_empty() {
                return Ok(());
            }
            if begin.elapsed() > patience {
                return holds(false, short, &(&held, self.story(held[0])));
            }
            cleanup::pause(LOOK)?;
        }
    }

    /// Recent actions of the agent, if there is one, for an address.
    fn story(&self, address: IpAddr) -> Vec<String> {
        let history = Client::new(&self.setup.socket()).history(address).unwrap_or_default();
        history
            .iter()
            .rev()
            .take(12)
            .map(|event| format!("{} {}: {}", event.at_ms, event.code, event.text))
            .collect()
    }

    /// A breach unless the pod has neither links nor held addresses.
    pub fn nothing_left(&self, pod: &Pod, short: &str) -> Play {
        let links = self.links(pod)?;
        holds(links.is_empty(), short, &links)?;
        self.freed(pod, short)
    }

    /// Continues only if the plugin supports 1.1.0.
    pub fn needs_1_1(&self) -> Play {
        let speaks = self.versions.iter().any(|version| version == LAST_VERSION);
        if speaks { Ok(()) } else { Err(Stop::Senseless("it does not support 1.1.0, which added this verb")) }
    }

    /// Continues only if the addresses are the agent's.
    pub fn needs_agent(&self) -> Play {
        if self.subject.has_agent() { Ok(()) } else { Err(Stop::Senseless("it has no agent")) }
    }

    /// Continues only if the plugin itself is Berth.
    pub fn needs_berth(&self, why: &'static str) -> Play {
        if self.subject.is_berth() { Ok(()) } else { Err(Stop::Senseless(why)) }
    }

    /// Takes away what a row left; whether the stage is as new.
    pub fn clear(&mut self) -> Result<bool> {
        for pod in std::mem::take(&mut self.pods) {
            self.world.remove(&pod);
        }
        if let Some(agent) = &mut self.agent {
            agent.resume();
            if !agent.runs() {
                self.agent = None;
            }
        }
        self.start_agent()?;
        // It may never have been made.
        let _ = std::fs::remove_dir_all(Subject::files(&self.setup));
        if world::ip_shows(self.world.node(), "-brief link show")?.contains(&format!("{POD_LINK}@")) {
            world::ip(self.world.node(), &format!("link del {POD_LINK}\n"))?;
        }
        let begin = Instant::now();
        while begin.elapsed() < SOON {
            match self.held() {
                Ok(held) if held.is_empty() => return Ok(true),
                Err(Stop::Could(error)) => return Err(error),
                Err(_) => return Ok(true),
                Ok(_) => cleanup::pause(LOOK)?,
            }
        }
        Ok(false)
    }
}

impl From<crate::client::Row> for Held {
    fn from(row: crate::client::Row) -> Self {
        let (container_id, ifname) = (row.container_id.unwrap_or_default(), row.ifname.unwrap_or_default());
        Self { address: row.address, container_id, ifname }
    }
}

/// The addresses of a result of any version.
pub fn addresses_of(result: &Value) -> Vec<IpAddr> {
    let listed = result["ips"].as_array().into_iter().flatten().map(|entry| &entry["address"]);
    let families = ["ip4", "ip6"].into_iter().map(|family| &result[family]["ip"]);
    listed.chain(families).filter_map(|text| text.as_str()?.split('/').next()?.parse().ok()).collect()
}

/// Files of `host-local`: one for each address, with its holder and the interface in two lines.
fn files(folder: &Path) -> Vec<Held> {
    let networks = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let entries = networks.flat_map(|network| std::fs::read_dir(network.path()).into_iter().flatten());
    let read = |entry: std::fs::DirEntry| {
        let address = entry.file_name().to_str()?.parse().ok()?;
        let text = std::fs::read_to_string(entry.path()).ok()?;
        let mut lines = text.lines().map(str::to_owned);
        Some(Held { address, container_id: lines.next()?, ifname: lines.next().unwrap_or_default() })
    };
    entries.flatten().filter_map(read).collect()
}

/// Versions that the plugin reports, oldest first.
fn spoken(plugin: &Plugin) -> Result<Vec<String>> {
    let outcome = plugin.run(&Call::bare("VERSION", &json!({"cniVersion": "1.0.0"})))?;
    outcome.expect_success()?;
    let wrong = || Error::Plugin { what: "VERSION".to_owned(), why: outcome.stdout.clone() };
    let answer: Value = serde_json::from_str(&outcome.stdout).map_err(|_| wrong())?;
    let listed = answer["supportedVersions"].as_array().ok_or_else(wrong)?;
    Ok(listed.iter().filter_map(Value::as_str).map(str::to_owned).collect())
}
