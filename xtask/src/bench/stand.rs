//! Environment of the contestants: one world, a running agent, and for each contestant a network
//! configuration of the same subnet and size.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use berth_testbed::agent::{Agent, AgentSetup};
use berth_testbed::plugin::{Call, Outcome, Plugin};
use berth_testbed::world::{GATEWAY, PARENT, Pod, SUBNET, World};
use serde_json::{Value, json};

/// Folder of the plugins in Debian's package.
pub const DEBIAN_PLUGINS: &str = "/usr/lib/cni";
/// Berth's pool: 1,000 addresses.
const RANGE: (&str, &str) = ("10.77.4.1", "10.77.7.232");
/// Number of addresses of the pools that fit exactly.
pub const BURST: usize = 50;
/// The IPv6 pool of a dual stack.
const SUBNET_V6: &str = "fd00:77::/64";

/// Third-party plugins: their folder, and their addresses. One subnet, so that all set the same routes; never
/// the same address.
#[derive(Debug, Clone)]
pub struct Reference {
    /// Its name in the report.
    pub name: &'static str,
    /// Name of its IPAM.
    pub ipam: &'static str,
    /// The folder with its plugins.
    pub folder: PathBuf,
    range: (&'static str, &'static str),
    range_v6: (&'static str, &'static str),
}

impl Reference {
    /// The plugins that Debian packages.
    pub fn debian() -> Self {
        Self {
            name: "Debian's macvlan+host-local",
            ipam: "Debian's host-local",
            folder: PathBuf::from(DEBIAN_PLUGINS),
            range: ("10.77.8.1", "10.77.11.232"),
            range_v6: ("fd00:77::1:1", "fd00:77::1:ffff"),
        }
    }

    /// Upstream's newest, in the folder of `cargo xtask tools`.
    pub fn newest(folder: &Path) -> Self {
        Self {
            name: "newest macvlan+host-local",
            ipam: "newest host-local",
            folder: folder.to_owned(),
            range: ("10.77.12.1", "10.77.15.232"),
            range_v6: ("fd00:77::2:1", "fd00:77::2:ffff"),
        }
    }
}

/// Address families of a stand's contestants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stack {
    /// Only IPv4 addresses.
    V4,
    /// Addresses of both families.
    Dual,
    /// IPv4 alone, from pools of [`BURST`] addresses.
    Exact,
}

/// A plugin with its configuration.
pub struct Contestant {
    /// Its name in the report.
    pub name: &'static str,
    plugin: Plugin,
    config: Value,
}

impl Contestant {
    /// Runs a command for a pod, which must succeed; how it went.
    pub fn call(&self, command: &str, pod: &Pod) -> Result<Outcome> {
        self.run(command, &Call::new(command, &self.config, pod))
    }

    /// An ADD that requests an address.
    pub fn add_at(&self, pod: &Pod, address: IpAddr) -> Result<Outcome> {
        self.run("ADD", &Call::new("ADD", &self.config, pod).addresses(&[address]))
    }

    /// STATUS, in the first version that has it.
    pub fn status(&self) -> Result<Outcome> {
        self.run("STATUS", &Call::bare("STATUS", &self.config).setting("cniVersion", "1.1.0"))
    }

    fn run(&self, command: &str, call: &Call) -> Result<Outcome> {
        let outcome = self.plugin.run(call)?;
        outcome.expect_success().with_context(|| format!("{command} of {}", self.name))?;
        Ok(outcome)
    }

    /// One that is only a name, for tests of the report.
    #[cfg(test)]
    pub fn of_nothing(name: &'static str) -> Self {
        let plugin = Plugin { binary: PathBuf::new(), node: PathBuf::new() };
        Self { name, plugin, config: Value::Null }
    }

    /// Duration of VERSION. It needs no namespace, so it is started in the cheapest way (no fork of this
    /// process): the start must not outweigh the measured call.
    pub fn version(&self) -> Result<Duration> {
        let mut command = Command::new(&self.plugin.binary);
        command.env_clear().env("CNI_COMMAND", "VERSION");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        let began = Instant::now();
        let status = command.status().with_context(|| format!("start {}", self.name))?;
        let took = began.elapsed();
        if !status.success() {
            bail!("VERSION of {}: {status}", self.name);
        }
        Ok(took)
    }
}

/// One world with an agent in it. Its fields are dropped in order: the agent ends before its files go.
pub struct Stand {
    agent: Option<Agent>,
    /// Parameters of the agent's start.
    pub setup: AgentSetup,
    /// Network of the stand.
    pub world: World,
    stack: Stack,
}

impl Stand {
    /// Builds the world and starts the agent of `binaries`, with its own choice of attach mode.
    pub fn build(binaries: &Path) -> Result<Self> {
        Self::build_on(binaries, None)
    }

    /// The same with both families.
    pub fn build_dual(binaries: &Path) -> Result<Self> {
        Self::build_with(binaries, None, Stack::Dual)
    }

    /// The same with pools of [`BURST`] addresses.
    pub fn build_exact(binaries: &Path) -> Result<Self> {
        Self::build_with(binaries, None, Stack::Exact)
    }

    /// The same on a certain rung.
    pub fn build_on(binaries: &Path, rung: Option<&str>) -> Result<Self> {
        Self::build_with(binaries, rung, Stack::V4)
    }

