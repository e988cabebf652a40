//! A node made of namespaces, an agent made of a thread, and the plugin's process.

use std::io::{BufRead, BufReader, Write};
use std::net::IpAddr;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use berth_ipam::attachment::AttachmentKey;
use berth_ipam::mac::Mac;
use berth_protocol::{Failure, Request};
use berth_underlay::netns::{NetnsFile, run_in};
use berth_underlay::read::Reader;
use berth_underlay::wire::probe::Outcome;
use berth_underlay::wire::probe_now;
use berth_underlay::wire::socket::PacketSocket;
use serde_json::{Value, json};

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// Runs `ip` and returns what it printed.
pub fn ip(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A named namespace, removed when dropped.
pub struct Netns(pub String);

impl Netns {
    pub fn new(role: &str) -> Self {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("mp{}-{serial}-{role}", std::process::id());
        let guard = Self(name);
        ip(&format!("netns add {}", guard.0));
        guard
    }

    pub fn path(&self) -> String {
        format!("/run/netns/{}", self.0)
    }

    /// Runs `ip` inside.
    pub fn ip(&self, arguments: &str) -> String {
        ip(&format!("-n {} {arguments}", self.0))
    }

    /// Reads a file inside, as under /proc/sys/net.
    pub fn read(&self, path: &str) -> String {
        let file = NetnsFile::open(self.path()).unwrap();
        run_in(&file, || std::fs::read_to_string(path)).unwrap().unwrap().trim().to_owned()
    }

    /// Opens an ear on `link`.
    pub fn listen(&self, link: &str) -> PacketSocket {
        let file = NetnsFile::open(self.path()).unwrap();
        run_in(&file, || {
            let links = Reader::new().unwrap().links(None).unwrap();
            PacketSocket::listening(links.iter().find(|facts| facts.name == link).unwrap().ifindex).unwrap()
        })
        .unwrap()
    }

    /// The MACs that answer for an address on `link`, probed from inside.
    pub fn answers(&self, link: &str, address: &str) -> Vec<Mac> {
        let file = NetnsFile::open(self.path()).unwrap();
        let address: IpAddr = address.parse().unwrap();
        let results = run_in(&file, || {
            let links = Reader::new().unwrap().links(None).unwrap();
            let own = links.iter().find(|facts| facts.name == link).unwrap();
            probe_now(own.ifindex, own.mac.unwrap(), &[address]).unwrap()
        });
        match results.unwrap().remove(0).outcome {
            Outcome::Answered(answers) => answers.into_iter().map(|answer| answer.mac).collect(),
            Outcome::Silent => Vec::new(),
            Outcome::Unknown(why) => panic!("{why}"),
        }
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).stderr(Stdio::null()).status();
    }
}

/// A node with a parent link `eth1`, a neighbour behind it, one pod, and a folder.
pub struct Node {
    pub host: Netns,
    pub neighbour: Netns,
    pub pod: Netns,
    pub folder: tempfile::TempDir,
    pub container: String,
}

impl Node {
    pub fn new() -> Self {
        let (host, neighbour, pod) = (Netns::new("node"), Netns::new("wire"), Netns::new("pod"));
        ip(&format!("-n {} link add eth1 type veth peer name eth1 netns {}", host.0, neighbour.0));
        for side in [&host, &neighbour] {
            side.ip("link set eth1 up");
        }
        // The kernel reports a new carrier up to a second late.
        let start = Instant::now();
        while !neighbour.ip("-o link show eth1").contains("state UP") {
            assert!(start.elapsed() < Duration::from_secs(5), "the wire has no carrier");
            thread::sleep(Duration::from_millis(10));
        }
        let container = format!("c-{}", pod.0);
        Self { host, neighbour, pod, folder: tempfile::tempdir().unwrap(), container }
    }

    pub fn key(&self) -> AttachmentKey {
        AttachmentKey {
            network: "lan".parse().unwrap(),
            container_id: self.container.parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        }
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("agent.sock")
    }

    /// The configuration of network `lan` as main plugin.
    pub fn conf(&self) -> Value {
        json!({"cniVersion": "1.1.0", "name": "lan", "type": "berth",
            "socket": self.socket(), "stateDir": self.folder.path()})
    }

    /// A call with this node's pod.
    pub fn call(&self, command: &str, conf: &Value) -> Ended {
        self.call_with(command, conf, &[])
    }

    /// A call with more or other variables.
    pub fn call_with(&self, command: &str, conf: &Value, more: &[(&str, &str)]) -> Ended {
        let netns = self.pod.path();
        let mut variables = vec![
            ("CNI_COMMAND", command),
            ("CNI_CONTAINERID", self.container.as_str()),
            ("CNI_NETNS", netns.as_str()),
            ("CNI_IFNAME", "eth0"),
        ];
        variables.extend(more);
        let binary = Path::new(env!("CARGO_BIN_EXE_berth"));
        run(Some(&self.host), binary, &variables, conf.to_string().as_bytes())
    }

