//! The agent as an operator runs it: by its flags, in the node's namespace, with all its paths moved.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cleanup::{self, Process};
use crate::client::Client;
use crate::error::{Error, Result};
use crate::outside::Outside;
use crate::world;

/// Time limit for the agent's first response.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Time limit for its exit after SIGTERM.
const END_LIMIT: Duration = Duration::from_secs(10);
/// Number of log lines that a failure shows.
const LOG_LINES: usize = 40;

/// Parameters of an agent's start. Its folder holds `config/`, `state/`, the files that replace the machine's
/// identity, and the log.
#[derive(Debug, Clone)]
pub struct AgentSetup {
    /// The binary `berth-agent`.
    pub binary: PathBuf,
    /// The namespace of its node.
    pub node: PathBuf,
    /// Folder of the agent.
    pub folder: PathBuf,
    /// Its node's name.
    pub node_name: String,
    /// Folder of its pins, below a BPF file system if there is one.
    pub bpffs: PathBuf,
    /// Attach mode for teardowns (`--rung`); `None`: the agent's choice.
    pub rung: Option<String>,
    /// Another file with its programs (`--ebpf-object`); `None`: those that it was built with.
    pub object: Option<PathBuf>,
    /// Sources disabled in test builds: [`NETLINK`], [`RECONCILE`].
    pub deaf: Vec<&'static str>,
    /// Cluster of its API server; `None`: files, and a local store.
    pub outside: Option<Arc<dyn Outside>>,
}

/// Fault points at which an agent in a test build can be killed.
pub use berth_protocol::fault::AGENT_POINTS;

/// The variable that disables sources in an agent built with fault points.
pub const DEAF_VARIABLE: &str = "BERTH_DEAF";
/// Deaf to netlink's events.
pub const NETLINK: &str = "netlink";
/// Disables periodic reads and scans.
pub const RECONCILE: &str = "reconcile";

impl AgentSetup {
    /// Folder of its configuration.
    pub fn config(&self) -> PathBuf {
        self.folder.join("config")
    }

    /// Folder of its state.
    pub fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// Path of its socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("agent.sock")
    }

    /// Path of its log; all its runs append.
    pub fn log(&self) -> PathBuf {
        self.folder.join("agent.log")
    }

    /// Creates the folder, with a configuration and a machine's identity.
    pub fn prepare(&self, config: &str, boot: u32, machine: u32) -> Result<()> {
        for folder in [self.config(), self.state()] {
            std::fs::create_dir_all(&folder).map_err(Error::system(format!("make {}", folder.display())))?;
        }
        self.write("config/lan.yaml", config)?;
        if let Some(outside) = &self.outside {
            outside.join(&self.node, config)?;
        }
        self.machine(machine)?;
        self.boot(boot)
    }

    /// Sets the boot id that the next start sees.
    pub fn boot(&self, serial: u32) -> Result<()> {
        let boot = format!("{serial:08x}-0000-4000-8000-000000000000");
        self.write("boot-id", &format!("{boot}\n"))?;
        let Some(outside) = &self.outside else { return Ok(()) };
        let path = self.folder.join("machine-id");
        let machine = std::fs::read_to_string(&path);
        let machine = machine.map_err(Error::system(format!("read {}", path.display())))?;
        outside.identify(&self.node_name, machine.trim(), &boot)
    }

    /// Sets the machine id that the next start sees.
    pub fn machine(&self, serial: u32) -> Result<()> {
        self.write("machine-id", &format!("{serial:032x}\n"))
    }

    /// Writes one of its files.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(name);
        std::fs::write(&path, text).map_err(Error::system(format!("write {}", path.display())))
    }

    /// Starts it, to be killed at the fault point `fault` if one is named. It may not respond yet.
    pub fn start(&self, fault: Option<&str>) -> Result<Agent> {
        if !self.binary.exists() {
            return Err(Error::NoBinary { path: self.binary.clone() });
        }
        let opened = File::options().create(true).append(true).open(self.log());
        let log = opened.map_err(Error::system(format!("open {}", self.log().display())))?;
        let second = log.try_clone().map_err(Error::system("share the agent's log"))?;
        let mut command = Command::new(&self.binary);
        match &self.outside {
            Some(outside) => command.args(outside.flags()),
            None => command.arg("--config").arg(self.config()),
        };
        command.arg("--state-dir").arg(self.state());
        command.arg("--socket").arg(self.socket());
        command.arg("--bpffs").arg(&self.bpffs);
        if let Some(object) = &self.object {
            command.arg("--ebpf-object").arg(object);
        }
        command.args(["--node-name", &self.node_name, "--log", "text"]);
        command.arg("--boot-id-file").arg(self.folder.join("boot-id"));
        command.arg("--machine-id-file").arg(self.folder.join("machine-id"));
        command.args(trusted());
        command.args(self.rung.iter().flat_map(|rung| ["--rung", rung]));
        command.env_remove("NOTIFY_SOCKET").env_remove(DEAF_VARIABLE);
        if !self.deaf.is_empty() {
            command.env(DEAF_VARIABLE, self.deaf.join(","));
        }
        if let Some(point) = fault {
            command.env(berth_protocol::fault::VARIABLE, point);
        }
        command.stdin(Stdio::null()).stdout(log).stderr(second);
        let started = Instant::now();
        let process = world::start(&mut command, Some(&self.node))?;
        Ok(Agent { setup: self.clone(), process, started })
    }
}

