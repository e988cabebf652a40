//! A pod's namespace ends and no DEL is ever sent: the address must come back by kernel proof.

use std::time::{Duration, Instant};

use crate::cleanup;
use crate::error::Result;
use crate::lab::{LEASES_INTERVAL, Lab, Options};
use crate::lease_watch::LeaseWatch;
use crate::narrate::{Who, short};
use crate::report::Builder;
use crate::stats::Times;

/// From the kernel's teardown to the address free.
const BOUND: Duration = Duration::from_millis(100);
/// From one deletion to the next.
const PACE: Duration = Duration::from_millis(100);
/// Pods that live while others die.
const STANDING: usize = 20;

pub fn play(options: &Options, case: &mut Builder) -> Result<()> {
    let lab = Lab::start_dual(options, 24)?;
    let n = options.scaled(200);
    lab.tell.say(
        Who::World,
        &format!("{n} deletions, one every {}; leases asked every {}", short(PACE), short(LEASES_INTERVAL)),
    );
    let mut standing = lab.attach_many(STANDING)?;
    let (mut times, mut kernel, mut given) = (Times::default(), Times::default(), 0);
    for round in 0..n {
        let victim = standing.remove(0);
        lab.fdb.watch(victim.mac)?;
        let mut watch = LeaseWatch::new(lab.client());
        watch.follow(&victim);
        let requested = Instant::now();
        lab.world.remove(&victim.pod);
        let freed = watch.all_free(std::slice::from_ref(&victim), options.patience(BOUND))?;
        let torn = lab.fdb.wait_gone(victim.mac, Duration::from_secs(5))?;
        kernel.push(torn - requested);
        if let Some(free) = watch.freed(&victim) {
            times.push(free.saturating_duration_since(torn));
        }
        if round == 0 || (round + 1) % 50 == 0 {
            lab.tell.say(
                Who::Kernel,
                &format!("{} gone from the FDB {} after the request", victim.mac, short(torn - requested)),
            );
            lab.tell_history(victim.address, if round == 0 { 6 } else { 2 });
            let took = watch.freed(&victim).map(|free| short(free.saturating_duration_since(torn)));
            lab.tell.say(
                Who::Clock,
                &format!("deletion {}: free {} after the teardown", round + 1, took.unwrap_or_default()),
            );
        }
        if freed {
            standing.push(lab.attach_as(&lab.world.pod()?, &victim)?);
            given += 1;
        }
        cleanup::pause(PACE.saturating_sub(requested.elapsed()))?;
    }
    case.kernel(kernel);
    case.times(n, times, Some(BOUND));
    case.equal("addresses given again by a real ADD", given, n);
    lab.finish(case)
}
