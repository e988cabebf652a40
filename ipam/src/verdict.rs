//! From evidence to verdict: one table, read from the top, first match wins.
//!
//! The table is data so that it can be printed (docs/verdicts.md is made from it), tested row by
//! row, and argued about. Its invariant, tested over every combination of facts: an address is
//! released only if no source says "alive" and none that could say so is unknown.

use crate::evidence::{
    AddressFact, Departure, Epoch, Facts, FdbFact, Inhabitants, Intent, LinkFact, NetnsFact, SearchFact,
    WireFact,
};

/// Conclusion of the ledger from the facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The address is in use.
    Keep,
    /// Cannot be decided: in use.
    Unknown,
    /// Perhaps over; still in use.
    Suspect,
    /// Over: the address is free.
    Release,
    /// Over, but something answers for the address: it is not given.
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

/// Step that is needed for more evidence.
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
    /// Ask the links under the parent.
    ProbeChildren,
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
            Self::ProbeChildren => "probe children",
        }
    }
}

/// The facts that a row asks for. An empty list asks for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The reason code: stable, shown by `leases`, `explain` and events.
    pub id: &'static str,
    /// Condition of the row.
    pub when: When,
    /// Verdict of the row.
    pub verdict: Verdict,
    /// Next step of the ledger.
    pub next: Next,
    /// Reason, in one sentence.
    pub why: &'static str,
    /// The end of a row that leaves the address taken; `None`: the row frees it.
    pub ending: Option<Ending>,
    /// True if no other host can have used the address up to its release.
    pub proves_silence: bool,
}

/// The end of a row that leaves the address taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// The evidence that ends it, in one sentence.
    pub by: &'static str,
    /// Action that is left to an operator.
    pub hand: Hand,
}

/// Action that is left to an operator where a row lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hand {
    /// Nothing: the row lasts as long as the attachment lives, or only a moment.
    Unneeded,
    /// The attachment may be alive; an operator with more knowledge can do this.
    Possible(&'static str),
    /// The row may last for ever without this.
    Needed(&'static str),
}

impl Hand {
    /// Action that an operator can take, if any.
    pub const fn text(self) -> Option<&'static str> {
        match self {
            Self::Unneeded => None,
            Self::Possible(text) | Self::Needed(text) => Some(text),
        }
    }
}

impl Row {
    const fn silent(self) -> Self {
        Self { proves_silence: true, ..self }
    }

    const fn ends(self, by: &'static str, hand: Hand) -> Self {
        Self { ending: Some(Ending { by, hand }), ..self }
    }

    /// The row with that reason code.
    pub fn of(id: &str) -> Option<&'static Self> {
        TABLE.iter().find(|row| row.id == id)
    }
}

const fn row(id: &'static str, verdict: Verdict, next: Next, when: When, why: &'static str) -> Row {
    Row { id, when, verdict, next, why, ending: None, proves_silence: false }
}

const ENDING: &[Intent] =
    &[Intent::EndOwnLink, Intent::UndoOwnLink, Intent::EndForeignLink, Intent::UndoForeignLink];
const END_OWN: &[Intent] = &[Intent::EndOwnLink, Intent::UndoOwnLink];
/// A client may have received the address, or the link is another plugin's. The fact that a link with the MAC
/// shows nothing of the attachment does not make it a stranger's.
const NOT_UNDONE_OWN: &[Intent] =
    &[Intent::Live, Intent::EndOwnLink, Intent::EndForeignLink, Intent::UndoForeignLink];
