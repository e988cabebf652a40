//! VERSION, ADD and DEL of the whole plugin beside Debian's, one and eight at a time.

use std::path::Path;

use anyhow::{Result, anyhow};
use berth_testbed::cleanup;
use berth_testbed::plugin::Outcome;
use berth_testbed::stats::Times;
use berth_testbed::world::{Pod, World};

use super::report::Report;
use super::stand::{Contestant, Stand};

/// How many calls run at a time in the second part.
const CROWD: usize = 8;

/// Measures the whole plugin, the contestants taking turns.
pub fn measure(binaries: &Path, rounds: u32, report: &mut Report) -> Result<()> {
    let stand = Stand::build(binaries)?;
    let (berth, reference, host_local) = (stand.berth(binaries), stand.reference(), stand.host_local());

    version([&berth, &host_local, &stand.nothing()], rounds.saturating_mul(5), report)?;
    for (crowd, limit) in [(1, Some(0.6)), (CROWD, None)] {
        let mut times = [Sides::default(), Sides::default()];
        for round in 0..rounds {
            cleanup::interrupted()?;
            let mut sides = [(0, &berth), (1, &reference)];
            // Neither always comes first.
            sides.rotate_left(usize::from(round % 2 == 1));
            for (side, contestant) in sides {
                one_round(&stand.world, contestant, crowd, &mut times[side])?;
            }
        }
        let [ours, theirs] = times;
        let named = |what: &str| format!("{what}, {crowd} at a time");
        report.duel(&named("ADD"), (berth.name, ours.add), (reference.name, theirs.add), limit);
        report.duel(&named("DEL"), (berth.name, ours.del), (reference.name, theirs.del), None);
    }
    Ok(())
}

/// VERSION of ours and theirs, with the cost of starting any process beside them.
fn version([ours, theirs, nothing]: [&Contestant; 3], rounds: u32, report: &mut Report) -> Result<()> {
    let mut times = [Times::default(), Times::default(), Times::default()];
    for round in 0..rounds {
        cleanup::interrupted()?;
        for (contestant, times) in [ours, theirs, nothing].into_iter().zip(&mut times) {
            let took = contestant.version()?;
            // The first call of each reads its binary from the disk.
            if round > 0 {
                times.push(took);
            }
        }
    }
    let [own, their, start] = times;
    report.duel("VERSION", (ours.name, own), (theirs.name, their), Some(0.3));
    report.times("starting a process", nothing.name, start);
    Ok(())
}

/// One contestant's times.
#[derive(Debug, Default)]
struct Sides {
    add: Times,
    del: Times,
}

fn one_round(world: &World, contestant: &Contestant, crowd: usize, times: &mut Sides) -> Result<()> {
    let pods = (0..crowd).map(|_| world.pod()).collect::<Result<Vec<_>, _>>()?;
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

/// Runs a command for all pods at once.
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
