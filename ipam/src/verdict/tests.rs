//! The table's invariants, over every combination of facts.

use super::*;

fn every() -> impl Iterator<Item = Facts> {
    use Departure as D;
    let mut all = Vec::new();
    for epoch in [Epoch::Same, Epoch::Rebooted, Epoch::OtherMachine] {
        for netns in [NetnsFact::Alive, NetnsFact::Dead, NetnsFact::Hidden, NetnsFact::Unknown] {
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
                for wire in
                    [WireFact::NotAsked, WireFact::Silent, WireFact::Answered, WireFact::ChildrenSilent]
                {
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
        let ended = facts.departure == Departure::Destroyed
            || (facts.netns == NetnsFact::Dead && facts.departure == Departure::Unheard);
        let told = facts.fdb != FdbFact::Another || facts.intent == Intent::UndoOwnLink || ended;
        assert!(told, "{row:?} {facts:?}");
        assert_ne!(facts.search, SearchFact::Found, "{row:?} {facts:?}");
        if facts.epoch == Epoch::Rebooted && row.id == "rebooted" {
            assert_eq!(facts.wire, WireFact::Silent, "{row:?} {facts:?}");
            continue;
        }
        assert!(!matches!(facts.link, LinkFact::Present), "{row:?} {facts:?}");
        assert_ne!(facts.netns, NetnsFact::Unknown, "{row:?} {facts:?}");
        if facts.netns == NetnsFact::Hidden {
            let over = END_OWN.contains(&facts.intent) && facts.search == SearchFact::NotFound;
            assert!(over, "{row:?} {facts:?}");
        }
        if facts.netns == NetnsFact::Alive {
            assert_ne!(facts.link, LinkFact::Unknown, "{row:?} {facts:?}");
            assert_eq!(facts.address, AddressFact::Absent, "{row:?} {facts:?}");
            let left = facts.inhabitants == Inhabitants::Left;
            assert!(facts.intent != Intent::Live || facts.settled || left, "{row:?} {facts:?}");
            let told = facts.departure == Departure::Destroyed;
            assert!(facts.intent != Intent::Live || told, "{row:?} {facts:?}");
        }
        if facts.departure == Departure::Moved && row.id != "never-bound-undone" {
            let listed = matches!(facts.fdb, FdbFact::Absent | FdbFact::Another);
            let proved = facts.search == SearchFact::NotFound && facts.wire == WireFact::ChildrenSilent;
            assert!(listed && proved, "a moved link is released by no search alone: {row:?} {facts:?}");
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
    for departure in [Departure::Unheard, Departure::EventsLost] {
        let searched = Facts { departure, search: SearchFact::NotFound, settled: true, ..LINK_GONE };
        assert_eq!(id(searched), "link-end-unheard");
        assert_eq!(id(Facts { intent: Intent::EndOwnLink, ..searched }), "del");
    }
    assert_eq!(id(Facts { address: AddressFact::Present, ..LINK_GONE }), "address-on-other-link");
    assert_eq!(id(Facts { address: AddressFact::Unknown, settled: true, ..LINK_GONE }), "address-unknown");
}

#[test]
fn another_links_mac_frees_only_what_nobody_was_told_or_what_ended() {
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
    assert_eq!(id(moved), "moved-over", "it may be down, where no search looks");
    let partly = Facts { search: SearchFact::Incomplete, ..explained };
    assert_eq!(id(partly), "link-gone-search-incomplete");
    assert_eq!(id(Facts { departure: Departure::Destroyed, ..partly }), "del");
    for intent in NOT_UNDONE_OWN {
        let kept = Facts { intent: *intent, settled: true, ..explained };
        for departure in UNTOLD {
            assert_eq!(id(Facts { departure: *departure, ..kept }), "mac-of-another", "{intent:?}");
        }
        let told = Facts { departure: Departure::Destroyed, ..kept };
        assert_eq!(judge(&told).verdict, Verdict::Release, "{intent:?}");
        let dead = Facts { netns: NetnsFact::Dead, ..kept };
        assert_eq!(id(Facts { departure: Departure::Unheard, ..dead }), "netns-gone");
        assert_eq!(id(Facts { departure: Departure::EventsLost, ..dead }), "mac-of-another-unsure");
        let listed = Facts { fdb: FdbFact::Present, ..dead };
        assert_eq!(id(listed), "mac-on-parent-lasting", "{intent:?}");
        assert_eq!(id(Facts { settled: false, ..listed }), "mac-on-parent", "{intent:?}");
    }
}

#[test]
fn a_hidden_namespace_is_given_up_by_a_del_and_a_complete_search_alone() {
    let hidden = Facts { netns: NetnsFact::Hidden, search: SearchFact::NotFound, settled: true, ..LINK_GONE };
    let hidden = Facts { departure: Departure::EventsLost, ..hidden };
    assert_eq!(id(hidden), "netns-hidden");
    let over = Facts { intent: Intent::EndOwnLink, ..hidden };
    assert_eq!(id(over), "del-unseen");
    assert_eq!(id(Facts { search: SearchFact::Incomplete, ..over }), "netns-hidden");
    assert_eq!(id(Facts { departure: Departure::Moved, ..over }), "moved-over");
    assert_eq!(id(Facts { fdb: FdbFact::Present, settled: false, ..over }), "mac-on-parent");
    assert_eq!(id(Facts { fdb: FdbFact::Blind, ..over }), "netns-hidden", "no list tells whether it is up");
}

#[test]
fn a_link_that_moved_out_of_sight_is_over_after_its_end_and_a_silence_that_links_heard() {
    let moved = Facts { departure: Departure::Moved, search: SearchFact::NotFound, ..LINK_GONE };
    assert_eq!(id(moved), "moved-out-of-sight");
    let silent = Facts { wire: WireFact::ChildrenSilent, ..moved };
    assert_eq!(id(silent), "link-end-unheard", "it lives on, as far as is known");
    assert_eq!(id(Facts { search: SearchFact::Incomplete, ..silent }), "link-gone-search-incomplete");
    for (over, asked, freed) in [
        (Facts { intent: Intent::EndOwnLink, ..moved }, "moved-over", "del"),
        (Facts { intent: Intent::EndForeignLink, ..moved }, "moved-over", "del"),
        (Facts { netns: NetnsFact::Hidden, intent: Intent::EndOwnLink, ..moved }, "moved-over", "del-unseen"),
        (Facts { netns: NetnsFact::Dead, ..moved }, "moved-namespace-gone", "netns-gone"),
    ] {
        for wire in [WireFact::NotAsked, WireFact::Silent, WireFact::Answered] {
            assert_eq!(id(Facts { wire, ..over }), asked);
        }
        let silent = Facts { wire: WireFact::ChildrenSilent, ..over };
        assert_eq!(id(silent), freed);
        assert_eq!(id(Facts { fdb: FdbFact::Blind, ..silent }), "moved-unlisted");
        assert_eq!(judge(&Facts { search: SearchFact::Incomplete, ..silent }).verdict, Verdict::Unknown);
        assert_eq!(judge(&Facts { fdb: FdbFact::Present, ..silent }).verdict, Verdict::Keep);
    }
}

#[test]
fn a_link_in_a_hidden_namespace_is_neither_kept_for_sure_nor_removed() {
    let seen = Facts { netns: NetnsFact::Hidden, link: LinkFact::Present, ..DEAD };
    for intent in [Intent::Live, Intent::EndOwnLink, Intent::UndoOwnLink] {
        for search in [SearchFact::NotMade, SearchFact::NotFound, SearchFact::Incomplete] {
            assert_eq!(id(Facts { search, intent, ..seen }), "link-hidden");
        }
    }
    let found = Facts { search: SearchFact::Found, ..seen };
    assert_eq!(id(found), "link-elsewhere");
    assert_eq!(
        id(Facts { intent: Intent::EndOwnLink, ..found }),
        "del-link-present",
        "after it was followed"
    );
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
