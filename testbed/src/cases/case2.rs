//! A link is deleted inside a living namespace: free after settle. A link that was moved, renamed,
//! flushed or set down is not deleted: its address stays.

use std::time::{Duration, Instant};

use super::sources::{self, Firsts, Rung};
use crate::error::Result;
use crate::lab::{Attachment, Lab, Options};
use crate::lease_watch::LeaseWatch;
use crate::narrate::{Who, short};
use crate::report::Builder;
use crate::stats::Times;
use crate::world::{self, POD_LINK, Pod};

/// The network's default.
const SETTLE: Duration = Duration::from_secs(2);
/// From the teardown to free, on netlink and on programs.
pub const NETLINK_BOUND: Duration = Duration::from_millis(2200);
const BOUND: Duration = Duration::from_millis(2100);
/// Share of it in which the programs are the only source.
const SHARE: f64 = 0.25;
/// Time past settle for which a kept address is watched.
const KEPT_FOR: Duration = Duration::from_millis(1500);

pub fn play(options: &Options, case: &mut Builder) -> Result<()> {
    sources::play(options, case, &whole, SHARE, &blind)
}

fn whole(options: &Options, case: &mut Builder) -> Result<Rung> {
    let mut lab = Lab::start(options, 48, "")?;
    let (n, each) = (options.scaled(20), options.scaled(4));
    let doomed = lab.attach_many(n)?;
    let moved_unseen = lab.attach_many(each)?;
    let [moved, renamed, flushed, down] =
        [lab.attach_many(each)?, lab.attach_many(each)?, lab.attach_many(each)?, lab.attach_many(each)?];

    lab.stop_agent()?;
    let mut shelters = shelter(&lab, &moved_unseen)?;
    let ready = lab.start_agent(None)?;
    lab.tell.say(
        Who::World,
        &format!(
            "{each} links moved to other namespaces while the agent was down (back after {})",
            short(ready)
        ),
    );
    let rung = Rung::of(&lab)?;
    let mut watch = LeaseWatch::new(lab.client());
    let kept: Vec<&Attachment> =
        [&moved_unseen, &moved, &renamed, &flushed, &down].into_iter().flatten().collect();
    watch.follow_all(kept.iter().copied());
    watch.follow_all(&doomed);

    shelters.extend(shelter(&lab, &moved)?);
    renamed.iter().try_for_each(rename)?;
    flushed.iter().try_for_each(flush)?;
    down.iter().try_for_each(set_down)?;
    lab.tell.say(Who::World, &format!("{each} links each moved, renamed, flushed, set down; {n} deleted"));
    let (times, kernel) = delete(options, &lab, &doomed, &mut watch)?;
    watch.look_for(KEPT_FOR)?;

    if let Some(first) = doomed.first() {
        lab.tell_history(first.address, 5);
    }
    let mut firsts = Firsts::default();
    doomed.iter().try_for_each(|attachment| firsts.look(&lab, &rung, attachment.address))?;
    firsts.report(&lab, case);
    case.kernel(kernel);
    case.not_before("shortest time from the teardown to free (settle)", times.min(), SETTLE.mul_f64(0.98));
    case.times(n, times, Some(rung.bound(BOUND, NETLINK_BOUND)));
    let ways = [
        ("moved to another namespace", &moved),
        ("moved while the agent was down", &moved_unseen),
        ("renamed", &renamed),
        ("flushed", &flushed),
        ("set down", &down),
    ];
    for (way, attachments) in ways {
        if let Some(first) = attachments.first() {
            lab.tell_history(first.address, 2);
        }
        case.none(&format!("addresses lost of {each} with the link {way}"), &watch.lost(attachments));
    }
    let answering =
        moved.iter().chain(&moved_unseen).map(|a| lab.answers(a.address)).collect::<Result<Vec<_>>>()?;
    case.equal("moved links that answer on the wire", answering.iter().filter(|yes| **yes).count(), 2 * each);
    case.equal("addresses given again by a real ADD", lab.prove_free(&doomed)?, n);
    sources::agree(&lab, case)?;
    lab.finish(case)?;
    Ok(rung)
}

fn blind(options: &Options, case: &mut Builder) -> Result<()> {
    let lab = Lab::start(options, 8, "")?;
    let doomed = lab.attach_many(3)?;
    let mut watch = LeaseWatch::new(lab.client());
    watch.follow_all(&doomed);
    for attachment in &doomed {
        lab.fdb.watch(attachment.mac)?;
        delete_link(attachment)?;
        lab.fdb.wait_gone(attachment.mac, Duration::from_secs(5))?;
    }
    sources::missed(case, &mut watch, &doomed, NETLINK_BOUND + Duration::from_millis(500))?;
    lab.finish(case)
}

fn delete_link(attachment: &Attachment) -> Result<()> {
    world::ip(&attachment.pod.netns, &format!("link del {POD_LINK}\n"))
}

/// Renames the link.
pub fn rename(attachment: &Attachment) -> Result<()> {
    let lines = format!("link set {POD_LINK} down\nlink set {POD_LINK} name other0\nlink set other0 up\n");
    world::ip(&attachment.pod.netns, &lines)
}

/// Removes the address from the link.
pub fn flush(attachment: &Attachment) -> Result<()> {
    world::ip(&attachment.pod.netns, &format!("addr flush dev {POD_LINK}\n"))
}

/// Sets the link down.
pub fn set_down(attachment: &Attachment) -> Result<()> {
    world::ip(&attachment.pod.netns, &format!("link set {POD_LINK} down\n"))
}

/// Deletes the links and waits until the addresses are free: Berth's times and the kernel's.
pub fn delete(
    options: &Options,
    lab: &Lab,
    doomed: &[Attachment],
    watch: &mut LeaseWatch,
) -> Result<(Times, Times)> {
    let (mut times, mut kernel) = (Times::default(), Times::default());
    let mut torn = Vec::new();
    for attachment in doomed {
        lab.fdb.watch(attachment.mac)?;
        let requested = Instant::now();
        delete_link(attachment)?;
        let gone = lab.fdb.wait_gone(attachment.mac, Duration::from_secs(5))?;
        kernel.push(gone - requested);
        torn.push(gone);
        watch.poll()?;
    }
    watch.all_free(doomed, options.patience(NETLINK_BOUND))?;
    for (attachment, gone) in doomed.iter().zip(torn) {
        times.extend(watch.freed(attachment).map(|free| free.saturating_duration_since(gone)));
    }
    Ok((times, kernel))
}

/// Moves the links to new namespaces and brings them up there with their addresses.
fn shelter(lab: &Lab, attachments: &[Attachment]) -> Result<Vec<Pod>> {
    attachments.iter().map(|attachment| move_out(lab, attachment)).collect()
}

/// Moves a pod's link to a new namespace, where it keeps its address.
pub fn move_out(lab: &Lab, attachment: &Attachment) -> Result<Pod> {
    let shelter = lab.world.pod()?;
    world::ip(&attachment.pod.netns, &format!("link set {POD_LINK} netns {}\n", shelter.name))?;
    let lines = format!("addr add {}/16 dev {POD_LINK}\nlink set {POD_LINK} up\n", attachment.address);
    world::ip(&shelter.netns, &lines)?;
    Ok(shelter)
}
