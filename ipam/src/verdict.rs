//! From evidence to verdict: one table, read from the top, first match wins.
//!
//! The table is data so that it can be printed (docs/verdicts.md is made from it), tested row by
//! row, and argued about. Its invariant, tested over every combination of facts: an address is
//! released only if no source says "alive" and none that could say so is unknown.

use crate::evidence::{
    AddressFact, Departure, Epoch, Facts, FdbFact, Inhabitants, Intent, LinkFact, NetnsFact, SearchFact,
    WireFact,
};

/// What the ledger makes of the facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// In use.
    Keep,
    /// Cannot be told: in use.
    Unknown,
    /// Perhaps over; still in use.
    Suspect,
    /// Over: the address is free.
    Release,
    /// Over, but something answers for the address: nobody gets it.
    Quarantine,
}

impl Verdict {
    /// The word used in documents and events.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Unknown => "unknown",
            Self::Suspect => "suspect",
            Self::Release => "release",
            Self::Quarantine => "quarantine",
        }
    }
}

/// What has to be done before more can be said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Next {
    /// Nothing: events and the periodic reconcile will do.
    Wait,
    /// Read again soon: the kernel is still at work, or a read failed.
    Recheck,
    /// Search every nameable namespace for the link.
    Search,
    /// Take note of the place where it was found.
    Follow,
    /// Wait for the network's settle time, then read again.
    Settle,
    /// Remove the link, then read again.
    RemoveLink,
    /// Ask the wire.
    Probe,
}

impl Next {
    /// The word used in documents.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Recheck => "recheck",
            Self::Search => "search",
            Self::Follow => "follow",
            Self::Settle => "settle",
            Self::RemoveLink => "remove link",
            Self::Probe => "probe",
        }
    }
}

/// The facts that a row asks for. An empty list asks for nothing.
#[derive(Debug, Clone, Copy)]
pub struct When {
    epoch: &'static [Epoch],
    netns: &'static [NetnsFact],
    link: &'static [LinkFact],
    fdb: &'static [FdbFact],
    departure: &'static [Departure],
    search: &'static [SearchFact],
    address: &'static [AddressFact],
    intent: &'static [Intent],
    inhabitants: &'static [Inhabitants],
    wire: &'static [WireFact],
    settled: &'static [bool],
}

const ANY: When = When {
    epoch: &[],
    netns: &[],
    link: &[],
    fdb: &[],
    departure: &[],
    search: &[],
    address: &[],
    intent: &[],
    inhabitants: &[],
    wire: &[],
    settled: &[],
};

fn asks<T: PartialEq>(wanted: &[T], fact: &T) -> bool {
    wanted.is_empty() || wanted.contains(fact)
}

impl When {
    fn matches(&self, facts: &Facts) -> bool {
        asks(self.epoch, &facts.epoch)
            && asks(self.netns, &facts.netns)
            && asks(self.link, &facts.link)
            && asks(self.fdb, &facts.fdb)
            && asks(self.departure, &facts.departure)
            && asks(self.search, &facts.search)
            && asks(self.address, &facts.address)
            && asks(self.intent, &facts.intent)
            && asks(self.inhabitants, &facts.inhabitants)
            && asks(self.wire, &facts.wire)
            && asks(self.settled, &facts.settled)
    }

    /// The condition in words, for docs/verdicts.md.
    pub fn describe(&self) -> String {
        let mut parts = Vec::new();
        let mut say = |name: &str, values: String| {
            if !values.is_empty() {
                parts.push(format!("{name} {values}"));
            }
        };
        say("epoch", words(self.epoch));
        say("netns", words(self.netns));
        say("link", words(self.link));
        say("fdb", words(self.fdb));
        say("departure", words(self.departure));
        say("search", words(self.search));
        say("address", words(self.address));
        say("intent", words(self.intent));
        say("inhabitants", words(self.inhabitants));
        say("wire", words(self.wire));
        say("settled", words(self.settled));
        if parts.is_empty() { "otherwise".to_owned() } else { parts.join(", ") }
    }
}

fn words<T: std::fmt::Debug>(values: &[T]) -> String {
    values.iter().map(|value| format!("{value:?}")).collect::<Vec<_>>().join("/")
}

