//! Shared parts of the tests: the object, namespaces with unique names, and waiting for events.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use berth_ipam::attachment::AttachmentKey;
use berth_ipam::identity::{NetnsIdentity, Nsid};
use berth_probes::{Object, Options, ProbeEvent, Probes};
use berth_testbed::skip;
use berth_underlay::netns::NetnsFile;

/// The options, or `None` after a recorded skip.
pub fn options() -> Option<Options> {
    if skip::unless_root() {
        return None;
    }
    let named = std::env::var_os("BERTH_EBPF_OBJECT").map(PathBuf::from);
    let object = named
        .unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target/ebpf/berth.o")));
    if !object.is_file() {
        skip::because("needs the eBPF object; `cargo xtask build-ebpf` makes it");
        return None;
    }
    Some(Options::new(Object::File(object)))
}

/// The bytes of the object.
pub fn object_bytes(options: &Options) -> Vec<u8> {
    match &options.object {
        Object::File(path) => std::fs::read(path).unwrap(),
        Object::Embedded(bytes) => bytes.to_vec(),
    }
}

/// Started programs that see teardowns, or `None` after a recorded skip.
pub fn probes() -> Option<Probes> {
    let probes = Probes::start(&options()?).unwrap();
    if probes.rung().is_none() {
        skip::because(&format!("this kernel takes no program that sees teardowns: {:?}", probes.refusals()));
        return None;
    }
    Some(probes)
}

/// Runs `ip` with these arguments and demands success.
pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A name that no other run has.
pub fn unique(role: &str) -> String {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let random = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
    format!("bp-{}-{number}-{}-{role}", std::process::id(), &random[..6])
}

/// A namespace in /run/netns, removed with this value.
#[derive(Debug)]
pub struct Netns {
    /// Name of the namespace.
    pub name: String,
}

impl Netns {
    pub fn new(role: &str) -> Self {
        let name = unique(role);
        ip(&format!("netns add {name}"));
        Self { name }
    }

    pub fn file(&self) -> NetnsFile {
        NetnsFile::open(format!("/run/netns/{}", self.name)).unwrap()
    }

    pub fn identity(&self) -> NetnsIdentity {
        let file = self.file();
        NetnsIdentity {
            cookie: file.cookie().unwrap(),
            inode: file.inode(),
            nsid: Nsid(-1),
            nsid_is_random: false,
        }
    }

    pub fn ip(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.name));
    }

    pub fn index_of(&self, device: &str) -> u32 {
        let output = Command::new("ip")
            .args(["-n", &self.name, "-o", "link", "show", "dev", device])
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.split(':').next().unwrap().parse().unwrap()
    }

    /// A pair of devices `net1` and `peer`, both up, `net1` with an address. The index of `net1`.
    pub fn pair(&self, address: &str) -> u32 {
        self.ip("link add net1 type veth peer name peer");
        self.ip("link set peer up");
        self.ip("link set net1 up");
        self.ip(&format!("address add {address}/24 dev net1"));
        self.index_of("net1")
    }

    /// Deletes the namespace before this value's own end.
    pub fn delete(&self) {
        ip(&format!("netns del {}", self.name));
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

/// An attachment of this container.
pub fn key(container: &str) -> AttachmentKey {
    AttachmentKey {
        network: "net".parse().unwrap(),
        container_id: container.parse().unwrap(),
        ifname: "net1".parse().unwrap(),
    }
}

/// Drains until a wanted event arrives, for at most `patience`.
pub fn wait_for<T>(
    probes: &mut Probes,
    patience: Duration,
    mut wanted: impl FnMut(&ProbeEvent) -> Option<T>,
) -> Option<T> {
    let end = Instant::now() + patience;
    loop {
        for event in probes.drain().unwrap() {
            if let Some(found) = wanted(&event) {
                return Some(found);
            }
        }
        if Instant::now() > end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}
