//! A node's container runtime, as far as CNI is concerned: sandboxes (a namespace each), and the calls of a
//! chain's plugins inside the node's namespace.
//!
//! Blocking; the kubelet calls it on separate threads. A node that loses its power kills the calls in flight,
//! and starts none afterwards. Invariant: a process that is killed has not been reaped.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use berth_testbed::cleanup::{Netns, Process, Usage};
use berth_testbed::world;
use serde_json::Value;

use crate::chain::{self, Chains, Given};
use crate::error::{Error, Result};
use crate::habits::Habits;
use crate::tally::Tally;

/// The interface that pods get.
pub const POD_LINK: &str = "eth0";
/// Annotation with which a mirror pod names its static pod.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// Maximum size of a plugin's output that is kept.
const OUTPUT_MAX: u64 = 4 << 20;

/// Pod of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodName {
    /// Its namespace in the API.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// UID of the pod.
    pub uid: String,
    /// Its annotations, an object.
    pub annotations: Value,
}

/// A sandbox: what is on the disk of a runtime, so it outlives a loss of power.
#[derive(Debug)]
pub struct Sandbox {
    /// Value of `CNI_CONTAINERID`.
    pub id: String,
    /// Pod of the sandbox.
    pub pod: PodName,
    /// Its namespace; `None` once that is gone.
    pub netns: Option<Netns>,
    /// Result of the ADD.
    pub result: Option<Value>,
    /// Process that lives in it.
    pub inhabitant: Option<Process>,
}

/// The runtime of one node while the power is on.
#[derive(Debug)]
pub struct Runtime {
    /// The namespace of the node.
    pub node: PathBuf,
    /// Folder of its sandboxes' namespaces.
    pub sandboxes: PathBuf,
    /// Folder of its plugins.
    pub plugins: PathBuf,
    /// Plugin chains of its configuration folder.
    pub chains: Chains,
    /// Deviations of the kubelet.
    pub habits: Arc<RwLock<Habits>>,
    /// Counter of the plugins' calls.
    pub tally: Arc<Tally>,
    /// Plugins in flight: leaders of process groups.
    in_flight: Mutex<BTreeSet<u32>>,
    off: AtomicBool,
}

/// Counter for names of sandboxes; one for all nodes, so that a container ID is unique.
static SERIAL: AtomicU64 = AtomicU64::new(1);

impl Runtime {
    /// One for the node at `node`.
    pub fn new(
        node: &Path,
        sandboxes: &Path,
        plugins: &Path,
        chains: Chains,
        habits: Arc<RwLock<Habits>>,
        tally: Arc<Tally>,
    ) -> Self {
        let [node, sandboxes, plugins] = [node, sandboxes, plugins].map(Path::to_owned);
        let (in_flight, off) = (Mutex::default(), AtomicBool::new(false));
        Self { node, sandboxes, plugins, chains, habits, tally, in_flight, off }
    }