/// The link is not up on the parent. `Another` gets past `mac-of-another` only where it says as much.
const OFF_WIRE: &[FdbFact] = &[FdbFact::Absent, FdbFact::Blind, FdbFact::Another];
const MISSING: &[LinkFact] = &[LinkFact::Gone, LinkFact::OtherMac];
/// The number is that of the attachment's namespace, as far as it could be read.
const UNHIDDEN: &[NetnsFact] = &[NetnsFact::Alive, NetnsFact::Dead, NetnsFact::Unknown];
/// No search found the link.
const UNFOUND: &[SearchFact] = &[SearchFact::NotMade, SearchFact::NotFound, SearchFact::Incomplete];
/// The end of the namespace is not proved.
const UNENDED: &[NetnsFact] = &[NetnsFact::Alive, NetnsFact::Hidden, NetnsFact::Unknown];
const UNSURE: &[Departure] = &[Departure::Moved, Departure::EventsLost];
/// No round asked the wire about the address itself.
const UNASKED: &[WireFact] = &[WireFact::NotAsked, WireFact::ChildrenSilent];
/// The links under the parent were not heard to be silent.
const UNPROVED: &[WireFact] = &[WireFact::NotAsked, WireFact::Silent, WireFact::Answered];
/// No event said that the link was deleted.
const UNTOLD: &[Departure] = &[Departure::Moved, Departure::EventsLost, Departure::Unheard];

/// The advice for a link that moved where no search looks.
const IF_GONE: Hand = Hand::Needed(
    "if the link is gone for sure (the processes of the pod have ended): `berthctl release --force ADDRESS`",
);
/// The advice for a search that cannot see all of the node.
const END_SEARCH: Hand = Hand::Needed(
    "end the process that keeps the search incomplete, or remove the MAC that no link explains (`bridge fdb del MAC dev PARENT`); if the link is gone for sure: `berthctl release --force ADDRESS`",
);
/// The advice for a MAC that stays on the parent's list.
const FIND_BY_MAC: Hand =
    Hand::Needed("find the link by its MAC (`bridge fdb show dev PARENT`), and remove it if it is left over");
/// The end of a link that moved where no search looks, after its attachment is over.
const TEN_SILENT: &str = "Ten seconds in which nothing is heard of the address while the links under the parent hear probes for it; programs have to run, and the network to be declared.";

