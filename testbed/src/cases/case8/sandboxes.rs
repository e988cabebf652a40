//! Recycled paths and late DELs: a call about an old sandbox must not touch the new one.

use std::time::{Duration, Instant};

use crate::cleanup::Process;
use crate::error::Result;
use crate::lab::{Attachment, Lab};
use crate::lease_watch::LeaseWatch;
use crate::narrate::Who;
use crate::report::Builder;

/// Time limit for an address to be free after its DEL.
const FREED_WITHIN: Duration = Duration::from_secs(4);

/// Sandboxes, old and new, after all the confusion.
pub struct Sandboxes {
    /// Live ones in recycled paths, or with an old sandbox that was deleted late.
    live: Vec<Attachment>,
    /// Old ones, kept alive by a process, with a path that belongs to another sandbox now, and with their DEL
    /// received.
    deleted: Vec<(Attachment, Process)>,
    /// DELs that did not succeed.
    failed: Vec<String>,
}

/// Recycles `each` paths in two ways, and sends `each` late DELs in two ways.
pub fn confuse(lab: &Lab, each: usize, watch: &mut LeaseWatch) -> Result<Sandboxes> {
    let mut all = Sandboxes { live: Vec::new(), deleted: Vec::new(), failed: Vec::new() };
    for _ in 0..each {
        recycle_dead(lab, &mut all)?;
        recycle_alive(lab, &mut all)?;
        late_del(lab, &mut all)?;
    }
    watch.follow_all(&all.live);
    lab.tell.say(
        Who::World,
        &format!(
            "{} live sandboxes in a recycled path, or with a late DEL of the pod's old sandbox",
            all.live.len()
        ),
    );
    Ok(all)
}

fn del(lab: &Lab, old: &Attachment, all: &mut Sandboxes) -> Result<()> {
    let outcome = lab.detach(&old.pod)?;
    all.failed.extend(outcome.expect_success().err().map(|error| error.chain()));
    Ok(())
}

/// The old namespace ends, its path becomes another pod's, then the old DEL comes (T12).
fn recycle_dead(lab: &Lab, all: &mut Sandboxes) -> Result<()> {
    let old = lab.attach(&lab.world.pod()?)?;
    lab.world.remove(&old.pod);
    let new = lab.attach(&lab.world.pod_named(&old.pod.name)?)?;
    del(lab, &old, all)?;
    all.live.push(new);
    Ok(())
}

/// The same, but a process keeps the old namespace and its link alive.
fn recycle_alive(lab: &Lab, all: &mut Sandboxes) -> Result<()> {
    let old = lab.attach(&lab.world.pod()?)?;
    let process = lab.world.inhabit(&old.pod)?;
    lab.world.remove(&old.pod);
    let new = lab.attach(&lab.world.pod_named(&old.pod.name)?)?;
    del(lab, &old, all)?;
    all.live.push(new);
    all.deleted.push((old, process));
    Ok(())
}

/// A pod's first sandbox ends, its second gets its address, then the first one's DEL arrives.
fn late_del(lab: &Lab, all: &mut Sandboxes) -> Result<()> {
    let mut pod = lab.world.pod()?;
    pod.uid = Some(pod.name.clone());
    let old = lab.attach(&pod)?;
    lab.world.remove(&pod);
    let new = lab.attach_as(&lab.world.sandbox_of(&pod)?, &old)?;
    del(lab, &old, all)?;
    all.live.push(new);
    Ok(())
}

impl Sandboxes {
    /// Checks that the live ones have stayed.
    pub fn report(&self, case: &mut Builder, watch: &LeaseWatch) {
        case.none(
            "live addresses freed by a recycled path or a late DEL of another sandbox",
            &watch.lost(&self.live),
        );
        case.none("late DELs that failed", &self.failed);
    }

    /// The old sandboxes must have ended; the live ones end in order.
    pub fn end(&mut self, lab: &Lab, case: &mut Builder) -> Result<()> {
        let mut watch = LeaseWatch::new(lab.client());
        let deleted: Vec<Attachment> =
            self.deleted.iter().map(|(attachment, _)| attachment.clone()).collect();
        watch.follow_all(&deleted);
        let deadline = Instant::now() + FREED_WITHIN;
        watch.until(deadline, |watch| deleted.iter().all(|a| watch.left(a).is_some()))?;
        let left: Vec<String> = deleted
            .iter()
            .filter(|a| watch.left(a).is_none())
            .map(|a| format!("{} {:?}", a.pod.container_id, watch.fate(a.address)))
            .collect();
        case.none("leases of deleted sandboxes in a recycled path", &left);
        let links = lab.world.berth_links()?;
        let orphans = deleted.iter().filter(|old| links.iter().any(|(_, link)| link.mac == Some(old.mac)));
        case.none(
            "links of deleted sandboxes left",
            &orphans.map(|old| old.pod.container_id.clone()).collect::<Vec<_>>(),
        );
        self.deleted.clear();
        for attachment in &self.live {
            lab.retire(attachment)?;
        }
        case.equal(
            "their addresses given again after their own DEL",
            lab.prove_free(&self.live)?,
            self.live.len(),
        );
        Ok(())
    }
}
