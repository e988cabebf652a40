//! The ports of the declared networks, for `doctor` and readiness: their ability to serve an ADD.
//!
//! A reason that keeps an ADD from being served has the text of the ADD's own error.

use std::collections::BTreeMap;

use berth_ipam::config::{Config, LinkSpec, Network};
use berth_ipam::ledger::Ledger;
use berth_ipam::ledger::hearing::PortView;
use berth_ipam::name::IfName;
use berth_ipam::time::Time;
use berth_protocol::Failure;
use berth_protocol::response::Finding;

use crate::doctor::finding;
use crate::parents::Parents;
use crate::wires::Wires;

/// Reason why ADDs wait on a port that receives nothing.
pub fn deaf(device: &IfName, view: &PortView<'_>) -> Option<String> {
    view.deaf.map(|why| format!("the wire on {device} cannot be asked: {why}"))
}

/// Finding of `doctor` about one port. `check`: the first reason why its networks' links cannot be created.
/// `refused`: the reason why the port could not be opened.
fn port(
    now: Time,
    device: &IfName,
    check: Option<&Failure>,
    refused: Option<&str>,
    view: &PortView<'_>,
) -> Finding {
    let what = format!("wire.{device}");
    let seconds = |since: Time| now.since(since).as_secs();
    if let Some(failure) = check {
        return finding(&what, false, true, format!("{}; {}", failure.msg, failure.details));
    }
    if let Some(why) = refused {
        return finding(
            &what,
            false,
            true,
            format!("{why}; create the interface, or correct spec.link.parent"),
        );
    }
    let since = view.since.map_or_else(String::new, |since| format!(" for {} s", seconds(since)));
    if let Some(why) = deaf(device, view) {
        let text = format!("{why}; ADDs wait{since}: set the interface up and connect it");
        return finding(&what, false, true, text);
    }
    let gap = view.last_gap.map_or_else(String::new, |(at, why)| format!("; {} s ago: {why}", seconds(at)));
    finding(&what, true, false, format!("probes and listens without a gap{since}{gap}"))
}

/// Findings of `doctor` about every port on which declared networks need probes.
pub fn findings(now: Time, ledger: &Ledger, parents: &mut Parents, wires: &Wires) -> Vec<Finding> {
    let config = ledger.config();
    let mut findings = Vec::new();
    for (device, on_demand) in declared(config) {
        let here = |network: &Network| network.link.wire_device().as_ref() == Some(&device);
        let mut on_it = config.networks.iter().filter(|(_, network)| here(network));
        let failure = on_it.find_map(|(name, network)| parents.check_fit(name, &network.link).err());
        let refused = wires.refused(&device);
        findings.push(if on_demand && refused.is_some() && failure.is_none() {
            let text = "this VLAN device is made for the first ADD that needs it";
            finding(&format!("wire.{device}"), false, false, text)
        } else {
            port(now, &device, failure.as_ref(), refused, &ledger.port(&device))
        });
    }
    findings
}

/// The devices on which probes are sent, each with a flag: the first ADD that needs it creates it.
fn declared(config: &Config) -> BTreeMap<IfName, bool> {
    let links = config.networks.values().map(|network| &network.link);
    let made = |link: &LinkSpec| matches!(link, LinkSpec::Vlan { exclusive: false, .. });
    links.filter_map(|link| Some((link.wire_device()?, made(link)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn eth1() -> IfName {
        "eth1".parse().unwrap()
    }

    #[test]
    fn a_port_on_which_an_add_would_fail_needs_a_hand_and_says_why() {
        let now = Time::from_millis(60_000);
        let since = Some(Time::from_millis(48_000));
        let down = PortView { deaf: Some("eth1 has no carrier"), since, last_gap: None };
        let found = port(now, &eth1(), None, None, &down);
        assert!(found.needs_a_hand && !found.ok);
        assert!(
            found
                .text
                .starts_with("the wire on eth1 cannot be asked: eth1 has no carrier; ADDs wait for 12 s"),
            "{found:?}"
        );
        let up = PortView { deaf: None, since, last_gap: Some((Time::from_millis(48_000), "eth1 is down")) };
        let found = port(now, &eth1(), None, None, &up);
        assert!(found.ok && !found.needs_a_hand);
        assert_eq!(found.text, "probes and listens without a gap for 12 s; 12 s ago: eth1 is down");
        let unfit = crate::failures::unfit_parent("lan", "its parent eth1 is a port of br0", "take it out");
        assert!(port(now, &eth1(), Some(&unfit), None, &up).needs_a_hand);
        assert!(port(now, &eth1(), None, Some("no interface eth1"), &up).needs_a_hand);
    }
}
