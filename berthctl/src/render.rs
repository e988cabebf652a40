//! Text form of the agent's responses.

use std::fmt::Write as _;

use berth_protocol::response::{
    Diagnosis, EventKind, EventRow, Explanation, Finding, LeaseRow, LeaseState, PoolRow, WireRow,
};

use crate::node::{Change, Outcome};
use crate::table::{Table, duration, or_dash, printable};

/// Number of characters of a container ID that are shown, as in other tools; JSON has all.
const CONTAINER_ID_SHOWN: usize = 13;

pub(crate) fn leases(rows: &[LeaseRow]) -> String {
    let mut table = Table::new([
        "ADDRESS",
        "STATE",
        "REASON",
        "NETWORK",
        "POOL",
        "SEGMENT",
        "NODE",
        "POD",
        "CONTAINER",
        "IFNAME",
        "MAC",
    ]);
    for row in rows {
        table.push([
            row.address.to_string(),
            state(row.state).to_owned(),
            row.reason.clone(),
            or_dash(row.network.as_ref()),
            or_dash(row.pool.as_ref()),
            row.segment.to_string(),
            or_dash(row.node.as_ref()),
            pod(row),
            container(row),
            or_dash(row.ifname.as_ref()),
            or_dash(row.mac.as_ref()),
        ]);
    }
    table.to_string()
}

pub(crate) fn pools(rows: &[PoolRow]) -> String {
    let mut table = Table::new([
        "POOL",
        "SEGMENT",
        "SUBNET",
        "TOTAL",
        "FREE",
        "BOUND",
        "SUSPECT",
        "HELD",
        "RETAINED",
        "QUARANTINED",
        "WAITING",
    ]);
    for row in rows {
        table.push([
            row.pool.to_string(),
            row.segment.to_string(),
            row.subnet.to_string(),
            row.total.clone(),
            row.free.clone(),
            row.bound.to_string(),
            row.suspect.to_string(),
            row.held.to_string(),
            row.retained.to_string(),
            row.quarantined.to_string(),
            row.waiting.to_string(),
        ]);
    }
    table.to_string()
}

pub(crate) fn explanation(explanation: &Explanation) -> String {
    let address = explanation.address;
    let since = explanation.since_ms.map(|millis| format!(" for {}", duration(millis))).unwrap_or_default();
    let mut text = match &explanation.lease {
        None => format!("{address} is free{since}\n"),
        Some(row) => {
            format!("{address} is {}{since} ({})\n", state(row.state), printable(&row.reason)) + &holder(row)
        }
    };
    for (name, value) in [("ended by", &explanation.ended_by), ("what to do", &explanation.to_do)] {
        if let Some(value) = value {
            let _ = writeln!(text, "  {name:12} {}", printable(value));
        }
    }
    text.extend(explanation.wires.iter().map(wire));
    if explanation.history.is_empty() {
        text.push_str("nothing was observed of it since the agent started\n");
        return text;
    }
    let mut table = Table::new(["AGO", "WHAT", "CODE", "ATTACHMENT", "TEXT"]);
    for event in &explanation.history {
        table.push([
            duration(event.ago_ms),
            kind(event.kind).to_owned(),
            event.code.clone(),
            or_dash(event.attachment.as_ref()),
            event.text.clone(),
        ]);
    }
    let _ = write!(text, "\n{table}");
    text
}

/// Line with the watcher's observations of the address on one segment.
fn wire(row: &WireRow) -> String {
    let place = row.vlan.map_or_else(|| row.parent.to_string(), |vlan| format!("{} VLAN {vlan}", row.parent));
    if row.hits == 0 {
        return format!("no announcement seen on {place} since it is watched\n");
    }
    let ago =
        |millis: Option<u64>| millis.map_or_else(|| "never".to_owned(), |ms| format!("{} ago", duration(ms)));
    let (inside, outside) = (ago(row.heard_out_ago_ms), ago(row.heard_in_ago_ms));
    let speaker = row.speaker.map(|mac| format!(", last other speaker {mac}")).unwrap_or_default();
    format!(
        "announced {} times on {place}: from outside {outside}, from this node {inside}, {} conflicts{speaker}\n",
        row.hits, row.conflicts
    )
}

