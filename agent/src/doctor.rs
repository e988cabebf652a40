//! Findings of `berthctl doctor`: attach modes, capabilities, mounts, store, spool.

use std::path::Path;
use std::time::Duration;

use berth_ipam::ledger::Ledger;
use berth_ipam::mac::Mac;
use berth_ipam::name::IfName;
use berth_protocol::response::{Diagnosis, Finding};
use berth_protocol::spool;
use berth_store::journal;
use berth_underlay::change::{Changer, LinkChange, MacvlanSpec, RouteSocket};
use berth_underlay::read::{LinkRead, Reader};
use berth_underlay::wire::underlay_check::{Answer, ask_gateway, unspecified_like};

use crate::committer::chain;
use crate::{capabilities, fdb};

pub mod unsettled;

/// Time until the frames of a new macvlan pass the switch.
const SETTLE: Duration = Duration::from_millis(200);

/// Constructs a finding.
pub fn finding(what: &str, ok: bool, needs_a_hand: bool, text: impl Into<String>) -> Finding {
    Finding { what: what.to_owned(), ok, needs_a_hand, text: text.into() }
}

/// Addresses of pools that are on interfaces of the node and are not assigned.
pub fn occupied(words: Option<String>) -> Finding {
    let none = || "no address of a pool is on another interface of the node".to_owned();
    finding("occupied", true, false, words.map_or_else(none, |words| format!("not given: {words}")))
}

/// A diagnosis from its findings.
pub fn diagnosis(checks: Vec<Finding>) -> Diagnosis {
    Diagnosis { healthy: !checks.iter().any(|check| check.needs_a_hand), checks }
}

/// State of netlink events from pods' namespaces.
pub fn netlink(hears_all: bool) -> Finding {
    if hears_all {
        finding("rung.netlink", true, false, "hears every namespace that has a number here")
    } else {
        let text = "hears the node's own namespace only: give the agent CAP_NET_BROADCAST; until then a missing \
                    link is always searched for";
        finding("rung.netlink", false, true, text)
    }
}

/// Parents with lists that do not show their macvlans.
pub fn blind_lists<'a>(parents: impl Iterator<Item = &'a IfName>) -> Vec<Finding> {
    let findings = parents.filter_map(|parent| {
        let text = match fdb::is_blind(parent) {
            Ok(false) => return None,
            Ok(true) => format!(
                "{parent} has l2-fwd-offload on, so its list of MACs does not show its macvlans: a pod's interface that \
                 leaves its namespace is found by searches alone. `ethtool -K {parent} l2-fwd-offload off` ends that"
            ),
            Err(why) => format!("what is absent from the list of MACs of {parent} counts as unknown: {why}"),
        };
        Some(finding(&format!("fdb.{parent}"), false, false, text))
    });
    findings.collect()
}

/// Hints that found no room in the main loop's queue.
pub fn hints(dropped: u64) -> Option<Finding> {
    let text = format!(
        "{dropped} hints of netlink and of packet sockets found no room since the start; everything was read again each time"
    );
    (dropped > 0).then(|| finding("hints", false, false, text))
}

/// Capabilities held and needed.
pub fn capabilities(held: &capabilities::Held) -> Vec<Finding> {
    held.findings()
}

/// Mounts that the agent reads.
pub fn mounts(bpffs: &Path) -> Vec<Finding> {
    let netns = Path::new("/run/netns");
    let there = netns.is_dir();
    let text = if there {
        "is there"
    } else {
        "is absent: no runtime has made a namespace yet, or it is not mounted here"
    };
    let mounted = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let root = bpffs.parent().unwrap_or(bpffs);
    let bpf = mounted.lines().any(|line| {
        let mut words = line.split(' ').skip(1);
        words.next().is_some_and(|at| Path::new(at) == root || Path::new(at) == bpffs)
            && words.next() == Some("bpf")
    });
    let bpf_text = if bpf { "is mounted" } else { "is not mounted; only the eBPF rung would need it" };
    vec![finding("mount.netns", there, false, text), finding("mount.bpffs", bpf, false, bpf_text)]
}

/// State of the declarations of the files.
pub fn declared(trouble: Option<&str>) -> Finding {
    match trouble {
        None => finding("config", true, false, "the declarations were taken over as they were last read"),
        Some(why) => {
            let text = format!(
                "the edited declarations are refused, the former stay in force: {why}; correct them and send SIGHUP"
            );
            finding("config", false, true, text)
        }
    }
}

/// The declared networks that this node does not serve.
pub fn left_out(ledger: &Ledger) -> Vec<Finding> {
    let names = ledger.config().networks.keys();
    let networks = names.filter_map(|name| Some((name, ledger.left_out(name)?)));
    let findings = networks.map(|(name, why)| {
        let text = format!(
            "left out on this node: {why}; its attachments are kept, and its ADDs fail. Put the pools of both \
             networks into one segment, or give one network another parent or VLAN"
        );
        finding(&format!("network.{name}"), false, true, text)
    });
    findings.collect()
}

/// Records that ADDs wait for, and unreadable records. The former may be over in a second, the latter may be
/// one manually created object: neither makes all agents of a cluster unready.
pub fn records(refusal: Option<&str>, unreadable: usize) -> Vec<Finding> {
    let refused = refusal.map(|why| finding("records", false, false, format!("ADDs wait: {why}")));
    let odd = (unreadable > 0).then(|| {
        let text = format!(
            "{unreadable} records in the API server cannot be read, and their addresses count as in use: see the agent's log; \
             if the definitions in the cluster are older than this agent, apply deploy/crds.yaml of this version"
        );
        finding("records", false, false, text)
    });
    refused.into_iter().chain(odd).collect()
}

