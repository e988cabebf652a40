//! Rows T: traps of order and identity, each of which has broken an implementation.

use std::time::Duration;

use serde_json::{Value, json};

use super::add::{foreign_link, foreign_result};
use super::check::check;
use super::gc::gc;
use super::{Row, rows};
use crate::cleanup;
use crate::conformance::answer::{Play, Stop, holds};
use crate::conformance::recorder::Recorder;
use crate::conformance::stage::{Stage, addresses_of};
use crate::plugin::Call;
use crate::world::Pod;

rows! {
    T1 plugin t1_a_late_del_of_the_old_sandbox_leaves_the_new_one
        "DEL of the old sandbox after ADD of the new one, of one pod";
    T2 plugin t2_a_full_pool_gives_a_dead_sandboxs_address_to_the_next
        "the pool is full of dead sandboxes without a DEL: the next ADD takes over";
    T3 plugin t3_a_name_that_comes_again_is_another_pod
        "a name used again with another uid: the remains of the previous pod do not affect it";
    T4 plugin t4_another_uid_is_no_death
        "one name with two uids, as static pods have: both live";
    T5 plugin t5_gc_beside_adds_takes_nothing_fresh
        "GC while ADDs are under way takes nothing that is fresh";
    T6 plugin t6_a_stale_list_frees_nothing_that_lives
        "a list from a stale cache, and a pod without metadata: a live attachment stays";
    T7 plugin t7_an_address_given_again_is_not_freed_for_its_former_holder
        "an address freed and given again: a late DEL of the previous holder does not free it";
    T8 plugin t8_both_families_come_and_go_together
        "all or none of an attachment's families, freed together";
    T9 plugin t9_an_absent_list_and_other_runtimes_attachments
        "GC: absent, `null` and empty lists; attachments of another runtime on the node stay";
    T10 plugin t10_an_add_that_nobody_remembers_is_undone
        "a partial ADD, of which nothing is cached and no DEL comes, is undone";
    T11 plugin t11_check_right_after_add_passes
        "CRI-O's CHECK right after ADD, of both families";
    T12 plugin t12_a_path_used_again_is_another_pods
        "a late DEL with a namespace path that is now another pod's leaves that pod alone";
    T13 plugin t13_errors_never_say_not_found
        "no \"not found\" in any error";
    T14 plugin t14_no_del_is_normal
        "a DEL that never comes is normal: an ended attachment is free without it";
    T15 plugin t15_a_chained_del_never_blocks_the_chain
        "a chained plugin's DEL succeeds though its daemon is dead: else the chain stops";
    T16 plugin t16_the_link_goes_before_the_address
        "DEL removes the link first, and frees the address after that";
}

/// Both sandboxes of a pod are attached, and the old one is deleted late; the new one keeps its own.
fn t1_a_late_del_of_the_old_sandbox_leaves_the_new_one(stage: &mut Stage) -> Play {
    let (old, new, mut config) = (stage.pod_of("u-t1")?, stage.pod_of("u-t1")?, stage.config());
    config["prevResult"] = stage.add(&old)?;
    let second = stage.add(&new)?;
    for with in [true, false] {
        if !with {
            config["prevResult"] = Value::Null;
        }
        let call = stage.call("DEL", &config, &old);
        stage.ask("a late DEL", &if with { call } else { call.variable("CNI_NETNS", "") })?.silent()?;
        stage.keeps(&new, &second, "a late DEL of the old sandbox harmed the new one")?;
    }
    stage.nothing_left(&old, "a late DEL leaves something")
}

fn t2_a_full_pool_gives_a_dead_sandboxs_address_to_the_next(stage: &mut Stage) -> Play {
    let (old, new, mut config) = (stage.pod_of("u-t2")?, stage.pod_of("u-t2")?, stage.tight());
    if stage.subject.is_berth() {
        config["addTimeout"] = json!("10s");
    }
    stage.add_with(&config, &old)?;
    stage.world.remove(&old);
    let answer = stage.ask("ADD to a pool full of the dead", &stage.call("ADD", &config, &new))?;
    let result = answer.result()?;
    stage.keeps(&new, &result, "the new sandbox has no address")
}

