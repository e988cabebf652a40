//! The agent as a process: privileges, signals, its socket and its files.

use std::time::{Duration, Instant};

use berth_testbed::lab::{Lab, Options};

/// Capabilities that the agent may keep (see `berthctl doctor`): bits of `CAP_DAC_READ_SEARCH`,
/// `CAP_NET_BROADCAST`, `CAP_NET_ADMIN`, `CAP_NET_RAW`, `CAP_SYS_PTRACE`, `CAP_SYS_ADMIN`, `CAP_SYSLOG`,
/// `CAP_PERFMON` and `CAP_BPF`.
const KEPT: u64 = 1 << 2 | 1 << 11 | 1 << 12 | 1 << 13 | 1 << 19 | 1 << 21 | 1 << 34 | 1 << 38 | 1 << 39;

fn options() -> Option<Options> {
    Options::of_tests(1.0)
}

/// Waits until the end of the log contains these words.
fn says(lab: &mut Lab, words: &str) -> bool {
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        if lab.agent().is_ok_and(|agent| agent.log_end().contains(words)) {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

#[test]
fn every_thread_has_given_up_the_other_capabilities() {
    let Some(options) = options() else { return };
    let mut lab = Lab::start(&options, 4, "").unwrap();
    lab.attach(&lab.world.pod().unwrap()).unwrap();
    let pid = lab.agent().unwrap().pid();
    let mut threads = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        // A thread that ended meanwhile holds nothing.
        let Ok(status) = std::fs::read_to_string(task.path().join("status")) else { continue };
        threads += 1;
        for (set, most) in
            [("CapInh", 0), ("CapPrm", KEPT), ("CapEff", KEPT), ("CapBnd", KEPT), ("CapAmb", 0)]
        {
            let line = status.lines().find(|line| line.starts_with(set)).unwrap();
            let held = u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
            assert_eq!(held & !most, 0, "{set} {held:x} of thread {:?}", task.file_name());
        }
    }
    assert!(threads >= 4, "main loop, observer, committer and a wire at least, seen {threads}");
}

#[test]
fn an_edit_that_would_drop_an_address_in_use_is_refused_and_a_good_one_is_taken() {
    let Some(options) = options() else { return };
    let mut lab = Lab::start(&options, 4, "").unwrap();
    let pod = lab.attach(&lab.world.pod().unwrap()).unwrap();
    let path = lab.setup.config().join("lan.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let exclude = |address: &str| format!("{text}  exclude: [{address}]\n");

    std::fs::write(&path, exclude(&pod.address.to_string())).unwrap();
    lab.agent().unwrap().reload();
    assert!(says(&mut lab, &format!("would drop {}", pod.address)), "{}", lab.agent().unwrap().log_end());
    assert!(says(&mut lab, pod.pod.container_id.as_str()), "the holder is named");

    let free = lab.addresses.iter().find(|address| std::net::IpAddr::V4(**address) != pod.address).unwrap();
    std::fs::write(&path, exclude(&free.to_string())).unwrap();
    let free = std::net::IpAddr::V4(*free);
    lab.agent().unwrap().reload();
    assert!(says(&mut lab, "the configuration was taken over"), "{}", lab.agent().unwrap().log_end());
    let refused = lab.attach_at(&lab.world.pod().unwrap(), free);
    assert!(refused.is_err(), "{free} is excluded now: {refused:?}");
    assert!(
        lab.leases().unwrap().iter().any(|row| row.address == pod.address),
        "the first pod kept its address"
    );
}

#[test]
fn a_live_socket_is_refused_a_stale_one_replaced_and_sigterm_ends_cleanly() {
    let Some(options) = options() else { return };
    let mut lab = Lab::start(&options, 4, "").unwrap();
    let pod = lab.attach(&lab.world.pod().unwrap()).unwrap();
    let mut second = lab.setup.start(None).unwrap();
    assert!(second.wait_end(Duration::from_secs(5)).unwrap(), "a second agent runs next to the first");
    assert!(lab.agent().unwrap().runs(), "the first one continues");
    lab.kill_agent();
    assert!(lab.setup.socket().exists(), "kill -9 leaves the socket behind");
    lab.start_agent(None).unwrap();
    assert!(lab.leases().unwrap().iter().any(|row| row.address == pod.address));
    lab.stop_agent().unwrap();
    assert!(!lab.setup.socket().exists(), "SIGTERM removes the socket");
}
