//! E: the environment of a call, and how a verb is found in it.

use serde_json::json;

use super::{Row, rows};
use crate::conformance::answer::{Play, holds};
use crate::conformance::recorder::Recorder;
use crate::conformance::stage::Stage;
use crate::plugin::Call;

rows! {
    E1 plugin e1_an_unknown_verb_and_a_missing_variable_have_code_4
        "an unknown `CNI_COMMAND` or a missing required variable is code 4";
    E2 plugin e2_a_container_id_is_checked
        "`CNI_CONTAINERID`: alphanumeric first, then also `_ . -`; else code 4";
    E3 plugin e3_the_namespace_is_required_but_not_by_del
        "`CNI_NETNS` is required by ADD and CHECK; DEL works without, and with an empty one";
    E4 plugin e4_an_interface_name_is_checked
        "`CNI_IFNAME`: 1 to 15 characters, not `.` or `..`, no `/`, `:` or blank; else code 4";
    E5 plugin e5_the_search_path_is_missed_only_by_who_needs_it
        "`CNI_PATH` may be absent where no delegate is looked for";
    E6 plugin e6_unknown_arguments_need_ignoreunknown
        "`CNI_ARGS`: an unknown key is an error, unless `IgnoreUnknown` allows it";
    E7 plugin e7_the_nodes_own_namespace_is_refused_before_anything_is_done
        "the plugin's own namespace as `CNI_NETNS` is code 8, and nothing was changed before";
    E8 plugin e8_a_delegate_gets_the_tracing_variables
        "`TRACEPARENT`, `TRACESTATE` and `BAGGAGE` reach delegates";
    E9 plugin e9_by_hand_it_says_what_it_is
        "without `CNI_COMMAND`: exit 0, about text and versions on standard error";
    E10 plugin e10_version_does_not_depend_on_its_input
        "VERSION answers with any standard input and any other variables";
    E11 plugin e11_gc_and_status_have_no_attachment
        "GC and STATUS come without container, namespace and interface";
    E12 plugin e12_input_is_read_to_its_end_and_checked
        "standard input is read to its end; not decodable: 6; name missing or invalid: 7";
}

