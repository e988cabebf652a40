//! Packets, ADD and DEL with the programs and without, in turns: the agent is replaced between them.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use berth_testbed::cleanup;
use berth_testbed::stats::Times;
use berth_testbed::traffic::Stream;
use berth_testbed::world::GATEWAY;

use super::{SIDES, attach, switch};
use crate::bench::report::Report;
use crate::bench::stand::{Contestant, Stand};

/// Packets in a burst, which is what is timed.
const PACKETS: u32 = 10_000;
/// Bursts each way, for each side and round.
const BURSTS: u32 = 10;
/// ADDs and DELs, for each side and round.
const CALLS: u32 = 10;
/// Time from the first ADD until addresses for all others are probed as silent.
const PROBED: Duration = Duration::from_millis(1500);

/// One side's times.
#[derive(Debug, Default)]
struct Side {
    out: Times,
    back: Times,
    add: Times,
    del: Times,
}

/// Measures both sides.
pub fn measure(binaries: &Path, rounds: u32, report: &mut Report) -> Result<()> {
    println!("packets and ADDs with and without programs, {rounds} rounds ...");
    let mut stand = Stand::build(binaries)?;
    let berth = stand.berth(binaries);
    let pod = attach(&stand, &berth)?;
    let (inside, outside) = ((&*pod.pod.netns, pod.address), (stand.world.neighbour(), GATEWAY));
    let streams = (Stream::open(inside, outside)?, Stream::open(outside, inside)?);
    let mut times = [Side::default(), Side::default()];
    for round in 0..rounds {
        let mut order = [0, 1];
        // Neither always comes first.
        order.rotate_left(usize::from(round % 2 == 1));
        for side in order {
            switch(&mut stand, SIDES[side].1)?;
            // After a first ADD the agent probes for many more, which has to be over.
            call(&stand, &berth)?;
            let probing = Instant::now();
            packets(&streams, &mut times[side])?;
            cleanup::pause(PROBED.saturating_sub(probing.elapsed()))?;
            for _ in 0..CALLS {
                let (add, del) = call(&stand, &berth)?;
                times[side].add.push(add);
                times[side].del.push(del);
            }
        }
    }
    let [ours, theirs] = times;
    let names = SIDES.map(|(name, _)| name);
    for (what, ours, theirs) in [("out", &ours.out, &theirs.out), ("in", &ours.back, &theirs.back)] {
        for (name, times) in names.iter().zip([ours, theirs]) {
            if let Some(median) = times.percentile(50) {
                let rate = f64::from(PACKETS) / median.as_secs_f64() / 1e3;
                report.value(&format!("UDP {what}, {name}"), rate, "thousand packets/s", None);
            }
        }
    }
    for (what, ours, theirs) in [
        ("10,000 UDP packets out", ours.out, theirs.out),
        ("10,000 UDP packets in", ours.back, theirs.back),
        ("ADD", ours.add, theirs.add),
        ("DEL", ours.del, theirs.del),
    ] {
        report.duel(what, (names[0], ours), (names[1], theirs), None);
    }
    Ok(())
}

fn packets((out, back): &(Stream, Stream), times: &mut Side) -> Result<()> {
    for _ in 0..BURSTS {
        times.out.push(out.burst(PACKETS)?);
        times.back.push(back.burst(PACKETS)?);
    }
    Ok(())
}

/// ADD and DEL of a new pod; how long each took.
fn call(stand: &Stand, berth: &Contestant) -> Result<(Duration, Duration)> {
    cleanup::interrupted()?;
    let pod = stand.world.pod()?;
    let took = (berth.call("ADD", &pod)?.took(), berth.call("DEL", &pod)?.took());
    stand.world.remove(&pod);
    Ok(took)
}
