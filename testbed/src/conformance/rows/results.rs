//! R: results, errors, streams.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use super::check::check;
use super::{Row, rows};
use crate::conformance::answer::{Play, holds};
use crate::conformance::stage::{Stage, addresses_of};
use crate::error::Error;
use crate::plugin::{Call, Plugin};

rows! {
    R1 plugin r1_an_error_is_one_object_on_standard_output
        "an error is `{cniVersion, code, msg}` on standard output, and a non-zero exit";
    R2 plugin r2_codes_are_the_specifications
        "codes 1, 4, 6, 7 and 11 for version, environment, decoding, configuration, a full pool";
    R3 caller r3_try_again_is_repeated_with_a_new_container
        "no caller repeats a call for code 11: kubelet makes a new sandbox with a new container id";
    R4 plugin r4_one_document_then_the_end_and_replaced_by_rename
        "one document, then the end of output; a binary replaced by rename fails no call";
    R5 caller r5_a_result_comes_back_from_the_cache
        "libcni keeps results as `NETWORK-CONTAINERID-IFNAME` and passes them to CHECK and DEL";
    R6 plugin r6_a_container_may_have_several_interfaces
        "an attachment is (network name, container id, interface)";
}

/// Time for which calls run while the binary is replaced under them.
const REPLACING: Duration = Duration::from_millis(400);

fn r1_an_error_is_one_object_on_standard_output(stage: &mut Stage) -> Play {
    let (pod, config) = (stage.pod()?, stage.config());
    for call in [
        stage.call("ADD", &config, &pod).variable("CNI_IFNAME", "a/b"),
        stage.call("DEL", &config, &pod).variable("CNI_CONTAINERID", ""),
        stage.call("CHECK", &config, &pod),
        stage.call("ADD", &config, &pod).garbage("{"),
    ] {
        let answer = stage.ask("a call that fails", &call)?;
        answer.refused(&[])?;
        let named = answer.outcome.stdout.contains("\"cniVersion\"");
        answer.holds(named, "the error object has no cniVersion")?;
    }
    let old = stage.config_in("0.3.1");
    let answer =
        stage.ask("a call that fails", &stage.call("ADD", &old, &pod).variable("CNI_NETNS", "/none"))?;
    answer.refused(&[])?;
    answer.holds(answer.outcome.stdout.contains("0.3.1"), "the error has another version than the input")
}

fn r2_codes_are_the_specifications(stage: &mut Stage) -> Play {
    let (pod, config) = (stage.pod()?, stage.config());
    let future = stage.call("ADD", &stage.config_in("7.0.0"), &pod);
    stage.ask("an unknown version", &future)?.refused(&[1])?;
    stage
        .ask("a missing variable", &stage.call("ADD", &config, &pod).without("CNI_IFNAME"))?
        .refused(&[4])?;
    stage.ask("input that is not JSON", &stage.call("ADD", &config, &pod).garbage("x"))?.refused(&[6])?;
    let mut wrong = config.clone();
    wrong["name"] = json!("a b");
    stage.ask("an invalid name", &stage.call("ADD", &wrong, &pod))?.refused(&[7])?;
    let (holder, tight) = (stage.pod()?, stage.tight());
    stage.add_with(&tight, &holder)?;
    stage.ask("a full pool", &stage.call("ADD", &tight, &pod))?.refused(&[11])?;
    Ok(())
}

fn r3_try_again_is_repeated_with_a_new_container(stage: &mut Stage) -> Play {
    let (holder, config) = (stage.pod()?, stage.tight());
    stage.add_with(&config, &holder)?;
    let refused = stage.pod_of("u-r3")?;
    stage.ask("ADD to a full pool", &stage.call("ADD", &config, &refused))?.refused(&[])?;
    stage.del_with(&config, &refused)?;
    stage.world.remove(&refused);
    stage.del_with(&config, &holder)?;
    stage.freed(&holder, "DEL frees nothing")?;
    let again = stage.pod_of("u-r3")?;
    let result = stage.add_with(&config, &again)?;
    stage.keeps(&again, &result, "the new sandbox has no address")
}