    /// The spool's entries as text.
    pub fn spool(&self) -> Vec<String> {
        let folder = self.folder.path().join("spool");
        let files = std::fs::read_dir(folder).into_iter().flatten();
        files.map(|file| std::fs::read_to_string(file.unwrap().path()).unwrap()).collect()
    }
}

/// Exit of a plugin's process.
#[derive(Debug)]
pub struct Ended {
    pub ok: bool,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Ended {
    /// The one document on standard output.
    pub fn document(&self) -> Value {
        assert_eq!(self.stdout.matches('\n').count(), 1, "one line: {self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The result of a call that succeeded.
    pub fn result(&self) -> Value {
        assert!(self.ok, "{self:?}");
        self.document()
    }

    /// Code and message of a call that failed.
    pub fn error(&self) -> (u64, String) {
        assert!(!self.ok, "{self:?}");
        let document = self.document();
        (document["code"].as_u64().unwrap(), document["msg"].as_str().unwrap().to_owned())
    }

    /// Asserts success without output.
    pub fn silent_success(&self) {
        assert!(self.ok && self.stdout.is_empty(), "{self:?}");
    }
}

/// Runs a plugin, on the machine or in a node.
pub fn run(node: Option<&Netns>, binary: &Path, variables: &[(&str, &str)], input: &[u8]) -> Ended {
    let mut command = match node {
        None => Command::new(binary),
        Some(netns) => {
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &netns.0]).arg(binary);
            command
        }
    };
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").envs(variables.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let start = Instant::now();
    let mut child = command.spawn().unwrap();
    // A plugin that needs no input may be gone already.
    let _ = child.stdin.take().unwrap().write_all(input);
    let output = child.wait_with_output().unwrap();
    Ended {
        ok: output.status.success(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        took: start.elapsed(),
    }
}

/// Reaction of the scripted agent to a request.
pub enum Reply {
    Ok(Value),
    Fail(Failure),
    HangUp,
    Silence,
}

/// An agent that records its requests.
pub struct Agent {
    pub asked: Arc<Mutex<Vec<Request>>>,
}

impl Agent {
    /// Serves a socket until the test's process ends.
    pub fn start(socket: &Path, script: impl Fn(usize, &Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = UnixListener::bind(socket).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&asked);
        let script = Arc::new(script);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (asked, script) = (Arc::clone(&shared), Arc::clone(&script));
                thread::spawn(move || serve(&stream.unwrap(), &asked, script.as_ref()));
            }
        });
        Self { asked }
    }

    /// One that serves every call, leasing these addresses by this link.
    pub fn serving(socket: &Path, link: &Value, addresses: &[&str]) -> Self {
        let grant = grant(link, addresses);
        Self::start(socket, move |_, request| served(request, &grant))
    }

    /// The names of the requests so far.
    pub fn names(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        let name = |request: &Request| match serde_json::to_value(request).unwrap() {
            Value::String(name) => name,
            object => object.as_object().unwrap().keys().next().unwrap().clone(),
        };
        asked.iter().map(name).collect()
    }

    /// The last request as JSON, without its name.
    pub fn last(&self) -> Value {
        let asked = self.asked.lock().unwrap();
        let value = serde_json::to_value(asked.last().unwrap()).unwrap();
        value.as_object().unwrap().values().next().unwrap().clone()
    }
}

/// Response of an agent that serves every request.
pub fn served(request: &Request, grant: &Value) -> Reply {
    Reply::Ok(match request {
        Request::Lease(_) => json!({"lease": grant}),
        Request::Status { .. } => json!({"status": {"ready": true, "reasons": []}}),
        _ => json!("done"),
    })
}

/// A grant; the first address of each family has the subnet's first address as its router.
pub fn grant(link: &Value, addresses: &[&str]) -> Value {
    let granted: Vec<_> = addresses.iter().map(|address| json!({"address": address})).collect();
    json!({"link": link, "addresses": granted, "routes": [{"to": "203.0.113.0/24", "via": "192.0.2.1"}], "acceptRA": false})
}

pub fn bridge() -> Value {
    json!({"type": "macvlan", "parent": "eth1", "mode": "bridge"})
}

fn serve(
    stream: &UnixStream,
    asked: &Mutex<Vec<Request>>,
    script: &(impl Fn(usize, &Request) -> Reply + ?Sized),
) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    while reader.read_line(&mut line).unwrap_or(0) > 0 {
        let call: berth_protocol::Call = serde_json::from_str(&line).unwrap();
        line.clear();
        let count = {
            let mut asked = asked.lock().unwrap();
            asked.push(call.request.clone());
            asked.len()
        };
        let outcome = match script(count, &call.request) {
            Reply::Ok(response) => json!({"v": 1, "id": call.id, "ok": response}),
            Reply::Fail(failure) => json!({"v": 1, "id": call.id, "error": failure}),
            Reply::HangUp => return,
            Reply::Silence => {
                thread::sleep(Duration::from_secs(3));
                return;
            }
        };
        let mut answer = outcome.to_string();
        answer.push('\n');
        if (&mut &*stream).write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}
