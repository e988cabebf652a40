//! A neighbour takes the address of a live pod: it announces it and answers for it. The agent must report
//! that, with both MACs, and no pod may lose its address.
//!
//! The second holder is planted, so the monitor sets exactly that MAC's answers for exactly that address
//! apart (`Monitor::plant`); any other holder of it is found as usual.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::sources;
use crate::cleanup;
use crate::error::Result;
use crate::lab::{Attachment, Lab, Options};
use crate::lease_watch::LeaseWatch;
use crate::narrate::{Who, short};
use crate::report::Builder;
use crate::stats::Times;
use crate::stranger::Stranger;

/// From the announcement to the event.
const BOUND: Duration = Duration::from_secs(1);
/// Time for which the pods are watched afterwards: past every settle time.
const KEPT_FOR: Duration = Duration::from_secs(3);
/// Pods that are robbed, one after the other.
const ROBBED: usize = 4;

pub fn play(options: &Options, case: &mut Builder) -> Result<()> {
    let lab = Lab::start_dual(options, 12)?;
    sources::watched(&lab, case)?;
    let robbed = lab.attach_many(options.scaled(ROBBED))?;
    let mut watch = LeaseWatch::new(lab.client());
    watch.follow_all(&robbed);
    let stranger = Stranger::join(&lab.world)?;
    let (mut times, mut unnamed) = (Times::default(), Vec::new());
    for pod in &robbed {
        for address in pod.addresses() {
            if let IpAddr::V4(v4) = address {
                lab.monitor()?.plant(v4, stranger.mac());
            }
            let from = Instant::now();
            stranger.take(address)?;
            stranger.announce(address)?;
            let text = event(&lab, &mut watch, address, from + options.patience(BOUND))?;
            times.extend(text.as_ref().map(|_| from.elapsed()));
            let named = [stranger.mac(), pod.mac].map(|mac| mac.to_string());
            let text = text.unwrap_or_else(|| "no event".to_owned());
            if !named.iter().all(|mac| text.contains(mac)) {
                unnamed.push(format!("{address}: {text}"));
            }
        }
    }
    let n = robbed.len() * 2;
    if let Some(first) = robbed.first() {
        lab.tell_history(first.address, 1);
        lab.tell_history(first.second.unwrap_or(first.address), 1);
    }
    let longest = short(times.max().unwrap_or_default());
    lab.tell.say(Who::Clock, &format!("reported at most {longest} after the announcement"));
    watch.look_for(KEPT_FOR)?;
    case.times(n, times, Some(BOUND));
    case.none("events that do not name both MACs", &unnamed);
    case.none("addresses lost to the neighbour", &watch.lost(&robbed));
    answers(&lab, &stranger, &robbed, case)?;
    stranger.fall_silent()?;
    lab.finish(case)
}

/// The agent's event about a second holder of an address, awaited until the deadline.
fn event(lab: &Lab, watch: &mut LeaseWatch, address: IpAddr, deadline: Instant) -> Result<Option<String>> {
    let mut client = lab.client();
    loop {
        let history = client.history(address)?;
        if let Some(event) = history.iter().rev().find(|event| event.code == "second-holder") {
            return Ok(Some(event.text.clone()));
        }
        if Instant::now() > deadline {
            return Ok(None);
        }
        watch.poll()?;
        cleanup::pause(Duration::from_millis(1))?;
    }
}

/// Checks that both answered on the segment all the time: only then the conflict existed.
fn answers(lab: &Lab, stranger: &Stranger, robbed: &[Attachment], case: &mut Builder) -> Result<()> {
    let (mut pods, mut strangers) = (0, 0);
    for pod in robbed {
        let IpAddr::V4(v4) = pod.address else { continue };
        let from = Instant::now();
        pods += usize::from(lab.answers(pod.address)?);
        let heard = || Ok(lab.monitor()?.planted(v4, stranger.mac()).is_some_and(|at| at >= from));
        while !heard()? && from.elapsed() < BOUND {
            cleanup::pause(Duration::from_millis(5))?;
        }
        strangers += usize::from(heard()?);
    }
    case.equal("robbed pods that answer for their address as before", pods, robbed.len());
    case.equal("addresses for which the neighbour answers too", strangers, robbed.len());
    Ok(())
}
