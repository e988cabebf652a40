//! The wire module on real interfaces: a node's parent, a host across the cable, a pod behind the parent.
//!
//! Needs root (network namespaces, packet sockets); without it each test reports a skip.

#![expect(clippy::unwrap_used, clippy::panic, reason = "the helpers of a test fail it by panicking")]

use std::net::IpAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use berth_ipam::evidence::Claim;
use berth_ipam::mac::Mac;
use berth_ipam::time::Time;
use berth_underlay::netns::{NetnsFile, run_in};
use berth_underlay::wire::device::{Device, has_carrier};
use berth_underlay::wire::socket::PacketSocket;
use berth_underlay::wire::{
    Answer, Direction, Heard, Kind, Limits, Outcome, ParentWire, Priority, WireError, WireEvent, announce,
    ask_gateway, frame, probe_now,
};

const NODE_MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const HOST_MAC: Mac = Mac([2, 0, 0, 0, 0, 2]);
const POD_MAC: Mac = Mac([0xb2, 0, 0, 0, 0, 3]);

/// A node with the link `parent`, and a host with `192.0.2.1` and `2001:db8::1` at the cable's other end.
struct World {
    node: String,
    host: String,
    pod: String,
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

fn ip_output(arguments: &str) -> String {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("skipped: network namespaces need root");
    }
    root
}

impl World {
    fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let random = std::fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
        let name = |role: &str| format!("bw-{}-{number}-{}-{role}", std::process::id(), &random[..6]);
        let world = Self { node: name("node"), host: name("host"), pod: name("pod") };
        for space in [&world.node, &world.host, &world.pod] {
            ip(&format!("netns add {space}"));
        }
        world.cable();
        world
    }

    fn cable(&self) {
        let Self { node, host, .. } = self;
        ip(&format!(
            "-n {node} link add parent address {NODE_MAC} type veth peer name eth0 address {HOST_MAC} netns {host}"
        ));
        ip(&format!("-n {node} link set parent up"));
        ip(&format!("-n {host} addr add 192.0.2.1/24 dev eth0"));
        ip(&format!("-n {host} addr add 2001:db8::1/64 dev eth0 nodad"));
        ip(&format!("-n {host} link set eth0 up"));
        Self::until_running(node, "parent");
        Self::until_running(host, "eth0");
    }

    fn until_running(space: &str, name: &str) {
        let end = Instant::now() + Duration::from_secs(5);
        while !Self::on(space, || Device::by_name(name).unwrap().running) {
            assert!(Instant::now() < end, "{name} in {space} does not start to run");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Adds a macvlan with 192.0.2.9 to the pod, on the parent.
    fn plug_pod(&self) {
        let Self { node, pod, .. } = self;
        ip(&format!(
            "-n {node} link add link parent name pod0 address {POD_MAC} netns {pod} type macvlan mode bridge"
        ));
        ip(&format!("-n {pod} addr add 192.0.2.9/24 dev pod0"));
        ip(&format!("-n {pod} link set pod0 up"));
        Self::until_running(pod, "pod0");
    }

    fn on<T: Send>(space: &str, work: impl FnOnce() -> T + Send) -> T {
        run_in(&NetnsFile::open(format!("/run/netns/{space}")).unwrap(), work).unwrap()
    }

    fn on_node<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        Self::on(&self.node, work)
    }

    fn on_host<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        Self::on(&self.host, work)
    }

    /// Opens the parent's wire and waits until the parent is up: it may be reported as down before.
    fn listen(&self) -> (ParentWire, Receiver<WireEvent>) {
        let (sender, events) = channel();
        let wire = self.on_node(move || {
            ParentWire::open("parent", Limits::default(), move |event| drop(sender.send(event))).unwrap()
        });
        wait_for(&events, |event| matches!(event, WireEvent::Up { .. }));
        (wire, events)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for space in [&self.pod, &self.node, &self.host] {
            // Best effort: a test that failed half-way may have made only some of them.
            let _ = Command::new("ip").args(["netns", "del", space]).output();
        }
    }
}

fn wait_for(events: &Receiver<WireEvent>, wanted: impl Fn(&WireEvent) -> bool) -> WireEvent {
    let end = Instant::now() + Duration::from_secs(5);
    let mut seen = Vec::new();
    loop {
        match events.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(event) if wanted(&event) => return event,
            Ok(event) => seen.push(event),
            Err(error) => panic!("{error}; seen instead: {seen:?}"),
        }
    }
}

