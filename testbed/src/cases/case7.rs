//! As many pods as addresses, restarted one after the other, with each new ADD before the old DEL: the ADD
//! waits in the queue and is served when the old pod is released.

use std::time::{Duration, Instant};

use crate::cleanup;
use crate::error::Result;
use crate::lab::{Lab, Options};
use crate::lease_watch::LeaseWatch;
use crate::narrate::{Who, short};
use crate::plugin;
use crate::report::Builder;
use crate::stats::Times;

/// From the release that an ADD waited for to its end.
const BOUND: Duration = Duration::from_millis(100);
/// Pods, and addresses.
const PODS: u16 = 10;
/// Time for which each ADD waits before the old pod's DEL.
const LEAD: Duration = Duration::from_millis(200);

pub fn play(options: &Options, case: &mut Builder) -> Result<()> {
    let lab = Lab::start(options, PODS, "")?;
    let n = options.scaled(20);
    let mut standing = lab.attach_many(usize::from(PODS))?;
    lab.tell.say(
        Who::World,
        &format!("{PODS} pods on {PODS} addresses; {n} restarts, each ADD {} before the DEL", short(LEAD)),
    );
    let (mut times, mut kernel) = (Times::default(), Times::default());
    let (mut failed, mut early) = (Vec::new(), Vec::new());
    for round in 0..n {
        let old = standing.remove(0);
        let pod = lab.world.pod()?;
        let mut adding = lab.plugin.start(&lab.call("ADD", &pod))?;
        cleanup::pause(LEAD)?;
        if !adding.runs() {
            early.push(format!("the ADD of restart {} did not wait", round + 1));
        }
        let mut watch = LeaseWatch::new(lab.client());
        watch.follow(&old);
        lab.fdb.watch(old.mac)?;
        let requested = Instant::now();
        let deleting = lab.plugin.start(&lab.call("DEL", &old.pod))?;
        watch.until(Instant::now() + options.patience(BOUND), |watch| watch.left(&old).is_some())?;
        let outcome = adding.finish(plugin::LIMIT)?;
        let torn = lab.fdb.wait_gone(old.mac, Duration::from_secs(5))?;
        kernel.push(torn - requested);
        deleting.finish(plugin::LIMIT)?.expect_success()?;
        lab.world.remove(&old.pod);
        let served = watch.left(&old).map(|released| outcome.ended.saturating_duration_since(released));
        times.extend(served);
        if round == 0 {
            lab.tell_history(old.address, 6);
            lab.tell
                .say(Who::Clock, &format!("served {} after the release", short(served.unwrap_or_default())));
        }
        match lab.attached(&pod, &outcome) {
            Ok(attachment) => standing.push(attachment),
            Err(error) => {
                failed.push(error.chain());
                standing.push(lab.attach(&pod)?);
            }
        }
    }
    case.kernel(kernel);
    case.times(n, times, Some(BOUND));
    case.none("ADDs that failed", &failed);
    case.none("ADDs that did not have to wait", &early);
    lab.finish(case)
}