fn e1_an_unknown_verb_and_a_missing_variable_have_code_4(stage: &mut Stage) -> Play {
    let (pod, config) = (stage.pod()?, stage.config());
    for verb in ["FETCH", "add", "ADD "] {
        stage.ask("an unknown verb", &stage.call(verb, &config, &pod))?.refused(&[4])?;
    }
    for (verb, variables) in [
        ("ADD", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"][..]),
        ("DEL", &["CNI_CONTAINERID", "CNI_IFNAME"][..]),
        ("CHECK", &["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"][..]),
    ] {
        for name in variables {
            let what = format!("{verb} without {name}");
            let answer = stage.ask(&what, &stage.call(verb, &config, &pod).without(name))?;
            let error = answer.refused(&[4])?;
            let told = error.msg.contains(name) || error.details.contains(name);
            answer.holds(told, "the message does not name the variable")?;
        }
    }
    stage.nothing_left(&pod, "a refused call left something")
}

fn e2_a_container_id_is_checked(stage: &mut Stage) -> Play {
    let (pod, config) = (stage.pod()?, stage.config());
    for verb in ["ADD", "DEL", "CHECK"] {
        for id in ["-c", ".c", "_c", "c/1", "c 1", "c:1", "ä", "c\n"] {
            let what = format!("{verb} with the container id {id:?}");
            let call = stage.call(verb, &config, &pod).variable("CNI_CONTAINERID", id);
            stage.ask(&what, &call)?.refused(&[4])?;
        }
    }
    let odd = stage.call("DEL", &config, &pod).variable("CNI_CONTAINERID", "0_a.B-9");
    stage.ask("a valid container id", &odd)?.silent()
}

fn e3_the_namespace_is_required_but_not_by_del(stage: &mut Stage) -> Play {
    let (pod, config) = (stage.pod()?, stage.config());
    for verb in ["ADD", "CHECK"] {
        let call = stage.call(verb, &config, &pod).variable("CNI_NETNS", "");
        stage.ask(&format!("{verb} with an empty CNI_NETNS"), &call)?.refused(&[4])?;
    }
    stage.add(&pod)?;
    let absent = stage.call("DEL", &config, &pod).without("CNI_NETNS");
    stage.ask("DEL without CNI_NETNS", &absent)?.silent()?;
    stage.world.remove(&pod);
    stage.freed(&pod, "DEL without CNI_NETNS frees nothing")?;
    let empty = stage.call("DEL", &config, &pod).variable("CNI_NETNS", "");
    stage.ask("DEL with an empty CNI_NETNS", &empty)?.silent()
}

fn e4_an_interface_name_is_checked(stage: &mut Stage) -> Play {
    let (pod, config) = (stage.pod()?, stage.config());
    for verb in ["ADD", "DEL", "CHECK"] {
        for name in ["", ".", "..", "a/b", "a:b", "a b", "a\tb", "sixteen-letters-"] {
            let what = format!("{verb} with the interface name {name:?}");
            let call = stage.call(verb, &config, &pod).variable("CNI_IFNAME", name);
            stage.ask(&what, &call)?.refused(&[4])?;
        }
    }
    let longest = stage.call("DEL", &config, &pod).variable("CNI_IFNAME", "fifteen-letters");
    stage.ask("a name of 15 characters", &longest)?.silent()
}

fn e5_the_search_path_is_missed_only_by_who_needs_it(stage: &mut Stage) -> Play {
    let (pod, config) = (stage.pod()?, stage.config());
    if !stage.subject.is_berth() {
        // It has to find its IPAM; a verb that has nothing to find is left.
        let call = stage.bare("VERSION", &config).without("CNI_PATH");
        stage.ask("VERSION without CNI_PATH", &call)?.result()?;
        let call =
            stage.call("DEL", &json!({"cniVersion": stage.newest, "name": "lan", "type": "macvlan"}), &pod);
        return stage.ask("DEL without CNI_PATH and without ipam", &call.without("CNI_PATH"))?.silent();
    }
    stage.ask("ADD without CNI_PATH", &stage.call("ADD", &config, &pod).without("CNI_PATH"))?.result()?;
    stage.ask("DEL without CNI_PATH", &stage.call("DEL", &config, &pod).without("CNI_PATH"))?.silent()?;
    stage.ask("STATUS without CNI_PATH", &stage.bare("STATUS", &config).without("CNI_PATH"))?.silent()
}

fn e6_unknown_arguments_need_ignoreunknown(stage: &mut Stage) -> Play {
    let (pod, config) = (stage.pod()?, stage.config());
    let with = |args: &str| stage.call("ADD", &config, &pod).variable("CNI_ARGS", args);
    stage.ask("ADD with an unknown key in CNI_ARGS", &with("FOO=bar"))?.refused(&[])?;
    stage.nothing_left(&pod, "a refused call left something")?;
    stage.ask("ADD with IgnoreUnknown", &with("FOO=bar;IgnoreUnknown=1"))?.result()?;
    Ok(())
}

fn e7_the_nodes_own_namespace_is_refused_before_anything_is_done(stage: &mut Stage) -> Play {
    let (pod, config) = (stage.pod()?, stage.config());
    let node = stage.world.node().to_string_lossy().into_owned();
    let call = stage.call("ADD", &config, &pod).variable("CNI_NETNS", &node);
    let before = stage.node_links()?;
    let answer = stage.ask("ADD into the node's namespace", &call)?;
    answer.refused(&[8])?;
    answer.holds(stage.node_links()? == before, "the node's links were changed")?;
    stage.freed(&pod, "a refused ADD holds an address")?;
    let allowed = call.variable("CNI_NETNS_OVERRIDE", "1");
    stage.ask("ADD with CNI_NETNS_OVERRIDE", &allowed)?.result()?;
    let del =
        stage.call("DEL", &config, &pod).variable("CNI_NETNS", &node).variable("CNI_NETNS_OVERRIDE", "1");
    stage.ask("DEL with CNI_NETNS_OVERRIDE", &del)?.silent()?;
    holds(stage.node_links()? == before, "DEL with CNI_NETNS_OVERRIDE leaves the interface", &before)
}

fn e8_a_delegate_gets_the_tracing_variables(stage: &mut Stage) -> Play {
    let (pod, recorder) = (stage.pod()?, Recorder::install(stage)?);
    let traced = [("TRACEPARENT", "00-1-2-01"), ("TRACESTATE", "a=b"), ("BAGGAGE", "c=d")];
    let add = |call: Call| traced.iter().fold(call, |call, (name, value)| call.variable(name, value));
    let plain = stage.pod()?;
    stage.ask("ADD with tracing variables", &add(stage.call("ADD", &stage.config(), &plain)))?.result()?;
    let call = add(recorder.call(stage, "ADD", &Recorder::config(stage), &pod));
    stage.ask("ADD with another ipam", &call)?.result()?;
    for (name, value) in traced {
        let got = recorder.variable("ADD", name);
        holds(got.as_deref() == Some(value), "a tracing variable does not reach the delegate", &(name, got))?;
    }
    Ok(())
}

fn e9_by_hand_it_says_what_it_is(stage: &mut Stage) -> Play {
    let answer = stage.ask("no CNI_COMMAND", &stage.bare("", &json!({})).without("CNI_COMMAND"))?;
    answer.silent()?;
    let told = stage.versions.iter().all(|version| answer.outcome.stderr.contains(version));
    answer.holds(told, "standard error does not list the versions")
}

fn e10_version_does_not_depend_on_its_input(stage: &mut Stage) -> Play {
    let pod = stage.pod()?;
    let dummy = stage
        .call("VERSION", &json!({}), &pod)
        .variable("CNI_NETNS", "dummy")
        .variable("CNI_IFNAME", "dummy");
    let mut calls = vec![stage.bare("VERSION", &json!({"cniVersion": "0.4.0"})), dummy];
    calls.extend(["", "{", "nonsense", "[]"].map(|text| stage.bare("VERSION", &json!({})).garbage(text)));
    for call in &calls {
        let answer = stage.ask("VERSION", call)?;
        let listed = answer.result()?["supportedVersions"].as_array().map_or(0, Vec::len);
        answer.holds(listed > 0, "no supportedVersions")?;
    }
    Ok(())
}

fn e11_gc_and_status_have_no_attachment(stage: &mut Stage) -> Play {
    stage.needs_1_1()?;
    let mut config = stage.config();
    stage.ask("STATUS without an attachment", &stage.bare("STATUS", &config))?.silent()?;
    config["cni.dev/valid-attachments"] = json!([]);
    stage.ask("GC without an attachment", &stage.bare("GC", &config))?.silent()
}

fn e12_input_is_read_to_its_end_and_checked(stage: &mut Stage) -> Play {
    let (pod, config) = (stage.pod()?, stage.config());
    for garbage in ["", "{", "garbage", "{\"cniVersion\":"] {
        let call = stage.call("ADD", &config, &pod).garbage(garbage);
        stage.ask("input that is not JSON", &call)?.refused(&[6])?;
    }
    let mut nameless = config.clone();
    if let Some(object) = nameless.as_object_mut() {
        object.shift_remove("name");
    }
    stage.ask("no name", &stage.call("ADD", &nameless, &pod))?.refused(&[7])?;
    for name in ["", "a b", "/etc", "-lan", "a\u{0}b"] {
        let mut named = config.clone();
        named["name"] = json!(name);
        stage.ask("an invalid name", &stage.call("ADD", &named, &pod))?.refused(&[7])?;
    }
    stage.nothing_left(&pod, "a refused call left something")?;
    stage.ask("input in two pieces", &stage.call("ADD", &config, &pod).in_pieces())?.result()?;
    Ok(())
}
