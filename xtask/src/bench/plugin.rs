//! VERSION, STATUS, ADD and DEL of the whole plugin, compared with Debian's and upstream's newest, all in one
//! run.
//!
//! Contestants take turns in one world. Two kinds of ADD are separate: one with an address that was not
//! probed ahead, because it was requested by name, and those of a dual stack, in which the references wait
//! for the kernel's duplicate address detection. Without Go upstream's newest is left out, which is reported.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, anyhow};
use berth_testbed::cleanup;
use berth_testbed::plugin::Outcome;
use berth_testbed::stats::{Times, millis};
use berth_testbed::world::{Pod, World};

use super::report::Report;
use super::stand::{self, BURST, Contestant, Reference, Stand};
use crate::{process, repo, tools};

/// Number of concurrent calls in the second part.
const CROWD: usize = 8;
/// The limit of ADD, against the faster of the references.
const ADD_WANTED: f64 = 0.6;
/// The limit of VERSION, against the faster host-local.
const VERSION_WANTED: f64 = 0.3;
/// The limit of a burst of ADDs on the addresses of as many pods that just ended, against the faster of the
/// references.
const BURST_WANTED: f64 = 1.2;
/// A burst is a hundred ADDs and as many DELs: this number of rounds is one of it.
const BURST_EVERY: u32 = 20;
/// A reference's ADD of both families takes seconds: this number of rounds is one of theirs.
const DUAL_EVERY: u32 = 4;

/// Measures the whole plugin, the contestants taking turns.
pub fn measure(binaries: &Path, rounds: u32, report: &mut Report) -> Result<()> {
    let mut references = vec![Reference::debian()];
    references.extend(tools::wanted("bench plugin").map(|folder| Reference::newest(&folder)));
    let stand = Stand::build(binaries)?;
    let berth = stand.berth(binaries);

    version(&stand, &berth, &references, rounds.saturating_mul(5), report)?;
    status(&stand, &berth, references.get(1), rounds, report)?;
    let others: Vec<_> = references.iter().map(|reference| stand.macvlan(reference)).collect();
    for crowd in [1, CROWD] {
        let limit = (crowd == 1).then_some(ADD_WANTED);
        attach(&stand.world, &berth, &others, (crowd, rounds), &format!("{crowd} at a time"), limit, report)?;
    }
    inline(&stand, &berth, rounds, report)?;
    drop(stand);

    let stand = Stand::build_dual(binaries)?;
    let others: Vec<_> = references.iter().map(|reference| stand.macvlan(reference)).collect();
    let effort = (1, rounds.div_ceil(DUAL_EVERY));
    attach(&stand.world, &stand.berth(binaries), &others, effort, "dual stack", None, report)?;
    drop(stand);

    burst(binaries, &references, rounds.div_ceil(BURST_EVERY), report)
}

/// As many concurrent ADDs as there are addresses, right after as many DELs: no address is idle, and each was
/// claimed by its previous holder just before.
fn burst(binaries: &Path, references: &[Reference], rounds: u32, report: &mut Report) -> Result<()> {
    let stand = Stand::build_exact(binaries)?;
    let others: Vec<_> = references.iter().map(|reference| stand.macvlan(reference)).collect();
    let berth = stand.berth(binaries);
    let all: Vec<&Contestant> = [&berth].into_iter().chain(&others).collect();
    let mut times = vec![Times::default(); all.len()];
    for _ in 0..rounds {
        for (contestant, times) in all.iter().zip(&mut times) {
            cleanup::interrupted()?;
            let [first, second] = [pods(&stand.world, BURST)?, pods(&stand.world, BURST)?];
            together(contestant, "ADD", &first)?;
            together(contestant, "DEL", &first)?;
            let began = Instant::now();
            together(contestant, "ADD", &second)?;
            times.push(began.elapsed());
            together(contestant, "DEL", &second)?;
            for pod in first.iter().chain(&second) {
                stand.world.remove(pod);
            }
        }
    }
    let what = format!("{BURST} ADDs after {BURST} DELs");
    against(&what, (&berth, &times[0]), &others, &times[1..], Some(BURST_WANTED), report);
    for (contestant, times) in all.iter().zip(times) {
        report.times(&what, contestant.name, times);
    }
    Ok(())
}