fn t3_a_name_that_comes_again_is_another_pod(stage: &mut Stage) -> Play {
    let named =
        |uid: &str| format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=s;K8S_POD_NAME=web-0;K8S_POD_UID={uid}");
    let (old, new, config) = (stage.pod()?, stage.pod()?, stage.config());
    let call = |verb, pod: &Pod, uid| stage.call(verb, &config, pod).variable("CNI_ARGS", &named(uid));
    stage.ask("ADD", &call("ADD", &old, "first"))?.result()?;
    stage.world.remove(&old);
    let result = stage.ask("ADD of the same name", &call("ADD", &new, "second"))?.result()?;
    stage.ask("DEL of the previous pod", &call("DEL", &old, "first"))?.silent()?;
    stage.freed(&old, "DEL of the previous pod frees nothing")?;
    stage.keeps(&new, &result, "the previous pod's end harmed the next of its name")
}

fn t4_another_uid_is_no_death(stage: &mut Stage) -> Play {
    let named =
        |uid: &str| format!("IgnoreUnknown=1;K8S_POD_NAMESPACE=s;K8S_POD_NAME=static;K8S_POD_UID={uid}");
    let (first, second, config) = (stage.pod()?, stage.pod()?, stage.config());
    let add = |pod: &Pod, uid| stage.call("ADD", &config, pod).variable("CNI_ARGS", &named(uid));
    let one = stage.ask("ADD", &add(&first, "of-the-file"))?.result()?;
    let other = stage.ask("ADD with another uid", &add(&second, "of-the-mirror"))?.result()?;
    stage.keeps(&first, &one, "another uid was taken for a death")?;
    stage.keeps(&second, &other, "the second pod of a name has no address")
}

fn t5_gc_beside_adds_takes_nothing_fresh(stage: &mut Stage) -> Play {
    stage.needs_1_1()?;
    let (config, empty) = (stage.config(), gc(stage, &json!([])));
    let mut pods = Vec::new();
    for _ in 0..6 {
        pods.push(stage.pod()?);
    }
    let mut adding = Vec::new();
    for pod in &pods {
        adding.push(stage.start(&stage.call("ADD", &config, pod))?);
        stage.ask("GC during ADDs", &stage.bare("GC", &empty))?.silent()?;
    }
    for (pod, running) in pods.iter().zip(adding) {
        let result = Stage::finish("ADD during GC", running)?.result()?;
        stage.ask("GC during ADDs", &stage.bare("GC", &empty))?.silent()?;
        stage.keeps(pod, &result, "GC took a fresh attachment")?;
    }
    Ok(())
}

fn t6_a_stale_list_frees_nothing_that_lives(stage: &mut Stage) -> Play {
    stage.needs_1_1()?;
    let (bare, known) = (stage.pod()?, stage.pod_of("u-t6")?);
    let (one, other) = (stage.add(&bare)?, stage.add(&known)?);
    let list = json!([{"containerID": "long-gone", "ifname": "eth0"}]);
    stage.ask("GC with a stale list", &stage.bare("GC", &gc(stage, &list)))?.silent()?;
    stage.keeps(&bare, &one, "a pod without metadata was taken for dead")?;
    stage.keeps(&known, &other, "a stale list freed a live pod's address")
}

