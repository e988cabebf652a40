//! A runtime's side of CNI: runs a plugin binary in the node's namespace, with the environment, standard
//! input and standard output of a real call, a time limit, and faults.
//!
//! It runs any plugin, so that upstream's can be compared under the same conditions.

use std::io::{Read, Write as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use berth_ipam::mac::Mac;
use serde_json::{Value, json};

use crate::cleanup::Process;
use crate::error::{Error, Result};
use crate::sys;
use crate::world::{self, POD_LINK, Pod};

/// Time limit of any call, after which it is killed and counts as failed.
pub const LIMIT: Duration = Duration::from_mins(1);

/// Placeholder for a variable that is left out; no value can hold this byte.
const UNSET: &str = "\0";
/// The pause between two pieces of standard input.
const PIECES_APART: Duration = Duration::from_millis(60);

/// A plugin binary on a node.
#[derive(Debug, Clone)]
pub struct Plugin {
    /// Path of the binary.
    pub binary: PathBuf,
    /// The namespace of the node.
    pub node: PathBuf,
}

/// One call, ready to be run.
#[derive(Debug, Clone)]
pub struct Call {
    command: String,
    config: Value,
    variables: Vec<(String, String)>,
    /// Input that replaces the configuration.
    garbage: Option<String>,
    /// True if standard input comes in two pieces, with a pause between them.
    in_pieces: bool,
}

impl Call {
    /// A call of `command` with a network configuration and no attachment (STATUS, VERSION, GC).
    pub fn bare(command: &str, config: &Value) -> Self {
        let (command, config, variables) = (command.to_owned(), config.clone(), Vec::new());
        Self { command, config, variables, garbage: None, in_pieces: false }
    }

    /// A call of `command` for the interface of a pod.
    pub fn new(command: &str, config: &Value, pod: &Pod) -> Self {
        let netns = pod.netns.to_string_lossy();
        let call = Self::bare(command, config)
            .variable("CNI_CONTAINERID", &pod.container_id)
            .variable("CNI_IFNAME", POD_LINK)
            .variable("CNI_NETNS", &netns);
        match &pod.uid {
            // The pod's name is its uid: a separate name would add nothing.
            Some(uid) => {
                let pod = format!("K8S_POD_NAMESPACE=demo;K8S_POD_NAME={uid};K8S_POD_UID={uid}");
                call.variable("CNI_ARGS", &format!("IgnoreUnknown=1;{pod}"))
            }
            None => call,
        }
    }

    /// Sets an environment variable; the last setting of one counts.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Leaves out an environment variable, `CNI_COMMAND` and `CNI_PATH` included.
    #[must_use]
    pub fn without(self, name: &str) -> Self {
        self.variable(name, UNSET)
    }

    /// Writes standard input in two pieces, the second after a pause: a reader must wait for its end.
    #[must_use]
    pub fn in_pieces(mut self) -> Self {
        self.in_pieces = true;
        self
    }

    /// Writes this to standard input instead of the configuration.
    #[must_use]
    pub fn garbage(mut self, text: &str) -> Self {
        self.garbage = Some(text.to_owned());
        self
    }

    /// Sets a key of the network configuration.
    #[must_use]
    pub fn setting(mut self, key: &str, value: &str) -> Self {
        self.config[key] = Value::from(value);
        self
    }

    /// Requests certain addresses, as a runtime does.
    #[must_use]
    pub fn addresses(mut self, addresses: &[IpAddr]) -> Self {
        self.config["runtimeConfig"]["ips"] = json!(addresses);
        self
    }
}

impl Plugin {
    /// Runs a call to its end.
    pub fn run(&self, call: &Call) -> Result<Outcome> {
        self.start(call)?.finish(LIMIT)
    }

    /// Starts a call and writes its whole input.
    pub fn start(&self, call: &Call) -> Result<Running> {
        if !self.binary.exists() {
            return Err(Error::NoBinary { path: self.binary.clone() });
        }
        let mut command = Command::new(&self.binary);
        // Runtimes pass their own environment; nothing of this process may leak in.
        command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command.env("CNI_PATH", self.binary.parent().unwrap_or_else(|| Path::new("/")));
        command.env("CNI_COMMAND", &call.command);
        for (name, value) in &call.variables {
            if value == UNSET {
                command.env_remove(name)
            } else {
                command.env(name, value)
            };
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let began = Instant::now();
        let mut process = world::start(&mut command, Some(&self.node))?;
        if let Some(mut input) = process.child().stdin.take() {
            // A plugin may end without reading: its output explains that, not this pipe.
            let text = call.garbage.clone().unwrap_or_else(|| call.config.to_string());
            let (first, second) = text.as_bytes().split_at(if call.in_pieces { text.len() / 2 } else { 0 });
            let _ = input.write_all(first);
            if call.in_pieces {
                std::thread::sleep(PIECES_APART);
            }
            let _ = input.write_all(second);
        }
        Ok(Running { what: call.command.clone(), process, began })
    }
}

/// A call under way; killed if dropped.
#[derive(Debug)]
pub struct Running {
    what: String,
    process: Process,
    began: Instant,
}

impl Running {
    /// Takes over a process that was started elsewhere at `began`, such as a runtime's whole call.
    pub(crate) fn adopt(what: String, process: Process, began: Instant) -> Self {
        Self { what, process, began }
    }

    /// Kills it with SIGKILL, wherever it is.
    pub fn kill(&mut self) {
        self.process.signal(libc::SIGKILL);
    }

    /// True if it has not ended yet.
    pub fn runs(&mut self) -> bool {
        self.process.runs()
    }

    /// Time at which it was started.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// Waits for its end, at most `limit` from now; then it is killed, and that is an error.
    pub fn finish(mut self, limit: Duration) -> Result<Outcome> {
        let Some(status) = self.process.wait(limit)? else {
            self.process.kill();
            return Err(Error::Timeout {
                what: format!("the end of the plugin's {}", self.what),
                within: limit,
            });
        };
        let ended = Instant::now();
        let (stdout, closed) = self.process.child().stdout.take().map(rest).unwrap_or_default();
        let (stderr, _) = self.process.child().stderr.take().map(rest).unwrap_or_default();
        let signal = std::os::unix::process::ExitStatusExt::signal(&status);
        let (code, began) = (status.code(), self.began);
        Ok(Outcome { what: self.what, code, signal, stdout, stderr, closed, began, ended })
    }
}

/// Content of a pipe after its writer's end, and true if no process has it open. A grandchild that kept it
/// open must not block the caller.
fn rest(mut pipe: impl Read + std::os::fd::AsRawFd) -> (String, bool) {
    let mut text = Vec::new();
    // What was read before an error counts; `WouldBlock` means "no more for now".
    let _ = sys::process::do_not_block(&pipe);
    let closed = pipe.read_to_end(&mut text).is_ok();
    (String::from_utf8_lossy(&text).into_owned(), closed)
}

/// Exit of a call.
#[derive(Debug, Clone)]
pub struct Outcome {
    what: String,
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// All of standard output.
    pub stdout: String,
    /// All of standard error.
    pub stderr: String,
    /// True if no process kept standard output open beyond the plugin's end.
    pub closed: bool,
    /// Time at which it was started.
    pub began: Instant,
    /// Time at which its end was noticed.
    pub ended: Instant,
}

/// Result of an ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Added {
    /// Its addresses, without prefix lengths; never empty.
    pub addresses: Vec<IpAddr>,
    /// The MAC of its first interface, if it named one.
    pub mac: Option<Mac>,
}

/// A CNI error object.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
pub struct CniError {
    /// CNI SPEC, "Error", or a plugin's own from 100 on.
    pub code: u32,
    /// Text of the error.
    pub msg: String,
    /// Advice for the operator.
    #[serde(default)]
    pub details: String,
}

impl Outcome {
    /// Duration of the call.
    pub fn took(&self) -> Duration {
        self.ended - self.began
    }

    /// True if it succeeded.
    pub fn succeeded(&self) -> bool {
        self.code == Some(0)
    }

    /// Its error object, if it printed one.
    pub fn failure(&self) -> Option<CniError> {
        if self.succeeded() { None } else { serde_json::from_str(&self.stdout).ok() }
    }

    /// An error unless it succeeded.
    pub fn expect_success(&self) -> Result<()> {
        if self.succeeded() {
            return Ok(());
        }
        let why = format!("{} {}", self.stdout.trim(), self.stderr.trim());
        let end =
            self.signal.map_or_else(|| format!("exit {:?}", self.code), |signal| format!("signal {signal}"));
        Err(Error::Plugin { what: self.what.clone(), why: format!("{end}: {}", why.trim()) })
    }

    /// The result of a successful ADD.
    pub fn added(&self) -> Result<Added> {
        self.expect_success()?;
        let wrong = |why: &str| Error::Plugin {
            what: self.what.clone(),
            why: format!("its result {why}: {}", self.stdout.trim()),
        };
        let result: Value = serde_json::from_str(&self.stdout).map_err(|_| wrong("is not JSON"))?;
        let listed = result["ips"].as_array().ok_or_else(|| wrong("has no ips"))?;
        let parse =
            |entry: &Value| -> Option<IpAddr> { entry["address"].as_str()?.split('/').next()?.parse().ok() };
        let addresses: Option<Vec<IpAddr>> = listed.iter().map(parse).collect();
        let addresses = addresses.filter(|list| !list.is_empty()).ok_or_else(|| wrong("names no address"))?;
        let mac = result["interfaces"][0]["mac"].as_str().and_then(|text| text.parse().ok());
        Ok(Added { addresses, mac })
    }
}
