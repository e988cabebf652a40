//! From the deletion of a namespace, with no DEL sent, to its address being free.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use berth_testbed::cleanup;
use berth_testbed::client::Client;
use berth_testbed::fdb::FdbWatch;
use berth_testbed::stats::Times;
use berth_testbed::world::PARENT;

use super::report::Report;
use super::stand::Stand;

/// Between two deletions, so that each is measured by itself.
const PACE: Duration = Duration::from_millis(100);
/// From one question for the leases to the next.
const POLL: Duration = Duration::from_millis(1);
/// After this the address counts as never freed.
const LIMIT: Duration = Duration::from_secs(40);

/// Measures one reclaim a round.
pub fn measure(binaries: &Path, rounds: u32, report: &mut Report) -> Result<()> {
    let stand = Stand::build(binaries)?;
    let berth = stand.berth(binaries);
    let watch = FdbWatch::start(stand.world.node(), PARENT)?;
    let mut client = Client::new(&stand.setup.socket());
    let (mut kernel, mut own, mut total) = (Times::default(), Times::default(), Times::default());
    for _ in 0..rounds {
        let pod = stand.world.pod()?;
        let added = berth.call("ADD", &pod)?.added()?;
        let mac = added.mac.context("the result of ADD names no MAC")?;
        watch.watch(mac)?;
        cleanup::pause(PACE)?;
        let asked = Instant::now();
        stand.world.remove(&pod);
        let gone = watch.wait_gone(mac, LIMIT)?;
        let free = loop {
            let now = Instant::now();
            if !client.leases()?.iter().any(|row| added.addresses.contains(&row.address)) {
                break now;
            }
            if asked.elapsed() > LIMIT {
                bail!("{:?} was not freed within {LIMIT:?}", added.addresses);
            }
            cleanup::pause(POLL)?;
        };
        kernel.push(gone.saturating_duration_since(asked));
        own.push(free.saturating_duration_since(gone));
        total.push(free.saturating_duration_since(asked));
    }
    report.times("reclaim: request to teardown", "kernel", kernel);
    report.times("reclaim: teardown to free", "berth", own);
    report.times("reclaim: request to free", "both", total);
    Ok(())
}
