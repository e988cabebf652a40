//! The plugin, then the agent, is killed (-9) after each step of ADD and of DEL. One second later
//! nothing has leaked (no lease without a link, no link without a lease) and nothing is doubled; the
//! DEL that a runtime sends then leaves nothing.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use berth_protocol::fault::{AGENT_POINTS, PLUGIN_ADD_POINTS, PLUGIN_DEL_POINTS, VARIABLE};

use crate::cleanup;
use crate::error::{Error, Result};
use crate::lab::{Lab, Options};
use crate::lease_watch::LeaseWatch;
use crate::narrate::{Who, short};
use crate::plugin;
use crate::report::Builder;
use crate::stats::Times;
use crate::world::Pod;

/// Time from the plugin's kill, or the agent's restart, until nothing is leaked.
const BOUND: Duration = Duration::from_secs(1);
/// A DEL that was killed after it removed the link looks like a deleted link, which has to settle first. The
/// default is longer than the bound, so this network settles sooner.
const SETTLE: &str = "  settle: 500ms\n";
/// From one look at leases and links to the next.
const LOOK: Duration = Duration::from_millis(5);
/// Number of times that the plugin is killed at each of its points.
const ROUNDS: usize = 2;
/// Pods that live through it all.
const STANDING: usize = 4;

/// Result of the kills.
#[derive(Default)]
struct Seen {
    n: usize,
    times: Times,
    /// Fault points at which no process was killed: the test would show nothing.
    not_reached: Vec<String>,
    leaked: Vec<String>,
    failed_adds: Vec<String>,
    failed_dels: Vec<String>,
    left_over: Vec<String>,
}

pub fn play(options: &Options, case: &mut Builder) -> Result<()> {
    let mut lab = Lab::start(options, 40, SETTLE)?;
    let standing = lab.attach_many(STANDING)?;
    let mut watch = LeaseWatch::new(lab.client());
    watch.follow_all(&standing);
    let mut seen = Seen::default();
    for _ in 0..options.scaled(ROUNDS) {
        plugin_deaths(options, &lab, &mut seen)?;
        watch.poll()?;
    }
    for point in AGENT_POINTS {
        agent_death(options, &mut lab, point, &mut seen)?;
        watch.poll()?;
    }
    case.times(seen.n, seen.times, Some(BOUND));
    case.none("fault points that were not reached", &seen.not_reached);
    case.none("leases without a link or links without a lease, 1 s later", &seen.leaked);
    case.none("ADDs that failed because the agent was killed", &seen.failed_adds);
    case.none("runtimes' DELs that failed", &seen.failed_dels);
    case.none("leases or links left after the runtime's DEL", &seen.left_over);
    case.none("addresses lost of pods that lived through it", &watch.lost(&standing));
    lab.finish(case)
}

/// Kills the plugin at each of its points, all at the same time.
fn plugin_deaths(options: &Options, lab: &Lab, seen: &mut Seen) -> Result<()> {
    let mut dying = Vec::new();
    for (command, points) in [("ADD", &PLUGIN_ADD_POINTS[..]), ("DEL", &PLUGIN_DEL_POINTS[..])] {
        for point in points {
            let pod = lab.world.pod()?;
            if command == "DEL" {
                lab.attach(&pod)?;
            }
            dying.push((*point, command, pod));
        }
    }
    let mut deaths = Vec::new();
    for (point, command, pod) in dying {
        let outcome = lab.plugin.run(&lab.call(command, &pod).variable(VARIABLE, point))?;
        if outcome.signal != Some(libc::SIGKILL) {
            seen.not_reached.push(point.to_owned());
        }
        deaths.push((point, pod, outcome.ended));
    }
    lab.tell.say(
        Who::World,
        &format!(
            "plugin killed at {}",
            PLUGIN_ADD_POINTS.iter().chain(&PLUGIN_DEL_POINTS).copied().collect::<Vec<_>>().join(", ")
        ),
    );
    settle(options, lab, &deaths, seen)
}

