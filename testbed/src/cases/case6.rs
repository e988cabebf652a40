//! The machine reboots: another boot id, all namespaces gone. Old leases are free, or handed to the
//! same pods, within two seconds of the agent's start.

use std::time::{Duration, Instant};

use crate::error::Result;
use crate::lab::{Attachment, Lab, Options};
use crate::lease_watch::LeaseWatch;
use crate::narrate::{Who, short};
use crate::report::Builder;
use crate::stats::Times;
use crate::world::{self, Pod};

/// From the agent's start to free or handed over.
const BOUND: Duration = Duration::from_secs(2);

pub fn play(options: &Options, case: &mut Builder) -> Result<()> {
    let mut lab = Lab::start(options, 24, "")?;
    let (n, back) = (options.scaled(20), options.scaled(10));
    let old = named_pods(&lab, n)?;
    let stranger = named_pods(&lab, 1)?;

    lab.kill_agent();
    for attachment in old.iter().chain(&stranger) {
        lab.world.remove(&attachment.pod);
    }
    lab.setup.boot(2)?;
    for attachment in &stranger {
        world::ip(lab.world.neighbour(), &format!("addr add {}/32 dev eth0\n", attachment.address))?;
    }
    lab.tell.say(
        Who::World,
        &format!(
            "rebooted: {n} namespaces gone, another boot id; a stranger took one more address meanwhile"
        ),
    );

    // The runtime re-creates sandboxes as soon as it can, which is before the agent responds.
    let pods = old[..back].iter().map(|a| lab.world.sandbox_of(&a.pod)).collect::<Result<Vec<Pod>>>()?;
    let running =
        pods.iter().map(|pod| lab.plugin.start(&lab.call("ADD", pod))).collect::<Result<Vec<_>>>()?;
    let mut watch = LeaseWatch::new(lab.client());
    watch.follow_all(&old);
    let started = lab.begin_agent(None)?;
    let deadline = Instant::now() + options.patience(BOUND);
    watch.until(deadline, |watch| old.iter().all(|a| watch.left(a).is_some()))?;
    let times: Times = old.iter().filter_map(|a| watch.left(a)).map(|left| left - started).collect();
    lab.tell.say(
        Who::Clock,
        &format!(
            "the last old lease ended {} after the agent's start",
            short(times.max().unwrap_or_default())
        ),
    );

    let (mut same, mut failed) = (0, Vec::new());
    let mut attached: Vec<Attachment> = Vec::new();
    for ((pod, running), before) in pods.iter().zip(running).zip(&old) {
        match lab.attached(pod, &running.finish(options.patience(BOUND))?) {
            Ok(attachment) => {
                same += usize::from(attachment.address == before.address);
                attached.push(attachment);
            }
            Err(error) => failed.push(error.chain()),
        }
    }
    lab.tell.say(Who::Agent, &format!("{same} of {back} pods that came back have their old address"));
    case.times(n, times, Some(BOUND));
    case.none("ADDs of pods that came back that failed", &failed);
    case.equal("pods that came back to their old address", same, back);
    let quarantined = quarantined(options, &lab, &stranger)?;
    case.equal("addresses that answered at the start and are quarantined", quarantined, stranger.len());
    if let Some(first) = stranger.first() {
        lab.tell_history(first.address, 3);
    }
    case.equal("addresses given again by a real ADD", lab.prove_free(&old[back..])?, n - back);
    for attachment in &attached {
        lab.retire(attachment)?;
    }
    lab.finish(case)
}

fn named_pods(lab: &Lab, count: usize) -> Result<Vec<Attachment>> {
    let named = (0..count).map(|_| {
        let mut pod = lab.world.pod()?;
        pod.uid = Some(pod.name.clone());
        lab.attach(&pod)
    });
    named.collect()
}

/// Number of these addresses that become quarantined.
fn quarantined(options: &Options, lab: &Lab, attachments: &[Attachment]) -> Result<usize> {
    let deadline = Instant::now() + options.patience(BOUND);
    let mut watch = LeaseWatch::new(lab.client());
    watch.follow_all(attachments);
    let is = |watch: &LeaseWatch, attachment: &Attachment| {
        let last = watch.fate(attachment.address).and_then(|fate| fate.last.clone());
        last.is_some_and(|(state, _)| state == "quarantined")
    };
    watch.until(deadline, |watch| attachments.iter().all(|a| is(watch, a)))?;
    Ok(attachments.iter().filter(|a| is(&watch, a)).count())
}
