//! One world: a switch, a neighbour, a node and its pods, each a network namespace.
//!
//! Several worlds can exist at once without interference: names contain the process ID and a counter, and
//! each has its own switch. Everything is removed when the world is dropped.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};
use std::time::Instant;

use berth_ipam::mac::Mac;

use crate::cleanup::{self, Folder, NETNS_FOLDER, Netns, Process};
use crate::error::{Error, Result};
use crate::netlink::{self, Link, Netlink};
use crate::stats::Times;
use crate::sys;

/// The interface of the node on the underlay.
pub const PARENT: &str = "eth1";
/// The interface that pods get.
pub const POD_LINK: &str = "eth0";
/// The underlay's subnet, the same in every world.
pub const SUBNET: &str = "10.77.0.0/16";
/// Its router: the neighbour.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);

/// The folder in a world's own that is a BPF file system.
const BPFFS: &str = "bpf";

/// Counts the worlds of this process.
static WORLDS: AtomicU32 = AtomicU32::new(0);

/// The first `count` addresses that pools in a world use.
pub fn pool_addresses(count: u16) -> Vec<Ipv4Addr> {
    let first = u32::from(Ipv4Addr::new(10, 77, 0, 10));
    (0..u32::from(count)).map(|offset| Ipv4Addr::from(first + offset)).collect()
}

/// A pod's sandbox in the view of a runtime. Its namespace belongs to the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// The name of its namespace for `ip netns`.
    pub name: String,
    /// The path of its namespace.
    pub netns: PathBuf,
    /// Value of `CNI_CONTAINERID`.
    pub container_id: String,
    /// `K8S_POD_UID`, if the runtime is to name a pod.
    pub uid: Option<String>,
}

/// A namespace that the monitor reads, by its number in the neighbour's namespace.
#[derive(Debug, Clone)]
pub(crate) struct Tracked {
    pub name: String,
    pub number: i32,
}

/// The namespaces to read; shared with the monitor.
pub(crate) type TrackedList = Arc<Mutex<Vec<Tracked>>>;

/// Connection of the node's parent with the switch.
fn cable(id: &str) -> String {
    format!("link add nd0 type veth peer name {PARENT} netns {id}-node\nlink set nd0 master br0 up\n")
}