fn heard(events: &Receiver<WireEvent>, address: &str, mac: Mac) -> Heard {
    let address = parse(address);
    let event = wait_for(
        events,
        |event| matches!(event, WireEvent::Heard(heard) if heard.address == address && heard.mac == mac),
    );
    match event {
        WireEvent::Heard(heard) => heard,
        other => unreachable!("{other:?}"),
    }
}

fn parse(address: &str) -> IpAddr {
    address.parse().unwrap()
}

/// The reply of a host that claims an address, without a time.
fn answered(mac: Mac) -> Outcome {
    Outcome::Answered(vec![Claim { mac, at: Time::default() }])
}

/// An outcome without the times of its replies.
fn timeless(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Answered(claims) => Outcome::Answered(
            claims.into_iter().map(|claim| Claim { at: Time::default(), ..claim }).collect(),
        ),
        other => other,
    }
}

fn outcomes(wire: &ParentWire, addresses: &[&str]) -> Vec<Outcome> {
    let (sender, results) = channel();
    let addresses = addresses.iter().map(|address| parse(address)).collect();
    wire.probe(addresses, Priority::Now, None, move |results| drop(sender.send(results)));
    let results = results.recv_timeout(Duration::from_secs(5)).unwrap();
    results.into_iter().map(|result| timeless(result.outcome)).collect()
}

fn ifindex(name: &str) -> u32 {
    Device::by_name(name).unwrap().ifindex
}

fn send_from_host(world: &World, frames: &[Vec<u8>]) {
    world.on_host(|| {
        let socket = PacketSocket::sending(ifindex("eth0")).unwrap();
        for frame in frames {
            socket.send(frame, parse("192.0.2.1")).unwrap();
        }
    });
}

