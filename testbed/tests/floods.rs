//! Input without end from others, and what it costs the agent: processor time, memory, lines of log.
//!
//! Each flood lasts about a second. The bounds are ratios against that second, and generous, because other tests may run
//! on the same machine.

#![expect(clippy::unwrap_used, clippy::panic, reason = "the helpers of a test fail it by panicking")]

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use berth_ipam::mac::Mac;
use berth_testbed::lab::{Lab, Options};
use berth_testbed::stranger::Stranger;
use berth_testbed::{traffic, world};

const FLOOD: Duration = Duration::from_millis(1_500);
/// Interval of frames in a flood.
const PERIOD: Duration = Duration::from_millis(2);
/// The agent is quiet again when it worked less than this in so long a time; it has so long to become so.
const QUIET_WORK: Duration = Duration::from_millis(20);
const QUIET_TIME: Duration = Duration::from_millis(200);
const QUIET_WITHIN: Duration = Duration::from_mins(1);
/// A thousand networks are read within this time, also by a build that is not optimized.
const RELOAD_WITHIN: Duration = Duration::from_mins(2);

fn lab(addresses: u16) -> Option<Lab> {
    let options = Options::of_tests(1.0)?;
    Some(Lab::start(&options, addresses, "").unwrap())
}

/// The agent's processor time, and its memory in KiB.
fn usage(lab: &mut Lab) -> (Duration, u64) {
    let pid = lab.agent().unwrap().pid();
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // After the name in brackets; the times are in hundredths of a second.
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    let ticks = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let memory = memory.trim().trim_end_matches(" kB").parse().unwrap();
    (Duration::from_millis(ticks * 10), memory)
}

fn log_length(lab: &Lab) -> u64 {
    std::fs::metadata(lab.setup.log()).unwrap().len()
}

/// Cost of a flood.
#[derive(Debug)]
struct Cost {
    /// The agent's processor time until it is quiet again, by the time of the flood.
    processor: f64,
    memory_kib: u64,
    log: u64,
    /// The longest time that a client waited for a response.
    answer: Duration,
}

/// Plays a flood, asking the agent something all the time.
fn cost(lab: &mut Lab, flood: impl FnOnce(&Lab) + Send) -> Cost {
    let (before, memory, log) = (usage(lab), usage(lab).1, log_length(lab));
    let began = Instant::now();
    let mut answer = Duration::ZERO;
    let shared = &*lab;
    std::thread::scope(|scope| {
        let flood = scope.spawn(|| flood(shared));
        while !flood.is_finished() {
            let asked = Instant::now();
            shared.leases().unwrap();
            answer = answer.max(asked.elapsed());
            std::thread::sleep(Duration::from_millis(50));
        }
    });
    let lasted = began.elapsed();
    let mut after = usage(lab);
    loop {
        std::thread::sleep(QUIET_TIME);
        let now = usage(lab);
        if now.0.saturating_sub(after.0) < QUIET_WORK || began.elapsed() > QUIET_WITHIN {
            break;
        }
        after.0 = now.0;
    }
    let processor = after.0.saturating_sub(before.0).as_secs_f64() / lasted.as_secs_f64();
    let memory_kib = after.1.saturating_sub(memory);
    Cost { processor, memory_kib, log: log_length(lab) - log, answer }
}

fn assert_bounded(what: &str, cost: &Cost) {
    println!("{what}: {cost:?}");
    assert!(cost.processor < 0.6, "{what}: {cost:?}");
    assert!(cost.memory_kib < 8 * 1024, "{what}: {cost:?}");
    assert!(cost.log < 64 * 1024, "{what}: {cost:?}");
    assert!(cost.answer < Duration::from_secs(1), "{what}: {cost:?}");
}

/// Adds and deletes an address for [`FLOOD`].
fn churn(netns: &Path, address: IpAddr) {
    let IpAddr::V4(address) = address else { panic!("an IPv4 pool") };
    let count = traffic::churn(netns, address, FLOOD).unwrap();
    println!("an address came and went {count} times");
    assert!(count > 1_000, "the flood was too small: {count}");
}

#[test]
fn addresses_that_come_and_go_in_a_strange_namespace_cost_little() {
    let Some(mut lab) = lab(32) else { return };
    let attached = lab.attach_many(30).unwrap();
    let strange = lab.world.pod().unwrap();
    // A search assigns an nsid to the namespace, as `ip netns set` does: from then on its events arrive.
    let name = &strange.name;
    world::run(
        std::process::Command::new("ip").args(["netns", "set", name, "auto"]),
        Some((lab.world.node(), "")),
    )
    .unwrap();
    let path = strange.netns.clone();
    let address = attached[0].address;
    let cost = cost(&mut lab, move |_| churn(&path, address));
    assert_bounded("a strange namespace", &cost);
    assert_eq!(lab.leases().unwrap().len(), 30, "nothing was freed");
}