/// A switch, a neighbour, a node and pods.
#[derive(Debug)]
pub struct World {
    id: String,
    /// Names of pods' namespaces; a case may drop one early to remove it.
    pods: Mutex<BTreeMap<String, Netns>>,
    node: Netns,
    neighbour: Netns,
    switch: Netns,
    folder: Folder,
    /// Reason for the absence of a BPF file system in it, if it has none.
    no_bpffs: Option<Error>,
    /// Netlink socket in the neighbour's namespace, in which the nsids are assigned.
    numbering: Mutex<Netlink>,
    tracked: TrackedList,
    next: AtomicU32,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl World {
    /// Builds a world without pods.
    pub fn build() -> Result<Self> {
        static SWEEP: Once = Once::new();
        cleanup::interrupted()?;
        SWEEP.call_once(cleanup::sweep);
        let id = format!("{}-{}", cleanup::prefix(), WORLDS.fetch_add(1, Ordering::Relaxed));
        let folder = Folder::create(&id)?;
        // The machine's own may be absent, and pins there would meet other runs' pins. A kernel without such
        // a file system has no programs either: Berth reports that, and works without.
        let no_bpffs = cleanup::bpf_folder(&folder.path().join(BPFFS)).err();
        let named = |role: &str| -> Result<Netns> {
            // With `ip`, which makes the folder a shared mount: otherwise a foreign mount namespace could
            // keep these namespaces alive.
            let name = format!("{id}-{role}");
            let guard = Netns::adopt(Path::new(NETNS_FOLDER).join(&name));
            run(Command::new("ip").args(["netns", "add", &name]), None)?;
            Ok(guard)
        };
        let (switch, neighbour, node) = (named("switch")?, named("neighbour")?, named("node")?);
        let wiring = format!(
            "link add br0 type bridge forward_delay 0 mcast_snooping 0\nlink set br0 up\n\
             link add nb0 type veth peer name eth0 netns {id}-neighbour\nlink set nb0 master br0 up\n\
             {}",
            cable(&id)
        );
        ip(switch.path(), &wiring)?;
        ip(neighbour.path(), &format!("link set lo up\naddr add {GATEWAY}/16 dev eth0\nlink set eth0 up\n"))?;
        ip(node.path(), &format!("link set lo up\nlink set {PARENT} up\n"))?;
        let numbering = sys::netns::inside(neighbour.path(), Netlink::open)
            .map_err(Error::system("open netlink in the neighbour's namespace"))?;
        let (pods, tracked) = (Mutex::default(), Arc::default());
        let numbering = Mutex::new(numbering);
        Ok(Self {
            id,
            pods,
            node,
            neighbour,
            switch,
            folder,
            no_bpffs,
            numbering,
            tracked,
            next: AtomicU32::new(0),
        })
    }

    /// Removes the node's parent, like a driver that is reloaded, and puts another device of that name in its
    /// place. The pods' links on it are gone with it.
    pub fn replace_parent(&self) -> Result<()> {
        ip(self.node.path(), &format!("link del {PARENT}\n"))?;
        ip(self.switch.path(), &cable(&self.id))?;
        ip(self.node.path(), &format!("link set {PARENT} up\n"))
    }

    /// Disconnects the cable from the switch, or connects it again: the node's parent has no carrier
    /// meanwhile.
    pub fn cut_cable(&self, cut: bool) -> Result<()> {
        let state = if cut { "down" } else { "up" };
        ip(self.switch.path(), &format!("link set nd0 {state}\n"))
    }

    /// Its name, the start of all names in it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Folder of its files.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The BPF file system of this world alone, or the reason for its absence.
    pub fn bpffs(&self) -> std::result::Result<PathBuf, &Error> {
        match &self.no_bpffs {
            None => Ok(self.folder().join(BPFFS)),
            Some(error) => Err(error),
        }
    }

    /// The node's namespace.
    pub fn node(&self) -> &Path {
        self.node.path()
    }

    /// The neighbour's namespace.
    pub fn neighbour(&self) -> &Path {
        self.neighbour.path()
    }

    pub(crate) fn tracked(&self) -> TrackedList {
        Arc::clone(&self.tracked)
    }

    /// Creates a pod: a new namespace, watched by the monitor, and a new container ID.
    pub fn pod(&self) -> Result<Pod> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-p{number}", self.id);
        self.pod_named(&name)
    }

    /// The same under a given name, which another pod may have had before.
    pub fn pod_named(&self, name: &str) -> Result<Pod> {
        let guard = Netns::create(name)?;
        let netns = guard.path().to_owned();
        lock(&self.pods).insert(name.to_owned(), guard);
        self.track(name, &netns)?;
        let serial = self.next.fetch_add(1, Ordering::Relaxed);
        Ok(Pod { name: name.to_owned(), netns, container_id: format!("{}-c{serial}", self.id), uid: None })
    }

    /// A further sandbox of the same pod: another namespace, another container id, the same uid.
    pub fn sandbox_of(&self, pod: &Pod) -> Result<Pod> {
        Ok(Pod { uid: pod.uid.clone(), ..self.pod()? })
    }

    /// Makes another node on the same switch and returns its namespace.
    pub fn second_node(&self) -> Result<PathBuf> {
        self.plug("node2", PARENT, "")
    }

    /// Creates a further host on the same switch and returns its namespace, which the monitor does not read.
    /// `wiring` is applied to its one interface before it is set up: arguments of `ip link set`.
    pub(crate) fn plug(&self, role: &str, interface: &str, wiring: &str) -> Result<PathBuf> {
        let name = format!("{}-{role}", self.id);
        let guard = Netns::create(&name)?;
        let path = guard.path().to_owned();
        lock(&self.pods).insert(name.clone(), guard);
        // One port a host; an interface's name has 15 characters at most.
        let port = format!("port{}", self.next.fetch_add(1, Ordering::Relaxed));
        let cable = format!(
            "link add {port} type veth peer name {interface} netns {name}\nlink set {port} master br0 up\n"
        );
        ip(&Path::new(NETNS_FOLDER).join(format!("{}-switch", self.id)), &cable)?;
        ip(&path, &format!("link set lo up\nlink set {interface} {wiring} up\n"))?;
        Ok(path)
    }

