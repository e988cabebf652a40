//! The table's invariants, over every combination of facts.

use super::*;

fn every() -> impl Iterator<Item = Facts> {
    use Departure as D;
    let mut all = Vec::new();
    for epoch in [Epoch::Same, Epoch::Rebooted, Epoch::OtherMachine] {
        for netns in [NetnsFact::Alive, NetnsFact::Dead, NetnsFact::Unknown] {
            for link in [
                LinkFact::Present,
                LinkFact::OtherMac,
                LinkFact::Gone,
                LinkFact::NeverSeen,
                LinkFact::Unknown,
            ] {
                for fdb in
                    [FdbFact::Present, FdbFact::Another, FdbFact::Absent, FdbFact::Blind, FdbFact::Unknown]
                {
                    for departure in [D::Destroyed, D::Moved, D::Unheard, D::EventsLost] {
                        for search in [
                            SearchFact::NotMade,
                            SearchFact::Found,
                            SearchFact::NotFound,
                            SearchFact::Incomplete,
                        ] {
                            all.push(Facts { epoch, netns, link, fdb, departure, search, ..Facts::UNKNOWN });
                        }
                    }
                }
            }
        }
    }
    all.into_iter().flat_map(rest)
}

fn rest(base: Facts) -> Vec<Facts> {
    let mut all = Vec::new();
    for address in [AddressFact::Present, AddressFact::Absent, AddressFact::Unknown] {
        for intent in [
            Intent::Live,
            Intent::EndOwnLink,
            Intent::UndoOwnLink,
            Intent::EndForeignLink,
            Intent::UndoForeignLink,
        ] {
            for inhabitants in [Inhabitants::Assumed, Inhabitants::Left] {
                for wire in [WireFact::NotAsked, WireFact::Silent, WireFact::Answered] {
                    for settled in [false, true] {
                        all.push(Facts { address, intent, inhabitants, wire, settled, ..base });
                    }
                }
            }
        }
    }
    all
}

#[test]
fn nothing_alive_or_unknown_is_ever_released() {
    for facts in every() {
        let row = judge(&facts);
        if row.verdict != Verdict::Release {
            continue;
        }
        assert_ne!(facts.epoch, Epoch::OtherMachine, "{row:?} {facts:?}");
        if row.id == "del-address-gone" {
            assert_eq!(facts.address, AddressFact::Absent, "{row:?} {facts:?}");
            let foreign = matches!(facts.intent, Intent::EndForeignLink | Intent::UndoForeignLink);
            assert!(foreign, "{row:?} {facts:?}");
            continue;
        }
        assert!(!matches!(facts.fdb, FdbFact::Present | FdbFact::Unknown), "{row:?} {facts:?}");
        assert!(facts.fdb != FdbFact::Another || facts.intent == Intent::UndoOwnLink, "{row:?} {facts:?}");
        assert_ne!(facts.search, SearchFact::Found, "{row:?} {facts:?}");
        if facts.epoch == Epoch::Rebooted && row.id == "rebooted" {
            assert_eq!(facts.wire, WireFact::Silent, "{row:?} {facts:?}");
            continue;
        }
        assert!(!matches!(facts.link, LinkFact::Present), "{row:?} {facts:?}");
        assert_ne!(facts.netns, NetnsFact::Unknown, "{row:?} {facts:?}");
        if facts.netns == NetnsFact::Alive {
            assert_ne!(facts.link, LinkFact::Unknown, "{row:?} {facts:?}");
            assert_eq!(facts.address, AddressFact::Absent, "{row:?} {facts:?}");
            let left = facts.inhabitants == Inhabitants::Left;
            assert!(facts.intent != Intent::Live || facts.settled || left, "{row:?} {facts:?}");
        }
        if facts.departure == Departure::Moved && facts.intent == Intent::Live {
            assert_eq!(
                facts.search,
                SearchFact::NotMade,
                "a moved link is released by no search: {row:?} {facts:?}"
            );
        }
    }
}

#[test]
fn every_row_is_reached() {
    let mut reached = std::collections::BTreeSet::new();
    for facts in every() {
        reached.insert(judge(&facts).id);
    }
    for row in TABLE {
        assert!(reached.contains(row.id), "{} is never reached", row.id);
    }
}

#[test]
fn every_row_that_keeps_an_address_says_what_ends_it() {
    for row in TABLE {
        assert_eq!(row.ending.is_none(), row.verdict == Verdict::Release, "{}", row.id);
    }
}

#[test]
fn ids_are_unique() {
    let ids: std::collections::BTreeSet<_> = TABLE.iter().map(|row| row.id).collect();
    assert_eq!(ids.len(), TABLE.len());
}

fn id(facts: Facts) -> &'static str {
    judge(&facts).id
}

const DEAD: Facts = Facts {
    netns: NetnsFact::Dead,
    link: LinkFact::Gone,
    fdb: FdbFact::Absent,
    departure: Departure::Unheard,
    ..Facts::UNKNOWN
};
const LINK_GONE: Facts =
    Facts { netns: NetnsFact::Alive, departure: Departure::Destroyed, address: AddressFact::Absent, ..DEAD };

