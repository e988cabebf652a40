//! Selection of the ledger's notes that become events, with their objects and texts.
//!
//! Pure. Frequent notes are left out: an ADD, a DEL and their verdicts are in the log and in `berthctl
//! events`. Reported are warnings, and the few actions that may need an explanation.

use berth_ipam::attachment::PodRef;
use berth_ipam::ledger::io::{Note, NoteKind};

use crate::cluster::heartbeat::name::STARTING;

/// A message is so long at most, in bytes.
const TEXT_MAX: usize = 1024;
/// Maximum number of addresses in front of the text.
const ADDRESSES_MAX: usize = 4;

/// Object of an event.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum About {
    /// The node itself.
    Node,
    /// The pod of an attachment.
    Pod {
        /// Namespace of the pod.
        namespace: String,
        /// Name of the pod.
        name: String,
        /// UID of the pod, if the runtime passed it.
        uid: Option<String>,
    },
}

/// An event to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Object of the event.
    pub about: About,
    /// The note's code as one word, as in `SecondHolder`.
    pub reason: String,
    /// True if it requires action.
    pub warning: bool,
    /// Text for the operator.
    pub text: String,
}

/// Reported actions: the code, true if it concerns the node and not the pod, true for a warning.
const ACTIONS: &[(&str, bool, bool)] =
    &[("forced", false, true), ("quarantined", true, true), ("record-repaired", true, false)];

/// Verdict that released the address of a wanted pod.
const LOST: &str = "link-gone-settled";

/// Event of a note, if it has one. `pod` is its attachment's; `running`: the pod is wanted.
pub fn report(note: &Note, pod: Option<&PodRef>, running: bool) -> Option<Report> {
    let (of_node, warning) = match note.kind {
        // A starting agent is always barred for a moment.
        NoteKind::Warning if note.text.starts_with(STARTING) => return None,
        NoteKind::Warning => (false, true),
        NoteKind::Verdict if note.code == LOST && running => (false, true),
        NoteKind::Action => {
            let row = ACTIONS.iter().find(|(code, ..)| *code == note.code)?;
            (row.1, row.2)
        }
        NoteKind::Verdict | NoteKind::Observation => return None,
    };
    let about = match pod.filter(|_| !of_node) {
        None => About::Node,
        Some(PodRef { namespace, name, uid }) => {
            About::Pod { namespace: namespace.clone(), name: name.clone(), uid: uid.clone() }
        }
    };
    Some(Report { about, reason: reason(note.code), warning, text: text(note) })
}

/// `second-holder` as `SecondHolder`: how reasons are written in a cluster.
fn reason(code: &str) -> String {
    code.split('-')
        .flat_map(|word| {
            let mut letters = word.chars();
            letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters)
        })
        .collect()
}

fn text(note: &Note) -> String {
    let named: Vec<_> = note.addresses.iter().take(ADDRESSES_MAX).map(ToString::to_string).collect();
    let more = if note.addresses.len() > ADDRESSES_MAX { " and others" } else { "" };
    let mut text = if named.is_empty() {
        note.text.clone()
    } else {
        format!("{}{more}: {}", named.join(", "), note.text)
    };
    if text.len() > TEXT_MAX {
        let mark = "…";
        text.truncate(text.floor_char_boundary(TEXT_MAX - mark.len()));
        text.push_str(mark);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(kind: NoteKind, code: &'static str, addresses: &[&str], text: &str) -> Note {
        let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Note { kind, code, addresses, segment: None, key: None, text: text.to_owned() }
    }

    fn pod() -> PodRef {
        PodRef { namespace: "shop".to_owned(), name: "web-0".to_owned(), uid: Some("u1".to_owned()) }
    }

    #[test]
    fn which_notes_are_told() {
        use NoteKind::{Action, Observation, Verdict, Warning};
        for (kind, code, text, running, told) in [
            (Warning, "second-holder", "x", true, Some(("SecondHolder", false, true))),
            (Warning, "two-holders", "x", false, Some(("TwoHolders", false, true))),
            (Warning, "node-name", "no Node object is called n1", false, Some(("NodeName", false, true))),
            (Warning, "node-name", "starting: not known yet", false, None),
            (Action, "quarantined", "x", true, Some(("Quarantined", true, true))),
            (Action, "forced", "x", true, Some(("Forced", false, true))),
            (Action, "record-repaired", "x", true, Some(("RecordRepaired", true, false))),
            (Verdict, "link-gone-settled", "x", true, Some(("LinkGoneSettled", false, true))),
            (Verdict, "link-gone-settled", "x", false, None),
            (Verdict, "netns-gone", "x", true, None),
            (Verdict, "del", "x", true, None),
            (Action, "reserved", "x", true, None),
            (Action, "bound", "x", true, None),
            (Action, "released", "x", true, None),
            (Action, "handed-over", "x", true, None),
            (Observation, "del-seen", "x", true, None),
        ] {
            let report = report(&note(kind, code, &[], text), Some(&pod()), running);
            let found = report.as_ref().map(|it| (it.reason.as_str(), it.about == About::Node, it.warning));
            assert_eq!(found, told, "{code}");
        }
    }

    #[test]
    fn without_a_pod_it_is_about_the_node() {
        let warning = note(NoteKind::Warning, "storage-refused", &[], "x");
        assert_eq!(report(&warning, None, false).unwrap().about, About::Node);
        let About::Pod { namespace, name, uid } = report(&warning, Some(&pod()), false).unwrap().about else {
            panic!("it names the pod");
        };
        assert_eq!((namespace.as_str(), name.as_str(), uid.as_deref()), ("shop", "web-0", Some("u1")));
    }

    #[test]
    fn texts_are_bounded() {
        let all = ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5"];
        let told = |addresses: &[&str], text: &str| {
            report(&note(NoteKind::Warning, "x", addresses, text), None, false).unwrap().text
        };
        assert_eq!(told(&[], "why"), "why");
        assert_eq!(told(&all[..2], "why"), "192.0.2.1, 192.0.2.2: why");
        assert!(told(&all, "why").ends_with("192.0.2.4 and others: why"));
        let long = told(&all, &"ä".repeat(2000));
        assert!(long.len() <= TEXT_MAX && long.len() > TEXT_MAX - 4 && long.ends_with("ä…"));
    }

    #[test]
    fn operators_find_every_reason_in_the_documentation() {
        let page = include_str!("../../../../docs/operations.md");
        let told = ACTIONS.iter().map(|(code, ..)| *code).chain([LOST]);
        let warnings = include_str!("../../../../docs/verdicts.md")
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once("` | warning |").map(|(code, _)| code));
        let mut missing: Vec<_> = told
            .chain(warnings)
            .map(reason)
            .filter(|word| !page.contains(&format!("| `{word}` |")))
            .collect();
        missing.sort();
        assert_eq!(missing, Vec::<String>::new());
    }
}
