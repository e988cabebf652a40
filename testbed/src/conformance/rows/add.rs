//! Rows A: ADD command.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{Row, rows};
use crate::conformance::answer::{Play, Stop, holds};
use crate::conformance::recorder::{ADDRESS, KIND, Recorder, WORDS};
use crate::conformance::stage::{Stage, addresses_of};
use crate::plugin::Call;
use crate::world::{self, PARENT, Pod};

rows! {
    A1 plugin a1_a_taken_name_is_an_error_and_a_chained_plugin_needs_it
        "an interface of that name is an error for a main plugin, and its absence for a chained one";
    A2 plugin a2_a_success_is_one_result_of_the_inputs_version
        "success: one result on standard output, nothing else, `cniVersion` as in the input";
    A3 plugin a3_what_it_does_not_know_passes_through
        "with `prevResult`: that plus its own changes; unknown fields survive";
    A4 plugin a4_interfaces_are_appended_and_addresses_point_at_them
        "`ips[].interface` is an index into `interfaces`; new ones are appended, none reordered";
    A5 plugin a5_a_delegate_gets_everything_and_its_failure_a_del
        "a delegated IPAM gets the whole configuration and environment; if it fails, a DEL";
    A6 plugin a6_half_a_dual_stack_is_rolled_back
        "all or nothing: half a dual-stack attachment is rolled back before the error";
    A7 plugin a7_a_second_sandbox_of_a_pod_is_another_attachment
        "the same pod comes with a new container id while the old one is not deleted yet";
    A8 plugin a8_the_same_key_in_the_same_namespace_gets_the_same_address
        "the same key repeated in the same namespace: the same address (before A1)";
    A9 plugin a9_every_channel_of_wishes_is_read
        "`runtimeConfig`, `args.cni` and `CNI_ARGS` ask for addresses and MAC; `runtimeConfig.mac` prevails";
    A10 plugin a10_reserved_and_unknown_keys_are_ignored
        "`cni.dev/` keys that are not known are ignored, as are other plugins' keys";
    A11 plugin a11_a_mac_in_use_is_refused_and_its_holder_unharmed
        "a MAC that is in use on the parent: refused, all taken back, its holder unharmed (not of the checklist)";
}

/// A link that another plugin made: a macvlan of the node's parent inside the pod, with that MAC.
pub fn foreign_link(stage: &Stage, pod: &Pod, name: &str, mac: &str) -> Play {
    let line = format!(
        "link add link {PARENT} name {name} address {mac} netns {} type macvlan mode bridge\n",
        pod.name
    );
    Ok(world::ip(stage.world.node(), &line)?)
}

/// The result of a main plugin without IPAM that created `eth0`, with unknown fields.
pub fn foreign_result(version: &str, pod: &Pod, mac: &str) -> Value {
    json!({
        "cniVersion": version, "invented": {"a": [1, null]},
        "interfaces": [
            {"name": "host0", "mac": "02:00:00:00:00:01", "mtu": 1400, "pciID": "0000:00:1f.6"},
            {"name": "eth0", "mac": mac, "sandbox": pod.netns, "mtu": 1500, "socketPath": "/s", "own": true},
        ],
        "routes": [{"dst": "203.0.113.0/24", "mtu": 1400, "advmss": 1200, "priority": 7, "table": 9, "scope": 0}],
        "dns": {"nameservers": ["10.77.0.1"], "more": 1},
    })
}

fn a1_a_taken_name_is_an_error_and_a_chained_plugin_needs_it(stage: &mut Stage) -> Play {
    let (pod, config) = (stage.pod()?, stage.config());
    foreign_link(stage, &pod, "eth0", "02:00:00:00:00:07")?;
    let before = stage.links(&pod)?;
    let answer =
        stage.ask("ADD with an existing interface of that name", &stage.call("ADD", &config, &pod))?;
    answer.refused(&[])?;
    answer.holds(stage.links(&pod)? == before, "the container's links were changed")?;
    stage.freed(&pod, "a refused ADD holds an address")?;
    if !stage.subject.is_berth() {
        return Ok(());
    }
    let bare = stage.pod()?;
    let mut chained = config;
    chained["prevResult"] = foreign_result(&stage.newest, &bare, "02:00:00:00:00:08");
    stage.ask("chained ADD without the interface", &stage.call("ADD", &chained, &bare))?.refused(&[7])?;
    stage.nothing_left(&bare, "a refused chained ADD left something")
}

fn a2_a_success_is_one_result_of_the_inputs_version(stage: &mut Stage) -> Play {
    for version in [stage.newest.clone(), "0.4.0".to_owned()] {
        let pod = stage.pod()?;
        let answer = stage.ask("ADD", &stage.call("ADD", &stage.config_in(&version), &pod))?;
        let result = answer.result()?;
        answer.holds(result["cniVersion"] == *version, "the result has another version")?;
        stage.keeps(&pod, &result, "the result's address is not in the container")?;
    }
    Ok(())
}

