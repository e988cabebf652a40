//! V: the versions of the specification.

use serde_json::{Value, json};

use super::{Row, rows};
use crate::conformance::answer::{Play, holds};
use crate::conformance::stage::{Stage, addresses_of};

/// Every version that there is, oldest first.
pub const ALL: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

rows! {
    V1 plugin v1_no_version_is_the_oldest_and_an_unknown_one_is_code_1
        "no or an empty `cniVersion` is 0.1.0; one not supported is code 1, naming both sides";
    V2 plugin v2_results_have_the_shape_of_the_version_asked_for
        "exactly the listed versions; the result is converted down to the one asked for";
    V3 plugin v3_verbs_have_a_first_version
        "CHECK before 0.4.0, GC and STATUS before 1.1.0 are code 1";
    V4 caller v4_a_runtime_picks_the_highest_common_version
        "`cniVersions`, `disableCheck`, `disableGC` are the list's: the runtime picks the version";
    V5 plugin v5_version_lists_what_it_supports
        "VERSION prints `cniVersion` and `supportedVersions`";
    V6 plugin v6_all_seven_versions_are_spoken
        "all seven versions, 0.1.0 to 1.1.0";
}

fn v1_no_version_is_the_oldest_and_an_unknown_one_is_code_1(stage: &mut Stage) -> Play {
    for absent in [None, Some("")] {
        let pod = stage.pod()?;
        let mut config = stage.config_in(absent.unwrap_or_default());
        if absent.is_none()
            && let Some(object) = config.as_object_mut()
        {
            object.shift_remove("cniVersion");
        }
        let result = stage.add_with(&config, &pod)?;
        holds(result["ip4"]["ip"].is_string(), "without a version the result is not 0.1.0's", &result)?;
    }
    let pod = stage.pod()?;
    for unlisted in ["9.9.9", "0.3.2", "1.0.1", "1.0", "v1.0.0"] {
        let call = stage.call("ADD", &stage.config_in(unlisted), &pod);
        let answer = stage.ask(&format!("cniVersion {unlisted}"), &call)?;
        let error = answer.refused(&[1])?;
        let text = format!("{} {}", error.msg, error.details);
        answer
            .holds(text.contains(unlisted) && text.contains("0.4.0"), "the error does not name both sides")?;
    }
    stage.nothing_left(&pod, "a refused call left something")
}

fn v2_results_have_the_shape_of_the_version_asked_for(stage: &mut Stage) -> Play {
    for version in stage.versions.clone() {
        let pod = stage.pod()?;
        let result = stage.add_with(&stage.config_in(&version), &pod)?;
        let seen = format!("{version}: {result}");
        holds(result["cniVersion"] == *version, "the result has another version", &seen)?;
        holds(addresses_of(&result).len() == 1, "the result names no address", &seen)?;
        let old = version.starts_with("0.1") || version.starts_with("0.2");
        holds(
            result["ip4"].is_object() == old,
            "ip4 and ip6 are not in the place that the version requires",
            &seen,
        )?;
        let shape = |key: &str| result[key].is_array() != old;
        holds(
            shape("ips") && shape("interfaces"),
            "lists are not in the place that the version requires",
            &seen,
        )?;
        let family = version.starts_with("0.3") || version.starts_with("0.4");
        let labelled = result["ips"][0]["version"] == "4";
        holds(
            labelled == family,
            "the family of an address is not in the place that the version requires",
            &seen,
        )?;
    }
    Ok(())
}

fn v3_verbs_have_a_first_version(stage: &mut Stage) -> Play {
    let pod = stage.pod()?;
    let result = stage.add(&pod)?;
    for version in ["0.1.0", "0.3.1"] {
        let mut config = stage.config_in(version);
        config["prevResult"] = result.clone();
        stage.ask("CHECK before 0.4.0", &stage.call("CHECK", &config, &pod))?.refused(&[1])?;
    }
    if stage.versions.iter().any(|version| version == "1.1.0") {
        let mut config = stage.config_in("1.0.0");
        config["cni.dev/valid-attachments"] = json!([]);
        stage.ask("GC before 1.1.0", &stage.bare("GC", &config))?.refused(&[1])?;
        stage.ask("STATUS before 1.1.0", &stage.bare("STATUS", &config))?.refused(&[1])?;
    }
    Ok(())
}

fn v4_a_runtime_picks_the_highest_common_version(stage: &mut Stage) -> Play {
    let pod = stage.pod()?;
    let list = json!({"cniVersions": ["0.4.0", "1.0.0", "9.9.9"], "disableCheck": true, "name": "lan"});
    let offered = list["cniVersions"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let picked = offered.filter(|version| stage.versions.iter().any(|own| own == version)).max();
    let picked = picked.unwrap_or_default().to_owned();
    let result = stage.add_with(&stage.config_in(&picked), &pod)?;
    holds(result["cniVersion"] == *picked, "the result has another version", &result)
}

fn v5_version_lists_what_it_supports(stage: &mut Stage) -> Play {
    let answer = stage.ask("VERSION", &stage.bare("VERSION", &json!({"cniVersion": "1.0.0"})))?;
    let report = answer.result()?;
    answer.holds(report["cniVersion"].is_string(), "no cniVersion")?;
    let listed = report["supportedVersions"].as_array().is_some_and(|list| list.iter().all(Value::is_string));
    answer.holds(listed, "supportedVersions is not a list of versions")
}

fn v6_all_seven_versions_are_spoken(stage: &mut Stage) -> Play {
    match ALL.iter().find(|version| !stage.versions.iter().any(|own| own == *version)) {
        None => Ok(()),
        Some(missing) => holds(false, &format!("{missing} is not supported"), &stage.versions),
    }
}
