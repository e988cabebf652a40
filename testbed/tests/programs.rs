//! The agent with its programs in the kernel, without them, and with them taken away.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it by panicking")]

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use berth_testbed::client::Finding;
use berth_testbed::declare::Families;
use berth_testbed::lab::{Attachment, Lab, Options};
use berth_testbed::skip;
use berth_testbed::stranger::Stranger;

const SOON: Duration = Duration::from_secs(10);

/// A lab without a started agent.
fn prepared() -> Option<Lab> {
    let options = Options::of_tests(1.0)?;
    Some(Lab::prepare(&options, 8, "", Families::V4).unwrap())
}

/// The agent's finding of that name, once its state is `ok` (or not).
fn finding(lab: &Lab, what: &str, ok: bool) -> Finding {
    let end = Instant::now() + SOON;
    loop {
        let found = lab.client().doctor().unwrap().into_iter().find(|finding| finding.what == what);
        let loading = found.as_ref().is_some_and(|found| found.text.contains("being loaded"));
        if let Some(found) = found
            && ((found.ok == ok && !loading) || Instant::now() > end)
        {
            return found;
        }
        assert!(Instant::now() < end, "doctor never reported {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// True if this kernel accepts programs at all; else the test is skipped.
fn has_rung(lab: &Lab) -> bool {
    let rung = finding(lab, "rung.ebpf", true);
    if !rung.ok {
        skip::because(&format!("this agent has no rung here: {}", rung.text));
    }
    rung.ok
}

/// Waits until the addresses are free.
fn freed(lab: &Lab, pods: &[Attachment]) -> bool {
    let end = Instant::now() + SOON;
    while Instant::now() < end {
        let held = lab.leases().unwrap();
        if !pods.iter().any(|pod| held.iter().any(|row| row.address == pod.address)) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

fn told(lab: &Lab, address: IpAddr, code: &str) -> Option<String> {
    let history = lab.client().history(address).unwrap();
    history.into_iter().rfind(|event| event.code == code).map(|event| event.text)
}

#[test]
fn what_ends_while_no_agent_runs_is_told_by_the_programs_that_it_left_behind() {
    let Some(mut lab) = prepared() else { return };
    lab.start_agent(None).unwrap();
    if !has_rung(&lab) {
        return;
    }
    assert!(finding(&lab, "ebpf.pins", true).ok, "{:?}", finding(&lab, "ebpf.pins", true));
    let pods = lab.attach_many(3).unwrap();
    lab.stop_agent().unwrap();
    let before = emitted(&lab);
    for pod in &pods {
        lab.world.remove(&pod.pod);
    }
    let end = Instant::now() + SOON;
    while emitted(&lab) < before.map(|count| count + 3) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(emitted(&lab) >= before.map(|count| count + 3), "no program was at work without an agent");
    lab.start_agent(None).unwrap();
    assert!(freed(&lab, &pods));
}

/// Number of events that the programs put into the ring, from the pinned counters; `None` without bpftool.
fn emitted(lab: &Lab) -> Option<u64> {
    const EMITTED: u64 = 4;
    let map = lab.setup.bpffs.join("v1/COUNTERS");
    Command::new("bpftool").arg("version").output().ok()?;
    let rows: serde_json::Value =
        serde_json::from_str(&bpftool(&["--json", "map", "dump", "pinned", map.to_str()?])).unwrap();
    let row = rows.as_array()?.iter().find(|row| row["formatted"]["key"] == EMITTED)?;
    let values = row["formatted"]["values"].as_array()?;
    Some(values.iter().filter_map(|value| value["value"].as_u64()).sum())
}

#[test]
fn an_object_that_is_none_or_of_another_version_costs_time_and_nothing_else() {
    let Some(mut lab) = prepared() else { return };
    let path = lab.setup.folder.join("other.o");
    std::fs::write(&path, b"not an object").unwrap();
    for object in [path, PathBuf::from("/nonexistent/berth.o")] {
        lab.setup.object = Some(object);
        lab.start_agent(None).unwrap();
        let rung = finding(&lab, "rung.ebpf", false);
        assert!(!rung.ok && rung.text.contains("stand in"), "{rung:?}");
        assert!(rung.text.contains("object"), "{rung:?}");
        let pod = lab.attach(&lab.world.pod().unwrap()).unwrap();
        lab.world.remove(&pod.pod);
        assert!(freed(&lab, std::slice::from_ref(&pod)));
        assert!(told(&lab, pod.address, "netns-gone").unwrap().ends_with("first told by netlink"));
        lab.stop_agent().unwrap();
    }
}

#[test]
fn without_a_bpf_file_system_programs_run_unpinned_and_that_is_said() {
    let Some(mut lab) = prepared() else { return };
    lab.setup.bpffs = lab.setup.folder.join("plain");
    lab.start_agent(None).unwrap();
    if !has_rung(&lab) {
        return;
    }
    let pins = finding(&lab, "ebpf.pins", false);
    assert!(!pins.ok && pins.text.contains("mount -t bpf"), "{pins:?}");
    let pod = lab.attach(&lab.world.pod().unwrap()).unwrap();
    lab.world.remove(&pod.pod);
    assert!(freed(&lab, std::slice::from_ref(&pod)));
    lab.stop_agent().unwrap();
    lab.start_agent(None).unwrap();
    assert!(has_rung(&lab), "and again after a restart");
}

#[test]
fn no_rung_means_no_program_not_even_a_former_agents_and_a_socket_that_listens() {
    let Some(mut lab) = prepared() else { return };
    lab.start_agent(None).unwrap();
    let pinned = has_rung(&lab) && finding(&lab, "ebpf.pins", true).ok;
    lab.stop_agent().unwrap();
    assert_eq!(lab.setup.bpffs.join("v1").exists(), pinned);
    lab.setup.rung = Some("none".to_owned());
    lab.start_agent(None).unwrap();
    let rung = finding(&lab, "rung.ebpf", false);
    assert!(rung.text.starts_with("switched off by --rung none"), "{rung:?}");
    assert!(!lab.client().doctor().unwrap().iter().any(|finding| finding.what.starts_with("watch.")));
    assert!(!lab.setup.bpffs.join("v1").exists(), "what was pinned is gone");
    let pid = lab.agent().unwrap().pid();
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let targets: Vec<_> = descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect();
    let bpf = targets.iter().any(|target| target.to_string_lossy().contains("bpf"));
    assert!(!bpf, "{targets:?}");
    // A neighbour's unsolicited announcement is received in spite of that.
    let stranger = Stranger::join(&lab.world).unwrap();
    let address = IpAddr::V4(lab.addresses[0]);
    let end = Instant::now() + SOON;
    while told(&lab, address, "quarantined").is_none() && Instant::now() < end {
        stranger.announce(address).unwrap();
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(told(&lab, address, "quarantined").is_some());
}

#[test]
fn a_watcher_that_somebody_takes_away_sits_down_again() {
    let Some(mut lab) = prepared() else { return };
    lab.start_agent(None).unwrap();
    if !has_rung(&lab) || !finding(&lab, "watch.eth1", true).ok {
        return;
    }
    let shown = bpftool(&["--json", "link", "show"]);
    let links: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let pid = lab.agent().unwrap().pid();
    let mine = program_ids(pid);
    let seats: Vec<u64> = links
        .as_array()
        .unwrap()
        .iter()
        .filter(|link| mine.contains(&link["prog_id"].as_u64().unwrap_or(0)))
        // A bpftool that is older than these links prints their number.
        .filter(|link| link["type"] == "tcx" || link["type"] == 11)
        .filter_map(|link| link["id"].as_u64())
        .collect();
    let detached = seats.iter().filter(|id| {
        let arguments = ["link", "detach", "id", &id.to_string()].map(str::to_owned);
        Command::new("bpftool").args(arguments).status().is_ok_and(|status| status.success())
    });
    if detached.count() == 0 {
        return skip::because("this bpftool finds or detaches no tcx link");
    }
    let stranger = Stranger::join(&lab.world).unwrap();
    let address = IpAddr::V4(lab.addresses[0]);
    let end = Instant::now() + Duration::from_secs(20);
    let heard = || lab.client().hits(address).unwrap().unwrap_or(0) > 0;
    while !heard() && Instant::now() < end {
        stranger.announce(address).unwrap();
        std::thread::sleep(Duration::from_millis(100));
    }
    assert!(heard(), "{:?}", finding(&lab, "watch.eth1", true));
}

/// The programs of which a process holds a descriptor.
fn program_ids(pid: u32) -> Vec<u64> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fdinfo")).unwrap().flatten();
    let id = |entry: std::fs::DirEntry| {
        let text = std::fs::read_to_string(entry.path()).ok()?;
        text.lines().find_map(|line| line.strip_prefix("prog_id:")?.trim().parse().ok())
    };
    entries.filter_map(id).collect()
}

#[test]
fn a_parent_that_comes_back_is_watched_again_and_so_are_its_addresses() {
    let Some(mut lab) = prepared() else { return };
    lab.start_agent(None).unwrap();
    if !has_rung(&lab) || !finding(&lab, "watch.eth1", true).ok {
        return;
    }
    let stranger = Stranger::join(&lab.world).unwrap();
    // Received on the first device, and on the one that replaces it.
    for index in [0, 1] {
        let address = IpAddr::V4(lab.addresses[index]);
        let end = Instant::now() + SOON;
        let heard = || lab.client().hits(address).unwrap().unwrap_or(0) > 0;
        while !heard() && Instant::now() < end {
            stranger.announce(address).unwrap();
            std::thread::sleep(Duration::from_millis(50));
        }
        assert!(heard(), "{address} was not heard on device {index}");
        if index == 0 {
            lab.world.replace_parent().unwrap();
        }
    }
}

/// Runs bpftool; its standard output.
fn bpftool(arguments: &[&str]) -> String {
    let output = Command::new("bpftool").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn an_end_that_no_program_told_of_is_an_event_and_the_rung_is_proved_again() {
    let Some(mut lab) = prepared() else { return };
    lab.start_agent(None).unwrap();
    if !has_rung(&lab) {
        return;
    }
    let map = lab.setup.bpffs.join("v1/ATTACH");
    if Command::new("bpftool").arg("version").output().is_err() || !map.exists() {
        return skip::because("needs the Debian package bpftool, and pins");
    }
    let map = map.to_str().unwrap();
    let pod = lab.attach(&lab.world.pod().unwrap()).unwrap();
    let rows: serde_json::Value =
        serde_json::from_str(&bpftool(&["--json", "map", "dump", "pinned", map])).unwrap();
    let bytes = |part: &str| -> Vec<String> {
        let row = rows.as_array().unwrap().last().unwrap();
        row[part].as_array().unwrap().iter().map(|byte| byte.as_str().unwrap()[2..].to_owned()).collect()
    };
    let (key, value) = (bytes("key"), bytes("value"));
    // As if the program did not exist: it follows no attachment, sends no event, and removes no entry.
    let mut delete = vec!["map", "delete", "pinned", map, "key", "hex"];
    delete.extend(key.iter().map(String::as_str));
    bpftool(&delete);
    lab.world.remove(&pod.pod);
    assert!(freed(&lab, std::slice::from_ref(&pod)));
    let mut update = vec!["map", "update", "pinned", map, "key", "hex"];
    update.extend(key.iter().map(String::as_str));
    update.extend(["value", "hex"]);
    update.extend(value.iter().map(String::as_str));
    // The teardown itself comes a little after the address is free.
    std::thread::sleep(Duration::from_millis(300));
    bpftool(&update);
    let end = Instant::now() + SOON;
    while told(&lab, pod.address, "sources-disagree").is_none() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
    let event = told(&lab, pod.address, "sources-disagree").expect("no event");
    assert!(event.contains("proved again"), "{event}");
    assert!(finding(&lab, "rung.ebpf", true).ok, "the proof is valid");
}