fn pods(world: &World, count: usize) -> Result<Vec<Pod>> {
    Ok((0..count).map(|_| world.pod()).collect::<Result<Vec<_>, _>>()?)
}

/// VERSION of all contestants, compared with the start of any process: the cheapest program that the compiler
/// makes, and one with ordinary linking.
fn version(
    stand: &Stand,
    berth: &Contestant,
    references: &[Reference],
    rounds: u32,
    report: &mut Report,
) -> Result<()> {
    let empty = stand.nothing("an empty static program", &empty()?);
    let usual = stand.nothing("/bin/true", Path::new("/bin/true"));
    let others: Vec<_> = references.iter().map(|reference| stand.host_local(reference)).collect();
    let all: Vec<&Contestant> = [berth, &empty, &usual].into_iter().chain(&others).collect();
    let mut times = vec![Times::default(); all.len()];
    for round in 0..rounds {
        cleanup::interrupted()?;
        for (contestant, times) in all.iter().zip(&mut times) {
            let took = contestant.version()?;
            // The first call of each reads its binary from the disk.
            if round > 0 {
                times.push(took);
            }
        }
    }
    against("VERSION", (berth, &times[0]), &others, &times[3..], Some(VERSION_WANTED), report);
    for at in [0].into_iter().chain(3..all.len()) {
        above(all[at], &times[at], &times[1], report);
    }
    for (contestant, times) in all.iter().zip(times) {
        report.times("VERSION", contestant.name, times);
    }
    Ok(())
}

/// A program that does nothing, static as `dist`'s binaries are.
fn empty() -> Result<PathBuf> {
    let folder = repo::output_folder(&repo::root()?, "bench")?;
    let (source, program) = (folder.join("empty.rs"), folder.join("empty"));
    std::fs::write(&source, "fn main() {}\n").with_context(|| format!("write {}", source.display()))?;
    let mut command = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    command.args(["--edition", "2024", "-O", "-C", "panic=abort", "-C", "target-feature=+crt-static", "-o"]);
    process::run(command.arg(&program).arg(&source))?;
    Ok(program)
}

/// STATUS of Berth and of upstream's newest; Debian's plugins are older than the verb.
fn status(
    stand: &Stand,
    berth: &Contestant,
    newest: Option<&Reference>,
    rounds: u32,
    report: &mut Report,
) -> Result<()> {
    let other = newest.map(|reference| stand.macvlan(reference));
    let mut times = [Times::default(), Times::default()];
    for _ in 0..rounds {
        cleanup::interrupted()?;
        times[0].push(berth.status()?.took());
        if let Some(other) = &other {
            times[1].push(other.status()?.took());
        }
    }
    let [own, their] = times;
    match &other {
        Some(other) => report.duel("STATUS", (berth.name, own), (other.name, their), None),
        None => report.times("STATUS", berth.name, own),
    }
    Ok(())
}

/// ADD and DEL of all, `crowd` at a time.
fn attach(
    world: &World,
    berth: &Contestant,
    others: &[Contestant],
    (crowd, rounds): (usize, u32),
    how: &str,
    limit: Option<f64>,
    report: &mut Report,
) -> Result<()> {
    let all: Vec<&Contestant> = [berth].into_iter().chain(others).collect();
    let mut times = vec![Sides::default(); all.len()];
    for round in 0..rounds {
        cleanup::interrupted()?;
        let mut turns: Vec<usize> = (0..all.len()).collect();
        // None always comes first.
        turns.rotate_left(usize::try_from(round)? % all.len());
        for side in turns {
            one_round(world, all[side], crowd, &mut times[side])?;
        }
    }
    let (adds, dels): (Vec<Times>, Vec<Times>) = times.into_iter().map(|side| (side.add, side.del)).unzip();
    for (verb, times, limit) in [("ADD", adds, limit), ("DEL", dels, None)] {
        let what = format!("{verb}, {how}");
        against(&what, (berth, &times[0]), others, &times[1..], limit, report);
        for (contestant, times) in all.iter().zip(times) {
            report.times(&what, contestant.name, times);
        }
    }
    Ok(())
}

