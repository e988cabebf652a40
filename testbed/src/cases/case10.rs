//! Hundreds of namespaces end at once while the agent is stopped: it must receive each event, or read again.
//!
//! Twice: stopped for five seconds in the middle of the deletions; and stopped before the first and continued
//! after the kernel removed the last one, so that no event reaches a running agent.

use std::time::{Duration, Instant};

use super::sources::{self, Rung};
use crate::cleanup;
use crate::error::{Error, Result};
use crate::lab::{Attachment, Lab, Options};
use crate::lease_watch::LeaseWatch;
use crate::narrate::{Who, short};
use crate::report::Builder;
use crate::stats::Times;

/// From the agent's return, or from the kernel's last teardown if that is later, to free.
const BOUND: Duration = Duration::from_secs(1);
/// Number of namespaces that end at once.
const CROWD: usize = 300;
/// Time for which the agent is stopped.
const STOPPED: Duration = Duration::from_secs(5);
/// Time limit for the kernel to remove them all.
const KERNEL_LIMIT: Duration = Duration::from_mins(1);
/// Interval of requests for leases: each response lists hundreds.
const LEASES_INTERVAL: Duration = Duration::from_millis(10);
/// Share of it in which the programs are the only source.
const SHARE: f64 = 0.25;
/// Time for which addresses are watched that must not be freed.
const BLIND_FOR: Duration = Duration::from_millis(1500);

pub fn play(options: &Options, case: &mut Builder) -> Result<()> {
    sources::play(options, case, &whole, SHARE, &blind)
}

/// Result for one crowd.
struct Fate {
    /// From the later of return and last teardown to free.
    free: Times,
    /// The same from the agent's return alone.
    after_return: Times,
    /// From the first request to each teardown.
    kernel: Times,
    lost: Vec<String>,
}

fn whole(options: &Options, case: &mut Builder) -> Result<Rung> {
    let n = options.scaled(CROWD);
    let size = u16::try_from(n + 8).unwrap_or(u16::MAX);
    let mut lab = Lab::start_crowd(options, size)?;
    let rung = Rung::of(&lab)?;
    let survivors = lab.attach_many(4)?;
    let mut watch = LeaseWatch::new(lab.client()).every(LEASES_INTERVAL);
    watch.follow_all(&survivors);

    let crowd = attach(&lab, n)?;
    let midst = end(options, &mut lab, &crowd, false)?;
    // They are assigned again by real ADDs: as many as the pool permits.
    let crowd = attach(&lab, n)?;
    let before = end(options, &mut lab, &crowd, true)?;

    watch.look_for(Duration::from_millis(100))?;
    for (what, fate) in [("stopped in the midst", &midst), ("stopped before the first", &before)] {
        case.none(&format!("addresses lost: agent {what}"), &fate.lost);
        case.within(&format!("longest to free: agent {what}"), fate.free.max(), BOUND);
        let (free, kernel) = (fate.after_return.max(), fate.kernel.max());
        lab.tell.say(
            Who::Clock,
            &format!(
                "{what}: the last free {} after the agent's return; the kernel's last teardown {} after the request",
                short(free.unwrap_or_default()),
                short(kernel.unwrap_or_default())
            ),
        );
    }
    case.kernel(midst.kernel);
    case.times(n, midst.free, Some(BOUND));
    case.none("live addresses lost", &watch.lost(&survivors));
    sources::agree(&lab, case)?;
    lab.finish(case)?;
    Ok(rung)
}

fn attach(lab: &Lab, count: usize) -> Result<Vec<Attachment>> {
    let from = Instant::now();
    let crowd = lab.attach_many(count)?;
    for attachment in &crowd {
        lab.fdb.watch(attachment.mac)?;
    }
    lab.tell.say(Who::World, &format!("{count} pods attached in {}", short(from.elapsed())));
    Ok(crowd)
}

/// Deletes all namespaces with the agent stopped, and sees what it makes of that after its return.
fn end(options: &Options, lab: &mut Lab, crowd: &[Attachment], before: bool) -> Result<Fate> {
    let mut watch = LeaseWatch::new(lab.client()).every(LEASES_INTERVAL);
    watch.follow_all(crowd);
    let requested = Instant::now();
    let (first, rest) = crowd.split_at(if before { 0 } else { crowd.len() / 2 });
    remove(lab, first);
    let stopped = Instant::now();
    lab.agent()?.pause();
    remove(lab, rest);
    if before {
        await_teardowns(lab, crowd)?;
    } else {
        cleanup::pause(STOPPED.saturating_sub(stopped.elapsed()))?;
    }
    let returned = lab.agent()?.resume();
    await_teardowns(lab, crowd)?;
    watch.all_free(crowd, options.patience(BOUND))?;
    let mut fate = Fate {
        free: Times::default(),
        after_return: Times::default(),
        kernel: Times::default(),
        lost: Vec::new(),
    };
    let torn: Vec<Option<Instant>> = crowd.iter().map(|attachment| lab.fdb.gone(attachment.mac)).collect();
    let last = torn.iter().flatten().max().copied().unwrap_or(returned).max(returned);
    for (attachment, torn) in crowd.iter().zip(torn) {
        fate.kernel.extend(torn.map(|torn| torn - requested));
        match watch.freed(attachment) {
            Some(free) => {
                fate.free.push(free.saturating_duration_since(last));
                fate.after_return.push(free.saturating_duration_since(returned));
            }
            None => fate.lost.push(format!("{}: {:?}", attachment.address, watch.fate(attachment.address))),
        }
        lab.fdb.forget(attachment.mac);
    }
    if let Some(slowest) = crowd.iter().max_by_key(|attachment| watch.freed(attachment)) {
        lab.tell_history(slowest.address, 4);
    }
    Ok(fate)
}

fn remove(lab: &Lab, crowd: &[Attachment]) {
    for attachment in crowd {
        lab.world.remove(&attachment.pod);
    }
}

/// Waits until the kernel took every link down.
fn await_teardowns(lab: &Lab, crowd: &[Attachment]) -> Result<()> {
    let from = Instant::now();
    while crowd.iter().any(|attachment| lab.fdb.gone(attachment.mac).is_none()) {
        if from.elapsed() > KERNEL_LIMIT {
            return Err(Error::Timeout {
                what: "the teardown of all links".to_owned(),
                within: KERNEL_LIMIT,
            });
        }
        cleanup::pause(Duration::from_millis(2))?;
    }
    Ok(())
}

fn blind(options: &Options, case: &mut Builder) -> Result<()> {
    let mut lab = Lab::start(options, 8, "")?;
    let crowd = attach(&lab, 3)?;
    let mut watch = LeaseWatch::new(lab.client());
    watch.follow_all(&crowd);
    lab.agent()?.pause();
    remove(&lab, &crowd);
    await_teardowns(&lab, &crowd)?;
    lab.agent()?.resume();
    sources::missed(case, &mut watch, &crowd, BLIND_FOR)?;
    lab.finish(case)
}