fn r4_one_document_then_the_end_and_replaced_by_rename(stage: &mut Stage) -> Play {
    let pod = stage.pod()?;
    // The check of every output detects a process that keeps the pipe open.
    stage.add(&pod)?;
    let folder = stage.world.folder().join("replaced");
    let doing = || Error::system(format!("copy the plugin to {}", folder.display()));
    std::fs::create_dir_all(&folder).map_err(doing())?;
    let binary = folder.join(stage.subject.kind());
    let place = |source: &Path| {
        let new = folder.join("new");
        // A separate process copies the file: a descriptor open for writing in this process would be
        // inherited by every child that starts meanwhile, and keep the file busy.
        let copied = Command::new("cp").arg(source).arg(&new).status();
        copied.and_then(|_| std::fs::rename(&new, &binary)).map_err(doing())
    };
    place(&stage.subject.binary)?;
    let plugin = Plugin { binary: binary.clone(), node: stage.world.node().to_owned() };
    let end = Instant::now() + REPLACING;
    std::thread::scope(|scope| {
        let caller = scope.spawn(|| {
            while Instant::now() < end {
                plugin.run(&Call::bare("VERSION", &json!({"cniVersion": "1.0.0"})))?.expect_success()?;
            }
            Ok::<_, Error>(())
        });
        let mut replaced = Ok(());
        while Instant::now() < end && replaced.is_ok() {
            replaced = place(&stage.subject.binary);
        }
        let outcome = caller.join().unwrap_or_else(|_| Err(Error::Monitor("a caller panicked".to_owned())));
        replaced?;
        holds(outcome.is_ok(), "a call fails while the binary is replaced by rename", &outcome)
    })
}

fn r5_a_result_comes_back_from_the_cache(stage: &mut Stage) -> Play {
    let (pod, mut config) = (stage.pod()?, stage.config());
    let result = stage.add(&pod)?;
    let cache = stage.world.folder().join("cache/results");
    let file = cache.join(format!("lan-{}-eth0", pod.container_id));
    let kept =
        json!({"kind": "cniCacheV1", "containerId": pod.container_id, "config": config, "result": result});
    let written = std::fs::create_dir_all(&cache).and_then(|()| std::fs::write(&file, kept.to_string()));
    written.map_err(Error::system(format!("write {}", file.display())))?;
    let text = std::fs::read_to_string(&file).map_err(Error::system(format!("read {}", file.display())))?;
    let cached = serde_json::from_str::<serde_json::Value>(&text).unwrap_or_default()["result"].take();
    stage.ask("CHECK with the cached result", &check(stage, &config, &pod, &cached))?.silent()?;
    config["prevResult"] = cached;
    stage.del_with(&config, &pod)?;
    stage.nothing_left(&pod, "DEL with the cached result leaves something")
}

fn r6_a_container_may_have_several_interfaces(stage: &mut Stage) -> Play {
    let (pod, config) = (stage.pod()?, stage.config());
    let first = stage.add(&pod)?;
    let second = |verb: &str| stage.call(verb, &config, &pod).variable("CNI_IFNAME", "net1");
    let added = stage.ask("ADD of a second interface", &second("ADD"))?.result()?;
    holds(addresses_of(&added) != addresses_of(&first), "both interfaces have one address", &added)?;
    holds(stage.held_by(&pod)?.len() == 2, "two attachments hold not two addresses", &())?;
    stage.ask("DEL of the second interface", &second("DEL"))?.silent()?;
    let names: Vec<String> = stage.links(&pod)?.into_iter().map(|link| link.name).collect();
    holds(names == ["eth0"], "DEL of one interface leaves not the other", &names)?;
    stage.keeps(&pod, &first, "DEL of one interface harmed the other")
}