/// One line of the table.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The reason code: stable, shown by `leases`, `explain` and events.
    pub id: &'static str,
    /// Its condition.
    pub when: When,
    /// What follows.
    pub verdict: Verdict,
    /// What is done about it.
    pub next: Next,
    /// Why, in one sentence.
    pub why: &'static str,
}

const fn row(id: &'static str, verdict: Verdict, next: Next, when: When, why: &'static str) -> Row {
    Row { id, when, verdict, next, why }
}

const ENDING: &[Intent] =
    &[Intent::EndOwnLink, Intent::UndoOwnLink, Intent::EndForeignLink, Intent::UndoForeignLink];
const END_OWN: &[Intent] = &[Intent::EndOwnLink, Intent::UndoOwnLink];
/// Somebody may have been told the address, or the link is another plugin's: that a link with the MAC
/// shows nothing of the attachment does not make it a stranger's.
const NOT_UNDONE_OWN: &[Intent] =
    &[Intent::Live, Intent::EndOwnLink, Intent::EndForeignLink, Intent::UndoForeignLink];
/// The link is not up on the parent. `Another` gets past `mac-of-another` only where it says as much.
const OFF_WIRE: &[FdbFact] = &[FdbFact::Absent, FdbFact::Blind, FdbFact::Another];
const MISSING: &[LinkFact] = &[LinkFact::Gone, LinkFact::OtherMac];
const UNSURE: &[Departure] = &[Departure::Moved, Departure::EventsLost];