/// Flags that every agent on this machine needs. If init hides its descriptors, every scan would be
/// incomplete; the testbed creates all of its namespaces, so it can vouch for init.
pub fn trusted() -> &'static [&'static str] {
    if hides_descriptors("/proc/1") { &["--trusted-pid", "1"] } else { &[] }
}

/// True if even root is refused the sight of a process's descriptors.
fn hides_descriptors(process: &str) -> bool {
    let folder = Path::new(process).join("fd");
    let Ok(entries) = std::fs::read_dir(&folder) else { return true };
    entries.flatten().any(|entry| std::fs::read_link(entry.path()).is_err())
}

/// A running agent; killed if dropped.
#[derive(Debug)]
pub struct Agent {
    setup: AgentSetup,
    process: Process,
    started: Instant,
}

impl Agent {
    /// Time at which it was started.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// True if it has not ended.
    pub fn runs(&mut self) -> bool {
        self.process.runs()
    }

    /// Waits until it responds; returns the time since its start.
    pub fn wait_ready(&mut self) -> Result<Duration> {
        loop {
            cleanup::interrupted()?;
            // A new client each time: the socket may be a killed agent's until this one replaces it.
            if Client::new(&self.setup.socket()).status().is_ok() {
                return Ok(self.started.elapsed());
            }
            if !self.process.runs() {
                return Err(self.failed("ended"));
            }
            if self.started.elapsed() > START_LIMIT {
                return Err(self.failed("did not answer within"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn failed(&self, state: &str) -> Error {
        Error::AgentStart { state: state.to_owned(), after: self.started.elapsed(), log: self.log_end() }
    }

    /// The last lines of its log.
    pub fn log_end(&self) -> String {
        let text = std::fs::read_to_string(self.setup.log()).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(mut self) {
        self.process.kill();
    }

    /// SIGTERM, and waits for its end, which must be a clean one.
    pub fn stop(mut self) -> Result<()> {
        self.process.signal(libc::SIGTERM);
        match self.process.wait(END_LIMIT)? {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(self.failed(&format!("ended on SIGTERM with {status}"))),
            None => Err(self.failed("did not end on SIGTERM")),
        }
    }

    /// Sends SIGSTOP: it does nothing until [`Self::resume`], while the kernel continues.
    pub fn pause(&self) {
        self.process.signal(libc::SIGSTOP);
    }

    /// SIGCONT; when that was.
    pub fn resume(&self) -> Instant {
        let now = Instant::now();
        self.process.signal(libc::SIGCONT);
        now
    }

    /// Sends SIGHUP: read the configuration again.
    pub fn reload(&self) {
        self.process.signal(libc::SIGHUP);
    }

    /// Waits until it ended by itself (at a fault point); whether it did.
    pub fn wait_end(&mut self, limit: Duration) -> Result<bool> {
        Ok(self.process.wait(limit)?.is_some())
    }
}
