//! What `doctor` lists of the ledger: attachments that no verdict settles, and MACs that no entry explains.

use std::time::Duration;

use berth_ipam::ledger::Ledger;
use berth_ipam::ledger::unsettled::Unsettled;
use berth_ipam::time::Time;
use berth_ipam::verdict::Hand;
use berth_protocol::response::Finding;

use super::finding;

/// How many attachments are listed one by one.
const LISTED: usize = 50;

/// Every attachment and address that lasts unsettled, with what ends it.
pub fn leases(ledger: &Ledger, now: Time) -> Vec<Finding> {
    let unsettled = ledger.unsettled(now);
    let mut checks: Vec<_> = unsettled.iter().take(LISTED).map(|one| lease(one, now)).collect();
    if let Some(rest) = unsettled.len().checked_sub(LISTED).filter(|rest| *rest > 0) {
        let needed = unsettled.iter().skip(LISTED).any(|one| matches!(one.ending.hand, Hand::Needed(_)));
        checks.push(finding("leases", false, needed, format!("{rest} more attachments are unsettled")));
    }
    checks.extend(ledger.troubles().into_iter().map(|text| finding("leases", false, true, text)));
    checks
}

fn lease(one: &Unsettled<'_>, now: Time) -> Finding {
    let addresses: Vec<_> = one.addresses.iter().map(ToString::to_string).collect();
    let pod = one.pod.map(|pod| format!(" of pod {}/{}", pod.namespace, pod.name)).unwrap_or_default();
    let end = |sentence: &str| sentence.trim_end_matches('.').to_owned();
    let why = one.why.map(|why| format!(": {}", end(why))).unwrap_or_default();
    let unsearched =
        one.unsearched.map(|what| format!("; the search is incomplete: {what}")).unwrap_or_default();
    let hand = one.ending.hand.text().map(|hand| format!("; what to do: {hand}")).unwrap_or_default();
    let text = format!(
        "{} ({}){pod}: {} for {}{why}{unsearched}; ended by: {}{hand}",
        addresses.join(" and "),
        one.key,
        one.reason,
        minutes(now.since(one.since)),
        end(one.ending.by)
    );
    finding("leases", false, matches!(one.ending.hand, Hand::Needed(_)), text)
}

fn minutes(lasts: Duration) -> String {
    format!("{} min", lasts.as_secs() / 60)
}