fn a3_what_it_does_not_know_passes_through(stage: &mut Stage) -> Play {
    stage.needs_berth("it is a main plugin, which has no prevResult in ADD")?;
    for (number, version) in stage.versions.clone().iter().enumerate().skip(2) {
        let (pod, mac) = (stage.pod()?, format!("02:00:00:00:01:{number:02x}"));
        foreign_link(stage, &pod, "eth0", &mac)?;
        let prev = foreign_result(version, &pod, &mac);
        let mut config = stage.config_in(version);
        config["prevResult"] = prev.clone();
        let result = stage.add_with(&config, &pod)?;
        for key in ["invented", "interfaces", "dns"] {
            holds(result[key] == prev[key], &format!("{key} of prevResult was changed"), &result)?;
        }
        let routes = result["routes"].as_array().map_or(&[][..], Vec::as_slice);
        holds(routes.first() == Some(&prev["routes"][0]), "a route of prevResult was changed", &result)?;
        holds(addresses_of(&result).len() == 1, "the address was not added to prevResult", &result)?;
    }
    Ok(())
}

fn a4_interfaces_are_appended_and_addresses_point_at_them(stage: &mut Stage) -> Play {
    let pod = stage.pod()?;
    let result = stage.add(&pod)?;
    let points = |result: &Value| {
        let index = result["ips"][0]["interface"].as_u64().and_then(|index| usize::try_from(index).ok());
        index.and_then(|index| result["interfaces"][index]["name"].as_str().map(str::to_owned))
    };
    holds(
        points(&result).as_deref() == Some("eth0"),
        "the address does not point at the interface",
        &result,
    )?;
    if !stage.subject.is_berth() {
        return Ok(());
    }
    let (second, mac) = (stage.pod()?, "02:00:00:00:02:01");
    foreign_link(stage, &second, "eth0", mac)?;
    let mut config = stage.config();
    config["prevResult"] = foreign_result(&stage.newest, &second, mac);
    let result = stage.add_with(&config, &second)?;
    holds(points(&result).as_deref() == Some("eth0"), "the chained address does not point at eth0", &result)
}

fn a5_a_delegate_gets_everything_and_its_failure_a_del(stage: &mut Stage) -> Play {
    let (pod, recorder) = (stage.pod()?, Recorder::install(stage)?);
    let config = Recorder::config(stage);
    let call = recorder.call(stage, "ADD", &config, &pod).variable("CNI_ARGS", "IgnoreUnknown=1;X=y");
    let answer = stage.ask("ADD with another ipam", &call)?;
    let result = answer.result()?;
    answer.holds(result["ips"][0]["address"] == ADDRESS, "the delegate's address is not in the result")?;
    answer.holds(result["ips"][0]["interface"].is_u64(), "the delegate's address points at no interface")?;
    answer.holds(answer.outcome.stderr.contains(WORDS), "the delegate's standard error is lost")?;
    let got = recorder.input("ADD");
    let whole = ["name", "type", "ipam", "invented", "cniVersion"].iter().all(|key| got[key] == config[key]);
    holds(whole, "the delegate does not get the whole configuration", &got)?;
    for (name, value) in [
        ("CNI_COMMAND", "ADD"),
        ("CNI_CONTAINERID", &pod.container_id),
        ("CNI_NETNS", &pod.netns.to_string_lossy()),
        ("CNI_IFNAME", "eth0"),
        ("CNI_ARGS", "IgnoreUnknown=1;X=y"),
    ] {
        let got = recorder.variable("ADD", name);
        holds(got.as_deref() == Some(value), "the delegate gets another environment", &(name, got))?;
    }
    let (second, failing) = (stage.pod()?, Recorder::install(stage)?);
    failing.fail("ADD")?;
    let call = failing.call(stage, "ADD", &Recorder::config(stage), &second);
    stage.ask("ADD with a failing ipam", &call)?.refused(&[])?;
    holds(stage.links(&second)?.is_empty(), "the link stays when the ipam fails", &())?;
    holds(failing.heard("DEL"), &format!("a failed {KIND} ipam gets no DEL"), &())
}

fn a6_half_a_dual_stack_is_rolled_back(stage: &mut Stage) -> Play {
    let (first, second, config) = (stage.pod()?, stage.pod()?, stage.tight());
    let result = stage.add_with(&config, &first)?;
    holds(addresses_of(&result).len() == 2, "ADD of both families gives not both", &result)?;
    stage.ask("ADD without an address of one family", &stage.call("ADD", &config, &second))?.refused(&[])?;
    let held = stage.held_by(&second)?;
    holds(held.is_empty(), "half of the attachment stays held", &held)?;
    stage.nothing_left(&second, "half of the attachment stays")?;
    stage.keeps(&first, &result, "the first attachment was harmed")
}

fn a7_a_second_sandbox_of_a_pod_is_another_attachment(stage: &mut Stage) -> Play {
    let (old, new) = (stage.pod_of("u-a7")?, stage.pod_of("u-a7")?);
    let (first, second) = (stage.add(&old)?, stage.add(&new)?);
    stage.keeps(&old, &first, "the second ADD harmed the first attachment")?;
    stage.keeps(&new, &second, "the second sandbox has no separate attachment")?;
    stage.del(&old)?;
    stage.freed(&old, "DEL of the old sandbox frees nothing")?;
    stage.keeps(&new, &second, "DEL of the old sandbox harmed the new one")
}

