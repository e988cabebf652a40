//! The watcher's time per frame, by the kernel's count: of traffic that it only lets pass, and of ARP.

use std::path::Path;

use anyhow::{Context, Result, bail};
use berth_testbed::runs::{self, Counting};
use berth_testbed::traffic::{Neighbour, Stream};
use berth_testbed::world::GATEWAY;

use super::{attach, settled};
use crate::bench::report::Report;
use crate::bench::stand::Stand;

/// UDP packets each way.
const PACKETS: u32 = 100_000;
/// ARP frames of each kind.
const FRAMES: u32 = 20_000;

/// Measures each kind of frame by itself.
pub fn measure(binaries: &Path, report: &mut Report) -> Result<()> {
    println!("the watcher's time per frame ...");
    let stand = Stand::build(binaries)?;
    settled(&stand)?;
    let pod = attach(&stand, &stand.berth(binaries))?;
    let (inside, outside) = ((&*pod.pod.netns, pod.address), (stand.world.neighbour(), GATEWAY));
    let (out, back) = (Stream::open(inside, outside)?, Stream::open(outside, inside)?);
    let neighbour = Neighbour::open(&stand.world)?;
    let _counting = Counting::start()?;
    let mut look = |frames: u32, seen: &[(&str, &str)], send: &dyn Fn() -> Result<()>| -> Result<()> {
        let before = runs::of(stand.pid()?)?;
        send()?;
        let ran = runs::since(&before, &runs::of(stand.pid()?)?);
        for (program, what) in seen {
            let found = ran.iter().find(|ran| ran.name == *program);
            let found = found.with_context(|| format!("the agent has no program {program}"))?;
            if found.runs < u64::from(frames) {
                bail!("{program} ran {} times for {frames} frames of {what}", found.runs);
            }
            report.value(&format!("{program}: {what}"), super::mean_ns(found), "ns a frame", None);
        }
        Ok(())
    };
    look(PACKETS, &[("arp_out", "UDP")], &|| Ok(out.burst(PACKETS).map(drop)?))?;
    look(PACKETS, &[("arp_in", "UDP")], &|| Ok(back.burst(PACKETS).map(drop)?))?;
    let asked = [("arp_in", "ARP, address not watched"), ("arp_out", "ARP, address watched")];
    look(FRAMES, &asked, &|| Ok(neighbour.ask(pod.address, pod.mac, FRAMES)?))?;
    let told = [("arp_in", "ARP, address watched")];
    look(FRAMES, &told, &|| Ok(neighbour.repeat(pod.address, pod.mac, FRAMES)?))
}