/// The table. Its order is its meaning.
pub const TABLE: &[Row] = &[
    row(
        "other-machine",
        Verdict::Unknown,
        Next::Wait,
        When { epoch: &[Epoch::OtherMachine], ..ANY },
        "The record was made on another machine; this kernel cannot speak for it.",
    ),
    row(
        "del-link-present",
        Verdict::Suspect,
        Next::RemoveLink,
        When { epoch: &[Epoch::Same], link: &[LinkFact::Present], intent: END_OWN, ..ANY },
        "The attachment is meant to be over and its link is Berth's: the agent removes it first.",
    ),
    row(
        "del-link-elsewhere",
        Verdict::Suspect,
        Next::RemoveLink,
        When { epoch: &[Epoch::Same], search: &[SearchFact::Found], intent: END_OWN, ..ANY },
        "The attachment is meant to be over and its link was moved: the agent removes it where it is.",
    ),
    row(
        "del-address-gone",
        Verdict::Release,
        Next::Wait,
        When {
            epoch: &[Epoch::Same],
            netns: &[NetnsFact::Alive],
            link: &[LinkFact::Present],
            address: &[AddressFact::Absent],
            intent: &[Intent::EndForeignLink, Intent::UndoForeignLink],
            ..ANY
        },
        "A DEL came, and no interface of the namespace has the address; the link is another plugin's.",
    ),
    row(
        "namespace-left",
        Verdict::Suspect,
        Next::RemoveLink,
        When {
            epoch: &[Epoch::Same],
            netns: &[NetnsFact::Alive],
            link: &[LinkFact::Present],
            inhabitants: &[Inhabitants::Left],
            ..ANY
        },
        "Everybody left the namespace and nobody holds it, yet its link still answers: it is removed first.",
    ),
    row(
        "link-present",
        Verdict::Keep,
        Next::Wait,
        When { epoch: &[Epoch::Same], link: &[LinkFact::Present], ..ANY },
        "The link is where it was, with its MAC.",
    ),
    row(
        "link-elsewhere",
        Verdict::Keep,
        Next::Follow,
        When { search: &[SearchFact::Found], ..ANY },
        "The link was found in another namespace.",
    ),
    row(
        "mac-on-parent-search",
        Verdict::Keep,
        Next::Search,
        When {
            netns: &[NetnsFact::Alive],
            link: MISSING,
            fdb: &[FdbFact::Present],
            search: &[SearchFact::NotMade],
            ..ANY
        },
        "The MAC is on the parent though the link is not where it was: somewhere it is up.",
    ),
    row(
        "mac-of-another-search",
        Verdict::Keep,
        Next::Search,
        When {
            link: MISSING,
            fdb: &[FdbFact::Present],
            search: &[SearchFact::NotMade, SearchFact::Incomplete],
            intent: &[Intent::UndoOwnLink],
            ..ANY
        },
        "The ADD is undone and its link is gone, yet its MAC is on the parent: another link may have it.",
    ),
    row(
        "mac-of-another",
        Verdict::Keep,
        Next::Recheck,
        When { fdb: &[FdbFact::Another], intent: NOT_UNDONE_OWN, ..ANY },
        "The MAC is on the parent by a link without the attachment's mark, which may be its link all the same.",
    ),
    row(
        "mac-on-parent",
        Verdict::Keep,
        Next::Recheck,
        When { fdb: &[FdbFact::Present], ..ANY },
        "The MAC is in the parent's list: an interface that has it is up, or its teardown is not finished.",
    ),
    row(
        "rebooted-ask-wire",
        Verdict::Suspect,
        Next::Probe,
        When { epoch: &[Epoch::Rebooted], fdb: OFF_WIRE, wire: &[WireFact::NotAsked], ..ANY },
        "The machine was rebooted: its namespaces are gone; the wire has a veto.",
    ),
    row(
        "rebooted-answers",
        Verdict::Quarantine,
        Next::Probe,
        When { epoch: &[Epoch::Rebooted], fdb: OFF_WIRE, wire: &[WireFact::Answered], ..ANY },
        "The machine was rebooted, but something answers for the address.",
    ),
    row(
        "rebooted",
        Verdict::Release,
        Next::Wait,
        When { epoch: &[Epoch::Rebooted], fdb: OFF_WIRE, wire: &[WireFact::Silent], ..ANY },
        "The machine was rebooted and the wire is silent.",
    ),
    row(
        "fdb-unknown",
        Verdict::Unknown,
        Next::Recheck,
        When { fdb: &[FdbFact::Unknown], ..ANY },
        "The parent's list could not be read completely.",
    ),
    row(
        "netns-unknown",
        Verdict::Unknown,
        Next::Recheck,
        When { netns: &[NetnsFact::Unknown], ..ANY },
        "Whether the namespace lives could not be read.",
    ),
    row(
        "netns-gone-search",
        Verdict::Suspect,
        Next::Search,
        When { netns: &[NetnsFact::Dead], departure: UNSURE, search: &[SearchFact::NotMade], ..ANY },
        "The namespace is gone, but the link may have left it before.",
    ),
    row(
        "netns-gone-search-incomplete",
        Verdict::Unknown,
        Next::Search,
        When { netns: &[NetnsFact::Dead], departure: UNSURE, search: &[SearchFact::Incomplete], ..ANY },
        "The namespace is gone, the link may have left it, and not every namespace could be searched.",
    ),
    row(
        "moved-out-of-sight",
        Verdict::Unknown,
        Next::Search,
        When { departure: &[Departure::Moved], search: &[SearchFact::NotFound], ..ANY },
        "The kernel said that the link moved, and no nameable namespace holds it: one without a name may.",
    ),
    row(
        "netns-gone",
        Verdict::Release,
        Next::Wait,
        When { netns: &[NetnsFact::Dead], fdb: OFF_WIRE, ..ANY },
        "The namespace is gone, and with it the link and its MAC.",
    ),
    row(
        "link-unknown",
        Verdict::Unknown,
        Next::Recheck,
        When { link: &[LinkFact::Unknown], ..ANY },
        "Whether the link is there could not be read.",
    ),
    row(
        "never-bound-undone",
        Verdict::Release,
        Next::Wait,
        When {
            netns: &[NetnsFact::Alive],
            link: &[LinkFact::NeverSeen],
            address: &[AddressFact::Absent],
            intent: &[Intent::EndOwnLink, Intent::UndoOwnLink, Intent::UndoForeignLink],
            ..ANY
        },
        "The ADD is undone and no interface of the namespace has the address.",
    ),
    row(
        "link-never-seen",
        Verdict::Keep,
        Next::Wait,
        When { link: &[LinkFact::NeverSeen], ..ANY },
        "Which link has the address was never learnt: the namespace alone decides.",
    ),
    row(
        "del-foreign-link",
        Verdict::Suspect,
        Next::Recheck,
        When {
            link: &[LinkFact::OtherMac],
            intent: ENDING,
            address: &[AddressFact::Present, AddressFact::Unknown],
            ..ANY
        },
        "A DEL came, but an interface of the namespace may still have the address.",
    ),
    row(
        "mac-changed",
        Verdict::Unknown,
        Next::Wait,
        When { link: &[LinkFact::OtherMac], intent: &[Intent::Live], ..ANY },
        "The link is there under another MAC: somebody changed it, or the number means another one.",
    ),
    row(
        "link-gone-search",
        Verdict::Suspect,
        Next::Search,
        When {
            link: MISSING,
            departure: &[Departure::Moved, Departure::EventsLost, Departure::Unheard],
            search: &[SearchFact::NotMade],
            ..ANY
        },
        "The link is missing from a living namespace and no event said that it was deleted.",
    ),
    row(
        "link-gone-search-incomplete",
        Verdict::Unknown,
        Next::Search,
        When {
            link: MISSING,
            departure: &[Departure::Moved, Departure::EventsLost, Departure::Unheard],
            search: &[SearchFact::Incomplete],
            ..ANY
        },
        "The link is missing from a living namespace, and not every namespace could be searched.",
    ),
    row(
        "address-unknown",
        Verdict::Unknown,
        Next::Recheck,
        When { address: &[AddressFact::Unknown], ..ANY },
        "Whether another interface of the namespace has the address could not be read.",
    ),
    row(
        "address-on-other-link",
        Verdict::Keep,
        Next::Recheck,
        When { address: &[AddressFact::Present], ..ANY },
        "Another interface of the namespace has the address.",
    ),
    row(
        "del",
        Verdict::Release,
        Next::Wait,
        When { intent: ENDING, ..ANY },
        "The attachment is meant to be over, and its link is gone.",
    ),
    row(
        "namespace-left-removed",
        Verdict::Release,
        Next::Wait,
        When { departure: &[Departure::Destroyed], inhabitants: &[Inhabitants::Left], ..ANY },
        "Everybody left the namespace and nobody holds it, and its link is removed.",
    ),
    row(
        "link-gone-settled",
        Verdict::Release,
        Next::Wait,
        When { settled: &[true], ..ANY },
        "The link has been gone from its living namespace for the settle time.",
    ),
    row(
        "link-gone",
        Verdict::Suspect,
        Next::Settle,
        ANY,
        "The link is gone from a living namespace; its runtime may be about to say why.",
    ),
];