    /// Lets the monitor read a namespace.
    fn track(&self, name: &str, netns: &Path) -> Result<()> {
        let number = i32::try_from(self.next.fetch_add(1, Ordering::Relaxed)).unwrap_or(i32::MAX);
        let file = File::open(netns).map_err(Error::system(format!("open {}", netns.display())))?;
        lock(&self.numbering)
            .number(&file, number)
            .map_err(Error::system(format!("number namespace {name}")))?;
        lock(&self.tracked).push(Tracked { name: name.to_owned(), number });
        Ok(())
    }

    /// Removes a pod's name: its namespace ends unless another reference exists.
    pub fn remove(&self, pod: &Pod) {
        // Taken out of the list first: the removal takes time that others need not wait for.
        let guard = lock(&self.pods).remove(&pod.name);
        drop(guard);
    }

    /// Starts a process that does nothing inside a pod.
    pub fn inhabit(&self, pod: &Pod) -> Result<Process> {
        let mut command = Command::new("sleep");
        command.arg("3600").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        start(&mut command, Some(&pod.netns))
    }

    /// The number of the pod's latest namespace; `None`: it was never tracked.
    fn number_of(&self, pod: &Pod) -> Option<i32> {
        lock(&self.tracked).iter().rev().find(|tracked| tracked.name == pod.name).map(|t| t.number)
    }

    /// The links that a namespace has now, read by its number; `None` once it is no more.
    pub fn links(&self, pod: &Pod) -> Result<Option<Vec<Link>>> {
        let Some(number) = self.number_of(pod) else { return Ok(None) };
        match lock(&self.numbering).links(Some(number)) {
            Ok(links) => Ok(Some(links)),
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(None),
            Err(cause) => Err(Error::System { what: format!("read the links of {}", pod.name), cause }),
        }
    }

    /// The addresses of both families that a namespace has now, link-local ones and loopback's left
    /// out; read by its number.
    pub fn addresses(&self, pod: &Pod) -> Result<Vec<IpAddr>> {
        Ok(self.held(pod)?.into_iter().map(|entry| entry.address).collect())
    }

    /// Those of one interface, in order.
    pub fn addresses_on(&self, pod: &Pod, name: &str) -> Result<Vec<IpAddr>> {
        let link = self.links(pod)?.into_iter().flatten().find(|link| link.name == name);
        let mine = self
            .held(pod)?
            .into_iter()
            .filter(|held| link.as_ref().is_some_and(|link| held.ifindex == link.ifindex));
        let mut found: Vec<IpAddr> = mine.map(|held| held.address).collect();
        found.sort();
        Ok(found)
    }

