//! F: what kubelet and containerd were seen to do to a plugin, row by row of what was provoked.
//!
//! Nobody of them runs here: each test makes the calls that they made, in that order.

use serde_json::json;

use super::traps::OVERLAP;
use super::{Kind, Row};
use crate::cleanup;
use crate::conformance::answer::{Answer, Play, Stop, holds};
use crate::conformance::stage::Stage;
use crate::plugin::Call;
use crate::world::Pod;

/// Those that are about ADD.
pub const ADD: &[Row] = &[
    row(
        "F1",
        "f1_kubelet_killed_during_add",
        "kubelet killed during ADD: plugin SIGKILLed, DEL without `prevResult`, ADD with a new container id",
        f1_kubelet_killed_during_add,
    ),
    row(
        "F2",
        "f2_containerd_killed_during_add",
        "containerd killed during ADD: the orphan completes, DEL without `prevResult`, ADD with a new container id",
        f2_containerd_killed_during_add,
    ),
    row(
        "F3",
        "f3_containerd_and_shims_killed",
        "containerd and shims killed: DEL (namespace, `prevResult`), ADD of the same pod 50 ms later",
        f3_containerd_and_shims_killed,
    ),
    row(
        "F4",
        "f4_pause_killed",
        "pause killed: DEL, ADD with a new container id 50 ms later, same uid",
        f4_pause_killed,
    ),
    row(
        "F5",
        "f5_add_fails_and_its_del_comes_at_once",
        "ADD fails: DEL of it at once (namespace, no `prevResult`), then a new container id",
        f5_add_fails_and_its_del_comes_at_once,
    ),
    row(
        "F6",
        "f6_add_fails_and_its_del_is_lost",
        "ADD fails and its DEL fails: never another DEL; the address must come back",
        f6_add_fails_and_its_del_is_lost,
    ),
    row(
        "F7",
        "f7_add_hangs_and_is_killed",
        "ADD hangs: SIGKILL, DEL at once, a new ADD later",
        f7_add_hangs_and_is_killed,
    ),
];

/// Those that are about DEL, and STATUS.
pub const DEL: &[Row] = &[
    row(
        "F8",
        "f8_del_fails_and_is_repeated",
        "DEL fails: again after 0.8 s, then every 10 s without end",
        f8_del_fails_and_is_repeated,
    ),
    row(
        "F9",
        "f9_two_empty_dels_follow",
        "after the DEL that succeeds, two more with an empty namespace and no `prevResult`",
        f9_two_empty_dels_follow,
    ),
    caller(
        "F10",
        "f10_the_binary_is_absent_at_delete",
        "the plugin's binary is absent at delete: repeated until it is there",
        f10_the_binary_is_absent_at_delete,
    ),
    caller(
        "F11",
        "f11_the_configuration_is_absent_at_delete",
        "the conflist is absent at delete: no call until it is there",
        f11_the_configuration_is_absent_at_delete,
    ),
    row(
        "F12",
        "f12_forced_deletion_leaves_the_process_a_while",
        "delete --force: the process and its address live 2 s more, then DEL",
        f12_forced_deletion_leaves_the_process_a_while,
    ),
    row(
        "F13",
        "f13_kubelet_killed_during_del",
        "kubelet killed during DEL: plugin SIGKILLed; DEL (namespace, `prevResult`) again",
        f13_kubelet_killed_during_del,
    ),
    caller(
        "F14",
        "f14_kubelet_down_while_the_pod_is_deleted",
        "kubelet down, pod deleted by force, kubelet up: DEL 2.4 s after its start",
        f14_kubelet_down_while_the_pod_is_deleted,
    ),
    row(
        "F15",
        "f15_two_dels_of_one_container_at_once",
        "containerd killed during DEL: two DELs of one container at once",
        f15_two_dels_of_one_container_at_once,
    ),
    row(
        "F16",
        "f16_del_hangs_and_is_killed",
        "DEL hangs: SIGKILL, DEL again at once",
        f16_del_hangs_and_is_killed,
    ),
    row(
        "F17",
        "f17_the_namespace_file_is_removed_first",
        "namespace file removed before delete: the first DEL has an empty namespace and `prevResult`",
        f17_the_namespace_file_is_removed_first,
    ),
    row(
        "F18",
        "f18_reboot_deletes_old_sandboxes_late",
        "reboot: DEL of each old sandbox with an empty namespace, ADD of the same pod right after",
        f18_reboot_deletes_old_sandboxes_late,
    ),
    caller(
        "F19",
        "f19_status_fails_and_recovers",
        "STATUS fails: NotReady 14 s later, Ready 13 s after it is well",
        f19_status_fails_and_recovers,
    ),
];