fn holder(row: &LeaseRow) -> String {
    let lines = [
        ("network", or_dash(row.network.as_ref())),
        ("CNI network", or_dash(row.cni_network.as_ref())),
        ("pool", or_dash(row.pool.as_ref())),
        ("segment", row.segment.to_string()),
        ("node", or_dash(row.node.as_ref())),
        ("pod", pod(row)),
        ("container", or_dash(row.container_id.as_ref())),
        ("interface", or_dash(row.ifname.as_ref())),
        ("MAC", or_dash(row.mac.as_ref())),
        (
            "namespace",
            format!("cookie {}, nsid {}", or_dash(row.netns_cookie.as_ref()), or_dash(row.nsid.as_ref())),
        ),
        ("ifindex", or_dash(row.ifindex.as_ref())),
        ("generation", or_dash(row.generation.as_ref())),
    ];
    lines.iter().fold(String::new(), |mut text, (name, value)| {
        let _ = writeln!(text, "  {name:12} {}", printable(value));
        text
    })
}

/// One event as one line. The line is complete in itself, because the next one may come much later. Its time
/// is the one of the agent's log: seconds since boot.
pub(crate) fn event(event: &EventRow) -> String {
    let subject = event.address.map_or_else(|| "-".to_owned(), |address| address.to_string());
    let at = format!("{}.{:03}", event.at_ms / 1000, event.at_ms % 1000);
    let (code, text) = (printable(&event.code), printable(&event.text));
    let attachment =
        event.attachment.as_deref().map(|name| format!(" [{}]", printable(name))).unwrap_or_default();
    format!("{at:>12}  {:11}  {subject:15}  {code}  {text}{attachment}\n", kind(event.kind))
}

pub(crate) fn diagnosis(diagnosis: &Diagnosis) -> String {
    let mut table = Table::new(["", "CHECK", "FOUND"]);
    for finding in &diagnosis.checks {
        table.push([mark(finding).to_owned(), finding.what.clone(), finding.text.clone()]);
    }
    let verdict = if diagnosis.healthy { "healthy" } else { "action required: see the lines marked FAIL" };
    format!("{table}{verdict}\n")
}

/// Changes of the node's files, one per line.
pub(crate) fn changes(changes: &[Change]) -> String {
    let line = |change: &Change| {
        let outcome = match change.outcome {
            Outcome::Installed => "installed",
            Outcome::Unchanged => "unchanged",
            Outcome::Removed => "removed",
            Outcome::Absent => "absent",
        };
        format!("{outcome:9}  {}\n", printable(&change.path.to_string_lossy()))
    };
    changes.iter().map(line).collect()
}

fn mark(finding: &Finding) -> &'static str {
    match (finding.ok, finding.needs_a_hand) {
        (_, true) => "FAIL",
        (true, false) => "ok",
        (false, false) => "note",
    }
}

fn pod(row: &LeaseRow) -> String {
    or_dash(row.pod.as_ref().map(|pod| format!("{}/{}", pod.namespace, pod.name)).as_ref())
}

fn container(row: &LeaseRow) -> String {
    or_dash(row.container_id.as_ref()).chars().take(CONTAINER_ID_SHOWN).collect()
}

fn state(state: LeaseState) -> &'static str {
    match state {
        LeaseState::Reserved => "reserved",
        LeaseState::Bound => "bound",
        LeaseState::Suspect => "suspect",
        LeaseState::Held => "held",
        LeaseState::Retained => "retained",
        LeaseState::Quarantined => "quarantined",
    }
}

fn kind(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Observation => "observation",
        EventKind::Verdict => "verdict",
        EventKind::Action => "action",
        EventKind::Warning => "warning",
    }
}
