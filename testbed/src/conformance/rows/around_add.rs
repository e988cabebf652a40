//! Rows F: observed behaviour of kubelet and containerd around ADD, row by row of the provoked faults.
//!
//! None of them runs here: each test makes the same calls in the same order.

use std::time::Duration;

use serde_json::json;

use super::{Row, rows};
use crate::cleanup;
use crate::conformance::answer::{Answer, Play, holds};
use crate::conformance::stage::{Stage, addresses_of};
use crate::plugin::Call;
use crate::world::Pod;

rows! {
    F1 plugin f1_kubelet_killed_during_add
        "kubelet killed during ADD: plugin SIGKILLed, DEL without `prevResult`, ADD with a new container id";
    F2 plugin f2_containerd_killed_during_add
        "containerd killed during ADD: the orphan completes, DEL without `prevResult`, ADD with a new container id";
    F3 plugin f3_containerd_and_shims_killed
        "containerd and shims killed: DEL (namespace, `prevResult`), ADD of the same pod 50 ms later";
    F4 plugin f4_pause_killed
        "pause killed: DEL, ADD with a new container id 50 ms later, same uid";
    F5 plugin f5_add_fails_and_its_del_comes_at_once
        "ADD fails: DEL of it at once (namespace, no `prevResult`), then a new container id";
    F6 plugin f6_add_fails_and_its_del_is_lost
        "ADD fails and its DEL fails: never another DEL; the address must come back";
    F7 plugin f7_add_hangs_and_is_killed
        "ADD hangs: SIGKILL, DEL at once, a new ADD later";
}

/// Time for which a call that must wait, or an attachment that must stay, is left alone.
pub const A_WHILE: Duration = Duration::from_millis(50);

/// A call that is killed at a fault point.
pub fn dying(call: Call, point: &str) -> Call {
    call.variable(berth_protocol::fault::VARIABLE, point)
}

/// Continues only if the plugin can be killed at a certain point.
pub fn can_be_stopped(stage: &Stage) -> Play {
    stage.needs_berth("it cannot be stopped half-way at a certain point")
}

/// A call that was killed.
pub fn killed(answer: &Answer) -> Play {
    answer.holds(answer.outcome.signal == Some(libc::SIGKILL), "was not killed")
}

/// DEL with an empty namespace and without `prevResult`, as from kubelet's garbage collector.
pub fn empty_del(stage: &Stage, pod: &Pod) -> Play {
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
    cleanup::pause(A_WHILE)?;
    next_sandbox(stage, &pod)?;
    stage.nothing_left(&pod, "DEL leaves something")
}

fn f4_pause_killed(stage: &mut Stage) -> Play {
    let (pod, mut config) = (stage.pod_of("u-f4")?, stage.tight());
    config["prevResult"] = stage.add_with(&config, &pod)?;
    let last = addresses_of(&config["prevResult"]);
    stage.del_with(&config, &pod)?;
    let new = stage.pod_of("u-f4")?;
    // The pool held this pod alone, so the new sandbox can only get what the old one had.
    let result = stage.add_with(&stage.tight(), &new)?;
    let got = addresses_of(&result);
    holds(got.iter().any(|address| last.contains(address)), "the freed address is not given again", &got)?;
    stage.keeps(&new, &result, "the new sandbox has no address")
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
    stage.freed(&pod, "an ADD with a lost DEL holds its address for ever")
}

fn f7_add_hangs_and_is_killed(stage: &mut Stage) -> Play {
    stage.needs_berth("its ADD waits for nothing that could be held up")?;
    let (holder, pod, mut config) = (stage.pod()?, stage.pod()?, stage.tight());
    stage.add_with(&config, &holder)?;
    config["addTimeout"] = json!("20s");
    let mut hanging = stage.start(&stage.call("ADD", &config, &pod))?;
    cleanup::pause(A_WHILE)?;
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