const fn row(
    id: &'static str,
    test: &'static str,
    meaning: &'static str,
    play: fn(&mut Stage) -> Play,
) -> Row {
    Row { id, test, meaning, kind: Kind::Plugin, play }
}

const fn caller(
    id: &'static str,
    test: &'static str,
    meaning: &'static str,
    play: fn(&mut Stage) -> Play,
) -> Row {
    Row { id, test, meaning, kind: Kind::Caller, play }
}

/// A call that dies at a fault point.
fn dying(call: Call, point: &str) -> Call {
    call.variable(berth_protocol::fault::VARIABLE, point)
}

/// Goes on only if the plugin can be killed at a certain point.
fn can_be_stopped(stage: &Stage) -> Play {
    stage.needs_berth("it cannot be stopped half-way at a certain point")
}

/// A call that was killed.
fn killed(answer: &Answer) -> Play {
    answer.holds(answer.outcome.signal == Some(libc::SIGKILL), "was not killed")
}

/// DEL with an empty namespace and without `prevResult`, as from kubelet's garbage collector.
fn empty_del(stage: &Stage, pod: &Pod) -> Play {
    let call = stage.call("DEL", &stage.config(), pod).variable("CNI_NETNS", "");
    stage.ask("DEL with an empty namespace", &call)?.silent()
}

/// A new sandbox of the pod is attached, and keeps its address through the old one's late DELs.
fn next_sandbox(stage: &mut Stage, old: &Pod) -> Play {
    let new = Pod { uid: old.uid.clone(), ..stage.pod()? };
    let result = stage.add(&new)?;
    empty_del(stage, old)?;
    empty_del(stage, old)?;
    stage.keeps(&new, &result, "late DELs of the old sandbox harmed the new one")
}

fn f1_kubelet_killed_during_add(stage: &mut Stage) -> Play {
    can_be_stopped(stage)?;
    for point in ["add.leased", "add.link-created", "add.bound", "add.configured"] {
        let pod = stage.pod_of("u-f1")?;
        let call = dying(stage.call("ADD", &stage.config(), &pod), point);
        killed(&stage.ask("ADD killed half-way", &call)?)?;
        stage.del(&pod)?;
        stage.nothing_left(&pod, "DEL after a killed ADD leaves something")?;
        next_sandbox(stage, &pod)?;
    }
    Ok(())
}

fn f2_containerd_killed_during_add(stage: &mut Stage) -> Play {
    let pod = stage.pod_of("u-f2")?;
    stage.add(&pod)?;
    stage.del(&pod)?;
    stage.nothing_left(&pod, "DEL of an orphaned ADD leaves something")?;
    next_sandbox(stage, &pod)
}

fn f3_containerd_and_shims_killed(stage: &mut Stage) -> Play {
    let (pod, mut config) = (stage.pod_of("u-f3")?, stage.config());
    config["prevResult"] = stage.add(&pod)?;
    stage.del_with(&config, &pod)?;
    cleanup::pause(OVERLAP)?;
    next_sandbox(stage, &pod)?;
    stage.nothing_left(&pod, "DEL leaves something")
}

fn f4_pause_killed(stage: &mut Stage) -> Play {
    let (pod, mut config) = (stage.pod_of("u-f4")?, stage.tight());
    config["prevResult"] = stage.add_with(&config, &pod)?;
    let last = addresses(&config);
    stage.del_with(&config, &pod)?;
    let new = stage.pod_of("u-f4")?;
    // The pool held this pod alone, so the new sandbox can only get what the old one had.
    let result = stage.add_with(&stage.tight(), &new)?;
    let got = crate::conformance::stage::addresses_of(&result);
    holds(got.iter().any(|address| last.contains(address)), "the freed address is not given again", &got)?;
    stage.keeps(&new, &result, "the new sandbox has no address")
}

fn addresses(config: &serde_json::Value) -> Vec<std::net::IpAddr> {
    crate::conformance::stage::addresses_of(&config["prevResult"])
}

fn f5_add_fails_and_its_del_comes_at_once(stage: &mut Stage) -> Play {
    let (holder, config) = (stage.pod()?, stage.tight());
    let kept = stage.add_with(&config, &holder)?;
    for _ in 0..2 {
        let pod = stage.pod_of("u-f5")?;
        stage.ask("ADD to a full pool", &stage.call("ADD", &config, &pod))?.refused(&[])?;
        stage.ask("DEL of a failed ADD", &stage.call("DEL", &config, &pod))?.silent()?;
        stage.nothing_left(&pod, "a failed ADD leaves something")?;
        stage.world.remove(&pod);
    }
    stage.keeps(&holder, &kept, "failing ADDs harmed the holder")
}

