//! A link that was read, as the ledger judges it.

use berth_ipam::attachment::AttachmentKey;
use berth_ipam::identity::Nsid;
use berth_ipam::ledger::sight::{Mark, Shown};
use berth_protocol::alias;
use berth_underlay::facts::LinkFacts;

/// The link in the namespace of that nsid (`None`: the agent's own), in the view of one attachment.
pub fn of(at: Option<Nsid>, link: &LinkFacts, key: &AttachmentKey) -> Shown {
    let text = link.alias.as_deref().filter(|text| text.starts_with(alias::PREFIX));
    let mark = match text {
        Some(text) if alias::cookie_of(text, key).is_some() => Mark::Own,
        Some(_) => Mark::Other,
        None => Mark::None,
    };
    let is_stacked = matches!(link.kind.as_deref(), Some("macvlan" | "macvtap" | "vlan"));
    Shown { at, ifindex: link.ifindex, mac: link.mac, mark, is_stacked }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_ipam::mac::Mac;

    #[test]
    fn an_alias_is_the_attachments_anothers_or_none_of_berths() {
        let key = AttachmentKey {
            network: "lan".parse().unwrap(),
            container_id: "c1".parse().unwrap(),
            ifname: "eth0".parse().unwrap(),
        };
        let link = |alias: Option<&str>| LinkFacts {
            ifindex: 9,
            mac: Some(Mac([2, 0, 0, 0, 6, 1])),
            kind: Some("macvlan".to_owned()),
            parent_index: Some(3),
            alias: alias.map(str::to_owned),
            ..LinkFacts::default()
        };
        for (alias, mark) in [
            (Some("berth:lan:c1:eth0:7"), Mark::Own),
            (Some("berth:lan:c2:eth0:7"), Mark::Other),
            (Some("berth:"), Mark::Other),
            (Some("uplink"), Mark::None),
            (None, Mark::None),
        ] {
            let seen = of(Some(Nsid(5)), &link(alias), &key);
            assert_eq!(seen.mark, mark, "{alias:?}");
            assert!(seen.is_stacked);
        }
        assert!(!of(None, &LinkFacts { kind: None, ..link(None) }, &key).is_stacked, "a port of the node");
    }
}