/// Waits for this number of ARP frames.
fn hears_frames(socket: &PacketSocket, count: usize) {
    let (end, mut heard) = (Instant::now() + Duration::from_secs(5), 0);
    while heard < count {
        assert!(Instant::now() < end, "{heard} frames of {count}");
        let mut frame = [0; 512];
        match socket.receive(&mut frame).unwrap() {
            Some(_) => heard += usize::from(frame[12..14] == [0x08, 0x06]),
            None => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

fn tagged(frame: &[u8], id: u16) -> Vec<u8> {
    [&frame[..12], &[0x81, 0], &id.to_be_bytes(), &frame[12..]].concat()
}

#[test]
fn a_round_finds_the_holders_of_both_families_and_the_silence_of_the_rest() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let asked = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"].map(parse);
    let (results, took) = world.on_node(|| {
        let index = ifindex("parent");
        let start = Instant::now();
        (probe_now(index, NODE_MAC, &asked).unwrap(), start.elapsed())
    });
    let outcomes: Vec<Outcome> = results.into_iter().map(|result| timeless(result.outcome)).collect();
    let holder = answered(HOST_MAC);
    assert_eq!(outcomes, [holder.clone(), Outcome::Silent, holder, Outcome::Silent]);
    assert!(took >= Duration::from_millis(100) && took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_cable_without_carrier_proves_no_silence() {
    if !is_root() {
        return;
    }
    let world = World::new();
    ip(&format!("-n {} link set eth0 down", world.host));
    // Immediately, while the flags may still be stale for up to a second.
    assert!(!world.on_node(|| has_carrier("parent").unwrap()));
    let results = world.on_node(|| probe_now(ifindex("parent"), NODE_MAC, &[parse("192.0.2.1")]).unwrap());
    assert!(matches!(&results[0].outcome, Outcome::Unknown(_)), "{results:?}");
}

#[test]
fn an_interface_that_is_not_there_or_no_ethernet_is_a_clear_error() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let absent = world.on_node(|| ParentWire::open("nothere", Limits::default(), drop).unwrap_err());
    assert!(matches!(&absent, WireError::NoDevice(name) if name == "nothere"), "{absent}");
    let absent = world.on_node(|| probe_now(4711, NODE_MAC, &[]).unwrap_err());
    assert!(matches!(absent, WireError::NoDevice(_)), "{absent}");
    let loopback = world.on_node(|| Device::by_name("lo").unwrap_err());
    assert!(matches!(loopback, WireError::NotEthernet(_)), "{loopback}");
}

#[test]
fn the_listener_hears_the_wire_and_its_own_pods_and_tells_them_apart() {
    if !is_root() {
        return;
    }
    let world = World::new();
    world.plug_pod();
    let (_wire, events) = world.listen();
    world.on_host(|| drop(announce(ifindex("eth0"), HOST_MAC, &[parse("192.0.2.1")], 1).unwrap()));
    let from_host = heard(&events, "192.0.2.1", HOST_MAC);
    assert_eq!(
        (from_host.direction, from_host.vlan, from_host.kind),
        (Direction::In, None, Kind::Announcement)
    );
    let pod_says = [parse("192.0.2.9"), parse("2001:db8::9")];
    World::on(&world.pod, || drop(announce(ifindex("pod0"), POD_MAC, &pod_says, 1).unwrap()));
    for address in ["192.0.2.9", "2001:db8::9"] {
        assert_eq!(heard(&events, address, POD_MAC).direction, Direction::Out, "{address}");
    }
}

#[test]
fn a_tagged_claim_is_heard_with_its_tag_and_answers_no_untagged_probe() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let (wire, events) = world.listen();
    let (stop, stopped) = channel::<()>();
    std::thread::scope(|scope| {
        let world = &world;
        scope.spawn(move || {
            let claims = ["192.0.2.77", "2001:db8::77"]
                .map(|address| tagged(&frame::announcement(HOST_MAC, parse(address)), 100));
            while stopped.recv_timeout(Duration::from_millis(10)) == Err(RecvTimeoutError::Timeout) {
                send_from_host(world, &claims);
            }
        });
        let round = outcomes(&wire, &["192.0.2.77", "2001:db8::77"]);
        drop(stop);
        assert_eq!(round, [Outcome::Silent, Outcome::Silent]);
    });
    for address in ["192.0.2.77", "2001:db8::77"] {
        assert_eq!(heard(&events, address, HOST_MAC).vlan, Some(100), "{address}");
    }
}

#[test]
fn nothing_but_arp_and_neighbour_discovery_passes_the_filter() {
    if !is_root() {
        return;
    }
    let world = World::new();
    // Without its own IPv6 the host sends no unsolicited frames that could interfere.
    let quiet = "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=1";
    ip(&format!("netns exec {} {quiet}", world.host));
    let socket = world.on_node(|| PacketSocket::listening(ifindex("parent")).unwrap());
    let advertisement = frame::announcement(HOST_MAC, parse("2001:db8::1"));
    let arp = frame::announcement(HOST_MAC, parse("192.0.2.1"));
    let with = |frame: &[u8], at: usize, value: u8| {
        let mut frame = frame.to_vec();
        frame[at] = value;
        frame
    };
    let wanted = [
        arp.clone(),
        tagged(&arp, 5),
        advertisement.clone(),
        tagged(&advertisement, 5),
        frame::probe(HOST_MAC, parse("2001:db8::5")),
    ];
    let unwanted = [
        with(&arp, 13, 0),
        with(&advertisement, 20, 17),
        with(&advertisement, 54, 134),
        with(&tagged(&advertisement, 5), 58, 143),
        tagged(&with(&arp, 13, 0), 5),
    ];
    send_from_host(&world, &unwanted);
    send_from_host(&world, &wanted);
    let mut got = Vec::new();
    let mut buffer = [0; 512];
    let end = Instant::now() + Duration::from_millis(500);
    while Instant::now() < end {
        match socket.receive(&mut buffer).unwrap() {
            Some(received) if received.direction == Direction::In => {
                got.push(frame::read_stripped(&buffer[..received.length], received.stripped).unwrap());
            }
            Some(_) => {}
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    let said: Vec<_> = got.iter().map(|statement| (statement.address.to_string(), statement.vlan)).collect();
    let expected = [
        ("192.0.2.1", None),
        ("192.0.2.1", Some(5)),
        ("2001:db8::1", None),
        ("2001:db8::1", Some(5)),
        ("2001:db8::5", None),
    ];
    assert_eq!(said, expected.map(|(address, tag)| (address.to_owned(), tag)));
}

#[test]
fn the_wire_survives_its_parent_going_down_and_being_replaced() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let (wire, events) = world.listen();
    ip(&format!("-n {} link set parent down", world.node));
    wait_for(&events, |event| matches!(event, WireEvent::Down(_)));
    assert!(matches!(outcomes(&wire, &["192.0.2.1"])[0], Outcome::Unknown(_)));
    ip(&format!("-n {} link set parent up", world.node));
    wait_for(&events, |event| matches!(event, WireEvent::Up { .. }));
    let answered = answered(HOST_MAC);
    assert_eq!(outcomes(&wire, &["192.0.2.1"]), std::slice::from_ref(&answered));

    let before = world.on_node(|| ifindex("parent"));
    ip(&format!("-n {} link del parent", world.node));
    // The parent is down before it is absent, and either may be seen first.
    wait_for(&events, |event| matches!(event, WireEvent::Down(_)));
    world.cable();
    let back = wait_for(&events, |event| matches!(event, WireEvent::Up { .. }));
    assert!(matches!(back, WireEvent::Up { ifindex, .. } if ifindex != before), "{back:?}");
    assert_eq!(outcomes(&wire, &["192.0.2.1"]), [answered]);
    world.on_host(|| drop(announce(ifindex("eth0"), HOST_MAC, &[parse("192.0.2.50")], 1).unwrap()));
    heard(&events, "192.0.2.50", HOST_MAC);
}

#[test]
fn a_link_that_drops_during_a_round_spoils_its_silence() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let (wire, _events) = world.listen();
    let (sender, results) = channel();
    wire.probe(vec![parse("192.0.2.77")], Priority::Now, None, move |results| drop(sender.send(results)));
    std::thread::sleep(Duration::from_millis(10));
    ip(&format!("-n {} link set parent down", world.node));
    ip(&format!("-n {} link set parent up", world.node));
    let results = results.recv_timeout(Duration::from_secs(5)).unwrap();
    assert!(matches!(results[0].outcome, Outcome::Unknown(_)), "{results:?}");
}

#[test]
fn an_answer_to_a_probe_is_also_heard_and_a_repetition_is_told_once() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let (wire, events) = world.listen();
    assert_eq!(outcomes(&wire, &["192.0.2.1"]), [answered(HOST_MAC)]);
    assert_eq!(heard(&events, "192.0.2.1", HOST_MAC).kind, Kind::Reply);
    // Three probes brought three replies within 70 ms.
    let again: Vec<WireEvent> = events.try_iter().collect();
    let replies = again.iter().filter(|event| matches!(event, WireEvent::Heard(h) if h.kind == Kind::Reply));
    assert_eq!(replies.count(), 0, "{again:?}");
}

#[test]
fn a_wire_for_answers_only_hears_nothing_between_its_rounds() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let (wire, events) = world.listen();
    wire.answers_only(true);
    // The order is carried out before the next one.
    assert_eq!(outcomes(&wire, &["192.0.2.1", "192.0.2.9"]), [answered(HOST_MAC), Outcome::Silent]);
    std::thread::sleep(Duration::from_millis(200));
    while events.try_recv().is_ok() {}
    send_from_host(&world, &[frame::announcement(HOST_MAC, parse("192.0.2.77"))]);
    let quiet = events.recv_timeout(Duration::from_millis(300));
    assert!(matches!(quiet, Err(RecvTimeoutError::Timeout)), "{quiet:?}");
    assert_eq!(outcomes(&wire, &["192.0.2.1"]), [answered(HOST_MAC)]);
    wire.answers_only(false);
    // Nothing reports the completion of the order, so the host sends until a frame is received.
    let end = Instant::now() + Duration::from_secs(10);
    let hears =
        |event: &WireEvent| matches!(event, WireEvent::Heard(heard) if heard.address == parse("192.0.2.78"));
    loop {
        send_from_host(&world, &[frame::announcement(HOST_MAC, parse("192.0.2.78"))]);
        match events.recv_timeout(Duration::from_millis(200)) {
            Ok(event) if hears(&event) => break,
            _ => assert!(Instant::now() < end, "the wire receives no more frames"),
        }
    }
}