fn f6_add_fails_and_its_del_is_lost(stage: &mut Stage) -> Play {
    let pod = stage.pod()?;
    if stage.subject.is_berth() {
        let call = dying(stage.call("ADD", &stage.config(), &pod), "add.configured");
        killed(&stage.ask("ADD killed half-way", &call)?)?;
    } else {
        // A later plugin of the chain fails.
        stage.add(&pod)?;
    }
    stage.world.remove(&pod);
    stage.freed(&pod, "an ADD whose DEL is lost holds its address for ever")
}

fn f7_add_hangs_and_is_killed(stage: &mut Stage) -> Play {
    stage.needs_berth("its ADD waits for nothing that could be held up")?;
    let (holder, pod, mut config) = (stage.pod()?, stage.pod()?, stage.tight());
    stage.add_with(&config, &holder)?;
    config["addTimeout"] = json!("20s");
    let mut hanging = stage.start(&stage.call("ADD", &config, &pod))?;
    cleanup::pause(OVERLAP)?;
    holds(hanging.runs(), "ADD to a full pool does not wait", &())?;
    hanging.kill();
    stage.del_with(&config, &pod)?;
    stage.del_with(&config, &holder)?;
    stage.freed(&holder, "DEL frees nothing")?;
    // Had the killed ADD stayed in line, the address would be its own now.
    let next = stage.pod()?;
    let result = stage.add_with(&config, &next)?;
    stage.keeps(&next, &result, "the next ADD has no address")?;
    stage.nothing_left(&pod, "a killed ADD was served")
}

fn f8_del_fails_and_is_repeated(stage: &mut Stage) -> Play {
    let (pod, config) = (stage.pod()?, stage.config());
    stage.add(&pod)?;
    let failing = if stage.subject.has_agent() {
        let mut broken = config.clone();
        let place = if stage.subject.is_berth() { &mut broken } else { &mut broken["ipam"] };
        place["socket"] = json!("/proc/no-agent.sock");
        place["stateDir"] = json!("/proc/no-spool");
        // Without a namespace to look into, it cannot see the link gone.
        stage.call("DEL", &broken, &pod).variable("CNI_NETNS", "")
    } else {
        stage.call("DEL", &config, &pod).variable("CNI_PATH", &stage.world.folder().to_string_lossy())
    };
    for _ in 0..3 {
        stage.ask("DEL that fails", &failing)?.refused(&[])?;
    }
    stage.del(&pod)?;
    stage.nothing_left(&pod, "DEL after failed ones leaves something")
}

fn f9_two_empty_dels_follow(stage: &mut Stage) -> Play {
    let (pod, mut config) = (stage.pod()?, stage.config());
    config["prevResult"] = stage.add(&pod)?;
    stage.del_with(&config, &pod)?;
    stage.world.remove(&pod);
    let other = stage.pod()?;
    let result = stage.add(&other)?;
    empty_del(stage, &pod)?;
    empty_del(stage, &pod)?;
    stage.keeps(&other, &result, "late empty DELs harmed another pod")?;
    stage.freed(&pod, "three DELs leave something")
}

fn f10_the_binary_is_absent_at_delete(stage: &mut Stage) -> Play {
    let (pod, mut config) = (stage.pod()?, stage.config());
    let result = stage.add(&pod)?;
    config["prevResult"] = result.clone();
    let absent = crate::plugin::Plugin { binary: "/nonexistent/plugin".into(), ..stage.plugin.clone() };
    for _ in 0..3 {
        let failed = absent.run(&stage.call("DEL", &config, &pod));
        holds(failed.is_err(), "a call of a binary that is not there succeeds", &failed)?;
        stage.keeps(&pod, &result, "a DEL that never ran freed the address")?;
    }
    stage.del_with(&config, &pod)?;
    stage.nothing_left(&pod, "DEL leaves something")
}

fn f11_the_configuration_is_absent_at_delete(stage: &mut Stage) -> Play {
    let (pod, mut config) = (stage.pod()?, stage.config());
    let result = stage.add(&pod)?;
    cleanup::pause(OVERLAP)?;
    stage.keeps(&pod, &result, "an attachment that nobody deletes was freed")?;
    config["prevResult"] = result;
    stage.del_with(&config, &pod)?;
    stage.nothing_left(&pod, "DEL leaves something")
}

