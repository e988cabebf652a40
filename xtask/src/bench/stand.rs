//! The stand on which contestants meet: one world, a running agent, and for each contestant a
//! network configuration of the same subnet and size.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use berth_testbed::agent::{Agent, AgentSetup};
use berth_testbed::plugin::{Call, Outcome, Plugin};
use berth_testbed::world::{GATEWAY, PARENT, Pod, SUBNET, World};
use serde_json::{Value, json};

/// Where Debian's package puts its plugins.
pub const DEBIAN_PLUGINS: &str = "/usr/lib/cni";
/// Berth's pool: 1,000 addresses.
const RANGE: (&str, &str) = ("10.77.4.1", "10.77.7.232");
/// The reference's own: one subnet, so that both set the same routes; never the same address.
const REFERENCE_RANGE: (&str, &str) = ("10.77.8.1", "10.77.11.232");

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
        let outcome = self.plugin.run(&Call::new(command, &self.config, pod))?;
        outcome.expect_success().with_context(|| format!("{command} of {}", self.name))?;
        Ok(outcome)
    }

    /// How long VERSION takes. It needs no namespace, so it is started in the cheapest way (no fork of
    /// this process): the start must not outweigh what is measured.
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
    /// Its set-up.
    pub setup: AgentSetup,
    /// The world.
    pub world: World,
}

impl Stand {
    /// Builds the world and starts the agent of `binaries`, which sees teardowns as it likes.
    pub fn build(binaries: &Path) -> Result<Self> {
        Self::build_on(binaries, None)
    }

    /// The same on a certain rung.
    pub fn build_on(binaries: &Path, rung: Option<&str>) -> Result<Self> {
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
        };
        setup.prepare(&declaration(), 1, 1)?;
        let mut stand = Self { agent: None, setup, world };
        stand.start()?;
        Ok(stand)
    }

    fn start(&mut self) -> Result<()> {
        self.agent.insert(self.setup.start(None)?).wait_ready()?;
        Ok(())
    }

    /// Replaces the agent by one of another rung (`None`: as it likes), which keeps the leases, and
    /// nothing in the kernel: what the former one pinned there would go on to run.
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

    /// The agent.
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

    /// Debian's macvlan with host-local.
    pub fn reference(&self) -> Contestant {
        let (first, last) = REFERENCE_RANGE;
        let range = json!({"subnet": SUBNET, "rangeStart": first, "rangeEnd": last, "gateway": GATEWAY});
        let config = json!({
            "cniVersion": "1.0.0", "name": "reference", "type": "macvlan", "master": PARENT, "mode": "bridge",
            "ipam": {"type": "host-local", "ranges": [[range]], "dataDir": self.world.folder().join("host-local")},
        });
        let binary = Path::new(DEBIAN_PLUGINS).join("macvlan");
        Contestant { name: "macvlan+host-local", plugin: self.plugin(&binary), config }
    }

    /// Debian's host-local alone, for VERSION.
    pub fn host_local(&self) -> Contestant {
        let binary = Path::new(DEBIAN_PLUGINS).join("host-local");
        Contestant { name: "host-local", plugin: self.plugin(&binary), config: Value::Null }
    }

    /// A program that does nothing: what starting any process costs on this machine.
    pub fn nothing(&self) -> Contestant {
        Contestant { name: "/bin/true", plugin: self.plugin(Path::new("/bin/true")), config: Value::Null }
    }

    fn plugin(&self, binary: &Path) -> Plugin {
        Plugin { binary: binary.to_owned(), node: self.world.node().to_owned() }
    }
}

/// The agent's configuration.
fn declaration() -> String {
    let (first, last) = RANGE;
    format!(
        "apiVersion: berth.dev/v1alpha1\nkind: UnderlayNetwork\nmetadata:\n  name: lan\nspec:\n  \
         link: {{type: macvlan, parent: {PARENT}, mode: bridge}}\n  pools: [lan-v4]\n---\n\
         apiVersion: berth.dev/v1alpha1\nkind: IPPool\nmetadata:\n  name: lan-v4\nspec:\n  \
         subnet: {SUBNET}\n  ranges: [{first}-{last}]\n  gateway: {GATEWAY}\n"
    )
}