    fn build_with(binaries: &Path, rung: Option<&str>, stack: Stack) -> Result<Self> {
        let world = World::build()?;
        let setup = AgentSetup {
            binary: binaries.join("berth-agent"),
            node: world.node().to_owned(),
            folder: world.folder().join("agent"),
            node_name: "bench".to_owned(),
            bpffs: world.bpffs().unwrap_or_else(|_| world.folder().join("no-bpf")).join("berth"),
            rung: rung.map(str::to_owned),
            object: None,
            deaf: Vec::new(),
            outside: None,
        };
        setup.prepare(&declaration(stack), 1, 1)?;
        let mut stand = Self { agent: None, setup, world, stack };
        stand.start()?;
        Ok(stand)
    }

    fn start(&mut self) -> Result<()> {
        self.agent.insert(self.setup.start(None)?).wait_ready()?;
        Ok(())
    }

    /// Replaces the agent by one with another attach mode (`None`: its choice), which keeps the leases, but
    /// nothing in the kernel: the programs that the previous agent pinned there would continue to run.
    pub fn restart(&mut self, rung: Option<&str>) -> Result<()> {
        if let Some(agent) = self.agent.take() {
            agent.stop()?;
        }
        match std::fs::remove_dir_all(&self.setup.bpffs) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("unpin {}", self.setup.bpffs.display()));
            }
            _ => {}
        }
        self.setup.rung = rung.map(str::to_owned);
        self.start()
    }

    /// The running agent.
    pub fn agent(&self) -> Result<&Agent> {
        self.agent.as_ref().context("the agent was stopped")
    }

    /// The agent's process.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.agent()?.pid())
    }

    /// Berth as main plugin.
    pub fn berth(&self, binaries: &Path) -> Contestant {
        let config = json!({
            "cniVersion": "1.0.0", "name": "lan", "type": "berth", "network": "lan",
            "socket": self.setup.socket(), "stateDir": self.setup.state(),
        });
        Contestant { name: "berth", plugin: self.plugin(&binaries.join("berth")), config }
    }

    /// Other people's macvlan with their host-local.
    pub fn macvlan(&self, reference: &Reference) -> Contestant {
        let range = |(first, last): (&str, &str), subnet: &str| json!([{"subnet": subnet, "rangeStart": first, "rangeEnd": last}]);
        let exact = last_of_exact(reference.range.0);
        let four =
            if self.stack == Stack::Exact { (reference.range.0, exact.as_str()) } else { reference.range };
        let mut ranges = vec![range(four, SUBNET)];
        ranges[0][0]["gateway"] = json!(GATEWAY);
        if self.stack == Stack::Dual {
            ranges.push(range(reference.range_v6, SUBNET_V6));
        }
        let folder = self.world.folder().join(reference.ipam.replace(|c: char| !c.is_alphanumeric(), "-"));
        let config = json!({
            "cniVersion": "1.0.0", "name": "reference", "type": "macvlan", "master": PARENT, "mode": "bridge",
            "ipam": {"type": "host-local", "ranges": ranges, "dataDir": folder},
        });
        Contestant { name: reference.name, plugin: self.plugin(&reference.folder.join("macvlan")), config }
    }

    /// Other people's host-local alone, for VERSION.
    pub fn host_local(&self, reference: &Reference) -> Contestant {
        let plugin = self.plugin(&reference.folder.join("host-local"));
        Contestant { name: reference.ipam, plugin, config: Value::Null }
    }

    /// A program that does nothing, for VERSION.
    pub fn nothing(&self, name: &'static str, binary: &Path) -> Contestant {
        Contestant { name, plugin: self.plugin(binary), config: Value::Null }
    }

    fn plugin(&self, binary: &Path) -> Plugin {
        Plugin { binary: binary.to_owned(), node: self.world.node().to_owned() }
    }
}

/// Addresses of Berth's pool, the last first: so few are kept ready that these are hardly among them.
pub fn last_addresses() -> impl Iterator<Item = IpAddr> {
    let last = RANGE.1.parse::<Ipv4Addr>().map_or(0, u32::from);
    (0..500).map(move |back| IpAddr::from(Ipv4Addr::from(last - back)))
}

/// The last of [`BURST`] addresses.
fn last_of_exact(first: &str) -> String {
    let first = first.parse::<Ipv4Addr>().map_or(0, u32::from);
    Ipv4Addr::from(first + u32::try_from(BURST).unwrap_or(1) - 1).to_string()
}

/// The agent's configuration.
fn declaration(stack: Stack) -> String {
    let first = RANGE.0;
    let last = if stack == Stack::Exact { last_of_exact(first) } else { RANGE.1.to_owned() };
    let (names, more) = match stack {
        Stack::V4 | Stack::Exact => ("lan-v4", String::new()),
        Stack::Dual => (
            "lan-v4, lan-v6",
            format!(
                "---\napiVersion: berth.dev/v1alpha1\nkind: IPPool\nmetadata:\n  name: lan-v6\nspec:\n  \
                 subnet: {SUBNET_V6}\n  exclude: [\"fd00:77::1:0/112\", \"fd00:77::2:0/112\"]\n"
            ),
        ),
    };
    format!(
        "apiVersion: berth.dev/v1alpha1\nkind: UnderlayNetwork\nmetadata:\n  name: lan\nspec:\n  \
         link: {{type: macvlan, parent: {PARENT}, mode: bridge}}\n  pools: [{names}]\n---\n\
         apiVersion: berth.dev/v1alpha1\nkind: IPPool\nmetadata:\n  name: lan-v4\nspec:\n  \
         subnet: {SUBNET}\n  ranges: [{first}-{last}]\n  gateway: {GATEWAY}\n{more}"
    )
}
