//! The store is rolled back, or lost, while the agent is stopped and pods are alive: it must be repaired
//! before the first response, so that no live address is assigned.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::lab::{Attachment, Lab, Options};
use crate::lease_watch::LeaseWatch;
use crate::narrate::{Who, short};
use crate::report::Builder;
use crate::stats::Times;

/// The store's file in the state folder.
const STORE: &str = "store.redb";
/// ADDs of any address after each repair.
const NEW: usize = 4;

pub fn play(options: &Options, case: &mut Builder) -> Result<()> {
    let mut lab = Lab::start_dual(options, 32)?;
    let n = options.scaled(20);
    let (store, copy) = (lab.setup.state().join(STORE), lab.world.folder().join("older-store.redb"));

    // The older copy has half of the pods, and some that are gone since.
    let mut pods = lab.attach_many(n / 2)?;
    let gone = lab.attach_many(2)?;
    lab.stop_agent()?;
    std::fs::copy(&store, &copy).map_err(Error::system("copy the store aside"))?;
    lab.start_agent(None)?;
    for attachment in &gone {
        lab.retire(attachment)?;
    }
    pods.extend(lab.attach_many(n - n / 2)?);

    lab.stop_agent()?;
    std::fs::copy(&copy, &store).map_err(Error::system("roll the store back"))?;
    lab.tell.say(Who::World, &format!("store rolled back to a copy without {} of {n} live pods", n - n / 2));
    let mut times = restart(&mut lab, case, &pods, &gone, "rolled back")?;

    lab.stop_agent()?;
    std::fs::remove_file(&store).map_err(Error::system("delete the store"))?;
    lab.tell.say(Who::World, "store deleted");
    times.extend(restart(&mut lab, case, &pods, &[], "deleted")?.iter());

    if let Some(last) = pods.last() {
        lab.tell_history(last.address, 3);
    }
    case.times(2 * n, times, None);
    for attachment in &pods {
        lab.retire(attachment)?;
    }
    case.equal("addresses given again after their DEL", lab.prove_free(&pods)?, n);
    lab.finish(case)
}

/// Starts the agent over a wrong store, and requests addresses at once; returns the time to repair.
fn restart(
    lab: &mut Lab,
    case: &mut Builder,
    pods: &[Attachment],
    gone: &[Attachment],
    how: &str,
) -> Result<Times> {
    // The ADDs start before the agent does: they get its first responses.
    let sandboxes = (0..NEW).map(|_| lab.world.pod()).collect::<Result<Vec<_>>>()?;
    let adding =
        sandboxes.iter().map(|pod| lab.plugin.start(&lab.call("ADD", pod))).collect::<Result<Vec<_>>>()?;
    let mut watch = LeaseWatch::new(lab.client());
    watch.follow_all(pods);
    let started = lab.begin_agent(None)?;
    let limit = Duration::from_secs(20);
    watch.until(started + limit, |watch| watch.replies() > 0)?;
    let first = watch.lost(pods);
    let live: BTreeSet<IpAddr> = pods.iter().flat_map(Attachment::addresses).collect();
    let mut given = Vec::new();
    for (pod, adding) in sandboxes.iter().zip(adding) {
        let attachment = lab.attached(pod, &adding.finish(limit)?)?;
        let again = attachment.addresses().filter(|address| live.contains(address));
        given.extend(again.map(|address| format!("{address} given to {}", pod.container_id)));
        lab.retire(&attachment)?;
    }
    watch.look_for(Duration::from_secs(1))?;
    let times: Times = pods.iter().filter_map(|a| watch.held(a)).map(|held| held - started).collect();
    lab.tell.say(
        Who::Clock,
        &format!(
            "store {how}: all {} live pods listed {} after the start",
            times.len(),
            short(times.max().unwrap_or_default())
        ),
    );
    case.none(&format!("live addresses missing from the first answer, store {how}"), &first);
    case.none(&format!("live addresses handed out, store {how}"), &given);
    case.none(&format!("live addresses lost later, store {how}"), &watch.lost(pods));
    let mut over = LeaseWatch::new(lab.client());
    over.follow_all(gone);
    let deadline = Instant::now() + Duration::from_secs(5);
    over.until(deadline, |over| gone.iter().all(|a| over.left(a).is_some()))?;
    let left: Vec<String> =
        gone.iter().filter(|a| over.left(a).is_none()).map(|a| a.address.to_string()).collect();
    case.none(&format!("records of ended pods that came back and stayed, store {how}"), &left);
    Ok(times)
}
