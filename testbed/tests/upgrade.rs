//! Berth is replaced by another version while pods come and go: no call of a runtime fails.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it by panicking")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use berth_testbed::agent::{Agent, AgentSetup};
use berth_testbed::lab::{Families, Lab, Options};
use berth_testbed::plugin::{Call, Plugin};
use berth_testbed::world::World;
use serde_json::Value;

/// Number of runtimes that call at the same time, each for its own namespace.
const CALLERS: usize = 4;
/// Number of times that the agent is replaced.
const UPGRADES: usize = 6;
/// The replacement that kills it instead of stopping it.
const KILLED: usize = 3;
/// Time from an agent's first response to its replacement.
const BETWEEN: Duration = Duration::from_millis(400);
/// Time limit of the last releases.
const PATIENCE: Duration = Duration::from_secs(10);

/// A call that ended.
#[derive(Debug)]
struct Done {
    command: &'static str,
    began: Instant,
    ended: Instant,
    failure: Option<String>,
}

/// Makes the callers stop, also when the test fails.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Puts a copy of a binary into its place, as package managers do. A separate process does it: a descriptor
/// open for writing in this process would be inherited by every child that starts meanwhile, and keep the
/// file busy.
fn replace(source: &Path, place: &Path) {
    let new = place.with_extension("new");
    assert!(Command::new("cp").arg(source).arg(&new).status().unwrap().success());
    std::fs::rename(&new, place).unwrap();
}

/// ADD and DEL of one container after the other in one namespace, until stopped.
fn call(world: &World, plugin: &Plugin, config: &Value, stop: &AtomicBool) -> Vec<Done> {
    let mut pod = world.pod().unwrap();
    let name = pod.container_id.clone();
    let mut done = Vec::new();
    for round in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        pod.container_id = format!("{name}-{round}");
        for command in ["ADD", "DEL"] {
            let began = Instant::now();
            let outcome = plugin.run(&Call::new(command, config, &pod));
            let failure = outcome.and_then(|outcome| outcome.expect_success()).err();
            let failure = failure.map(|error| format!("{command} of round {round}: {}", error.chain()));
            done.push(Done { command, began, ended: Instant::now(), failure });
        }
    }
    done
}

/// Replaces both binaries and the running agent; returns the time without a response.
fn upgrade(
    setup: &AgentSetup,
    sources: &[(PathBuf, PathBuf)],
    agent: Agent,
    kill: bool,
) -> (Agent, Instant, Instant) {
    for (source, place) in sources {
        replace(source, place);
    }
    let from = Instant::now();
    if kill {
        agent.kill();
    } else {
        agent.stop().unwrap();
    }
    let mut agent = setup.start(None).unwrap();
    agent.wait_ready().unwrap();
    (agent, from, Instant::now())
}

#[test]
fn an_agent_upgraded_under_load_fails_no_call() {
    let Some(options) = Options::of_tests(1.0) else { return };
    let mut lab = Lab::prepare(&options, 32, "", Families::V4).unwrap();
    let bin = lab.world.folder().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let sources = [&options.binaries.agent, &options.binaries.plugin]
        .map(|source| (source.clone(), bin.join(source.file_name().unwrap())));
    for (source, place) in &sources {
        replace(source, place);
    }
    lab.setup.binary = sources[0].1.clone();
    lab.plugin.binary = sources[1].1.clone();
    let mut first = lab.setup.start(None).unwrap();
    first.wait_ready().unwrap();

    let stop = AtomicBool::new(false);
    let (world, plugin, config) = (&lab.world, &lab.plugin, &lab.config);
    let (done, absences, last) = std::thread::scope(|scope| {
        let callers: Vec<_> =
            (0..CALLERS).map(|_| scope.spawn(|| call(world, plugin, config, &stop))).collect();
        let stopping = Stopping(&stop);
        let (mut agent, mut absences) = (first, Vec::new());
        for number in 1..=UPGRADES {
            std::thread::sleep(BETWEEN);
            let (next, from, to) = upgrade(&lab.setup, &sources, agent, number == KILLED);
            agent = next;
            absences.push((from, to));
        }
        std::thread::sleep(BETWEEN);
        drop(stopping);
        let done: Vec<_> = callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect();
        (done, absences, agent)
    });

    let failed: Vec<_> = done.iter().filter_map(|call| call.failure.as_deref()).collect();
    assert!(failed.is_empty(), "{} of {} calls failed: {failed:#?}", failed.len(), done.len());
    // Otherwise the run would show nothing. Chance decides about the calls in progress at one moment, not at
    // most of them.
    for command in ["ADD", "DEL"] {
        let calls = || done.iter().filter(|call| call.command == command);
        let met =
            |(from, to): &&(Instant, Instant)| calls().any(|call| call.began < *to && call.ended > *from);
        let met = absences.iter().filter(met).count();
        assert!(
            met > UPGRADES / 2,
            "{command}s were under way in {met} of {UPGRADES} absences: {absences:?}"
        );
    }
    let deadline = Instant::now() + PATIENCE;
    while !lab.leases().unwrap().is_empty() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(lab.leases().unwrap(), [], "all pods are gone");
    assert!(lab.world.berth_links().unwrap().is_empty());
    last.stop().unwrap();
}
