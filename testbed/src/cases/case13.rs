//! Every attach mode in turn, forced: the agent must reach the same verdicts in each. If the kernel refuses
//! one, the agent must report that and work as without it.
//!
//! Each mode runs a small selection of cases 1, 2 and 8 in one lab: attachments that must be freed, and
//! attachments that look gone and must be kept. The bounds are those of netlink.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use super::case1;
use super::case2::{self, flush, move_out, rename, set_down};
use super::case3::hold_descriptor;
use super::case8::Evidence;
use super::sources::{self, NO_PROGRAMS, Rung};
use crate::error::Result;
use crate::lab::{Attachment, Lab, Options};
use crate::lease_watch::LeaseWatch;
use crate::narrate::{Who, short};
use crate::report::Builder;
use crate::stats::Times;
use crate::world::open_socket;

/// In the order in which an agent tries them.
const RUNGS: [&str; 4] = ["fentry", "tp_btf", "kprobe", NO_PROGRAMS];
/// Attachments of each kind.
const EACH: usize = 4;
/// Time for which the kept ones are watched after the deleted links settled: they would have settled too.
const KEPT_FOR: Duration = Duration::from_millis(700);
/// From the end of the last evidence to free: a teardown or a settle time.
const FREED_WITHIN: Duration = Duration::from_secs(4);

/// The last verdict on each kind.
type Verdicts = BTreeMap<&'static str, String>;

pub fn play(options: &Options, case: &mut Builder) -> Result<()> {
    let mut verdicts: Vec<(&str, Verdicts)> = Vec::new();
    for rung in RUNGS {
        sources::title(&options.tell, case, &format!("--rung {rung}"));
        let forced = Options { rung: Some(rung.to_owned()), ..options.clone() };
        verdicts.push((rung, one(&forced, rung, case)?));
    }
    case.chapter("");
    let mut different = Vec::new();
    if let Some((first, rest)) = verdicts.split_first() {
        for (rung, seen) in rest {
            let differs = first.1.iter().filter(|(kind, verdict)| seen.get(*kind) != Some(*verdict));
            different.extend(differs.map(|(kind, verdict)| {
                format!("{kind}: {verdict} on {}, {:?} on {rung}", first.0, seen.get(kind))
            }));
        }
        case.count(RUNGS.len());
        case.equal("kinds of attachments with a verdict", first.1.len(), 9);
    }
    case.none("verdicts that differ from rung to rung", &different);
    Ok(())
}

/// Path of the kernel's BTF, which only the tracepoint programs need.
const KERNEL_TYPES: &str = "/sys/kernel/btf/vmlinux";

/// Attachment that is alive though it looks gone: its kind, and its remaining evidence.
struct Hidden {
    kind: &'static str,
    attachment: Attachment,
    evidence: Evidence,
}

fn one(options: &Options, wanted: &str, case: &mut Builder) -> Result<Verdicts> {
    let lab = Lab::start(options, 48, "")?;
    let rung = Rung::of(&lab)?;
    // The kernel decides which attach modes it accepts; the agent must report the one in use.
    let says = if rung.sees_teardowns() { rung.name() == wanted } else { !rung.text.is_empty() };
    case.holds("doctor names this rung, or says why it is refused", says);
    let built_with = !rung.text.contains("built without");
    if wanted == "tp_btf" && built_with && Path::new(KERNEL_TYPES).exists() {
        // Otherwise programs that no kernel accepts would go unnoticed: everything works without them.
        case.holds("a kernel with BTF takes the tracepoint programs", rung.name() == wanted);
    }

    let each = options.scaled(EACH);
    let (dead, unlinked) = (lab.attach_many(each)?, lab.attach_many(each)?);
    let kept = keep(&lab, each)?;
    let mut watch = LeaseWatch::new(lab.client());
    watch.follow_all(dead.iter().chain(&unlinked).chain(kept.iter().flat_map(|(_, list)| list)));
    let hidden = hide(&lab, &mut watch)?;
    for (kind, list) in &kept {
        for attachment in list {
            match *kind {
                "renamed" => rename(attachment)?,
                "flushed" => flush(attachment)?,
                "set down" => set_down(attachment)?,
                _ => drop(move_out(&lab, attachment)?),
            }
        }
    }
    let times = destroy(options, &lab, &dead, &mut watch)?;
    let (settled, _) = case2::delete(options, &lab, &unlinked, &mut watch)?;
    watch.look_for(KEPT_FOR)?;
    let hidden_live: Vec<&Attachment> = hidden.iter().map(|hidden| &hidden.attachment).collect();
    case.none("live addresses lost: links moved, renamed, flushed, set down", &{
        watch.lost(kept.iter().flat_map(|(_, list)| list))
    });
    case.none("live addresses lost: hidden namespaces", &watch.lost(hidden_live));
    lab.tell.say(
        Who::Clock,
        &format!(
            "freed at most {} after a namespace's end, {} after a link's",
            short(times.max().unwrap_or_default()),
            short(settled.max().unwrap_or_default())
        ),
    );
    case.equal("ended namespaces and links with a measured time", times.len() + settled.len(), 2 * each);
    case.within("longest from a namespace's teardown to free", times.max(), case1::NETLINK_BOUND);
    case.within("longest from a link's teardown to free", settled.max(), case2::NETLINK_BOUND);
    let mut verdicts = Verdicts::new();
    let kinds = [("namespace ended", &dead), ("link deleted", &unlinked)].into_iter();
    for (kind, list) in kinds.chain(kept.iter().map(|(kind, list)| (*kind, list))) {
        if let Some(first) = list.first() {
            verdicts.insert(kind, last_verdict(&lab, first)?);
        }
    }
    end(&lab, hidden, &mut watch, &mut verdicts, case)?;
    lab.finish(case)?;
    Ok(verdicts)
}

