//! The agent is killed. While it is down, DELs must succeed and namespaces end without any; when it
//! comes back, everything that ended must be free within a second.

use std::time::{Duration, Instant};

use crate::error::Result;
use crate::lab::{Attachment, Lab, Options};
use crate::lease_watch::LeaseWatch;
use crate::narrate::{Who, short};
use crate::report::Builder;
use crate::stats::Times;

/// From the agent's start to free.
const BOUND: Duration = Duration::from_secs(1);
/// Bound of a DEL beyond the removal of its link.
const DEL_MEDIAN: Duration = Duration::from_millis(10);
const DEL_MAX: Duration = Duration::from_millis(500);

pub fn play(options: &Options, case: &mut Builder) -> Result<()> {
    let mut lab = Lab::start_dual(options, 44)?;
    let (n, half) = (options.scaled(20), options.scaled(10));
    let silent = lab.attach_many(n)?;
    let (living, ended) = (lab.attach_many(half)?, lab.attach_many(half)?);
    let survivor = lab.attach(&lab.world.pod()?)?;
    let removal = lab.world.removal_floor(10)?;
    let removal = removal.percentile(50).unwrap_or_default();
    lab.tell.say(
        Who::Kernel,
        &format!("removing a macvlan by netlink alone takes {} (median of 10)", short(removal)),
    );

    lab.kill_agent();
    lab.tell.say(Who::World, "agent killed (-9)");
    for attachment in silent.iter().chain(&ended) {
        lab.world.remove(&attachment.pod);
    }
    let (beyond, failed) = delete(&lab, &living, &ended, removal)?;
    lab.tell.say(
        Who::World,
        &format!(
            "{n} namespaces deleted without DEL; {} DELs, half of them after their namespace's end",
            2 * half
        ),
    );
    let all: Vec<Attachment> = silent.iter().chain(&living).chain(&ended).cloned().collect();
    let mut watch = LeaseWatch::new(lab.client());
    watch.follow_all(&all);
    watch.follow(&survivor);
    let started = lab.begin_agent(None)?;
    let free = watch.all_free(&all, options.patience(BOUND))?;
    let times: Times = all.iter().filter_map(|a| watch.freed(a)).map(|free| free - started).collect();
    lab.tell.say(
        Who::Clock,
        &format!(
            "all free: {free}, the last {} after the agent's start",
            short(times.max().unwrap_or_default())
        ),
    );
    if let Some(first) = silent.first() {
        lab.tell_history(first.address, 4);
    }
    case.times(all.len(), times, Some(BOUND));
    case.none("DELs that failed while the agent was down", &failed);
    case.within("median time of a DEL beyond its link's removal", beyond.percentile(50), DEL_MEDIAN);
    case.within("longest time of a DEL beyond its link's removal", beyond.max(), DEL_MAX);
    case.none("live addresses lost", &watch.lost([&survivor]));
    case.equal("addresses given again by a real ADD", lab.prove_free(&all)?, all.len());
    lab.finish(case)
}

/// DELs without an agent: the time of each beyond `removal` (if it had a link to remove), and failures.
fn delete(
    lab: &Lab,
    living: &[Attachment],
    ended: &[Attachment],
    removal: Duration,
) -> Result<(Times, Vec<String>)> {
    let (mut beyond, mut failed) = (Times::default(), Vec::new());
    let floors = living.iter().map(|a| (a, removal)).chain(ended.iter().map(|a| (a, Duration::ZERO)));
    for (attachment, floor) in floors {
        let outcome = lab.detach(&attachment.pod)?;
        beyond.push(outcome.took().saturating_sub(floor));
        failed.extend(outcome.expect_success().err().map(|error| error.chain()));
        let links = lab.world.links(&attachment.pod)?.unwrap_or_default();
        if links.iter().any(|link| link.mac == Some(attachment.mac)) {
            failed.push(format!("the link of {} is there after its DEL", attachment.pod.container_id));
        }
    }
    for attachment in living {
        lab.world.remove(&attachment.pod);
    }
    // The kernel may still be removing the last ones: otherwise their end would count in the second of the
    // start, and no agent could free them sooner.
    let from = Instant::now();
    while !lab.world.berth_links()?.is_empty() && from.elapsed() < Duration::from_millis(100) {
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok((beyond, failed))
}
