//! A pod's namespace ends and no DEL is ever sent: the address must come back by kernel proof.

use std::time::{Duration, Instant};

use super::sources::{self, Firsts, Rung};
use crate::cleanup;
use crate::error::Result;
use crate::lab::{Attachment, LEASES_INTERVAL, Lab, Options};
use crate::lease_watch::LeaseWatch;
use crate::narrate::{Who, short};
use crate::report::Builder;
use crate::stats::Times;

/// From the kernel's teardown to the address free, on netlink and on programs.
pub const NETLINK_BOUND: Duration = Duration::from_millis(100);
const BOUND: Duration = Duration::from_millis(20);
/// From the request to the address free, on programs; the kernel's own part is in it.
const IN_ALL: Duration = Duration::from_millis(50);
/// From one deletion to the next.
const PACE: Duration = Duration::from_millis(100);
/// Pods that live while others die.
const STANDING: usize = 20;
/// Share of it in which the programs are the only source.
const SHARE: f64 = 0.25;
/// Time for which addresses are watched that must not be freed.
const BLIND_FOR: Duration = Duration::from_secs(1);

pub fn play(options: &Options, case: &mut Builder) -> Result<()> {
    sources::play(options, case, &whole, SHARE, &blind)
}

/// Measurements of the deletions.
#[derive(Default)]
struct Seen {
    /// From the teardown to free.
    free: Times,
    /// From the request to the teardown.
    kernel: Times,
    /// From the request to free.
    in_all: Times,
    firsts: Firsts,
    /// Addresses assigned again by a real ADD.
    given: usize,
}

fn whole(options: &Options, case: &mut Builder) -> Result<Rung> {
    let lab = Lab::start_dual(options, 24)?;
    let rung = Rung::of(&lab)?;
    let bound = rung.bound(BOUND, NETLINK_BOUND);
    let n = options.scaled(200);
    lab.tell.say(
        Who::World,
        &format!("{n} deletions, one every {}; leases asked every {}", short(PACE), short(LEASES_INTERVAL)),
    );
    let mut standing = lab.attach_many(STANDING)?;
    let mut seen = Seen::default();
    for round in 0..n {
        let requested = Instant::now();
        let victim = standing.remove(0);
        let freed = delete(options, &lab, &rung, &victim, &mut seen)?;
        if round == 0 || (round + 1) % 50 == 0 {
            lab.tell_history(victim.address, if round == 0 { 6 } else { 2 });
            let took = seen.free.iter().last().map(short).unwrap_or_default();
            lab.tell.say(Who::Clock, &format!("deletion {}: free {took} after the teardown", round + 1));
        }
        if freed {
            standing.push(lab.attach_as(&lab.world.pod()?, &victim)?);
            seen.given += 1;
        }
        cleanup::pause(PACE.saturating_sub(requested.elapsed()))?;
    }
    case.kernel(seen.kernel);
    if rung.sees_teardowns() {
        case.within("p99 from the request to free", seen.in_all.percentile(99), IN_ALL);
    }
    case.times(n, seen.free, Some(bound));
    seen.firsts.report(&lab, case);
    case.equal("addresses given again by a real ADD", seen.given, n);
    sources::agree(&lab, case)?;
    lab.finish(case)?;
    Ok(rung)
}

/// Deletes a pod's namespace; whether its addresses became free.
fn delete(options: &Options, lab: &Lab, rung: &Rung, victim: &Attachment, seen: &mut Seen) -> Result<bool> {
    lab.fdb.watch(victim.mac)?;
    let mut watch = LeaseWatch::new(lab.client());
    watch.follow(victim);
    let requested = Instant::now();
    lab.world.remove(&victim.pod);
    let freed = watch.all_free(std::slice::from_ref(victim), options.patience(NETLINK_BOUND))?;
    let torn = lab.fdb.wait_gone(victim.mac, Duration::from_secs(5))?;
    seen.kernel.push(torn - requested);
    if let Some(free) = watch.freed(victim) {
        seen.free.push(free.saturating_duration_since(torn));
        seen.in_all.push(free - requested);
        seen.firsts.look(lab, rung, victim.address)?;
    }
    Ok(freed)
}

fn blind(options: &Options, case: &mut Builder) -> Result<()> {
    let lab = Lab::start_dual(options, 8)?;
    let doomed = lab.attach_many(3)?;
    let mut watch = LeaseWatch::new(lab.client());
    watch.follow_all(&doomed);
    for attachment in &doomed {
        lab.fdb.watch(attachment.mac)?;
        lab.world.remove(&attachment.pod);
        lab.fdb.wait_gone(attachment.mac, Duration::from_secs(5))?;
    }
    sources::missed(case, &mut watch, &doomed, BLIND_FOR)?;
    lab.finish(case)
}
