//! Rows C: CHECK command.

use serde_json::{Value, json};

use super::{Row, rows};
use crate::conformance::answer::{Play, holds};
use crate::conformance::recorder::Recorder;
use crate::conformance::stage::{FAST, Stage};
use crate::plugin::Call;
use crate::world::{self, Pod};

rows! {
    C1 plugin c1_what_differs_from_the_result_is_found
        "needs `prevResult`; compares interface, addresses and routes; bears additions";
    C2 plugin c2_the_reservation_must_be_its_own
        "the reservation must still be this container's";
    C3 plugin c3_right_after_add_it_passes_and_is_cheap
        "right immediately after ADD, also while an IPv6 address is young; cheap";
    C4 plugin c4_a_delegate_is_asked_too
        "delegates are asked, too";
}

/// A CHECK of what ADD gave.
pub fn check(stage: &Stage, config: &Value, pod: &Pod, result: &Value) -> Call {
    let mut config = config.clone();
    config["prevResult"] = result.clone();
    stage.call("CHECK", &config, pod)
}

fn c1_what_differs_from_the_result_is_found(stage: &mut Stage) -> Play {
    let config = stage.config();
    let pod = stage.pod()?;
    let result = stage.add(&pod)?;
    stage.ask("CHECK without prevResult", &stage.call("CHECK", &config, &pod))?.refused(&[])?;
    world::ip(&pod.netns, "addr add 192.0.2.9/24 dev eth0\nroute add 198.51.100.0/24 dev eth0\n")?;
    let call = check(stage, &config, &pod, &result);
    stage.ask("CHECK after additions by others", &call)?.silent()?;
    for (what, change) in [
        ("CHECK without the interface", "link del eth0\n"),
        ("CHECK without the address", "addr flush dev eth0\n"),
        ("CHECK with the interface down", "link set eth0 down\n"),
        ("CHECK without the route", "route del default\n"),
    ] {
        let pod = stage.pod()?;
        let result = stage.add(&pod)?;
        world::ip(&pod.netns, change)?;
        stage.ask(what, &check(stage, &config, &pod, &result))?.refused(&[])?;
    }
    Ok(())
}

fn c2_the_reservation_must_be_its_own(stage: &mut Stage) -> Play {
    let (pod, config) = (stage.pod()?, stage.config());
    let result = stage.add(&pod)?;
    let stranger = Pod { container_id: format!("{}-other", pod.container_id), ..pod };
    stage.ask("CHECK for another container", &check(stage, &config, &stranger, &result))?.refused(&[])?;
    Ok(())
}

fn c3_right_after_add_it_passes_and_is_cheap(stage: &mut Stage) -> Play {
    let config = stage.tight();
    for _ in 0..3 {
        let pod = stage.pod()?;
        let result = stage.add_with(&config, &pod)?;
        let answer = stage.ask("CHECK right after ADD", &check(stage, &config, &pod, &result))?;
        answer.silent()?;
        answer.holds(answer.outcome.took() < FAST, "took too long")?;
        stage.del_with(&config, &pod)?;
        stage.freed(&pod, "DEL frees nothing")?;
    }
    Ok(())
}

fn c4_a_delegate_is_asked_too(stage: &mut Stage) -> Play {
    let (pod, recorder) = (stage.pod()?, Recorder::install(stage)?);
    let mut config = Recorder::config(stage);
    let added = stage.ask("ADD with another ipam", &recorder.call(stage, "ADD", &config, &pod))?;
    config["prevResult"] = added.result()?;
    let call = recorder.call(stage, "CHECK", &config, &pod);
    stage.ask("CHECK with another ipam", &call)?.silent()?;
    holds(recorder.heard("CHECK"), "the delegate is not asked", &json!(null))?;
    recorder.fail("CHECK")?;
    stage.ask("CHECK with a failing ipam", &call)?.refused(&[])?;
    Ok(())
}
