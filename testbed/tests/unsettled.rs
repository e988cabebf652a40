//! Addresses that the evidence leaves in use: each has an end, and is seen until then.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it by panicking")]

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use berth_testbed::cleanup::Process;
use berth_testbed::client::Finding;
use berth_testbed::declare::{Families, NETWORK};
use berth_testbed::lab::{Attachment, Lab, Options};
use berth_testbed::skip;
use berth_testbed::world;

const SOON: Duration = Duration::from_secs(10);

fn prepared() -> Option<Lab> {
    let options = Options::of_tests(1.0)?;
    Some(Lab::prepare(&options, 4, "", Families::V4).unwrap())
}

fn eventually(mut is_so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + SOON;
    while Instant::now() < end {
        if is_so() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

fn is_free(lab: &Lab, attachment: &Attachment) -> bool {
    lab.leases().unwrap().iter().all(|row| row.address != attachment.address)
}

fn reason(lab: &Lab, attachment: &Attachment) -> Option<String> {
    let rows = lab.leases().unwrap();
    rows.into_iter().find(|row| row.address == attachment.address).map(|row| row.reason)
}

fn finding(lab: &Lab, what: &str) -> Option<Finding> {
    lab.client().doctor().unwrap().into_iter().find(|found| found.what == what)
}

/// True if the agent's programs run; they are loaded aside.
fn has_rung(lab: &Lab) -> bool {
    let mut rung = None;
    eventually(|| {
        rung = finding(lab, "rung.ebpf");
        rung.as_ref().is_some_and(|found| !found.text.contains("being loaded"))
    });
    let ok = rung.as_ref().is_some_and(|found| found.ok);
    if !ok {
        skip::because(&format!("this agent has no rung here: {rung:?}"));
    }
    ok
}

/// A process of the pod in a new namespace, which ends with it, and that namespace.
fn child_namespace(attachment: &Attachment) -> (Process, PathBuf) {
    let mut command = Command::new("unshare");
    command.args(["--net", "sleep", "600"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = world::start(&mut command, Some(&attachment.pod.netns)).unwrap();
    let namespace = PathBuf::from(format!("/proc/{}/ns/net", child.pid()));
    let comm = PathBuf::from(format!("/proc/{}/comm", child.pid()));
    assert!(eventually(|| std::fs::read_to_string(&comm).is_ok_and(|name| name == "sleep\n")));
    (child, namespace)
}

/// A pod's root moves the interface into a child namespace, uses it there, and ends that namespace, all while
/// the agent is stopped, so that no search finds it.
fn move_and_end(lab: &mut Lab, attachment: &Attachment) {
    lab.agent().unwrap().pause();
    let (child, namespace) = child_namespace(attachment);
    world::ip(&attachment.pod.netns, &format!("link set eth0 netns {}\n", child.pid())).unwrap();
    world::ip(&namespace, "link set eth0 up\n").unwrap();
    drop(child);
    assert!(eventually(|| !namespace.exists()));
    lab.agent().unwrap().resume();
}

#[test]
fn an_interface_that_moved_out_of_sight_is_followed_to_its_end_by_the_programs() {
    let Some(mut lab) = prepared() else { return };
    lab.start_agent(None).unwrap();
    if !has_rung(&lab) {
        return;
    }
    // The namespace of the pod stays alive, and the pod is still wanted.
    let living = lab.attach(&lab.world.pod().unwrap()).unwrap();
    move_and_end(&mut lab, &living);
    assert!(eventually(|| is_free(&lab, &living)), "{:?}", reason(&lab, &living));
    // Its end comes by a DEL, then by the end of its namespace alone.
    let deleted = lab.attach(&lab.world.pod().unwrap()).unwrap();
    move_and_end(&mut lab, &deleted);
    lab.detach(&deleted.pod).unwrap().expect_success().unwrap();
    assert!(eventually(|| is_free(&lab, &deleted)), "{:?}", reason(&lab, &deleted));
    let ended = lab.attach(&lab.world.pod().unwrap()).unwrap();
    move_and_end(&mut lab, &ended);
    lab.world.remove(&ended.pod);
    assert!(eventually(|| is_free(&lab, &ended)), "{:?}", reason(&lab, &ended));
}

#[test]
fn a_link_that_left_and_ended_while_no_agent_ran_is_told_by_the_programs_that_were_left() {
    let Some(mut lab) = prepared() else { return };
    lab.start_agent(None).unwrap();
    if !has_rung(&lab) || !finding(&lab, "ebpf.pins").is_some_and(|found| found.ok) {
        return;
    }
    let moved = lab.attach(&lab.world.pod().unwrap()).unwrap();
    lab.stop_agent().unwrap();
    let (child, namespace) = child_namespace(&moved);
    world::ip(&moved.pod.netns, &format!("link set eth0 netns {}\n", child.pid())).unwrap();
    world::ip(&namespace, "link set eth0 up\n").unwrap();
    drop(child);
    lab.start_agent(None).unwrap();
    assert!(eventually(|| is_free(&lab, &moved)), "{:?}", reason(&lab, &moved));
}

#[test]
fn holders_of_a_network_that_is_not_declared_after_a_restart_are_listed_and_their_dels_work() {
    let Some(mut lab) = prepared() else { return };
    lab.start_agent(None).unwrap();
    let kept = lab.attach(&lab.world.pod().unwrap()).unwrap();
    lab.stop_agent().unwrap();
    let path = lab.setup.config().join("lan.yaml");
    let declared = std::fs::read_to_string(&path).unwrap();
    let other = declared.replacen(&format!("name: {NETWORK}\n"), "name: other\n", 1);
    assert_ne!(other, declared);
    std::fs::write(&path, other).unwrap();
    lab.start_agent(None).unwrap();
    assert!(eventually(|| reason(&lab, &kept).as_deref() == Some("bound")), "{:?}", reason(&lab, &kept));
    let found = finding(&lab, "network.lan").unwrap();
    assert!(!found.ok && found.text.contains(&kept.address.to_string()), "{found:?}");
    lab.detach(&kept.pod).unwrap().expect_success().unwrap();
    assert!(eventually(|| is_free(&lab, &kept)), "{:?}", reason(&lab, &kept));
    assert_eq!(finding(&lab, "network.lan"), None);
}

#[test]
fn a_record_of_another_machine_is_named_with_what_to_do_and_a_forced_release_ends_it() {
    let Some(mut lab) = prepared() else { return };
    lab.start_agent(None).unwrap();
    let [living, dead, deleted] = [(); 3].map(|()| lab.attach(&lab.world.pod().unwrap()).unwrap());
    lab.stop_agent().unwrap();
    lab.world.remove(&dead.pod);
    lab.setup.machine(2).unwrap();
    lab.start_agent(None).unwrap();
    lab.detach(&deleted.pod).unwrap().expect_success().unwrap();
    let release = |attachment: &Attachment, force: &[&str]| {
        let mut command = Command::new(std::env::var("BERTH_BIN_DIR").unwrap() + "/berthctl");
        command.arg("--socket").arg(lab.setup.socket()).arg("release").args(force);
        let output = command.arg(attachment.address.to_string()).output().unwrap();
        (output.status.success(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
    };
    for attachment in [&living, &dead, &deleted] {
        assert!(eventually(|| reason(&lab, attachment).as_deref() == Some("other-machine")));
        let to_do = lab.client().to_do(attachment.address).unwrap();
        assert!(to_do.is_some_and(|text| text.contains("release --force")));
        let (done, text) = release(attachment, &[]);
        assert!(!done && text.contains("other-machine") && text.contains("--force"), "{text}");
        let (done, text) = release(attachment, &["--force"]);
        assert!(done, "{text}");
    }
    // Its interface is found, and keeps the address.
    assert!(eventually(|| is_free(&lab, &dead) && is_free(&lab, &deleted)));
    assert!(!is_free(&lab, &living), "an interface has it");
    lab.world.remove(&living.pod);
    assert!(eventually(|| is_free(&lab, &living)), "{:?}", reason(&lab, &living));
}