/// Kills the agent at one of its points, and starts it again.
fn agent_death(options: &Options, lab: &mut Lab, point: &str, seen: &mut Seen) -> Result<()> {
    let pod = lab.world.pod()?;
    let command = if point.starts_with("agent.release") { "DEL" } else { "ADD" };
    if command == "DEL" {
        lab.attach(&pod)?;
    }
    lab.stop_agent()?;
    lab.start_agent(Some(point))?;
    let running = lab.plugin.start(&lab.call(command, &pod))?;
    if !lab.agent()?.wait_end(Duration::from_secs(10))? {
        seen.not_reached.push(point.to_owned());
        lab.kill_agent();
    }
    let started = lab.begin_agent(None)?;
    let outcome = running.finish(plugin::LIMIT)?;
    lab.tell.say(
        Who::World,
        &format!(
            "agent killed at {point}; the {command} ended with {:?} after {}",
            outcome.code,
            short(outcome.took())
        ),
    );
    if let Err(error) = outcome.expect_success() {
        let list = if command == "ADD" { &mut seen.failed_adds } else { &mut seen.failed_dels };
        list.push(format!("{point}: {}", error.chain()));
    }
    settle(options, lab, &[(point, pod, started)], seen)
}

/// Waits until nothing is leaked, checks again 1 s after each kill, and cleans up as a runtime does.
fn settle(options: &Options, lab: &Lab, deaths: &[(&str, Pod, Instant)], seen: &mut Seen) -> Result<()> {
    seen.n += deaths.len();
    let mut waiting: Vec<_> = deaths.iter().collect();
    let last = deaths.iter().map(|(_, _, at)| *at).max().unwrap_or_else(Instant::now);
    let deadline = last + options.patience(BOUND);
    while !waiting.is_empty() && Instant::now() < deadline {
        let rows = Held::read(lab)?;
        let now = Instant::now();
        waiting.retain(|(_, pod, died)| {
            let consistent = rows.as_ref().is_some_and(|held| held.offence(pod).is_none());
            if consistent {
                seen.times.push(now - *died);
            }
            !consistent
        });
        cleanup::pause(LOOK)?;
    }
    cleanup::pause((last + BOUND).saturating_duration_since(Instant::now()))?;
    let held = Held::read(lab)?.ok_or_else(|| silent(lab))?;
    for (point, pod, _) in deaths {
        seen.leaked.extend(held.offence(pod).map(|offence| format!("{point}: {offence}")));
        if let Err(error) = lab.detach(pod)?.expect_success() {
            seen.failed_dels.push(format!("{point}: {}", error.chain()));
        }
    }
    let held = after_dels(lab, deaths)?;
    for (point, pod, _) in deaths {
        if held.is_left(pod) {
            seen.left_over.push((*point).to_owned());
        }
        lab.world.remove(pod);
    }
    Ok(())
}

/// State after the DELs. If an API server keeps the records, a DEL has its response before they are gone.
fn after_dels(lab: &Lab, deaths: &[(&str, Pod, Instant)]) -> Result<Held> {
    let patience = if lab.setup.outside.is_some() { BOUND } else { Duration::ZERO };
    let deadline = Instant::now() + patience;
    loop {
        let held = Held::read(lab)?.ok_or_else(|| silent(lab))?;
        let left = deaths.iter().any(|(_, pod, _)| held.is_left(pod));
        if !left || Instant::now() >= deadline {
            return Ok(held);
        }
        cleanup::pause(LOOK)?;
    }
}

fn silent(lab: &Lab) -> Error {
    Error::Timeout {
        what: format!("an answer of the agent at {}", lab.setup.socket().display()),
        within: BOUND,
    }
}

/// Holders of leases, and namespaces with a link of Berth's, at one time.
struct Held {
    leases: BTreeSet<String>,
    links: BTreeSet<String>,
}

impl Held {
    /// `None` while the agent does not respond.
    fn read(lab: &Lab) -> Result<Option<Self>> {
        let Ok(rows) = lab.leases() else { return Ok(None) };
        let leases = rows.into_iter().filter_map(|row| row.container_id).collect();
        let links = lab.world.berth_links()?.into_iter().map(|(name, _)| name).collect();
        Ok(Some(Self { leases, links }))
    }

    fn is_left(&self, pod: &Pod) -> bool {
        self.leases.contains(&pod.container_id) || self.links.contains(&pod.name)
    }

    fn offence(&self, pod: &Pod) -> Option<String> {
        match (self.leases.contains(&pod.container_id), self.links.contains(&pod.name)) {
            (true, false) => Some(format!("{} has a lease and no link", pod.container_id)),
            (false, true) => Some(format!("{} has a link and no lease", pod.container_id)),
            _ => None,
        }
    }
}