/// ADDs with an address that could not be probed ahead, next to the others: the cost of waiting for silence.
fn inline(stand: &Stand, berth: &Contestant, rounds: u32, report: &mut Report) -> Result<()> {
    let mut times = Times::default();
    for (_, address) in (0..rounds).zip(stand::last_addresses()) {
        cleanup::interrupted()?;
        let pod = stand.world.pod()?;
        times.push(berth.add_at(&pod, address)?.took());
        berth.call("DEL", &pod)?;
        stand.world.remove(&pod);
    }
    report.times("ADD, probed inline", berth.name, times);
    Ok(())
}

/// The ratios to each of the others; the limit is applied to the one that is faster by its median.
fn against(
    what: &str,
    (_, ours): (&Contestant, &Times),
    others: &[Contestant],
    theirs: &[Times],
    limit: Option<f64>,
    report: &mut Report,
) {
    let fastest = (0..theirs.len()).min_by_key(|at| theirs[*at].percentile(50));
    for (at, (other, times)) in others.iter().zip(theirs).enumerate() {
        let wanted = limit.filter(|_| Some(at) == fastest);
        report.ratio(what, ours, (other.name, times), wanted);
    }
}

/// Each contestant's VERSION minus the start of a program.
fn above(contestant: &Contestant, times: &Times, empty: &Times, report: &mut Report) {
    let pairs = [("least", times.min(), empty.min()), ("median", times.percentile(50), empty.percentile(50))];
    for (how, all, start) in pairs {
        if let (Some(all), Some(start)) = (all, start) {
            // On a busy machine the value may be negative, which shows the noise.
            let (what, unit) =
                (format!("VERSION above an empty program, {how}"), format!("ms, {}", contestant.name));
            report.value(&what, millis(all) - millis(start), &unit, None);
        }
    }
}

/// One contestant's times.
#[derive(Debug, Clone, Default)]
struct Sides {
    add: Times,
    del: Times,
}

fn one_round(world: &World, contestant: &Contestant, crowd: usize, times: &mut Sides) -> Result<()> {
    let pods = pods(world, crowd)?;
    for outcome in together(contestant, "ADD", &pods)? {
        times.add.push(outcome.took());
    }
    for outcome in together(contestant, "DEL", &pods)? {
        times.del.push(outcome.took());
    }
    for pod in &pods {
        world.remove(pod);
    }
    Ok(())
}

/// Runs a command for all pods at the same time.
fn together(contestant: &Contestant, command: &str, pods: &[Pod]) -> Result<Vec<Outcome>> {
    std::thread::scope(|scope| {
        let started: Vec<_> =
            pods.iter().map(|pod| scope.spawn(move || contestant.call(command, pod))).collect();
        started
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow!("a bench thread panicked"))))
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_limit_is_applied_to_the_faster_one_whichever_that_is() {
        let times = |millis: u64| [Duration::from_millis(millis)].into_iter().collect::<Times>();
        let mut report = Report::default();
        let others: [Contestant; 0] = [];
        against("ADD", (&Contestant::of_nothing("berth"), &times(6)), &others, &[], Some(0.6), &mut report);
        let others = [Contestant::of_nothing("slow"), Contestant::of_nothing("fast")];
        let ours = Contestant::of_nothing("berth");
        against("ADD", (&ours, &times(6)), &others, &[times(20), times(8)], Some(0.6), &mut report);
        let ratios = report.json()["ratios"].clone();
        assert_eq!(ratios.as_array().map(Vec::len), Some(2));
        assert!(ratios[0]["wanted"].is_null() && ratios[1]["wanted"] == 0.6, "{ratios}");
        assert_eq!((&ratios[1]["against"], &ratios[1]["median"]), (&"fast".into(), &0.75.into()));
        above(&ours, &times(6), &times(5), &mut report);
        assert_eq!(report.json()["values"][0]["value"], 1.0);
    }
}