#[test]
fn a_parent_does_not_hear_its_own_pods_answer() {
    if !is_root() {
        return;
    }
    // The reason why local leases are judged by the kernel and never by the wire.
    let world = World::new();
    world.plug_pod();
    let (wire, _events) = world.listen();
    assert_eq!(outcomes(&wire, &["192.0.2.9"]), [Outcome::Silent]);
    let seen = world.on_host(|| probe_now(ifindex("eth0"), HOST_MAC, &[parse("192.0.2.9")]).unwrap());
    assert_eq!(timeless(seen[0].outcome.clone()), answered(POD_MAC));
}

#[test]
fn lost_frames_are_counted_and_only_lost_answers_void_a_round() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let (sender, events) = channel();
    let (slow, gate) = channel::<()>();
    let wire = world.on_node(move || {
        ParentWire::open("parent", Limits::default(), move |event| {
            if matches!(&event, WireEvent::Heard(heard) if heard.address == parse("192.0.2.200")) {
                // Held until the test has sent more than any buffer takes.
                let _ = gate.recv_timeout(Duration::from_secs(20));
            }
            drop(sender.send(event));
        })
        .unwrap()
    });
    wait_for(&events, |event| matches!(event, WireEvent::Up { .. }));
    let (reply, results) = channel();
    let asked = vec![parse("192.0.2.77"), parse("192.0.2.201")];
    let host = world.on_host(|| PacketSocket::listening(ifindex("eth0")).unwrap());
    wire.probe(asked, Priority::Now, None, move |results| drop(reply.send(results)));
    // The round is running once both were probed.
    hears_frames(&host, 2);
    send_from_host(&world, &[frame::announcement(HOST_MAC, parse("192.0.2.200"))]);
    std::thread::sleep(Duration::from_millis(5));
    let claims = vec![frame::announcement(HOST_MAC, parse("192.0.2.201")); 20_000];
    send_from_host(&world, &claims);
    drop(slow);
    wait_for(&events, |event| matches!(event, WireEvent::Lost(lost) if *lost > 0));
    let results = results.recv_timeout(Duration::from_secs(5)).unwrap();
    assert!(matches!(results[0].outcome, Outcome::Unknown(_)), "its answers may be lost: {results:?}");
    assert!(matches!(results[1].outcome, Outcome::Answered(_)), "{results:?}");
    // An unsolicited frame takes no room in the reply queue, in any number.
    let flood = vec![frame::announcement(HOST_MAC, parse("192.0.2.202")); 60_000];
    let found = std::thread::scope(|scope| {
        scope.spawn(|| send_from_host(&world, &flood));
        (0..20).map(|_| outcomes(&wire, &["192.0.2.77"]).remove(0)).find(Outcome::is_silent)
    });
    assert_eq!(found, Some(Outcome::Silent));
}

