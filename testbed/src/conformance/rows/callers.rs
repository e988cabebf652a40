//! Rows W: present callers. Each test makes the calls of one runtime, with its omissions.

use serde_json::{Value, json};

use super::check::check;
use super::{Row, rows};
use crate::conformance::answer::Play;
use crate::conformance::stage::Stage;
use crate::world::Pod;

rows! {
    W1 caller w1_containerd_sends_del_three_times_and_no_check
        "containerd: ADD, DEL with `prevResult`, then two empty ones; never CHECK or GC";
    W2 caller w2_crio_checks_after_each_add_and_forgets_a_failed_del
        "CRI-O: CHECK after every ADD, GC once at its start, a failed DEL is not repeated";
    W3 caller w3_multus_calls_late_or_not_at_all
        "Multus: a second network as `net1`; a DEL that it answers itself never comes";
    W4 caller w4_cnitool_calls_all_verbs_and_gc_without_a_list
        "cnitool: all five verbs; its GC has no list, after libcni deleted all that was cached";
}

fn w1_containerd_sends_del_three_times_and_no_check(stage: &mut Stage) -> Play {
    let (pod, mut config) = (stage.pod_of("u-w1")?, stage.config());
    config["runtimeConfig"] = json!({"io.kubernetes.cri.pod-annotations": {"a": "b"}});
    let result = stage.add_with(&config, &pod)?;
    stage.keeps(&pod, &result, "the result's address is not in the container")?;
    config["prevResult"] = result;
    stage.del_with(&config, &pod)?;
    stage.world.remove(&pod);
    for _ in 0..2 {
        let call = stage.call("DEL", &stage.config(), &pod).variable("CNI_NETNS", "");
        stage.ask("DEL with an empty namespace", &call)?.silent()?;
    }
    stage.freed(&pod, "three DELs leave something")
}

fn w2_crio_checks_after_each_add_and_forgets_a_failed_del(stage: &mut Stage) -> Play {
    let config = stage.config();
    if stage.needs_1_1().is_ok() {
        let mut gc = config.clone();
        gc["cni.dev/valid-attachments"] = Value::Null;
        stage.ask("GC at the runtime's start", &stage.bare("GC", &gc))?.silent()?;
    }
    let pods = [stage.pod()?, stage.pod()?];
    for pod in &pods {
        let result = stage.add(pod)?;
        stage.ask("CHECK right after ADD", &check(stage, &config, pod, &result))?.silent()?;
    }
    // The DEL failed, and its cache file is gone: the sandbox goes without another.
    stage.world.remove(&pods[0]);
    stage.freed(&pods[0], "an address is held for ever after one failed DEL")?;
    stage.del(&pods[1])
}

fn w3_multus_calls_late_or_not_at_all(stage: &mut Stage) -> Play {
    let (pod, config) = (stage.pod_of("u-w3")?, stage.config());
    let call = stage.call("ADD", &config, &pod).variable("CNI_IFNAME", "net1");
    let result = stage.ask("ADD of a second network", &call)?.result()?;
    let sibling = Pod { uid: pod.uid.clone(), ..stage.pod()? };
    let other = stage.add(&sibling)?;
    stage.keeps(&pod, &result, "another sandbox of the pod harmed its second network")?;
    stage.world.remove(&pod);
    stage.freed(&pod, "what has ended without a DEL holds its address for ever")?;
    stage.keeps(&sibling, &other, "the end of a sandbox harmed another of the pod")
}

fn w4_cnitool_calls_all_verbs_and_gc_without_a_list(stage: &mut Stage) -> Play {
    let (pod, config) = (stage.pod()?, stage.config());
    let result = stage.add(&pod)?;
    stage.ask("CHECK", &check(stage, &config, &pod, &result))?.silent()?;
    stage.del(&pod)?;
    stage.needs_1_1()?;
    stage.ask("STATUS", &stage.bare("STATUS", &config))?.silent()?;
    let living = stage.pod()?;
    let kept = stage.add(&living)?;
    stage.ask("GC without a list", &stage.bare("GC", &config))?.refused(&[7])?;

    stage.keeps(&living, &kept, "GC without a list took a living attachment")
}