fn t7_an_address_given_again_is_not_freed_for_its_former_holder(stage: &mut Stage) -> Play {
    let (former, next, mut config) = (stage.pod()?, stage.pod()?, stage.config());
    let first = stage.add(&former)?;
    stage.del(&former)?;
    stage.freed(&former, "DEL frees nothing")?;
    config["runtimeConfig"] = json!({"ips": addresses_of(&first)});
    let result = stage.add_with(&config, &next)?;
    holds(
        addresses_of(&result) == addresses_of(&first),
        "a free address is not given when asked for",
        &result,
    )?;
    config["prevResult"] = first;
    for _ in 0..2 {
        stage.ask("DEL of the previous holder", &stage.call("DEL", &config, &former))?.silent()?;
        stage.keeps(&next, &result, "a DEL of the previous holder took the address from the next")?;
    }
    Ok(())
}

fn t8_both_families_come_and_go_together(stage: &mut Stage) -> Play {
    let config = stage.tight();
    for _ in 0..2 {
        let pod = stage.pod()?;
        let result = stage.add_with(&config, &pod)?;
        holds(addresses_of(&result).len() == 2, "ADD of both families gives not both", &result)?;
        stage.keeps(&pod, &result, "not both families are in the container")?;
        stage.del_with(&config, &pod)?;
        stage.nothing_left(&pod, "one family stays")?;
    }
    Ok(())
}

fn t9_an_absent_list_and_other_runtimes_attachments(stage: &mut Stage) -> Play {
    stage.needs_1_1()?;
    let (pod, mut other) = (stage.pod()?, stage.config());
    other["name"] = json!("another-runtimes");
    let result = stage.add_with(&other, &pod)?;
    stage.ask("GC without a list", &stage.bare("GC", &stage.config()))?.refused(&[7])?;
    for list in [json!(null), json!([])] {
        for name in ["lan", "another-runtimes"] {
            let mut config = gc(stage, &list);
            config["name"] = json!(name);
            stage.ask("GC with an empty list", &stage.bare("GC", &config))?.silent()?;
        }
    }
    stage.keeps(&pod, &result, "GC took another runtime's attachment")
}

fn t10_an_add_that_nobody_remembers_is_undone(stage: &mut Stage) -> Play {
    let pod = stage.pod()?;
    stage.add(&pod)?;
    // A later plugin fails: nothing is cached, the DEL is lost, the sandbox goes.
    stage.world.remove(&pod);
    stage.freed(&pod, "a forgotten ADD holds its address for ever")?;
    if !stage.subject.is_berth() {
        return Ok(());
    }
    for point in berth_protocol::fault::PLUGIN_ADD_POINTS {
        // After the last point the attachment is complete.
        if point == "add.done" {
            continue;
        }
        let pod = stage.pod()?;
        let call = stage.call("ADD", &stage.config(), &pod).variable(berth_protocol::fault::VARIABLE, point);
        let answer = stage.ask("ADD killed half-way", &call)?;
        answer.holds(answer.outcome.signal == Some(libc::SIGKILL), "was not killed")?;
        stage.freed(&pod, "an ADD killed half-way holds an address")?;
        let links = stage.links(&pod)?;
        holds(links.is_empty(), "an ADD killed half-way leaves a link", &links)?;
    }
    Ok(())
}

fn t11_check_right_after_add_passes(stage: &mut Stage) -> Play {
    for config in [stage.config(), stage.tight()] {
        let pod = stage.pod()?;
        let result = stage.add_with(&config, &pod)?;
        stage.ask("CHECK right after ADD", &check(stage, &config, &pod, &result))?.silent()?;
    }
    Ok(())
}

fn t12_a_path_used_again_is_another_pods(stage: &mut Stage) -> Play {
    let (old, mut config) = (stage.pod()?, stage.config());
    config["prevResult"] = stage.add(&old)?;
    stage.world.remove(&old);
    let new = stage.pod_at(&old)?;
    let result = stage.add(&new)?;
    for late in [config.clone(), stage.config()] {
        stage.ask("a late DEL with another pod's path", &stage.call("DEL", &late, &old))?.silent()?;
        stage.keeps(&new, &result, "a late DEL harmed the pod that has the path now")?;
    }
    stage.freed(&old, "a late DEL frees nothing")
}