#[test]
fn a_dead_namespace_frees_at_once_unless_the_link_left_it() {
    assert_eq!(id(DEAD), "netns-gone");
    assert_eq!(id(Facts { fdb: FdbFact::Present, ..DEAD }), "mac-on-parent");
    assert_eq!(id(Facts { departure: Departure::Moved, ..DEAD }), "netns-gone-search");
    assert_eq!(id(Facts { departure: Departure::EventsLost, ..DEAD }), "netns-gone-search");
    let lost = Facts { departure: Departure::EventsLost, search: SearchFact::NotFound, ..DEAD };
    assert_eq!(id(lost), "netns-gone");
    assert_eq!(id(Facts { search: SearchFact::Incomplete, ..lost }), "netns-gone-search-incomplete");
    assert_eq!(id(Facts { search: SearchFact::Found, ..lost }), "link-elsewhere");
}

#[test]
fn a_link_gone_from_a_living_namespace_settles_first() {
    assert_eq!(id(LINK_GONE), "link-gone");
    assert_eq!(id(Facts { settled: true, ..LINK_GONE }), "link-gone-settled");
    assert_eq!(id(Facts { intent: Intent::EndOwnLink, ..LINK_GONE }), "del");
    assert_eq!(id(Facts { intent: Intent::EndForeignLink, ..LINK_GONE }), "del");
    assert_eq!(id(Facts { departure: Departure::Unheard, ..LINK_GONE }), "link-gone-search");
    assert_eq!(id(Facts { address: AddressFact::Present, ..LINK_GONE }), "address-on-other-link");
    assert_eq!(id(Facts { address: AddressFact::Unknown, settled: true, ..LINK_GONE }), "address-unknown");
}

#[test]
fn another_links_mac_frees_only_what_nobody_was_told() {
    let undone = Facts {
        fdb: FdbFact::Present,
        departure: Departure::Unheard,
        intent: Intent::UndoOwnLink,
        ..LINK_GONE
    };
    assert_eq!(id(undone), "mac-on-parent-search");
    assert_eq!(id(Facts { netns: NetnsFact::Dead, ..undone }), "mac-of-another-search");
    assert_eq!(id(Facts { search: SearchFact::Incomplete, ..undone }), "mac-of-another-search");
    assert_eq!(id(Facts { search: SearchFact::NotFound, ..undone }), "mac-on-parent");
    let explained = Facts { fdb: FdbFact::Another, search: SearchFact::NotFound, ..undone };
    assert_eq!(id(explained), "del");
    assert_eq!(id(Facts { netns: NetnsFact::Dead, ..explained }), "netns-gone");
    let moved = Facts { departure: Departure::Moved, ..explained };
    assert_eq!(id(moved), "moved-out-of-sight", "it may be down, where nobody looks");
    let partly = Facts { search: SearchFact::Incomplete, ..explained };
    assert_eq!(id(partly), "link-gone-search-incomplete");
    assert_eq!(id(Facts { departure: Departure::Destroyed, ..partly }), "del");
    for intent in NOT_UNDONE_OWN {
        let told = Facts { intent: *intent, departure: Departure::Destroyed, settled: true, ..explained };
        assert_eq!(id(told), "mac-of-another", "{intent:?}");
    }
}

#[test]
fn a_reboot_needs_a_silent_wire() {
    let rebooted = Facts { epoch: Epoch::Rebooted, ..DEAD };
    assert_eq!(id(rebooted), "rebooted-ask-wire");
    assert_eq!(id(Facts { wire: WireFact::Silent, ..rebooted }), "rebooted");
    assert_eq!(id(Facts { wire: WireFact::Answered, ..rebooted }), "rebooted-answers");
    assert_eq!(id(Facts { wire: WireFact::Silent, fdb: FdbFact::Present, ..rebooted }), "mac-on-parent");
}

#[test]
fn a_delegates_lease_outlives_its_del_until_the_link_is_gone() {
    let unseen = Facts { link: LinkFact::NeverSeen, fdb: FdbFact::Blind, ..LINK_GONE };
    assert_eq!(id(Facts { intent: Intent::EndForeignLink, ..unseen }), "link-never-seen");
    assert_eq!(id(Facts { netns: NetnsFact::Dead, ..unseen }), "netns-gone");
    assert_eq!(id(Facts { intent: Intent::UndoForeignLink, ..unseen }), "never-bound-undone");
    let used = Facts { address: AddressFact::Present, intent: Intent::UndoForeignLink, ..unseen };
    assert_eq!(id(used), "link-never-seen");
    let present = Facts {
        link: LinkFact::Present,
        intent: Intent::EndForeignLink,
        address: AddressFact::Present,
        ..unseen
    };
    assert_eq!(id(present), "link-present");
    assert_eq!(id(Facts { address: AddressFact::Unknown, ..present }), "link-present");
    assert_eq!(id(Facts { address: AddressFact::Absent, ..present }), "del-address-gone");
}