#[test]
fn a_pod_that_adds_and_deletes_its_own_address_costs_little_and_its_end_is_seen() {
    let Some(mut lab) = lab(8) else { return };
    let pod = lab.world.pod().unwrap();
    let attached = lab.attach(&pod).unwrap();
    let (path, address) = (pod.netns.clone(), attached.address);
    let cost = cost(&mut lab, move |lab| {
        churn(&path, address);
        lab.attach(&lab.world.pod().unwrap()).unwrap();
    });
    assert_bounded("a pod's own address", &cost);
    lab.world.remove(&pod);
    let end = Instant::now() + Duration::from_secs(10);
    while lab.leases().unwrap().iter().any(|row| row.address == attached.address) {
        assert!(Instant::now() < end, "the address of a pod that ended is still held");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Claims these addresses by turns for about [`FLOOD`].
fn claims(stranger: &Stranger, addresses: &[Ipv4Addr], sender: impl Fn(u16) -> Mac) {
    let end = Instant::now() + FLOOD;
    for number in 0_u16.. {
        if Instant::now() > end {
            return;
        }
        let address = addresses[usize::from(number) % addresses.len()];
        stranger.claim(address, sender(number)).unwrap();
        std::thread::sleep(PERIOD);
    }
}

#[test]
fn claims_of_no_station_leave_the_watcher_on_the_wire() {
    let Some(mut lab) = lab(32) else { return };
    let watches = |lab: &Lab| {
        let findings = lab.client().doctor().unwrap();
        findings.into_iter().find(|finding| finding.what.starts_with("watch."))
    };
    let end = Instant::now() + Duration::from_secs(10);
    while watches(&lab).is_none_or(|finding| !finding.ok) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
    let stranger = Stranger::join(&lab.world).unwrap();
    let addresses = lab.addresses.clone();
    let had_watcher = watches(&lab).is_some_and(|finding| finding.ok);
    // The packet socket receives while a round of probes runs: so there are ADDs all the time.
    let cost = cost(&mut lab, move |lab| {
        std::thread::scope(|scope| {
            let flood = scope.spawn(|| claims(&stranger, &addresses[..16], |_| Mac([0; 6])));
            while !flood.is_finished() {
                let pod = lab.world.pod().unwrap();
                lab.attach(&pod).unwrap();
                lab.world.remove(&pod);
            }
        });
    });
    println!("a zero MAC: {cost:?}");
    assert!(cost.answer < Duration::from_secs(1), "{cost:?}");
    if had_watcher {
        let finding = watches(&lab).unwrap();
        assert!(finding.ok, "the watcher left the wire: {}", finding.text);
    }
}

#[test]
fn claims_of_a_pods_address_by_invented_macs_are_told_by_their_number() {
    let Some(mut lab) = lab(8) else { return };
    let attached = lab.attach(&lab.world.pod().unwrap()).unwrap();
    let IpAddr::V4(address) = attached.address else { panic!("an IPv4 pool") };
    let stranger = Stranger::join(&lab.world).unwrap();
    let cost = cost(&mut lab, move |_| {
        claims(&stranger, &[address], |number| {
            let [high, low] = number.to_be_bytes();
            Mac([2, 0, 0, 1, high, low])
        });
    });
    assert_bounded("invented MACs", &cost);
    let events = lab.client().history(attached.address).unwrap();
    let told = events.iter().filter(|event| event.code == "second-holder").count();
    assert!((1..=40).contains(&told), "{told} events");
    assert!(lab.leases().unwrap().iter().any(|row| row.address == attached.address), "it is still held");
}

/// One of a thousand networks, with a separate pool.
fn network_of_its_own(number: u32) -> String {
    let head = |kind: &str| {
        format!(
            "---\napiVersion: berth.dev/v1alpha1\nkind: {kind}\nmetadata:\n  name: many-{number}\nspec:\n"
        )
    };
    let link = format!("  link:\n    type: macvlan\n    parent: {}\n    mode: bridge\n", world::PARENT);
    let prefix = format!("10.{}.{}", 100 + number / 250, number % 250);
    let pool = format!("  subnet: {prefix}.0/24\n  ranges: [{prefix}.10-{prefix}.19]\n");
    format!("{}{link}  pools: [many-{number}]\n{}{pool}", head("UnderlayNetwork"), head("IPPool"))
}

#[test]
fn a_thousand_networks_are_read_again_while_plugins_are_served() {
    let Some(mut lab) = lab(8) else { return };
    let text: String = (0..1_000).map(network_of_its_own).collect();
    lab.setup.write("config/many.yaml", &text).unwrap();
    lab.agent().unwrap().reload();
    let end = Instant::now() + RELOAD_WITHIN;
    let mut longest = Duration::ZERO;
    let taken =
        || std::fs::read_to_string(lab.setup.log()).unwrap().contains("the configuration was taken over");
    while !taken() {
        let asked = Instant::now();
        lab.leases().unwrap();
        longest = longest.max(asked.elapsed());
        assert!(Instant::now() < end, "the edit was never taken over");
        std::thread::sleep(Duration::from_millis(20));
    }
    let asked = Instant::now();
    lab.attach(&lab.world.pod().unwrap()).unwrap();
    println!("a thousand networks: a client waited {longest:?}, an ADD took {:?}", asked.elapsed());
    assert!(longest < Duration::from_secs(1), "a client waited {longest:?} for an answer");
}
