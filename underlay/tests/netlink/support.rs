//! A node and its pods, made of namespaces.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use berth_ipam::config::MacvlanMode;
use berth_ipam::identity::Nsid;
use berth_ipam::mac::Mac;
use berth_ipam::name::IfName;
use berth_underlay::change::{Changer, MacvlanSpec, RouteSocket};
use berth_underlay::facts::LinkFacts;
use berth_underlay::netns::{NetnsFile, run_in};
use berth_underlay::read::{LinkRead, Reader};
use berth_underlay::{nsid, random};

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A named namespace, deleted on drop.
pub struct Namespace {
    pub name: String,
}

impl Namespace {
    pub fn new() -> Self {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let random = u32::from_ne_bytes(random::bytes().unwrap());
        let name = format!("bu-{}-{random:x}-{number}", std::process::id());
        run("ip", &["netns", "add", &name]);
        Self { name }
    }

    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    pub fn file(&self) -> NetnsFile {
        NetnsFile::open(self.path()).unwrap()
    }

    /// Runs `ip` inside.
    pub fn ip(&self, arguments: &str) {
        let mut all = vec!["-n", &self.name];
        all.extend(arguments.split(' '));
        run("ip", &all);
    }

    /// Deletes it now.
    pub fn delete(self) {
        drop(self);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.name]).output();
    }
}

pub fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {} (these tests need root and iproute2)",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Runs `ip` in the calling thread's namespace.
pub fn ip(arguments: &str) {
    run("ip", &arguments.split(' ').collect::<Vec<_>>());
}

/// Runs a test inside a new node with the parent `eth1`, on a separate thread.
pub fn in_node(test: impl FnOnce(&Node) + Send) {
    let namespace = Namespace::new();
    let file = namespace.file();
    let result = run_in(&file, || {
        ip("link set lo up");
        ip("link add eth1 type veth peer name cable");
        ip("link set eth1 up");
        ip("link set cable up");
        let mut reader = Reader::new().unwrap();
        let parent = reader.link_by_name(None, &name("eth1")).found().unwrap();
        test(&Node { parent });
    });
    drop(file);
    assert!(result.is_ok(), "the test in the node failed, see above: {result:?}");
}

/// The node, seen from inside.
pub struct Node {
    pub parent: LinkFacts,
}

/// A pod with one macvlan `net1`.
pub struct Pod {
    pub namespace: Namespace,
    pub nsid: Nsid,
    pub link: LinkFacts,
}

impl Node {
    /// A pod with a macvlan that is up.
    pub fn pod(&self, mac: &str) -> Pod {
        let namespace = Namespace::new();
        let file = namespace.file();
        let mac: Mac = mac.parse().unwrap();
        block_on(async {
            let changer = Changer::start(RouteSocket::open().unwrap()).unwrap();
            changer
                .create_macvlan(&self.macvlan("net1", Some(mac), MacvlanMode::Bridge), Some(&file))
                .await
                .unwrap();
        });
        namespace.ip("link set net1 up");
        let mut reader = Reader::new().unwrap();
        let (nsid, random) = nsid::read_or_assign(reader.socket(), &file).unwrap();
        assert!(random);
        let link = reader.link_by_name(Some(nsid), &name("net1")).found().unwrap();
        Pod { namespace, nsid, link }
    }

    pub fn macvlan(&self, ifname: &str, mac: Option<Mac>, mode: MacvlanMode) -> MacvlanSpec<'static> {
        // Leaked on purpose: a few bytes of a test, for the sake of short calls.
        let ifname = Box::leak(Box::new(name(ifname)));
        MacvlanSpec { parent_index: self.parent.ifindex, name: ifname, mac, mode, mtu: None }
    }
}

pub fn name(text: &str) -> IfName {
    text.parse().unwrap()
}

pub fn mac(text: &str) -> Mac {
    text.parse().unwrap()
}

/// A MAC that no other link has.
pub fn random_mac() -> Mac {
    let [a, b, c, d] = random::bytes().unwrap();
    Mac([0xb2, 0x5e, a, b, c, d])
}

pub fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

/// Waits at most 5 s for a condition.
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(5), "never happened: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Fails with what was read instead.
pub fn expect_found(read: LinkRead) -> LinkFacts {
    match read {
        LinkRead::Found(facts) => facts,
        other => panic!("expected a link, got {other:?}"),
    }
}