/// The first row that fits. The last one asks for nothing, so there always is one.
pub fn judge(facts: &Facts) -> &'static Row {
    TABLE.iter().find(|row| row.when.matches(facts)).unwrap_or(&TABLE[TABLE.len() - 1])
}

#[cfg(test)]
mod tests {
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
                    for fdb in [
                        FdbFact::Present,
                        FdbFact::Another,
                        FdbFact::Absent,
                        FdbFact::Blind,
                        FdbFact::Unknown,
                    ] {
                        for departure in [D::Destroyed, D::Moved, D::Unheard, D::EventsLost] {
                            for search in [
                                SearchFact::NotMade,
                                SearchFact::Found,
                                SearchFact::NotFound,
                                SearchFact::Incomplete,
                            ] {
                                all.push(Facts {
                                    epoch,
                                    netns,
                                    link,
                                    fdb,
                                    departure,
                                    search,
                                    ..Facts::UNKNOWN
                                });
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
            assert!(
                facts.fdb != FdbFact::Another || facts.intent == Intent::UndoOwnLink,
                "{row:?} {facts:?}"
            );
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
    const LINK_GONE: Facts = Facts {
        netns: NetnsFact::Alive,
        departure: Departure::Destroyed,
        address: AddressFact::Absent,
        ..DEAD
    };

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
        assert_eq!(
            id(Facts { address: AddressFact::Unknown, settled: true, ..LINK_GONE }),
            "address-unknown"
        );
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
}