fn t13_errors_never_say_not_found(stage: &mut Stage) -> Play {
    let (pod, config) = (stage.pod()?, stage.config());
    let mut stranger = config.clone();
    if stage.subject.is_berth() {
        stranger["network"] = json!("undeclared");
    } else {
        stranger["ipam"]["type"] = json!("undeclared");
    }
    for (what, call) in [
        ("ADD into no namespace", stage.call("ADD", &config, &pod).variable("CNI_NETNS", "/none")),
        ("ADD to what is not there", stage.call("ADD", &stranger, &pod)),
        ("CHECK without prevResult", stage.call("CHECK", &config, &pod)),
        (
            "CHECK of nothing",
            check(stage, &config, &pod, &foreign_result("1.0.0", &pod, "02:00:00:00:00:01")),
        ),
    ] {
        let answer = stage.ask(what, &call)?;
        let error = answer.refused(&[])?;
        let text = format!("{} {}", error.msg, error.details).to_lowercase();
        answer.holds(!text.contains("not found"), "the error says \"not found\"")?;
    }
    Ok(())
}

fn t14_no_del_is_normal(stage: &mut Stage) -> Play {
    let (first, second) = (stage.pod()?, stage.pod()?);
    stage.add(&first)?;
    let result = stage.add(&second)?;
    stage.world.remove(&first);
    stage.freed(&first, "what has ended without a DEL holds its address for ever")?;
    stage.keeps(&second, &result, "another pod's end harmed a living one")
}

fn t15_a_chained_del_never_blocks_the_chain(stage: &mut Stage) -> Play {
    stage.needs_berth("it is a main plugin, which is deleted last")?;
    let (pod, mac) = (stage.pod()?, "02:00:00:00:15:01");
    foreign_link(stage, &pod, "eth0", mac)?;
    let mut config = stage.config();
    config["prevResult"] = foreign_result(&stage.newest, &pod, mac);
    config["prevResult"] = stage.add_with(&config, &pod)?;
    stage.kill_agent();
    let answer = stage.ask("a chained DEL without a daemon", &stage.call("DEL", &config, &pod));
    stage.start_agent()?;
    answer?.silent()?;
    stage.freed(&pod, "a chained DEL without a daemon frees nothing after its return")
}

fn t16_the_link_goes_before_the_address(stage: &mut Stage) -> Play {
    let pod = stage.pod()?;
    if stage.subject.is_berth() {
        return the_link_goes_before_the_spool(stage, &pod);
    }
    let recorder = Recorder::install(stage)?;
    let config = Recorder::config(stage);
    let ask = |what, call: Call| stage.ask(what, &call);
    ask("ADD", recorder.call(stage, "ADD", &config, &pod))?.result()?;
    ask("DEL", recorder.call(stage, "DEL", &config, &pod))?.silent()?;
    if !recorder.heard("DEL") {
        return Err(Stop::Senseless("it asks no delegate"));
    }
    let there = recorder.links("DEL");
    holds(!there.contains("eth0"), "the address goes before the link", &there)
}

/// While the agent hangs, the plugin waits for a second before it spools the release: when the link is
/// removed, that must still be to come.
fn the_link_goes_before_the_spool(stage: &Stage, pod: &Pod) -> Play {
    stage.add(pod)?;
    stage.pause_agent();
    let watched = stage.start(&stage.call("DEL", &stage.config(), pod)).and_then(|mut del| {
        while !stage.links(pod)?.is_empty() && del.runs() {
            cleanup::pause(Duration::from_millis(1))?;
        }
        let spool = stage.setup.state().join("spool");
        let released = std::fs::read_dir(spool).into_iter().flatten().count();
        Ok((released, stage.links(pod)?, del))
    });
    stage.resume_agent();
    let (released, links, del) = watched?;
    holds(released == 0 && links.is_empty(), "the address goes before the link", &(released, links))?;
    Stage::finish("DEL", del)?.silent()?;
    stage.freed(pod, "DEL frees nothing")
}
