//! A runtime forgets a sandbox: every process of the pod has ended, but the bind mount keeps the namespace
//! and its link alive, and the link answers ARP. With `leakedAfter` the agent removes the link. It must not
//! remove one that only looks abandoned.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::sources::{self, Firsts, Rung};
use crate::cleanup::{self, Process};
use crate::error::{Error, Result};
use crate::lab::{Attachment, Lab, Options};
use crate::lease_watch::LeaseWatch;
use crate::narrate::{Who, short};
use crate::report::Builder;
use crate::stats::Times;
use crate::world::{self, Pod, open_socket};

/// Reason code of a scan that found a namespace empty.
const EMPTY: &str = "namespace-empty";
/// Time until the first scan that finds it empty: by the clock, and after a program saw the last task exit.
const FIRST_SCAN: Duration = Duration::from_secs(10);
const FIRST_SCAN_ON_EXIT: Duration = Duration::from_millis(100);
/// From that scan to free: `leakedAfter` and what Berth may add.
const AFTER_SCAN: Duration = Duration::from_millis(5500);
const AFTER_SCAN_ON_PROGRAMS: Duration = Duration::from_millis(5100);
/// Two scans at least 5 s apart must have seen the same process; the scans are at most 10 s apart.
const INHABITED_WITHIN: Duration = Duration::from_secs(16);
/// Time for which the addresses that must stay are watched after the others are free.
const KEPT_FOR: Duration = Duration::from_secs(2);
/// Interval between the ends of two pods' last processes. The kernel removes one link after the other, and
/// its time for twenty at once is not measured here.
const PACE: Duration = Duration::from_millis(150);
/// Share of it in which the programs are the only source.
const SHARE: f64 = 0.25;
/// Time without a scan after an unreported exit.
const BLIND_FOR: Duration = Duration::from_millis(1500);

/// The namespaces that only look abandoned.
struct Kept {
    never: Vec<Attachment>,
    visited: Vec<Attachment>,
    descriptor: Vec<Attachment>,
    socket: Vec<Attachment>,
}

impl Kept {
    fn all(&self) -> impl Iterator<Item = &Attachment> {
        [&self.never, &self.visited, &self.descriptor, &self.socket].into_iter().flatten()
    }

    fn attach(lab: &Lab, each: usize) -> Result<Self> {
        // An agent with disabled sources continues to scan by the clock while a namespace was never
        // inhabited.
        let unsettled = if lab.setup.deaf.is_empty() { each } else { 0 };
        Ok(Self {
            never: lab.attach_many(unsettled)?,
            visited: lab.attach_many(unsettled)?,
            descriptor: lab.attach_many(each)?,
            socket: lab.attach_many(each)?,
        })
    }
}

pub fn play(options: &Options, case: &mut Builder) -> Result<()> {
    sources::play(options, case, &whole, SHARE, &blind)
}

fn whole(options: &Options, case: &mut Builder) -> Result<Rung> {
    let lab = Lab::start(options, 44, "  leakedAfter: 5s\n")?;
    let rung = Rung::of(&lab)?;
    let (n, each) = (options.scaled(20), options.scaled(5));
    let leaked = lab.attach_many(n)?;
    let kept = Kept::attach(&lab, each)?;
    let inhabited = || leaked.iter().chain(&kept.descriptor).chain(&kept.socket);
    let mut inhabitants = inhabited().map(|a| lab.world.inhabit(&a.pod)).collect::<Result<Vec<_>>>()?;
    let holders = kept.descriptor.iter().map(|a| hold_descriptor(&a.pod)).collect::<Result<Vec<_>>>()?;
    let sockets = kept.socket.iter().map(|a| open_socket(&a.pod)).collect::<Result<Vec<_>>>()?;
    settle_in(&lab, &inhabited().collect::<Vec<_>>(), &kept)?;

    let mut watch = LeaseWatch::new(lab.client());
    watch.follow_all(leaked.iter().chain(kept.all()));
    for attachment in &leaked {
        lab.fdb.watch(attachment.mac)?;
    }
    let bounds = (rung.bound(FIRST_SCAN_ON_EXIT, FIRST_SCAN), rung.bound(AFTER_SCAN_ON_PROGRAMS, AFTER_SCAN));
    inhabitants.drain(n..).for_each(|mut process| process.kill());
    let leaks = leak(options, &lab, &leaked, inhabitants, &mut watch)?;
    let answering = still_answer(&lab, &leaked)?;
    let seen = await_release(options, &lab, &leaks, &kept, &mut watch)?;
    watch.look_for(KEPT_FOR)?;

    if let Some(first) = leaked.first() {
        lab.tell_history(first.address, 6);
        let longest = short(seen.free.max().unwrap_or_default());
        lab.tell.say(Who::Clock, &format!("free {longest} after the last process's end"));
    }
    let mut firsts = Firsts::default();
    leaked.iter().try_for_each(|attachment| firsts.look(&lab, &rung, attachment.address))?;
    firsts.report(&lab, case);
    case.equal("leaked addresses that still answered ARP", answering, n);
    report(case, &seen, n, bounds);
    case.none("addresses lost of namespaces that never had a process", &watch.lost(&kept.never));
    case.none("addresses lost of namespaces that only visitors entered", &watch.lost(&kept.visited));
    case.none("addresses lost while a stranger held a descriptor", &watch.lost(&kept.descriptor));
    case.none("addresses lost while a stranger held a socket", &watch.lost(&kept.socket));
    case.equal("addresses given again by a real ADD", lab.prove_free(&leaked)?, n);
    drop((holders, sockets));
    sources::agree(&lab, case)?;
    lab.finish(case)?;
    Ok(rung)
}