#[test]
fn a_claim_for_a_pod_is_sent_from_its_parent() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let (wire, _events) = world.listen();
    let heard = world.on_host(|| {
        let socket = PacketSocket::listening(ifindex("eth0")).unwrap();
        wire.announce(vec![(parse("192.0.2.9"), POD_MAC), (parse("2001:db8::9"), POD_MAC)]);
        let (mut found, end) = (Vec::new(), Instant::now() + Duration::from_secs(5));
        while found.len() < 4 && Instant::now() < end {
            let mut buffer = [0; 512];
            match socket.receive(&mut buffer).unwrap() {
                Some(got) => {
                    found.extend(frame::read(&buffer[..got.length]).ok().filter(|s| s.mac == POD_MAC));
                }
                None => std::thread::sleep(Duration::from_millis(1)),
            }
        }
        found.into_iter().map(|statement| (statement.address, statement.kind)).collect::<Vec<_>>()
    });
    let claim = |address: &str| (parse(address), Kind::Announcement);
    let (four, six) = (claim("192.0.2.9"), claim("2001:db8::9"));
    assert_eq!(heard, [four, four, six, six]);
}

#[test]
fn a_parent_that_was_down_for_a_moment_tells_of_a_gap() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let (_wire, events) = world.listen();
    let batch = std::env::temp_dir().join(&world.node);
    std::fs::write(&batch, "link set parent down\nlink set parent up\n").unwrap();
    ip(&format!("-n {} -batch {}", world.node, batch.display()));
    std::fs::remove_file(&batch).unwrap();
    // Too short for the next read, but reported; or seen, which is a gap as well.
    wait_for(&events, |event| matches!(event, WireEvent::Gap(_) | WireEvent::Down(_)));
}

#[test]
fn closing_the_wire_is_quick_and_answers_what_is_open() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let (wire, _events) = world.listen();
    let (sender, results) = channel();
    wire.probe(vec![parse("192.0.2.77")], Priority::Now, None, move |results| drop(sender.send(results)));
    let start = Instant::now();
    drop(wire);
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    let results = results.recv_timeout(Duration::from_secs(1)).unwrap();
    assert_eq!(results.len(), 1);
    assert!(matches!(&results[0].outcome, Outcome::Unknown(_)), "{results:?}");
}

