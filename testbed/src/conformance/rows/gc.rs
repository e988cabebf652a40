//! Rows G: GC command.
//!
//! Berth frees ended attachments by evidence, within milliseconds. The effect of GC is therefore visible only
//! if the agent has no other source; those tests have a separate stage.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Row, rows};
use crate::cleanup;
use crate::conformance::answer::{Play, holds};
use crate::conformance::stage::Stage;
use crate::world::Pod;

/// The key of the specification.
const LIST: &str = "cni.dev/valid-attachments";
/// The key that libcni sends as well.
const OLDER: &str = "cni.dev/attachments";
/// Time limit for the kernel to end a namespace.
const KERNEL: Duration = Duration::from_secs(5);

rows! {
    G1 plugin g1_either_key_is_read_and_the_first_preferred
        "the list is `cni.dev/valid-attachments`, or else `cni.dev/attachments`";
    G2 plugin g2_what_is_not_listed_and_has_ended_goes
        "removes attachments of this network name that are not listed, and continues after errors";
    G3 plugin g3_what_lives_stays_whatever_the_list_says
        "never touches an attachment with a living namespace: another runtime may have created it";
    G4 plugin g4_no_list_is_refused_and_an_empty_one_is_not
        "no list: code 7; `null` and `[]`: an empty list";
    G5 plugin g5_it_may_come_again
        "several times per list: idempotent";
    G6 plugin g6_other_network_names_are_left_alone
        "only this node's attachments are listed: scoped by node and by network name";
    G7 caller g7_libcni_deletes_from_its_cache_first
        "libcni first sends a DEL for each cached attachment; a partial ADD is not in its cache";
    G8 plugin g8_a_success_prints_nothing
        "no output on success";
}

/// The configuration of a GC with this list.
pub fn gc(stage: &Stage, list: &Value) -> Value {
    let mut config = stage.config();
    config[LIST] = list.clone();
    config
}

fn listed(pods: &[&Pod]) -> Value {
    let entries = pods.iter().map(|pod| json!({"containerID": pod.container_id, "ifname": "eth0"}));
    Value::Array(entries.collect())
}

/// A GC that must succeed in silence.
fn collect(stage: &Stage, what: &str, config: &Value) -> Play {
    stage.ask(what, &stage.bare("GC", config))?.silent()
}

/// GCs until the ended attachment is free: on a busy machine the kernel takes time to end a namespace without
/// holders, and until then it is alive.
fn collect_until_free(stage: &Stage, config: &Value, ended: &Pod) -> Play {
    let begin = Instant::now();
    loop {
        collect(stage, "GC", config)?;
        let held = stage.held_by(ended)?;
        if held.is_empty() || begin.elapsed() > KERNEL {
            return holds(held.is_empty(), "GC frees nothing", &held);
        }
        cleanup::pause(Duration::from_millis(50))?;
    }
}

fn g1_either_key_is_read_and_the_first_preferred(stage: &mut Stage) -> Play {
    stage.needs_1_1()?;
    let pod = stage.pod()?;
    let result = stage.add(&pod)?;
    let mut config = stage.config();
    config[OLDER] = listed(&[&pod]);
    collect(stage, "GC with the older key", &config)?;
    config[OLDER] = json!("no list");
    config[LIST] = listed(&[&pod]);
    collect(stage, "GC with both keys", &config)?;
    stage.keeps(&pod, &result, "GC took a listed attachment")
}

/// Continues with an agent that has not noticed the pod's end, if GC applies to this plugin.
fn unnoticed<'a>(stage: &Stage<'a>) -> Play<Stage<'a>> {
    stage.needs_1_1()?;
    stage.needs_agent()?;
    Ok(Stage::deaf(stage.subject)?)
}

fn g2_what_is_not_listed_and_has_ended_goes(stage: &mut Stage) -> Play {
    let mut deaf = unnoticed(stage)?;
    let (ended, kept) = (deaf.pod()?, deaf.pod()?);
    deaf.add(&ended)?;
    let result = deaf.add(&kept)?;
    deaf.world.remove(&ended);
    collect_until_free(&deaf, &gc(&deaf, &listed(&[&kept])), &ended)?;
    deaf.keeps(&kept, &result, "GC took a listed attachment")
}

fn g3_what_lives_stays_whatever_the_list_says(stage: &mut Stage) -> Play {
    stage.needs_1_1()?;
    let pod = stage.pod()?;
    let result = stage.add(&pod)?;
    collect(stage, "GC", &gc(stage, &json!([])))?;
    stage.keeps(&pod, &result, "GC took a living attachment")
}

fn g4_no_list_is_refused_and_an_empty_one_is_not(stage: &mut Stage) -> Play {
    stage.needs_1_1()?;
    let answer = stage.ask("GC without a list", &stage.bare("GC", &stage.config()))?;
    let error = answer.refused(&[7])?;
    answer.holds(error.msg.contains(LIST), "the message does not name the key")?;
    for (what, list) in [("GC with null", json!(null)), ("GC with []", json!([]))] {
        collect(stage, what, &gc(stage, &list))?;
    }
    for wrong in [json!({}), json!("x"), json!([5]), json!([{"containerID": "c"}])] {
        let what = format!("GC with the list {wrong}");
        stage.ask(&what, &stage.bare("GC", &gc(stage, &wrong)))?.refused(&[7])?;
    }
    Ok(())
}

fn g5_it_may_come_again(stage: &mut Stage) -> Play {
    stage.needs_1_1()?;
    let pod = stage.pod()?;
    let result = stage.add(&pod)?;
    for what in ["GC", "a second GC", "a third GC"] {
        collect(stage, what, &gc(stage, &listed(&[&pod])))?;
    }
    stage.keeps(&pod, &result, "GC took a listed attachment")
}

fn g6_other_network_names_are_left_alone(stage: &mut Stage) -> Play {
    let mut deaf = unnoticed(stage)?;
    let (ours, theirs) = (deaf.pod()?, deaf.pod()?);
    let mut other = deaf.config();
    other["name"] = json!("another-name");
    deaf.add(&ours)?;
    deaf.add_with(&other, &theirs)?;
    deaf.world.remove(&ours);
    deaf.world.remove(&theirs);
    collect_until_free(&deaf, &gc(&deaf, &json!([])), &ours)?;
    holds(!deaf.held_by(&theirs)?.is_empty(), "GC took another network name's attachment", &())
}

fn g7_libcni_deletes_from_its_cache_first(stage: &mut Stage) -> Play {
    stage.needs_1_1()?;
    let (cached, partial) = (stage.pod()?, stage.pod()?);
    let mut config = stage.config();
    config["prevResult"] = stage.add(&cached)?;
    // The chain failed, so the cache has nothing of this one.
    let result = stage.add(&partial)?;
    stage.del_with(&config, &cached)?;
    collect(stage, "GC", &gc(stage, &json!([])))?;
    stage.nothing_left(&cached, "the DEL from the cache leaves something")?;
    stage.keeps(&partial, &result, "GC took a living attachment")
}

fn g8_a_success_prints_nothing(stage: &mut Stage) -> Play {
    stage.needs_1_1()?;
    collect(stage, "GC", &gc(stage, &json!([])))
}
