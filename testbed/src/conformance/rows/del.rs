//! Rows D: DEL command.

use std::time::Duration;

use serde_json::json;

use super::add::{foreign_link, foreign_result};
use super::{Row, rows};
use crate::conformance::answer::{Play, holds};
use crate::conformance::recorder::Recorder;
use crate::conformance::stage::Stage;
use crate::world::{self, PARENT};

rows! {
    D1 plugin d1_nothing_to_delete_is_a_success
        "idempotent: success without namespace, interface, allocation or `prevResult`";
    D2 plugin d2_the_parent_and_the_pool_may_be_gone
        "releases the address without the parent, the namespace and the pool";
    D3 plugin d3_a_final_result_may_come_as_prevresult
        "`prevResult` is ADD's final result, where the runtime kept it";
    D4 plugin d4_a_chain_is_taken_down_last_plugin_first
        "a chain is taken down from its end: a later plugin's DEL leaves what an earlier one needs";
    D5 plugin d5_a_delegate_gets_its_del_and_its_error_is_told
        "delegates get DEL, too; their error is returned";
    D6 plugin d6_a_success_prints_nothing
        "no output on success";
    D7 plugin d7_a_failed_add_is_deleted_too
        "DEL comes after a failed ADD, without `prevResult`, perhaps without a namespace";
    D8 plugin d8_no_error_says_that_there_was_nothing
        "an error never holds the words \"not found\" or \"no such file or directory\"";
    D9 plugin d9_del_is_fast_whatever_else_is_slow
        "success in milliseconds, whichever part is absent";
}

/// Time limit of a DEL without its daemon: it waits for no process.
const AT_ONCE: Duration = Duration::from_millis(500);
/// And while its daemon hangs: longer than its patience of a second, far shorter than any runtime's.
const HUNG: Duration = Duration::from_secs(5);

fn d1_nothing_to_delete_is_a_success(stage: &mut Stage) -> Play {
    let (pod, config) = (stage.pod()?, stage.config());
    stage.ask("DEL of what never was", &stage.call("DEL", &config, &pod))?.silent()?;
    stage.add(&pod)?;
    for what in ["DEL", "a second DEL", "a third DEL"] {
        stage.ask(what, &stage.call("DEL", &config, &pod))?.silent()?;
    }
    stage.nothing_left(&pod, "DEL leaves something")?;
    let path = stage.world.folder().join("nowhere");
    let gone = stage.call("DEL", &config, &pod).variable("CNI_NETNS", &path.to_string_lossy());
    stage.ask("DEL with a path that is not there", &gone)?.silent()
}

fn d2_the_parent_and_the_pool_may_be_gone(stage: &mut Stage) -> Play {
    let (pod, config) = (stage.pod()?, stage.config());
    stage.add(&pod)?;
    let node = stage.world.node().to_owned();
    world::ip(&node, &format!("link set {PARENT} down\nlink set {PARENT} name away0\n"))?;
    let answer = stage.ask("DEL without the parent", &stage.call("DEL", &config, &pod));
    world::ip(&node, &format!("link set away0 name {PARENT}\nlink set {PARENT} up\n"))?;
    answer?.silent()?;
    stage.nothing_left(&pod, "DEL without the parent leaves something")?;
    let (second, mut undeclared) = (stage.pod()?, config);
    if stage.subject.is_berth() {
        undeclared["network"] = json!("never-declared");
        stage.del_with(&undeclared, &second)?;
    }
    Ok(())
}

fn d3_a_final_result_may_come_as_prevresult(stage: &mut Stage) -> Play {
    for with in [true, false] {
        let (pod, mut config) = (stage.pod()?, stage.config());
        let result = stage.add(&pod)?;
        if with {
            config["prevResult"] = result;
        }
        stage.del_with(&config, &pod)?;
        stage.nothing_left(&pod, "DEL leaves something")?;
    }
    if stage.subject.is_berth() {
        let (pod, mut config) = (stage.pod()?, stage.config());
        stage.add(&pod)?;
        config["prevResult"] = json!({"ips": 5});
        stage.ask("DEL with a prevResult that is wrong", &stage.call("DEL", &config, &pod))?.silent()?;
        stage.nothing_left(&pod, "DEL with a prevResult that is wrong leaves something")?;
    }
    Ok(())
}

