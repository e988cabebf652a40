//! Shows what the kernel tells: follows the namespaces and links named on the command line, and
//! prints events until it is ended, and the programs' log as far as `BERTH_EBPF_LOG` asks for it.
//!
//! `cargo run -p berth-probes --example events -- target/ebpf/berth.o /run/netns/a:3 --watch eth0:192.0.2.7`

#![expect(clippy::unwrap_used, reason = "an example that a developer runs")]

use std::path::PathBuf;

use berth_ipam::attachment::AttachmentKey;
use berth_ipam::identity::{NetnsIdentity, Nsid};
use berth_probes::watch::Wire;
use berth_probes::{LogLevel, Options, Probes};
use berth_underlay::netns::NetnsFile;
use berth_underlay::wire::device::Device;
use rustix::event::{PollFd, PollFlags};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let object = arguments.next().unwrap_or_else(|| "target/ebpf/berth.o".to_owned());
    let bpffs = std::env::var_os("BERTH_BPFFS").map(PathBuf::from);
    let log = std::env::var("BERTH_EBPF_LOG").map_or(LogLevel::Off, |level| level.parse().unwrap());
    tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).init();
    let mut probes = Probes::start(&Options { bpffs, log, ..Options::new(object) }).unwrap();
    println!("rung {:?}, tasks {}, pins {:?}", probes.rung(), probes.sees_tasks(), probes.pins());
    for refusal in probes.refusals() {
        println!("refused: {refusal}");
    }
    while let Some(argument) = arguments.next() {
        if argument == "--watch" {
            let target = arguments.next().unwrap();
            let (device, address) = target.split_once(':').unwrap();
            println!("{device}: {:?}", probes.watch_wire(&device.parse().unwrap()).unwrap());
            let wire = Wire { parent: Device::by_name(device).unwrap().ifindex, vlan: None };
            probes.watches().watch(wire, address.parse().unwrap(), None).unwrap();
        } else {
            let (path, ifindex) = argument.rsplit_once(':').unwrap();
            follow(&mut probes, path, ifindex.parse().unwrap());
        }
    }
    probes.attachments().settle().unwrap();
    loop {
        for event in probes.drain().unwrap() {
            println!("{event:?}");
        }
        probes.drain_log();
        let log = probes.log_fd().map(|log| PollFd::from_borrowed_fd(log, PollFlags::IN));
        let mut fds: Vec<PollFd<'_>> = [PollFd::new(&probes, PollFlags::IN)].into_iter().chain(log).collect();
        let _ = rustix::event::poll(&mut fds, None);
    }
}

fn follow(probes: &mut Probes, path: &str, ifindex: u32) {
    let file = NetnsFile::open(path).unwrap();
    let netns = NetnsIdentity {
        cookie: file.cookie().unwrap(),
        inode: file.inode(),
        nsid: Nsid(-1),
        nsid_is_random: false,
    };
    let name = path.rsplit('/').next().unwrap_or("pod");
    let key = AttachmentKey {
        network: "example".parse().unwrap(),
        container_id: name.parse().unwrap(),
        ifname: "net1".parse().unwrap(),
    };
    probes.attachments().follow(&key, &netns, Some(ifindex)).unwrap();
}