    fn held(&self, pod: &Pod) -> Result<Vec<netlink::Address>> {
        let Some(number) = self.number_of(pod) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            match lock(&self.numbering).addresses(number, family) {
                Ok(addresses) => found.extend(addresses),
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                Err(cause) => {
                    return Err(Error::System { what: format!("read the addresses of {}", pod.name), cause });
                }
            }
        }
        found.retain(|held| match held.address {
            IpAddr::V4(v4) => !v4.is_loopback(),
            IpAddr::V6(v6) => !v6.is_loopback() && !v6.is_unicast_link_local(),
        });
        Ok(found)
    }

    /// Time that the kernel alone takes to remove a macvlan from a pod: own netlink, `count` times.
    pub fn removal_floor(&self, count: usize) -> Result<Times> {
        let pod = self.pod()?;
        let mut times = Times::default();
        for _ in 0..count {
            let batch = format!(
                "link add link {PARENT} name floor0 type macvlan mode bridge\nlink set floor0 netns {}\n",
                pod.name
            );
            ip(self.node(), &batch)?;
            ip(&pod.netns, "link set floor0 up\n")?;
            let took = sys::netns::inside(&pod.netns, || {
                let mut netlink = Netlink::open()?;
                let links = netlink.links(None)?;
                let link =
                    links.iter().find(|link| link.name == "floor0").ok_or(std::io::ErrorKind::NotFound)?;
                let from = Instant::now();
                netlink.remove_link(link.ifindex)?;
                Ok(from.elapsed())
            });
            times.push(took.map_err(Error::system("remove a macvlan"))?);
        }
        self.remove(&pod);
        Ok(times)
    }

    /// Every link of every pod with a MAC from Berth, with the name of its namespace.
    pub fn berth_links(&self) -> Result<Vec<(String, Link)>> {
        let tracked = lock(&self.tracked).clone();
        let mut found = Vec::new();
        for Tracked { name, number } in tracked {
            match lock(&self.numbering).links(Some(number)) {
                Ok(links) => {
                    let own = links.into_iter().filter(|link| link.mac.is_some_and(Mac::is_berth));
                    found.extend(own.map(|link| (name.clone(), link)));
                }
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                Err(cause) => return Err(Error::System { what: format!("read the links of {name}"), cause }),
            }
        }
        Ok(found)
    }
}

/// Output of `ip` for these arguments inside a namespace.
pub fn ip_shows(netns: &Path, arguments: &str) -> Result<String> {
    let mut command = Command::new("ip");
    command.args(arguments.split(' ')).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let doing = || Error::system(format!("run `ip {arguments}`"));
    let child = sys::netns::spawn_inside(&mut command, netns).map_err(doing())?;
    let output = child.wait_with_output().map_err(doing())?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Opens a socket in a pod's namespace, which holds the namespace.
pub fn open_socket(pod: &Pod) -> Result<UdpSocket> {
    sys::netns::inside(&pod.netns, || UdpSocket::bind("0.0.0.0:0"))
        .map_err(Error::system(format!("open a socket in {}", pod.name)))
}

/// Has the kernel take IPv6 addresses in a namespace into use without asking for them first.
pub fn trust_addresses(netns: &Path) -> Result<()> {
    let file = "/proc/sys/net/ipv6/conf/default/accept_dad";
    sys::netns::inside(netns, || std::fs::write(file, "0")).map_err(Error::system(format!("write {file}")))
}

/// Runs lines of `ip -batch` inside a namespace.
pub fn ip(netns: &Path, lines: &str) -> Result<()> {
    run(Command::new("ip").args(["-batch", "-"]), Some((netns, lines)))
}

/// Starts a marked process, inside a namespace if one is given, in a separate process group, so that a Ctrl-C
/// at the terminal reaches the testbed alone.
pub fn start(command: &mut Command, netns: Option<&Path>) -> Result<Process> {
    use std::os::unix::process::CommandExt as _;
    let program = command.get_program().to_string_lossy().into_owned();
    command.env(cleanup::MARK, cleanup::prefix()).process_group(0);
    let child = match netns {
        Some(netns) => sys::netns::spawn_inside(command, netns),
        None => command.spawn(),
    };
    Ok(Process::guard(child.map_err(Error::system(format!("start {program}")))?))
}

/// Runs a command to its end, inside a namespace and with input if they are given.
pub fn run(command: &mut Command, inside: Option<(&Path, &str)>) -> Result<()> {
    let line = format!("{command:?} {}", inside.map(|(_, input)| input).unwrap_or_default());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let started = match inside {
        Some((netns, _)) => sys::netns::spawn_inside(command.stdin(Stdio::piped()), netns),
        None => command.stdin(Stdio::null()).spawn(),
    };
    let mut child = started.map_err(Error::system(format!("start `{line}`")))?;
    if let (Some(mut pipe), Some((_, text))) = (child.stdin.take(), inside) {
        pipe.write_all(text.as_bytes()).map_err(Error::system(format!("feed `{line}`")))?;
    }
    let output = child.wait_with_output().map_err(Error::system(format!("wait for `{line}`")))?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stdout, output.stderr].concat();
    Err(Error::Command { command: line, output: String::from_utf8_lossy(&text).trim().to_owned() })
}
