//! Hostile namespaces: the path is gone or is another's, the link is elsewhere, the namespace is held
//! by a stranger only, the machine is another. No live address is ever freed, and each is freed once
//! the last evidence of its life ends.

mod machine;
mod sandboxes;

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::case2::move_out;
use super::case3::hold_descriptor;
use crate::cleanup::Process;
use crate::error::Result;
use crate::lab::{Attachment, Lab, Options};
use crate::lease_watch::LeaseWatch;
use crate::narrate::{Who, short};
use crate::report::Builder;
use crate::stats::Times;
use crate::world::{Pod, open_socket};

/// Time for which the live ones are watched: past every settle time.
const KEPT_FOR: Duration = Duration::from_secs(4);
/// Time limit from the end of the last evidence to the release: a teardown or a settle time.
const FREED_WITHIN: Duration = Duration::from_secs(4);
/// Attachments of each kind.
const EACH: usize = 4;

/// Evidence that keeps a hidden attachment alive.
pub enum Evidence {
    Process(Process),
    Socket(UdpSocket),
    Shelter(Pod),
}

impl Evidence {
    /// Ends the evidence.
    pub fn end(self, lab: &Lab) {
        match self {
            Self::Process(mut process) => process.kill(),
            Self::Socket(socket) => drop(socket),
            Self::Shelter(pod) => lab.world.remove(&pod),
        }
    }
}

pub fn play(options: &Options, case: &mut Builder) -> Result<()> {
    let mut lab = Lab::start(options, 44, "  addTimeout: 2s\n")?;
    let hidden = hide(&lab, options.scaled(EACH))?;
    let mut watch = LeaseWatch::new(lab.client());
    let kinds = [
        "path unmounted, a process lives",
        "link moved out, first namespace deleted",
        "held by a stranger's descriptor only",
        "held by a stranger's socket only",
    ];
    for (kind, list) in kinds.iter().zip(&hidden) {
        lab.tell.say(Who::World, &format!("{} attachments: {kind}", list.len()));
        watch.follow_all(list.iter().map(|(attachment, _)| attachment));
    }
    let mut sandboxes = sandboxes::confuse(&lab, options.scaled(EACH), &mut watch)?;
    watch.look_for(KEPT_FOR)?;
    let mut answering = 0;
    for (attachment, _) in hidden.iter().flatten() {
        answering += usize::from(lab.answers(attachment.address)?);
    }
    let total: usize = hidden.iter().map(Vec::len).sum();
    case.equal("hidden attachments that answer on the wire all the time", answering, total);
    for (kind, list) in kinds.iter().zip(&hidden) {
        if let Some((first, _)) = list.first() {
            lab.tell_history(first.address, 2);
        }
        case.none(&format!("live addresses freed: {kind}"), &watch.lost(list.iter().map(|(a, _)| a)));
    }
    sandboxes.report(case, &watch);
    let times = end(&lab, hidden, &mut watch)?;
    lab.tell.say(
        Who::Clock,
        &format!(
            "freed at most {} after the end of the last evidence",
            short(times.max().unwrap_or_default())
        ),
    );
    case.within("longest from the end of the last evidence to free", times.max(), FREED_WITHIN);
    case.times(total, times, None);
    sandboxes.end(&lab, case)?;
    // In a cluster the second machine would not get the node's name: the cluster's tests cover that.
    if lab.setup.outside.is_none() {
        machine::another(options, &mut lab, case)?;
    }
    lab.finish(case)
}

/// Four kinds of attachments that are alive in spite of their path.
fn hide(lab: &Lab, each: usize) -> Result<[Vec<(Attachment, Evidence)>; 4]> {
    let mut kinds: [Vec<(Attachment, Evidence)>; 4] = Default::default();
    for _ in 0..each {
        let attachments = lab.attach_many(4)?;
        let [unmounted, moved, descriptor, socket] = &attachments[..] else { return Ok(kinds) };
        kinds[0].push((unmounted.clone(), Evidence::Process(lab.world.inhabit(&unmounted.pod)?)));
        kinds[1].push((moved.clone(), Evidence::Shelter(move_out(lab, moved)?)));
        kinds[2].push((descriptor.clone(), Evidence::Process(hold_descriptor(&descriptor.pod)?)));
        kinds[3].push((socket.clone(), Evidence::Socket(open_socket(&socket.pod)?)));
        for attachment in &attachments {
            lab.world.remove(&attachment.pod);
        }
    }
    Ok(kinds)
}

/// Ends what keeps each alive; how long each took to be free after that.
fn end(lab: &Lab, hidden: [Vec<(Attachment, Evidence)>; 4], watch: &mut LeaseWatch) -> Result<Times> {
    let mut times = Times::default();
    for (attachment, evidence) in hidden.into_iter().flatten() {
        watch.follow(&attachment);
        lab.fdb.watch(attachment.mac)?;
        let ended = Instant::now();
        evidence.end(lab);
        lab.fdb.wait_gone(attachment.mac, FREED_WITHIN)?;
        if watch.all_free(std::slice::from_ref(&attachment), 2 * FREED_WITHIN)? {
            times.extend(watch.freed(&attachment).map(|free| free - ended));
        }
    }
    Ok(times)
}