/// Attachments that must be kept after their links are changed.
fn keep(lab: &Lab, each: usize) -> Result<[(&'static str, Vec<Attachment>); 4]> {
    let some = || lab.attach_many(each);
    Ok([("moved", some()?), ("renamed", some()?), ("flushed", some()?), ("set down", some()?)])
}

/// Namespaces without a path that are alive.
fn hide(lab: &Lab, watch: &mut LeaseWatch) -> Result<Vec<Hidden>> {
    let mut hidden = Vec::new();
    for kind in ["process only", "descriptor only", "socket only"] {
        let attachment = lab.attach(&lab.world.pod()?)?;
        watch.follow(&attachment);
        let evidence = match kind {
            "process only" => Evidence::Process(lab.world.inhabit(&attachment.pod)?),
            "descriptor only" => Evidence::Process(hold_descriptor(&attachment.pod)?),
            _ => Evidence::Socket(open_socket(&attachment.pod)?),
        };
        lab.world.remove(&attachment.pod);
        hidden.push(Hidden { kind, attachment, evidence });
    }
    Ok(hidden)
}

/// Deletes namespaces one by one: from each teardown to free.
fn destroy(options: &Options, lab: &Lab, dead: &[Attachment], watch: &mut LeaseWatch) -> Result<Times> {
    let mut times = Times::default();
    for attachment in dead {
        lab.fdb.watch(attachment.mac)?;
        lab.world.remove(&attachment.pod);
        watch.all_free(std::slice::from_ref(attachment), options.patience(case1::NETLINK_BOUND))?;
        let torn = lab.fdb.wait_gone(attachment.mac, Duration::from_secs(5))?;
        times.extend(watch.freed(attachment).map(|free| free.saturating_duration_since(torn)));
    }
    Ok(times)
}

/// Ends what kept the hidden ones alive: now they must be freed.
fn end(
    lab: &Lab,
    hidden: Vec<Hidden>,
    watch: &mut LeaseWatch,
    verdicts: &mut Verdicts,
    case: &mut Builder,
) -> Result<()> {
    let (mut times, n) = (Times::default(), hidden.len());
    for Hidden { kind, attachment, evidence } in hidden {
        watch.follow(&attachment);
        let from = Instant::now();
        evidence.end(lab);
        if watch.all_free(std::slice::from_ref(&attachment), 2 * FREED_WITHIN)? {
            times.extend(watch.freed(&attachment).map(|free| free - from));
        }
        verdicts.insert(kind, last_verdict(lab, &attachment)?);
    }
    case.equal("hidden namespaces freed once nothing kept them", times.len(), n);
    case.within("longest from the end of the last evidence to free", times.max(), FREED_WITHIN);
    Ok(())
}

/// The code of the last verdict on an attachment's address.
fn last_verdict(lab: &Lab, attachment: &Attachment) -> Result<String> {
    let history = lab.client().history(attachment.address)?;
    let verdict = history.iter().rev().find(|event| event.kind == "verdict");
    Ok(verdict.map_or_else(|| "none".to_owned(), |verdict| verdict.code.clone()))
}
