//! A neighbour answers for three free addresses: they are not assigned until it is silent.
//!
//! It comes up after the agent. One of its addresses is a candidate that the agent has already found silent;
//! the neighbour announces that one, as hosts do. The other two have not been probed yet, and the neighbour
//! does not announce them.

use std::cmp::Reverse;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use berth_ipam::alloc;

use super::sources;
use crate::cleanup;
use crate::error::{Error, Result};
use crate::lab::{Lab, NODE, Options};
use crate::narrate::{Who, short};
use crate::report::Builder;
use crate::stats::Times;
use crate::stranger::Stranger;

/// Time limit of an ADD that meets such an address.
const ADD_BOUND: Duration = Duration::from_millis(300);
/// Time until the address is back: it is probed every two seconds, by three requests in 100 ms.
const BACK_WITHIN: Duration = Duration::from_secs(5);
/// Addresses of the pool: more than the agent keeps ready when idle.
const POOL: u16 = 24;
/// Number of candidates found silent, with which the agent's order begins; these come after them.
const READY: usize = 8;

pub fn play(options: &Options, case: &mut Builder) -> Result<()> {
    let lab = Lab::start(options, POOL, "  addTimeout: 1s\n")?;
    sources::watched(&lab, case)?;
    let order = order(&lab)?;
    let taken = [order[2], order[READY + 1], order[READY + 4]];
    let stranger = Stranger::join(&lab.world)?;
    taken.iter().try_for_each(|address| stranger.take(*address))?;
    stranger.announce(taken[0])?;
    lab.tell.say(
        Who::World,
        &format!("a neighbour with {} answers for {taken:?}; it announced the first", stranger.mac()),
    );
    let answers = taken.iter().map(|address| lab.answers(*address)).collect::<Result<Vec<_>>>()?;
    let answering = answers.iter().filter(|answers| **answers).count();

    let others = usize::from(POOL) - taken.len();
    let (times, given) = fill(&lab, others)?;
    // Nothing but the neighbour's addresses is left.
    let pod = lab.world.pod()?;
    let beyond = lab.plugin.run(&lab.call("ADD", &pod))?;
    for address in taken {
        lab.tell_history(address, 2);
    }
    let handed = given.iter().filter(|address| taken.contains(address)).map(ToString::to_string);
    case.equal("addresses for which the neighbour answers", answering, taken.len());
    case.none("of those, handed out", &handed.collect::<Vec<_>>());
    case.holds("one more ADD fails with code 11", beyond.failure().is_some_and(|error| error.code == 11));
    case.within("longest ADD with the neighbour present", times.max(), ADD_BOUND);
    case.times(others, times, Some(ADD_BOUND));
    case.none("of its addresses, not shown as quarantined with its MAC", &hidden(&lab, &stranger, &taken)?);
    back(&lab, &stranger, &taken, case)?;
    lab.finish(case)
}

/// The agent's own order of the pool.
fn order(lab: &Lab) -> Result<Vec<IpAddr>> {
    let node = NODE.parse().map_err(|_| Error::Monitor(format!("{NODE} is not a name of a node")))?;
    let mut order: Vec<IpAddr> = lab.addresses.iter().copied().map(IpAddr::V4).collect();
    order.sort_by_key(|address| Reverse(alloc::score(&node, *address)));
    Ok(order)
}

/// Attaches as many pods: how long each ADD took, and their addresses.
fn fill(lab: &Lab, count: usize) -> Result<(Times, Vec<IpAddr>)> {
    let (mut times, mut given) = (Times::default(), Vec::new());
    for _ in 0..count {
        let pod = lab.world.pod()?;
        let outcome = lab.plugin.run(&lab.call("ADD", &pod))?;
        times.push(outcome.took());
        given.push(lab.attached(&pod, &outcome)?.address);
    }
    Ok((times, given))
}

/// The addresses that `leases` does not show as quarantined for the stranger.
fn hidden(lab: &Lab, stranger: &Stranger, taken: &[IpAddr]) -> Result<Vec<String>> {
    let rows = lab.leases()?;
    let mac = stranger.mac().to_string();
    let shown = |address: &IpAddr| {
        let row = rows.iter().find(|row| row.address == *address);
        row.is_some_and(|row| row.state == "quarantined" && row.mac.as_deref() == Some(&mac))
    };
    Ok(taken.iter().filter(|address| !shown(address)).map(ToString::to_string).collect())
}

/// The neighbour is silent: its addresses come back, and real ADDs get them.
fn back(lab: &Lab, stranger: &Stranger, taken: &[IpAddr], case: &mut Builder) -> Result<()> {
    stranger.fall_silent()?;
    let silent = Instant::now();
    let mut back = Times::default();
    let mut waiting = taken.to_vec();
    while !waiting.is_empty() && silent.elapsed() < 2 * BACK_WITHIN {
        let rows = lab.leases()?;
        let before = waiting.len();
        waiting.retain(|address| rows.iter().any(|row| row.address == *address));
        back.extend(std::iter::repeat_n(silent.elapsed(), before - waiting.len()));
        cleanup::pause(Duration::from_millis(5))?;
    }
    let longest = short(back.max().unwrap_or_default());
    lab.tell.say(Who::Clock, &format!("free {longest} after the neighbour's last word"));
    case.equal("addresses back after the neighbour's last word", back.len(), taken.len());
    case.within("longest from the neighbour's last word to free", back.max(), BACK_WITHIN);
    let mut given = 0;
    for address in taken {
        given += usize::from(lab.attach_at(&lab.world.pod()?, *address).is_ok());
    }
    case.equal("of them, given by a real ADD", given, taken.len());
    Ok(())
}
