//! Findings of `doctor` about the ledger: attachments that no verdict settles, and MACs that no entry explains.

use std::net::IpAddr;
use std::time::Duration;

use berth_ipam::attachment::AttachmentKey;
use berth_ipam::ledger::Ledger;
use berth_ipam::ledger::unsettled::Unsettled;
use berth_ipam::name::NetworkName;
use berth_ipam::time::Time;
use berth_ipam::verdict::Hand;
use berth_protocol::response::Finding;

use super::finding;

/// Attachments that are listed one by one, at most.
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

/// A scan of tasks that is not complete: what it could not read, and what it switches off.
pub fn scan(ledger: &Ledger) -> Option<Finding> {
    let unread = ledger.unread_tasks();
    if unread.is_empty() {
        return None;
    }
    let networks = ledger.config().networks.iter().filter(|(_, network)| network.leaked_after.is_some());
    let networks: Vec<_> = networks.map(|(name, _)| name.as_str()).collect();
    let text = format!(
        "not everything that tasks hold can be read: {}; until a scan is complete, leaked namespaces are not found \
         (networks with leakedAfter: {}). End the process, or name it by --trusted-pid",
        unread.join("; "),
        networks.join(", ")
    );
    Some(finding("scan", false, false, text))
}

/// Each network that is not declared on this node and has holders.
pub fn undeclared(ledger: &Ledger) -> Vec<Finding> {
    let networks = ledger.undeclared().into_iter();
    let line = |(network, holders): (&NetworkName, Vec<(&AttachmentKey, IpAddr)>)| {
        let shown = holders.iter().take(LISTED).map(|(key, address)| format!("{address} ({key})"));
        let shown = shown.collect::<Vec<_>>().join(", ");
        let more = holders.len().saturating_sub(LISTED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let text = format!(
            "not declared on this node; these keep their addresses and their DELs work: {shown}{more}. Declare the \
             network again, or delete the pods"
        );
        finding(&format!("network.{network}"), false, false, text)
    };
    networks.map(line).collect()
}

fn lease(one: &Unsettled<'_>, now: Time) -> Finding {
    let addresses: Vec<_> = one.addresses.iter().map(ToString::to_string).collect();
    let pod = one.pod.map(|pod| format!(" of pod {}/{}", pod.namespace, pod.name)).unwrap_or_default();
    let end = |sentence: &str| sentence.trim_end_matches('.').to_owned();
    let why = one.why.map(|why| format!(": {}", end(why))).unwrap_or_default();
    let unsearched =
        one.unsearched.map(|what| format!("; the search is incomplete: {what}")).unwrap_or_default();
    let unproved = one.unproved.map(|why| format!("; not proved silent: {why}")).unwrap_or_default();
    let hand = one.ending.hand.text().map(|hand| format!("; what to do: {hand}")).unwrap_or_default();
    let text = format!(
        "{} ({}){pod}: {} for {}{why}{unsearched}{unproved}; ended by: {}{hand}",
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

#[cfg(test)]
mod tests {
    use berth_ipam::attachment::PodRef;
    use berth_ipam::verdict::{Row, TABLE};

    use super::*;

    fn line(row: &'static Row, unsearched: Option<&str>) -> Finding {
        let key = AttachmentKey {
            network: "lan".parse().unwrap(),
            container_id: "c1".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let one = Unsettled {
            addresses: vec!["10.77.0.10".parse().unwrap()],
            key: &key,
            pod: Some(&PodRef { namespace: "shop".into(), name: "web-0".into(), uid: None }),
            reason: row.id,
            why: Some(row.why),
            unsearched,
            unproved: None,
            since: Time::from_millis(0),
            ending: row.ending.unwrap(),
        };
        lease(&one, Time::from_millis(3 * 60_000 + 1))
    }

    #[test]
    fn a_line_names_address_pod_reason_end_and_what_to_do() {
        let row = Row::of("netns-gone-search-incomplete").unwrap();
        let found = line(row, Some("/proc/7/task/7/ns/net (vmm): refused"));
        assert!(found.needs_a_hand && !found.ok);
        assert_eq!(
            found.text,
            "10.77.0.10 (lan/c1/eth0) of pod shop/web-0: netns-gone-search-incomplete for 3 min: The namespace is \
             gone, the link may have left it, and not every namespace could be searched; the search is incomplete: \
             /proc/7/task/7/ns/net (vmm): refused; ended by: A complete search; what to do: end the process that \
             keeps the search incomplete, or remove the MAC that no link explains (`bridge fdb del MAC dev PARENT`); \
             if the link is gone for sure: `berthctl release --force ADDRESS`"
        );
    }

    #[test]
    fn only_a_row_that_may_last_for_ever_makes_the_node_unhealthy() {
        assert!(!line(Row::of("mac-changed").unwrap(), None).needs_a_hand, "the pod may have wanted that");
        for row in TABLE.iter().filter(|row| row.ending.is_some()) {
            let needed = matches!(row.ending.unwrap().hand, Hand::Needed(_));
            assert_eq!(line(row, None).needs_a_hand, needed, "{}", row.id);
        }
    }
}