/// The table. Its order is its meaning.
pub const TABLE: &[Row] = &[
    row(
        "other-machine",
        Verdict::Unknown,
        Next::Wait,
        When { epoch: &[Epoch::OtherMachine], ..ANY },
        "The record was made on another machine; this kernel cannot prove anything about it.",
    )
    .ends(
        "Nothing on this node: no local evidence shows that the two machines are one.",
        Hand::Needed(
            "if the machine was installed again or its machine id was made again, and the pod of the record is over: `berthctl release --force ADDRESS`",
        ),
    ),
    row(
        "link-hidden",
        Verdict::Unknown,
        Next::Search,
        When { netns: &[NetnsFact::Hidden], link: &[LinkFact::Present], search: UNFOUND, ..ANY },
        "A link of its index and MAC is in a namespace that cannot be named and has its number: it may be another's.",
    )
    .ends(
        "A search that finds the namespace or the link, or the end of the namespace that has the number.",
        Hand::Needed("if the pod is over: `berthctl release --force ADDRESS`"),
    ),
    row(
        "del-link-present",
        Verdict::Suspect,
        Next::RemoveLink,
        When { epoch: &[Epoch::Same], link: &[LinkFact::Present], intent: END_OWN, ..ANY },
        "A DEL came, or the ADD is undone, and the link is Berth's: the agent removes it first.",
    )
    .ends(
        "The agent removes the link.",
        Hand::Needed(
            "`berthctl explain ADDRESS` shows why the removal fails (`link-not-removed`); remove the link by hand",
        ),
    ),
    row(
        "del-link-elsewhere",
        Verdict::Suspect,
        Next::RemoveLink,
        When { epoch: &[Epoch::Same], search: &[SearchFact::Found], intent: END_OWN, ..ANY },
        "A DEL came, or the ADD is undone, and the link was moved: the agent removes it where it is.",
    )
    .ends(
        "The agent removes the link where it is.",
        Hand::Needed(
            "`berthctl explain ADDRESS` shows why the removal fails (`link-not-removed`); remove the link by hand",
        ),
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
        "All processes left the namespace and none holds it, yet its link still answers: it is removed first.",
    )
    .ends(
        "The agent removes the link.",
        Hand::Needed(
            "`berthctl explain ADDRESS` shows why the removal fails (`link-not-removed`); remove the namespace by hand",
        ),
    ),
    row(
        "link-present",
        Verdict::Keep,
        Next::Wait,
        When { epoch: &[Epoch::Same], netns: UNHIDDEN, link: &[LinkFact::Present], ..ANY },
        "The link is where it was, with its MAC.",
    )
    .ends(
        "A DEL, the end of the namespace, or the removal of the link.",
        Hand::Unneeded,
    ),
    row(
        "link-elsewhere",
        Verdict::Keep,
        Next::Follow,
        When { search: &[SearchFact::Found], ..ANY },
        "The link was found in another namespace.",
    )
    .ends(
        "The next read, which follows the link to its namespace.",
        Hand::Unneeded,
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
    )
    .ends(
        "The search.",
        Hand::Unneeded,
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
    )
    .ends(
        "A complete search, which names the link that has the MAC.",
        Hand::Needed(
            "end the process that keeps the search incomplete",
        ),
    ),
    row(
        "mac-of-another",
        Verdict::Keep,
        Next::Search,
        When {
            netns: UNENDED,
            fdb: &[FdbFact::Another],
            departure: UNTOLD,
            intent: NOT_UNDONE_OWN,
            ..ANY
        },
        "The MAC is on the parent by a link without the attachment's mark, which may be its link all the same.",
    )
    .ends(
        "The link that has the MAC goes down, goes away or gets another MAC, or the end of the attachment is reported.",
        FIND_BY_MAC,
    ),
    row(
        "mac-of-another-unsure",
        Verdict::Keep,
        Next::Search,
        When { fdb: &[FdbFact::Another], departure: UNSURE, intent: NOT_UNDONE_OWN, ..ANY },
        "The namespace is gone, and a link without the mark has the MAC: the link may have left before and lost its mark.",
    )
    .ends(
        "The link that has the MAC goes down, goes away or gets another MAC.",
        FIND_BY_MAC,
    ),
    row(
        "mac-on-parent-lasting",
        Verdict::Keep,
        Next::Search,
        When { link: MISSING, fdb: &[FdbFact::Present], settled: &[true], ..ANY },
        "The MAC stays on the parent though the link is not where it was: which link has it is searched for.",
    )
    .ends(
        "The interface that has the MAC goes down, goes away, gets another MAC, or is found by a search.",
        FIND_BY_MAC,
    ),
    row(
        "mac-on-parent",
        Verdict::Keep,
        Next::Recheck,
        When { fdb: &[FdbFact::Present], ..ANY },
        "The MAC is in the parent's list: an interface that has it is up, or its teardown is not finished.",
    )
    .ends(
        "The interface that has the MAC goes down, goes away or gets another MAC.",
        FIND_BY_MAC,
    ),
    row(
        "rebooted-ask-wire",
        Verdict::Suspect,
        Next::Probe,
        When { epoch: &[Epoch::Rebooted], fdb: OFF_WIRE, wire: UNASKED, ..ANY },
        "The machine was rebooted: its namespaces are gone; the wire has a veto.",
    )
    .ends(
        "A whole round of probes on the parent.",
        Hand::Needed(
            "bring the parent interface up under its name",
        ),
    ),
    row(
        "rebooted-answers",
        Verdict::Quarantine,
        Next::Probe,
        When { epoch: &[Epoch::Rebooted], fdb: OFF_WIRE, wire: &[WireFact::Answered], ..ANY },
        "The machine was rebooted, but something answers for the address.",
    )
    .ends(
        "The address is silent; until then it is in quarantine.",
        Hand::Unneeded,
    ),
    row(
        "rebooted",
        Verdict::Release,
        Next::Wait,
        When { epoch: &[Epoch::Rebooted], fdb: OFF_WIRE, wire: &[WireFact::Silent], ..ANY },
        "The machine was rebooted and the wire is silent.",
    )
    .silent(),
    row(
        "fdb-unknown",
        Verdict::Unknown,
        Next::Recheck,
        When { fdb: &[FdbFact::Unknown], ..ANY },
        "The parent's list could not be read completely.",
    )
    .ends(
        "A complete read of the parent's list.",
        Hand::Needed(
            "give the parent interface its name back; if it is gone for good and the pod is over: `berthctl release --force ADDRESS`",
        ),
    ),
    row(
        "netns-unknown",
        Verdict::Unknown,
        Next::Recheck,
        When { netns: &[NetnsFact::Unknown], ..ANY },
        "Whether the namespace lives could not be read.",
    )
    .ends(
        "A read that says whether the namespace lives.",
        Hand::Needed(
            "the agent's log has the refusal; if the pod is over: `berthctl release --force ADDRESS`",
        ),
    ),
    row(
        "netns-gone-search",
        Verdict::Suspect,
        Next::Search,
        When { netns: &[NetnsFact::Dead], departure: UNSURE, search: &[SearchFact::NotMade], ..ANY },
        "The namespace is gone, but the link may have left it before.",
    )
    .ends(
        "The search.",
        Hand::Unneeded,
    ),
    row(
        "netns-gone-search-incomplete",
        Verdict::Unknown,
        Next::Search,
        When { netns: &[NetnsFact::Dead], departure: UNSURE, search: &[SearchFact::Incomplete], ..ANY },
        "The namespace is gone, the link may have left it, and not every namespace could be searched.",
    )
    .ends(
        "A complete search.",
        END_SEARCH,
    ),
    row(
        "moved-unlisted",
        Verdict::Unknown,
        Next::Search,
        When { fdb: &[FdbFact::Blind], departure: &[Departure::Moved], search: &[SearchFact::NotFound], ..ANY },
        "The kernel said that the link moved, no nameable namespace holds it, and no list shows a link of its kind.",
    )
    .ends(
        "The link is found, or a program in the kernel reports its teardown.",
        IF_GONE,
    ),
    row(
        "moved-over",
        Verdict::Unknown,
        Next::ProbeChildren,
        When {
            departure: &[Departure::Moved],
            search: &[SearchFact::NotFound],
            intent: ENDING,
            wire: UNPROVED,
            ..ANY
        },
        "A DEL came, the link moved before, and no nameable namespace holds it: the links under the parent are asked.",
    )
    .ends(
        TEN_SILENT,
        IF_GONE,
    ),
    row(
        "moved-namespace-gone",
        Verdict::Unknown,
        Next::ProbeChildren,
        When {
            netns: &[NetnsFact::Dead],
            departure: &[Departure::Moved],
            search: &[SearchFact::NotFound],
            wire: UNPROVED,
            ..ANY
        },
        "The namespace is gone, the link left it before, and no nameable one holds it: the links under the parent are asked.",
    )
    .ends(
        TEN_SILENT,
        IF_GONE,
    ),
    row(
        "moved-out-of-sight",
        Verdict::Unknown,
        Next::Search,
        When { departure: &[Departure::Moved], search: &[SearchFact::NotFound], wire: UNPROVED, ..ANY },
        "The kernel said that the link moved, and no nameable namespace holds it: one without a name may.",
    )
    .ends(
        "The link is found, or its teardown is reported; after a DEL or the end of the namespace, the probes of `moved-over`.",
        IF_GONE,
    ),
    row(
        "del-unseen",
        Verdict::Release,
        Next::Wait,
        When {
            netns: &[NetnsFact::Hidden],
            // Where no list holds the MAC, nothing distinguishes a link in a namespace without a name from
            // none.
            fdb: &[FdbFact::Absent, FdbFact::Another],
            search: &[SearchFact::NotFound],
            intent: END_OWN,
            ..ANY
        },
        "A DEL came, and a complete search finds neither the namespace nor the link.",
    ),
    row(
        "netns-hidden",
        Verdict::Unknown,
        Next::Search,
        When { netns: &[NetnsFact::Hidden], ..ANY },
        "No namespace that can be named is the attachment's, and its number proves nothing.",
    )
    .ends(
        "A search that finds the namespace, or the end of the one that has its number; after a DEL, a complete search.",
        Hand::Needed("if the pod is over: `berthctl release --force ADDRESS`"),
    ),
    row(
        "netns-gone",
        Verdict::Release,
        Next::Wait,
        When { netns: &[NetnsFact::Dead], fdb: OFF_WIRE, ..ANY },
        "The namespace is gone, and with it the link and its MAC.",
    )
    .silent(),
    row(
        "link-unknown",
        Verdict::Unknown,
        Next::Recheck,
        When { link: &[LinkFact::Unknown], ..ANY },
        "Whether the link is there could not be read.",
    )
    .ends(
        "A read that says whether the link is there.",
        Hand::Needed(
            "the agent's log has the refusal; if the pod is over: `berthctl release --force ADDRESS`",
        ),
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
    )
    .ends(
        "The end of the namespace, or an interface of it that shows the address.",
        Hand::Unneeded,
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
    )
    .ends(
        "No interface of the namespace has the address, or the namespace ends.",
        Hand::Needed(
            "let the main plugin remove its interface, or delete the namespace",
        ),
    ),
    row(
        "mac-changed",
        Verdict::Unknown,
        Next::Wait,
        When { link: &[LinkFact::OtherMac], intent: &[Intent::Live], ..ANY },
        "The link of that index is in its namespace under another MAC: it was changed there, or another link has the index.",
    )
    .ends(
        "The MAC of the record comes back, or the namespace ends; after a DEL, no interface of the namespace has the address.",
        Hand::Possible(
            "if something in the pod changes the MAC, ask for that MAC at ADD",
        ),
    ),
    row(
        "link-gone-search",
        Verdict::Suspect,
        Next::Search,
        When {
            link: MISSING,
            departure: UNTOLD,
            search: &[SearchFact::NotMade],
            ..ANY
        },
        "The link is missing from a living namespace and no event said that it was deleted.",
    )
    .ends(
        "The search.",
        Hand::Unneeded,
    ),
    row(
        "link-gone-search-incomplete",
        Verdict::Unknown,
        Next::Search,
        When {
            link: MISSING,
            departure: UNTOLD,
            search: &[SearchFact::Incomplete],
            ..ANY
        },
        "The link is missing from a living namespace, and not every namespace could be searched.",
    )
    .ends(
        "A complete search.",
        END_SEARCH,
    ),
    row(
        "address-unknown",
        Verdict::Unknown,
        Next::Recheck,
        When { address: &[AddressFact::Unknown], ..ANY },
        "Whether another interface of the namespace has the address could not be read.",
    )
    .ends(
        "A complete dump of the addresses of the namespace.",
        Hand::Needed(
            "the agent's log has the refusal; if the pod is over: `berthctl release --force ADDRESS`",
        ),
    ),
    row(
        "address-on-other-link",
        Verdict::Keep,
        Next::Recheck,
        When { address: &[AddressFact::Present], ..ANY },
        "Another interface of the namespace has the address.",
    )
    .ends(
        "No interface of the namespace has the address, or the namespace ends.",
        Hand::Possible(
            "if the pod does not need the address, take it from its interface",
        ),
    ),
    row(
        "del",
        Verdict::Release,
        Next::Wait,
        When { intent: ENDING, ..ANY },
        "A DEL came, or the ADD is undone, and the link is gone.",
    )
    .silent(),
    row(
        "namespace-left-removed",
        Verdict::Release,
        Next::Wait,
        When { departure: &[Departure::Destroyed], inhabitants: &[Inhabitants::Left], ..ANY },
        "All processes left the namespace and none holds it, and its link is removed.",
    )
    .silent(),
    row(
        "link-end-unheard",
        Verdict::Unknown,
        Next::Search,
        When { departure: UNTOLD, ..ANY },
        "The link is missing from a living namespace and no event reported its end: it may be out of every search's sight.",
    )
    .ends(
        "A search that finds the link, its DEL, or the end of the namespace.",
        Hand::Needed("if the link is gone for sure: `berthctl release --force ADDRESS`"),
    ),
    row(
        "link-gone-settled",
        Verdict::Release,
        Next::Wait,
        When { settled: &[true], ..ANY },
        "The link has been gone from its living namespace for the settle time.",
    )
    .silent(),
    row(
        "link-gone",
        Verdict::Suspect,
        Next::Settle,
        ANY,
        "The link is gone from a living namespace; its runtime may be about to say why.",
    )
    .ends(
        "The settle time of the network is over.",
        Hand::Unneeded,
    ),
];

/// The first row that fits. The last one asks for nothing, so there always is one.
pub fn judge(facts: &Facts) -> &'static Row {
    TABLE.iter().find(|row| row.when.matches(facts)).unwrap_or(&TABLE[TABLE.len() - 1])
}

#[cfg(test)]
mod tests;