    /// The habits of this moment.
    pub fn habits(&self) -> Habits {
        self.habits.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Powers off: plugins in flight are killed at once, and none is started afterwards.
    pub fn power_off(&self) {
        self.off.store(true, Ordering::SeqCst);
        let in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        for leader in in_flight.iter() {
            // Listed means not reaped: the number is still its own.
            kill_group(*leader);
        }
    }

    /// True if the power is off.
    pub fn is_off(&self) -> bool {
        self.off.load(Ordering::SeqCst)
    }

    /// A new sandbox with a new container id.
    pub fn sandbox(&self, pod: &PodName) -> Result<Sandbox> {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let id = format!("{:08x}{serial:024x}", std::process::id());
        let netns = Netns::create_at(&self.sandboxes.join(format!("cni-{id}")))?;
        let mut sandbox =
            Sandbox { id, pod: pod.clone(), netns: Some(netns), result: None, inhabitant: None };
        if self.habits().inhabited
            && let Some(netns) = &sandbox.netns
        {
            let mut pause = Command::new("sleep");
            pause.arg("86400").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            sandbox.inhabitant = Some(world::start(&mut pause, Some(netns.path()))?);
        }
        Ok(sandbox)
    }

    /// ADD, plugin after plugin; the last result stays in the sandbox. The error is the plugin's own text.
    pub fn add(&self, sandbox: &mut Sandbox) -> std::result::Result<(), String> {
        let (began, mut usage) = (Instant::now(), Usage::default());
        let chain = self.chains.of(&sandbox.pod.annotations).map_err(|error| error.chain())?;
        let mut outcome = Ok(());
        for index in 0..chain.len() {
            let given = Given { previous: sandbox.result.as_ref(), annotations: &sandbox.pod.annotations };
            let input = chain.input(index, given);
            match self.call("ADD", chain.program(index), sandbox, true, &input, None, &mut usage) {
                Ok(result) => sandbox.result = Some(result),
                Err(text) => {
                    sandbox.result = None;
                    outcome = Err(text);
                    break;
                }
            }
        }
        self.tally.note("ADD", began.elapsed(), outcome.as_ref().err().map(String::as_str), usage);
        outcome
    }

    /// DEL in reverse order. `whole`: with the namespace and the cached result, as in the first call; else
    /// with neither, as in kubelet's repeated clean-up.
    pub fn del(
        &self,
        sandbox: &Sandbox,
        whole: bool,
        kill_after: Option<Duration>,
    ) -> std::result::Result<(), String> {
        let (began, mut usage) = (Instant::now(), Usage::default());
        let chain = self.chains.of(&sandbox.pod.annotations).map_err(|error| error.chain())?;
        let previous = sandbox.result.as_ref().filter(|_| whole && chain.remembers());
        let mut outcome = Ok(());
        for index in (0..chain.len()).rev() {
            let input = chain.input(index, Given { previous, annotations: &sandbox.pod.annotations });
            if let Err(text) =
                self.call("DEL", chain.program(index), sandbox, whole, &input, kill_after, &mut usage)
            {
                outcome = Err(text);
                break;
            }
        }
        let command = if whole { "DEL" } else { "DEL again" };
        self.tally.note(command, began.elapsed(), outcome.as_ref().err().map(String::as_str), usage);
        outcome
    }

    #[expect(clippy::too_many_arguments, reason = "a call of a plugin is made of all these")]
    fn call(
        &self,
        command: &str,
        name: &str,
        sandbox: &Sandbox,
        with_netns: bool,
        input: &Value,
        kill_after: Option<Duration>,
        usage: &mut Usage,
    ) -> std::result::Result<Value, String> {
        let started = self.start(command, name, sandbox, with_netns).map_err(|error| error.chain())?;
        let limit = kill_after.unwrap_or_else(|| self.habits().command_limit);
        let ended = self.follow(started, input, limit).map_err(|error| error.chain())?;
        usage.cpu += ended.usage.cpu;
        usage.memory_kib = usage.memory_kib.max(ended.usage.memory_kib);
        if ended.success {
            // DEL prints nothing.
            return Ok(serde_json::from_str(&ended.stdout).unwrap_or(Value::Null));
        }
        Err(format!("{name}: {}: {} {}", ended.status, ended.stdout.trim(), ended.stderr.trim()))
    }

    fn start(&self, command: &str, name: &str, sandbox: &Sandbox, with_netns: bool) -> Result<Process> {
        let mut child = Command::new(self.plugins.join(name));
        // Runtimes pass their own environment; nothing of this process may leak in.
        child.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        child.env("CNI_COMMAND", command).env("CNI_PATH", &self.plugins);
        child.env("CNI_CONTAINERID", &sandbox.id).env("CNI_IFNAME", POD_LINK);
        let netns = sandbox.netns.as_ref().filter(|_| with_netns).map(Netns::path);
        child.env("CNI_NETNS", netns.unwrap_or_else(|| Path::new("")));
        child.env("CNI_ARGS", arguments(&sandbox.pod, &sandbox.id));
        child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Listed under the lock under which the power goes off: none is overlooked, none comes after.
        let mut in_flight = self.in_flight.lock().unwrap_or_else(PoisonError::into_inner);
        if self.off.load(Ordering::SeqCst) {
            return Err(Error::Usage("the node has no power".to_owned()));
        }
        let process = world::start(&mut child, Some(&self.node))?;
        in_flight.insert(process.pid());
        Ok(process)
    }

    /// Feeds a plugin and waits for its end, at most `limit`; then it is killed, and that is a failure.
    fn follow(&self, mut process: Process, input: &Value, limit: Duration) -> Result<Ended> {
        if let Some(mut pipe) = process.child().stdin.take() {
            // A plugin may end without reading: its output explains that, not this pipe.
            let _ = pipe.write_all(input.to_string().as_bytes());
        }
        let (stdout, stderr) = (process.child().stdout.take(), process.child().stderr.take());
        // A result fits into a pipe; larger output is read concurrently, so that neither side blocks the
        // other.
        let reader = std::thread::spawn(move || (read(stdout), read(stderr)));
        let pid = process.pid();
        let ended = self.ended(&mut process, limit);
        if ended.is_err() {
            self.in_flight.lock().unwrap_or_else(PoisonError::into_inner).remove(&pid);
        }
        let (status, usage) = ended?;
        let (stdout, stderr) = reader.join().unwrap_or_default();
        Ok(Ended { success: status.success(), status: status.to_string(), stdout, stderr, usage })
    }

    fn ended(&self, process: &mut Process, limit: Duration) -> Result<(std::process::ExitStatus, Usage)> {
        let unlist = || self.in_flight.lock().unwrap_or_else(PoisonError::into_inner).remove(&process.pid());
        // Checked without reaping: as long as the process is listed its number is not reused.
        if !process.has_ended(limit)? {
            process.signal_group(libc::SIGKILL);
        }
        unlist();
        let ended = process.finish(Duration::from_secs(5))?;
        ended.ok_or(Error::Timeout { what: "the end of a killed plugin".to_owned(), within: limit })
    }
}

struct Ended {
    success: bool,
    status: String,
    stdout: String,
    stderr: String,
    usage: Usage,
}

/// `CNI_ARGS` as kubelet's runtimes pass them. A static pod is identified by the hash of its file, which the
/// mirror in the API names; its object has a separate UID.
fn arguments(pod: &PodName, id: &str) -> String {
    let PodName { namespace, name, uid, annotations } = pod;
    let uid = annotations[CONFIG_HASH].as_str().unwrap_or(uid);
    format!(
        "IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name};\
         K8S_POD_INFRA_CONTAINER_ID={id};K8S_POD_UID={uid}"
    )
}

fn read(pipe: Option<impl std::io::Read>) -> String {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        // What came before an error counts.
        let _ = pipe.take(OUTPUT_MAX).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn kill_group(leader: u32) {
    berth_testbed::cleanup::signal_group(leader, libc::SIGKILL);
}

impl Sandbox {
    /// Addresses in the result.
    pub fn addresses(&self) -> Vec<std::net::IpAddr> {
        self.result.as_ref().map(chain::addresses).unwrap_or_default()
    }

    /// True if it has its namespace, and its ADD has succeeded.
    pub fn lives(&self) -> bool {
        self.netns.is_some() && self.result.is_some()
    }

    /// Ends the process in it, and its namespace, unless another holder keeps that.
    pub fn end(&mut self) {
        self.inhabitant = None;
        self.netns = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_those_of_a_kubelet() {
        let pod = PodName {
            namespace: "default".to_owned(),
            name: "a-0".to_owned(),
            uid: "u".to_owned(),
            annotations: Value::Null,
        };
        assert_eq!(
            arguments(&pod, "c1"),
            "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=a-0;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=u"
        );
        let mirror = PodName { annotations: serde_json::json!({CONFIG_HASH: "h"}), ..pod };
        assert!(arguments(&mirror, "c1").ends_with("K8S_POD_UID=h"));
    }
}