#[test]
fn an_announcement_moves_an_address_in_a_neighbours_cache() {
    if !is_root() {
        return;
    }
    let world = World::new();
    world.plug_pod();
    let host = &world.host;
    let old = "02:00:00:00:00:99";
    for address in ["192.0.2.9", "2001:db8::9"] {
        ip(&format!("-n {host} neigh replace {address} lladdr {old} dev eth0 nud stale"));
    }
    World::on(&world.pod, || {
        let addresses = [parse("192.0.2.9"), parse("2001:db8::9")];
        let start = Instant::now();
        let announcer = announce(ifindex("pod0"), POD_MAC, &addresses, 3).unwrap();
        // The frames themselves cost next to nothing; only the close waits for the kernel.
        assert!(start.elapsed() < Duration::from_millis(50), "{:?}", start.elapsed());
        drop(announcer);
    });
    let end = Instant::now() + Duration::from_secs(2);
    let mut cache = String::new();
    while Instant::now() < end && cache.matches(&POD_MAC.to_string()).count() < 2 {
        cache = ip_output(&format!("-n {host} neigh show dev eth0"));
        std::thread::sleep(Duration::from_millis(10));
    }
    for address in ["192.0.2.9", "2001:db8::9"] {
        let line = cache.lines().find(|line| line.starts_with(&format!("{address} "))).unwrap_or_default();
        assert!(line.contains(&POD_MAC.to_string()), "{address}: {cache}");
    }
}

#[test]
fn the_kernel_announces_by_itself_at_link_up_and_at_each_repeated_address() {
    if !is_root() {
        return;
    }
    // Closing a packet socket takes the kernel longer than the whole of an ADD should; these two sysctls make
    // the kernel send the same announcements without one.
    let world = World::new();
    world.plug_pod();
    let pod = &world.pod;
    ip(&format!("-n {pod} link set pod0 down"));
    for key in ["ipv4.conf.pod0.arp_notify", "ipv6.conf.pod0.ndisc_notify"] {
        ip(&format!("netns exec {pod} sysctl -qw net.{key}=1"));
    }
    ip(&format!("-n {pod} addr replace 192.0.2.9/24 dev pod0"));
    ip(&format!("-n {pod} addr replace 2001:db8::9/64 dev pod0 nodad"));
    let socket = world.on_host(|| PacketSocket::listening(ifindex("eth0")).unwrap());
    ip(&format!("-n {pod} link set pod0 up"));
    for _ in 0..2 {
        ip(&format!("-n {pod} link set pod0 address {POD_MAC}"));
    }
    let (mut buffer, mut counts) = ([0; 512], [0, 0]);
    let end = Instant::now() + Duration::from_secs(3);
    while counts != [3, 3] && Instant::now() < end {
        let Some(received) = socket.receive(&mut buffer).unwrap() else {
            std::thread::sleep(Duration::from_millis(5));
            continue;
        };
        let Ok(said) = frame::read(&buffer[..received.length]) else { continue };
        for (count, address) in counts.iter_mut().zip(["192.0.2.9", "2001:db8::9"]) {
            let announced = said.kind == Kind::Announcement && said.mac == POD_MAC;
            *count += i32::from(announced && said.address == parse(address));
        }
    }
    assert_eq!(counts, [3, 3]);
}

#[test]
fn the_gateway_is_asked_with_and_without_an_own_address() {
    if !is_root() {
        return;
    }
    let world = World::new();
    let ask = |own: &str, gateway: &str| {
        let (own, gateway) = (parse(own), parse(gateway));
        world.on_node(move || ask_gateway(ifindex("parent"), NODE_MAC, own, gateway))
    };
    for (own, gateway) in [
        ("0.0.0.0", "192.0.2.1"),
        ("192.0.2.8", "192.0.2.1"),
        ("::", "2001:db8::1"),
        ("2001:db8::8", "2001:db8::1"),
    ] {
        match ask(own, gateway) {
            Ok(Answer::At { mac, after }) => {
                assert_eq!(mac, HOST_MAC);
                assert!(after < Duration::from_secs(1), "{after:?}");
            }
            other => panic!("{own} asks {gateway}: {other:?}"),
        }
    }
    let start = Instant::now();
    assert!(matches!(ask("0.0.0.0", "192.0.2.254"), Ok(Answer::Silent)));
    assert!(start.elapsed() >= Duration::from_secs(1));
    assert!(matches!(ask("0.0.0.0", "::1"), Err(WireError::MixedFamilies { .. })));
}