fn d4_a_chain_is_taken_down_last_plugin_first(stage: &mut Stage) -> Play {
    stage.needs_berth("it is a main plugin, which is deleted last")?;
    let (pod, mac) = (stage.pod()?, "02:00:00:00:04:01");
    foreign_link(stage, &pod, "eth0", mac)?;
    let mut config = stage.config();
    config["prevResult"] = foreign_result(&stage.newest, &pod, mac);
    let result = stage.add_with(&config, &pod)?;
    stage.keeps(&pod, &result, "the chained address is not in the container")?;
    config["prevResult"] = result;
    stage.del_with(&config, &pod)?;
    let links = stage.links(&pod)?;
    holds(links.len() == 1, "the main plugin's link was taken from it", &links)?;
    let left = stage.addresses(&pod)?;
    holds(left.is_empty(), "the chained address stays on the link", &left)?;
    stage.freed(&pod, "the chained address stays held")
}

fn d5_a_delegate_gets_its_del_and_its_error_is_told(stage: &mut Stage) -> Play {
    let (pod, recorder) = (stage.pod()?, Recorder::install(stage)?);
    let config = Recorder::config(stage);
    stage.ask("ADD with another ipam", &recorder.call(stage, "ADD", &config, &pod))?.result()?;
    let del = recorder.call(stage, "DEL", &config, &pod);
    stage.ask("DEL with another ipam", &del)?.silent()?;
    holds(recorder.heard("DEL"), "the delegate gets no DEL", &())?;
    recorder.fail("DEL")?;
    let error = stage.ask("DEL with a failing ipam", &del)?.refused(&[])?;
    holds(error.msg.contains("planted"), "the delegate's error is not reported", &error)
}

fn d6_a_success_prints_nothing(stage: &mut Stage) -> Play {
    let pod = stage.pod()?;
    stage.add(&pod)?;
    stage.del(&pod)
}

fn d7_a_failed_add_is_deleted_too(stage: &mut Stage) -> Play {
    let (holder, pod, config) = (stage.pod()?, stage.pod()?, stage.tight());
    stage.add_with(&config, &holder)?;
    stage.ask("ADD that fails", &stage.call("ADD", &config, &pod))?.refused(&[])?;
    stage.ask("DEL after a failed ADD", &stage.call("DEL", &config, &pod))?.silent()?;
    let empty = stage.call("DEL", &config, &pod).variable("CNI_NETNS", "");
    stage.ask("DEL after a failed ADD without a namespace", &empty)?.silent()?;
    stage.nothing_left(&pod, "a failed ADD leaves something")
}

fn d8_no_error_says_that_there_was_nothing(stage: &mut Stage) -> Play {
    let (pod, mut config) = (stage.pod()?, stage.config());
    let mut call = stage.call("DEL", &config, &pod);
    if stage.subject.has_agent() {
        // Neither the agent nor the disk takes the release.
        let nowhere = stage.world.folder().join("not found");
        let place = if stage.subject.is_berth() { &mut config } else { &mut config["ipam"] };
        place["socket"] = json!(nowhere.join("agent.sock"));
        place["stateDir"] = json!("/proc/no such file or directory");
        call = stage.call("DEL", &config, &pod);
    } else {
        call = call.variable("CNI_PATH", &stage.world.folder().to_string_lossy());
    }
    let nowhere = stage.world.folder().join("nowhere");
    // With a namespace to look into, Berth sees that there is nothing to release.
    for netns in ["", &nowhere.to_string_lossy()] {
        let call = call.clone().variable("CNI_NETNS", netns);
        let answer = stage.ask("DEL that fails", &call)?;
        let error = answer.refused(&[])?;
        let text = format!("{} {}", error.msg, error.details).to_lowercase();
        answer.holds(!text.contains("not found"), "the error says \"not found\"")?;
        answer.holds(!text.contains("no such file"), "the error says \"no such file\"")?;
    }
    Ok(())
}

fn d9_del_is_fast_whatever_else_is_slow(stage: &mut Stage) -> Play {
    let (first, second, config) = (stage.pod()?, stage.pod()?, stage.config());
    stage.add(&first)?;
    stage.add(&second)?;
    stage.pause_agent();
    let answer = stage.ask("DEL while the daemon hangs", &stage.call("DEL", &config, &first));
    stage.resume_agent();
    let answer = answer?;
    answer.silent()?;
    answer.holds(answer.outcome.took() < HUNG, "took too long")?;
    stage.kill_agent();
    let answer = stage.ask("DEL while the daemon is dead", &stage.call("DEL", &config, &second));
    stage.start_agent()?;
    let answer = answer?;
    answer.silent()?;
    answer.holds(answer.outcome.took() < AT_ONCE, "took too long")?;
    stage.nothing_left(&first, "DEL while the daemon hangs leaves something")?;
    stage.nothing_left(&second, "DEL while the daemon is dead leaves something")
}