fn a8_the_same_key_in_the_same_namespace_gets_the_same_address(stage: &mut Stage) -> Play {
    let pod = stage.pod()?;
    let first = stage.add(&pod)?;
    let answer = stage.ask("ADD repeated", &stage.call("ADD", &stage.config(), &pod))?;
    let again = answer.result()?;
    answer.holds(addresses_of(&again) == addresses_of(&first), "another address")?;
    stage.keeps(&pod, &first, "a repeated ADD harmed the attachment")
}

fn a9_every_channel_of_wishes_is_read(stage: &mut Stage) -> Play {
    if let crate::conformance::subject::Ipam::Other(_) = stage.subject.ipam {
        return Err(Stop::Senseless("which addresses this IPAM gives is not known here"));
    }
    let mac = "02:00:00:00:09:01";
    for (number, wish) in [
        json!({"runtimeConfig": {"ips": ["10.77.0.21/16"], "mac": mac}}),
        json!({"args": {"cni": {"ips": ["10.77.0.22"]}}}),
        json!({}),
    ]
    .into_iter()
    .enumerate()
    {
        let (pod, mut config) = (stage.pod()?, stage.config());
        for (key, value) in wish.as_object().into_iter().flatten() {
            config[key] = value.clone();
        }
        let arguments = match number {
            0 => "IgnoreUnknown=1;MAC=02:00:00:00:09:02",
            1 => "IgnoreUnknown=1",
            _ => "IgnoreUnknown=1;IP=10.77.0.23;MAC=02:00:00:00:09:03",
        };
        let channel = ["runtimeConfig.ips", "args.cni.ips", "IP in CNI_ARGS"][number];
        let wanted: IpAddr = [[10, 77, 0, 21], [10, 77, 0, 22], [10, 77, 0, 23]][number].into();
        let call = stage.call("ADD", &config, &pod).variable("CNI_ARGS", arguments);
        let answer = stage.ask(channel, &call)?;
        answer.holds(addresses_of(&answer.result()?) == [wanted], "another address than was asked for")?;
        let macs: Vec<String> =
            stage.links(&pod)?.iter().filter_map(|link| Some(link.mac?.to_string())).collect();
        match number {
            0 => holds(macs == [mac], "runtimeConfig.mac does not prevail", &macs)?,
            2 => holds(macs == ["02:00:00:00:09:03"], "MAC in CNI_ARGS is not read", &macs)?,
            _ => {}
        }
    }
    Ok(())
}

fn a10_reserved_and_unknown_keys_are_ignored(stage: &mut Stage) -> Play {
    let (pod, mut config) = (stage.pod()?, stage.config());
    for key in ["cni.dev/later", "x-other", "bandwidth"] {
        config[key] = json!({"any": ["thing", 1]});
    }
    config["runtimeConfig"] = json!({"portMappings": [], "io.kubernetes.cri.pod-annotations": {"a": "b"}});
    let result = stage.add_with(&config, &pod)?;
    stage.keeps(&pod, &result, "the result's address is not in the container")?;
    stage.del_with(&config, &pod)
}

/// The kernel reports a MAC conflict only at the last step. Link and address exist at that time, and the
/// parent's list continues to show the MAC. The result is the same whether the other link existed before the
/// lease or appeared between lease and set-up: the plugin does not look for it before.
fn a11_a_mac_in_use_is_refused_and_its_holder_unharmed(stage: &mut Stage) -> Play {
    let (neighbour, pod) = (stage.pod()?, stage.pod()?);
    let call = with_a_mac_of(stage, &neighbour, &pod)?;
    stage.ask("ADD with a MAC that is in use", &call)?.refused(&[])?;
    let links = stage.links(&pod)?;
    holds(links.is_empty(), "a link that cannot be set up stays", &links)?;
    stage.freed(&pod, "an ADD that fails at its last step holds an address")?;
    let theirs = stage.links(&neighbour)?;
    holds(theirs.len() == 1, "the link of another container with that MAC is removed", &theirs)?;

    let (first, second, mut config) = (stage.pod()?, stage.pod()?, stage.config());
    config["runtimeConfig"] = json!({"mac": "02:00:00:00:06:02"});
    let result = stage.add_with(&config, &first)?;
    stage.ask("ADD with the MAC of an attachment", &stage.call("ADD", &config, &second))?.refused(&[])?;
    stage.nothing_left(&second, "an ADD that asks for an attachment's MAC leaves something")?;
    stage.keeps(&first, &result, "the attachment with that MAC was harmed")
}

/// An ADD for `pod` that requests the MAC of a link that `neighbour` gets.
fn with_a_mac_of(stage: &Stage, neighbour: &Pod, pod: &Pod) -> Play<Call> {
    let (mut config, mac) = (stage.config(), "02:00:00:00:06:01");
    foreign_link(stage, neighbour, "eth0", mac)?;
    world::ip(&neighbour.netns, "link set eth0 up\n")?;
    config["runtimeConfig"] = json!({"mac": mac});
    Ok(stage.call("ADD", &config, pod))
}
