//! Rows F: observed behaviour of kubelet and containerd around DEL, and STATUS, row by row of the provoked
//! faults. None of them runs here: each test makes the same calls in the same order.

use serde_json::json;

use super::around_add::{A_WHILE, can_be_stopped, dying, empty_del, killed};
use super::{Row, rows};
use crate::cleanup;
use crate::conformance::answer::{Play, Stop, holds};
use crate::conformance::stage::Stage;
use crate::plugin::Plugin;

rows! {
    F8 plugin f8_del_fails_and_is_repeated
        "DEL fails: again after 0.8 s, then every 10 s without end";
    F9 plugin f9_two_empty_dels_follow
        "after the DEL that succeeds, two more with an empty namespace and no `prevResult`";
    F10 caller f10_the_binary_is_absent_at_delete
        "the plugin's binary is absent at delete: repeated until it is there";
    F11 caller f11_the_configuration_is_absent_at_delete
        "the conflist is absent at delete: no call until it is there";
    F12 plugin f12_forced_deletion_leaves_the_process_a_while
        "delete --force: the process and its address live 2 s more, then DEL";
    F13 plugin f13_kubelet_killed_during_del
        "kubelet killed during DEL: plugin SIGKILLed; DEL (namespace, `prevResult`) again";
    F14 caller f14_kubelet_down_while_the_pod_is_deleted
        "kubelet down, pod deleted by force, kubelet up: DEL 2.4 s after its start";
    F15 plugin f15_two_dels_of_one_container_at_once
        "containerd killed during DEL: two DELs of one container at once";
    F16 plugin f16_del_hangs_and_is_killed
        "DEL hangs: SIGKILL, DEL again at once";
    F17 plugin f17_the_namespace_file_is_removed_first
        "namespace file removed before delete: the first DEL has an empty namespace and `prevResult`";
    F18 plugin f18_reboot_deletes_old_sandboxes_late
        "reboot: DEL of each old sandbox with an empty namespace, ADD of the same pod right after";
    F19 caller f19_status_fails_and_recovers
        "STATUS fails: NotReady 14 s later, Ready 13 s after it is well";
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
    let absent = Plugin { binary: "/nonexistent/plugin".into(), ..stage.plugin.clone() };
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
    cleanup::pause(A_WHILE)?;
    stage.keeps(&pod, &result, "an attachment without a DEL was freed")?;
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
    cleanup::pause(A_WHILE)?;
    stage.keeps(&pod, &result, "an attachment without a DEL was freed")?;
    stage.del_with(&config, &pod)?;
    stage.nothing_left(&pod, "DEL leaves something")
}

fn f15_two_dels_of_one_container_at_once(stage: &mut Stage) -> Play {
    // A document that is compared must not contain anything that differs from run to run.
    stage.needs_berth("two of its DELs at once fail now and then (code 999)")?;
    for _ in 0..8 {
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
    cleanup::pause(A_WHILE)?;
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