fn f12_forced_deletion_leaves_the_process_a_while(stage: &mut Stage) -> Play {
    let (pod, config) = (stage.pod_of("u-f12")?, stage.config());
    let result = stage.add(&pod)?;
    let mut process = stage.world.inhabit(&pod)?;
    let another = stage.pod_of("u-f12")?;
    let second = stage.add(&another)?;
    stage.keeps(&pod, &result, "the address of a process that lives on was given away")?;
    process.kill();
    stage.del_with(&config, &pod)?;
    stage.nothing_left(&pod, "DEL leaves something")?;
    stage.keeps(&another, &second, "DEL of the old sandbox harmed the new one")
}

fn f13_kubelet_killed_during_del(stage: &mut Stage) -> Play {
    can_be_stopped(stage)?;
    for point in berth_protocol::fault::PLUGIN_DEL_POINTS {
        let (pod, mut config) = (stage.pod()?, stage.config());
        config["prevResult"] = stage.add(&pod)?;
        let call = stage.call("DEL", &config, &pod);
        killed(&stage.ask("DEL killed half-way", &dying(call.clone(), point))?)?;
        stage.ask("DEL after a killed one", &call)?.silent()?;
        stage.nothing_left(&pod, "DEL after a killed one leaves something")?;
    }
    Ok(())
}

fn f14_kubelet_down_while_the_pod_is_deleted(stage: &mut Stage) -> Play {
    let (pod, config) = (stage.pod_of("u-f14")?, stage.config());
    let result = stage.add(&pod)?;
    cleanup::pause(OVERLAP)?;
    stage.keeps(&pod, &result, "an attachment that nobody deletes was freed")?;
    stage.del_with(&config, &pod)?;
    stage.nothing_left(&pod, "DEL leaves something")
}

fn f15_two_dels_of_one_container_at_once(stage: &mut Stage) -> Play {
    for _ in 0..3 {
        let (pod, mut config) = (stage.pod()?, stage.config());
        config["prevResult"] = stage.add(&pod)?;
        let call = stage.call("DEL", &config, &pod);
        let (one, other) = (stage.start(&call)?, stage.start(&call)?);
        Stage::finish("one of two DELs at once", one)?.silent()?;
        Stage::finish("one of two DELs at once", other)?.silent()?;
        stage.nothing_left(&pod, "two DELs at once leave something")?;
    }
    Ok(())
}

fn f16_del_hangs_and_is_killed(stage: &mut Stage) -> Play {
    stage.needs_agent().map_err(|_| Stop::Senseless("its DEL waits for nothing that could be held up"))?;
    let (pod, mut config) = (stage.pod()?, stage.config());
    config["prevResult"] = stage.add(&pod)?;
    stage.pause_agent();
    let started = stage.start(&stage.call("DEL", &config, &pod));
    cleanup::pause(OVERLAP)?;
    let killed = started.map(|mut hanging| hanging.kill());
    stage.resume_agent();
    killed?;
    stage.del_with(&config, &pod)?;
    stage.nothing_left(&pod, "DEL after a killed one leaves something")
}

fn f17_the_namespace_file_is_removed_first(stage: &mut Stage) -> Play {
    let (pod, mut config) = (stage.pod()?, stage.config());
    config["prevResult"] = stage.add(&pod)?;
    stage.world.remove(&pod);
    let call = stage.call("DEL", &config, &pod).variable("CNI_NETNS", "");
    stage.ask("DEL with an empty namespace and prevResult", &call)?.silent()?;
    stage.freed(&pod, "DEL with an empty namespace frees nothing")
}

fn f18_reboot_deletes_old_sandboxes_late(stage: &mut Stage) -> Play {
    let (old, mut config) = (stage.pod_of("u-f18")?, stage.config());
    config["prevResult"] = stage.add(&old)?;
    stage.kill_agent();
    stage.world.remove(&old);
    stage.setup.boot(2)?;
    stage.start_agent()?;
    let call = stage.call("DEL", &config, &old).variable("CNI_NETNS", "");
    stage.ask("DEL of an old boot's sandbox", &call)?.silent()?;
    let new = stage.pod_of("u-f18")?;
    let result = stage.add(&new)?;
    stage.freed(&old, "DEL of an old boot's sandbox frees nothing")?;
    stage.keeps(&new, &result, "the new sandbox has no address")
}

fn f19_status_fails_and_recovers(stage: &mut Stage) -> Play {
    stage.needs_1_1()?;
    let config = stage.config();
    for _ in 0..3 {
        stage.ask("STATUS", &stage.bare("STATUS", &config))?.silent()?;
    }
    stage.kill_agent();
    let answer = stage.ask("STATUS while the daemon is replaced", &stage.bare("STATUS", &config));
    stage.start_agent()?;
    answer?.silent()?;
    stage.ask("STATUS after that", &stage.bare("STATUS", &config))?.silent()
}