/// Damaged journals that were set aside; `None` without one.
pub fn damaged_journals(state_dir: &Path) -> Option<Finding> {
    let files = journal::set_aside(&state_dir.join(journal::FILE_NAME));
    let names: Vec<_> = files.iter().map(|path| path.display().to_string()).collect();
    let text = format!(
        "the agent's journal was damaged and made again from the records and the node; the damaged one is kept: {}. Look at \
         the disk of --state-dir, then move these files away",
        names.join(", ")
    );
    (!names.is_empty()).then(|| finding("journal", false, true, text))
}

/// State of the spool.
pub fn spooled(state_dir: &Path) -> Finding {
    match spool::entries(state_dir) {
        Ok(listing) if listing.damaged.is_empty() => {
            let text = format!("{} entries wait for replay", listing.entries.len());
            finding("spool", true, false, text)
        }
        Ok(listing) => {
            let files: Vec<_> =
                listing.damaged.iter().map(|(path, error)| format!("{}: {error}", path.display())).collect();
            let text =
                format!("{} files are no entries; read and remove them: {}", files.len(), files.join("; "));
            finding("spool", false, true, text)
        }
        Err(error) => finding("spool", false, true, chain(&error)),
    }
}

/// Checks that the underlay passes frames of a new MAC: a temporary macvlan probes the gateway.
pub async fn underlay(
    parent: IfName,
    own: Option<std::net::IpAddr>,
    gateway: Option<std::net::IpAddr>,
) -> Diagnosis {
    let what = format!("underlay.{parent}");
    let Some(gateway) = gateway else {
        let text = format!("no pool of a network on {parent} declares a gateway to ask for");
        return diagnosis(vec![finding(&what, false, true, text)]);
    };
    match try_underlay(&parent, own, gateway).await {
        Ok((mac, Answer::At { mac: by, .. })) => {
            let text = format!("{gateway} answered {mac} from {by}: the switch lets new MACs through");
            diagnosis(vec![finding(&what, true, false, text)])
        }
        Ok((mac, Answer::Silent)) => {
            let text = format!(
                "{gateway} did not answer the new MAC {mac} within a second: look for port security, a MAC limit or \
                 missing promiscuous mode (forged transmits) on the switch port of {parent}, and whether the gateway is up"
            );
            diagnosis(vec![finding(&what, false, true, text)])
        }
        Err(error) => diagnosis(vec![finding(&what, false, true, chain(&error))]),
    }
}

/// Reason why the check failed.
#[derive(Debug, thiserror::Error)]
enum UnderlayError {
    #[error("this node has no interface {0}")]
    NoParent(IfName),
    #[error("make a temporary macvlan")]
    Link(#[source] berth_underlay::error::Error),
    #[error("make a temporary name")]
    Name(#[source] berth_ipam::name::NameError),
    #[error("ask the wire")]
    Wire(#[source] berth_underlay::wire::WireError),
    #[error("draw a MAC")]
    Draw(#[source] berth_underlay::error::Error),
    #[error("the asking task ended early")]
    Task,
}

async fn try_underlay(
    parent: &IfName,
    own: Option<std::net::IpAddr>,
    gateway: std::net::IpAddr,
) -> Result<(Mac, Answer), UnderlayError> {
    let mut reader = Reader::new().map_err(UnderlayError::Link)?;
    let LinkRead::Found(facts) = reader.link_by_name(None, parent) else {
        return Err(UnderlayError::NoParent(parent.clone()));
    };
    let [a, b, c, d] = berth_underlay::random::bytes().map_err(UnderlayError::Draw)?;
    // Not Berth's own prefix: no agent shall take it for a pod's.
    let mac = Mac([0x52, 0x54, a, b, c, d]);
    let name: IfName = format!("bd{a:02x}{b:02x}{c:02x}{d:02x}").parse().map_err(UnderlayError::Name)?;
    let changer = RouteSocket::open().and_then(Changer::start).map_err(UnderlayError::Link)?;
    let spec = MacvlanSpec {
        parent_index: facts.ifindex,
        name: &name,
        mac: Some(mac),
        mode: berth_ipam::config::MacvlanMode::Bridge,
        mtu: None,
    };
    changer.create_macvlan(&spec, None).await.map_err(UnderlayError::Link)?;
    let asked =
        ask(&changer, &mut reader, &name, mac, own.unwrap_or_else(|| unspecified_like(gateway)), gateway)
            .await;
    if let LinkRead::Found(made) = reader.link_by_name(None, &name) {
        changer.delete_link(made.ifindex).await.map_err(UnderlayError::Link)?;
    }
    asked.map(|answer| (mac, answer))
}

async fn ask(
    changer: &Changer,
    reader: &mut Reader,
    name: &IfName,
    mac: Mac,
    own: std::net::IpAddr,
    gateway: std::net::IpAddr,
) -> Result<Answer, UnderlayError> {
    let LinkRead::Found(made) = reader.link_by_name(None, name) else {
        return Err(UnderlayError::NoParent(name.clone()));
    };
    let up = LinkChange { up: Some(true), ..LinkChange::default() };
    changer.change_link(made.ifindex, &up).await.map_err(UnderlayError::Link)?;
    tokio::time::sleep(SETTLE).await;
    let asking = tokio::task::spawn_blocking(move || ask_gateway(made.ifindex, mac, own, gateway));
    asking.await.map_err(|_| UnderlayError::Task)?.map_err(UnderlayError::Wire)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_declaration_is_unhealthy() {
        assert!(diagnosis(vec![declared(None)]).healthy && !diagnosis(vec![declared(Some("x"))]).healthy);
    }
}