/// Turns the times into checks; the bounds are those of the first scan and of what follows it.
fn report(case: &mut Builder, seen: &Seen, n: usize, (to_scan, after_scan): (Duration, Duration)) {
    case.times(n, seen.free.clone(), Some(to_scan + after_scan));
    case.within(
        "longest from the last process's end to the first scan that reports it",
        seen.scan.max(),
        to_scan,
    );
    case.equal("addresses of which the first scan was reported", seen.scan.len(), n);
    case.within("longest from that scan to link removed and free", seen.after_scan.max(), after_scan);
    case.equal("links removed", seen.removed, n);
}

fn blind(options: &Options, case: &mut Builder) -> Result<()> {
    let lab = Lab::start(options, 8, "  leakedAfter: 5s\n")?;
    let leaked = lab.attach_many(2)?;
    let mut inhabitants =
        leaked.iter().map(|a| lab.world.inhabit(&a.pod)).collect::<Result<Vec<Process>>>()?;
    settle_in(&lab, &leaked.iter().collect::<Vec<_>>(), &Kept::attach(&lab, 0)?)?;
    let mut watch = LeaseWatch::new(lab.client());
    watch.follow_all(&leaked);
    inhabitants.iter_mut().for_each(Process::kill);
    sources::missed(case, &mut watch, &leaked, BLIND_FOR)?;
    let mut client = lab.client();
    let scanned =
        |address| -> Result<bool> { Ok(client.history(address)?.iter().any(|event| event.code == EMPTY)) };
    let told = leaked.iter().map(|a| a.address).map(scanned).collect::<Result<Vec<_>>>()?;
    let told = told.iter().filter(|told| **told).count();
    case.equal("exits that a scan followed without a source (else the other runs prove nothing)", told, 0);
    lab.finish(case)
}

/// Waits until the agent has seen that these pods are inhabited, while visitors come and go.
fn settle_in(lab: &Lab, inhabited: &[&Attachment], kept: &Kept) -> Result<()> {
    let from = Instant::now();
    let mut client = lab.client();
    while from.elapsed() < INHABITED_WITHIN {
        visit(kept)?;
        let mut all = true;
        for attachment in inhabited {
            let history = client.history(attachment.address)?;
            all &= history.iter().any(|event| event.code == "namespace-inhabited");
        }
        if all {
            lab.tell.say(
                Who::Agent,
                &format!("all inhabited, seen {} after their processes' start", short(from.elapsed())),
            );
            return Ok(());
        }
        cleanup::pause(Duration::from_millis(500))?;
    }
    lab.tell.say(Who::Agent, "did not report that the pods are inhabited");
    Ok(())
}

/// A short-lived process enters each visited namespace, and leaves.
fn visit(kept: &Kept) -> Result<()> {
    for attachment in &kept.visited {
        world::ip(&attachment.pod.netns, "link show\n")?;
    }
    Ok(())
}

