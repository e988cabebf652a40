//! Rows S: STATUS command.
//!
//! An error takes the node out of service, so Berth reports one only for node-local conditions that last over
//! 60 s: this prevails over the checklist where that requires more.

use serde_json::json;

use super::{Row, rows};
use crate::conformance::answer::{Play, holds};
use crate::conformance::stage::{FAST, Stage};
use crate::error::Error;
use crate::world::{self, PARENT};

rows! {
    S1 plugin s1_ready_is_exit_0_and_not_ready_code_50
        "exit 0: an ADD would be served; code 50: it would not";
    S2 plugin s2_a_full_pool_is_no_reason_and_a_dead_daemon_one
        "fails when the daemon is down for over 60 s; Berth: a full pool is not an error";
    S3 plugin s3_it_is_fast_and_calls_come_all_the_same
        "fast; ADD and DEL arrive with any result of it";
    S4 plugin s4_what_passes_is_no_reason
        "an error makes the node NotReady after 14 s: a short condition is not an error";
}

/// Writes the agent's sign of life, in milliseconds since boot.
fn last_seen(stage: &Stage, boottime_ms: u64) -> Play {
    let path = stage.setup.state().join("alive");
    let boot = std::fs::read_to_string(stage.setup.folder.join("boot-id")).unwrap_or_default();
    let text = json!({"bootId": boot.trim(), "boottimeMs": boottime_ms}).to_string();
    Ok(std::fs::write(&path, text).map_err(Error::system(format!("write {}", path.display())))?)
}

fn s1_ready_is_exit_0_and_not_ready_code_50(stage: &mut Stage) -> Play {
    stage.needs_1_1()?;
    stage.ask("STATUS", &stage.bare("STATUS", &stage.config()))?.silent()?;
    stage.needs_agent()?;
    stage.kill_agent();
    last_seen(stage, 1)?;
    let answer = stage.ask("STATUS without a daemon for long", &stage.bare("STATUS", &stage.config()));
    stage.start_agent()?;
    answer?.refused(&[50])?;
    stage.ask("STATUS after its return", &stage.bare("STATUS", &stage.config()))?.silent()
}

fn s2_a_full_pool_is_no_reason_and_a_dead_daemon_one(stage: &mut Stage) -> Play {
    stage.needs_1_1()?;
    stage.needs_agent()?;
    let (pod, config) = (stage.pod()?, stage.tight());
    stage.add_with(&config, &pod)?;
    stage.ask("STATUS of a full network", &stage.bare("STATUS", &config))?.silent()?;
    stage.kill_agent();
    last_seen(stage, 1)?;
    let answer = stage.ask("STATUS without a daemon for long", &stage.bare("STATUS", &config));
    stage.start_agent()?;
    answer?.refused(&[50]).map(drop)
}

fn s3_it_is_fast_and_calls_come_all_the_same(stage: &mut Stage) -> Play {
    stage.needs_1_1()?;
    let (pod, config) = (stage.pod()?, stage.config());
    for _ in 0..5 {
        let answer = stage.ask("STATUS", &stage.bare("STATUS", &config))?;
        answer.silent()?;
        answer.holds(answer.outcome.took() < FAST, "took too long")?;
    }
    stage.needs_agent()?;
    stage.add(&pod)?;
    stage.kill_agent();
    last_seen(stage, 1)?;
    let status = stage.ask("STATUS without a daemon for long", &stage.bare("STATUS", &config));
    let del = stage.ask("DEL while STATUS fails", &stage.call("DEL", &config, &pod));
    stage.start_agent()?;
    let status = status?;
    status.refused(&[50])?;
    status.holds(status.outcome.took() < FAST, "took too long")?;
    del?.silent()?;
    stage.nothing_left(&pod, "DEL while STATUS fails leaves something")
}

fn s4_what_passes_is_no_reason(stage: &mut Stage) -> Play {
    stage.needs_1_1()?;
    stage.needs_agent()?;
    let config = stage.config();
    stage.kill_agent();
    let answer = stage.ask("STATUS right after the daemon's end", &stage.bare("STATUS", &config));
    stage.start_agent()?;
    answer?.silent()?;
    let node = stage.world.node().to_owned();
    world::ip(&node, &format!("link set {PARENT} down\nlink set {PARENT} name away0\n"))?;
    let answer = stage.ask("STATUS right after the parent's end", &stage.bare("STATUS", &config));
    world::ip(&node, &format!("link set away0 name {PARENT}\nlink set {PARENT} up\n"))?;
    let answer = answer?;
    answer.silent()?;
    holds(answer.outcome.took() < FAST, "took too long", &answer.outcome)
}