/// Number of leaked addresses that still answer, without a process behind them.
fn still_answer(lab: &Lab, leaked: &[Attachment]) -> Result<usize> {
    let mut answering = 0;
    for attachment in leaked {
        let answers = lab.answers(attachment.address)?;
        answering += usize::from(answers);
        if !answers {
            let links = lab.world.links(&attachment.pod)?;
            lab.tell.say(Who::Kernel, &format!("{} is silent; its links: {links:?}", attachment.address));
        }
    }
    let n = leaked.len();
    lab.tell.say(Who::Kernel, &format!("{answering} of {n} addresses without any process still answer ARP"));
    Ok(answering)
}

/// Observations of the leaked ones by the testbed's own means.
struct Seen {
    /// Times from the processes' end to the agent's first report of an empty namespace.
    scan: Times,
    /// Times from that report to free.
    after_scan: Times,
    /// From the processes' end to free.
    free: Times,
    /// Links that left the FDB.
    removed: usize,
}

/// A pod with its last process ended.
struct Leak<'a> {
    attachment: &'a Attachment,
    /// Time at which that was.
    killed: Instant,
    /// Time at which the agent first reported its namespace as empty.
    told: Option<Instant>,
}

/// Ends the last process of one pod after the other, and waits until the agent reported all.
fn leak<'a>(
    options: &Options,
    lab: &Lab,
    leaked: &'a [Attachment],
    inhabitants: Vec<Process>,
    watch: &mut LeaseWatch,
) -> Result<Vec<Leak<'a>>> {
    let mut client = lab.client();
    let mut listen = |leaks: &mut Vec<Leak<'_>>| -> Result<()> {
        watch.poll()?;
        for leak in leaks.iter_mut().filter(|leak| leak.told.is_none()) {
            let history = client.history(leak.attachment.address)?;
            leak.told = history.iter().any(|event| event.code == EMPTY).then(Instant::now);
        }
        cleanup::pause(Duration::from_millis(3))
    };
    let mut leaks = Vec::new();
    for (attachment, mut process) in leaked.iter().zip(inhabitants) {
        process.kill();
        let killed = Instant::now();
        leaks.push(Leak { attachment, killed, told: None });
        while killed.elapsed() < PACE {
            listen(&mut leaks)?;
        }
    }
    let what = format!("the last process of {} pods killed, one every {}", leaks.len(), short(PACE));
    lab.tell.say(Who::World, &format!("{what}; their mounts are left"));
    let deadline = Instant::now() + options.patience(FIRST_SCAN);
    while Instant::now() < deadline && leaks.iter().any(|leak| leak.told.is_none()) {
        listen(&mut leaks)?;
    }
    Ok(leaks)
}

fn await_release(
    options: &Options,
    lab: &Lab,
    leaks: &[Leak<'_>],
    kept: &Kept,
    watch: &mut LeaseWatch,
) -> Result<Seen> {
    let deadline = Instant::now() + options.patience(AFTER_SCAN);
    let mut visited = Instant::now();
    while Instant::now() < deadline && leaks.iter().any(|leak| watch.freed(leak.attachment).is_none()) {
        watch.look_for(Duration::from_millis(20))?;
        if visited.elapsed() > Duration::from_secs(1) {
            visit(kept)?;
            visited = Instant::now();
        }
    }
    let mut seen =
        Seen { scan: Times::default(), after_scan: Times::default(), free: Times::default(), removed: 0 };
    for Leak { attachment, killed, told } in leaks {
        seen.scan.extend(told.map(|told| told - *killed));
        let Some(free) = watch.freed(attachment) else { continue };
        seen.free.push(free - *killed);
        seen.after_scan.extend(told.map(|told| free.saturating_duration_since(told)));
        seen.removed += usize::from(lab.fdb.gone(attachment.mac).is_some());
    }
    Ok(seen)
}

/// A process outside of the namespace holds a descriptor of it.
pub fn hold_descriptor(pod: &Pod) -> Result<Process> {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("exec 9<{} && exec sleep 3600", pod.netns.display()));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let process = world::start(&mut command, None)?;
    // Until the shell has opened it, the descriptor holds nothing.
    let link = format!("/proc/{}/fd/9", process.pid());
    let from = Instant::now();
    while std::fs::read_link(&link).is_err() {
        if from.elapsed() > Duration::from_secs(5) {
            return Err(Error::Timeout {
                what: format!("a descriptor of {}", pod.name),
                within: from.elapsed(),
            });
        }
        cleanup::pause(Duration::from_millis(1))?;
    }
    Ok(process)
}
