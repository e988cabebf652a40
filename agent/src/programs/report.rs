//! Findings about the programs for `doctor` and `explain`.

use std::net::IpAddr;

use berth_ipam::ledger::Ledger;
use berth_ipam::time::Time;
use berth_probes::Probes;
use berth_probes::pins::Pins;
use berth_protocol::response::{Finding, WireRow};

use super::watching::Chair;
use super::{Programs, State};
use crate::doctor::finding;

impl Programs {
    /// The rung, the watcher's seats, pins and losses.
    pub fn findings(&self, now: Time, ledger: &Ledger) -> Vec<Finding> {
        let probes = match &self.state {
            State::Here(probes, _) => Some(&**probes),
            State::Aside(_) | State::Off(_) => None,
        };
        let guards = self.guarding.findings(probes, &self.watching, ledger);
        self.of_programs(now).into_iter().chain(guards).collect()
    }

    fn of_programs(&self, now: Time) -> Vec<Finding> {
        let probes = match &self.state {
            State::Here(probes, _) => probes,
            State::Aside(_) => {
                return vec![finding("rung.ebpf", false, false, "the programs are being loaded")];
            }
            State::Off(why) => {
                let text = format!("{why}; netlink, reads and the parent's list of MACs stand in");
                return vec![finding("rung.ebpf", false, false, text)];
            }
        };
        let mut checks = vec![self.rung(probes, now), tasks(probes), pins(probes)];
        for (parent, chair, complete) in self.watching.chairs() {
            let what = format!("watch.{parent}");
            checks.push(match chair {
                Chair::Taken(_, seat) if !complete => {
                    let text = format!(
                        "{seat}: the map has no room for all addresses, so a packet socket listens too"
                    );
                    finding(&what, false, false, text)
                }
                Chair::Taken(_, seat) => finding(
                    &what,
                    true,
                    false,
                    format!("{seat}: hears ARP and ND both ways, tagged frames too"),
                ),
                Chair::Refused(why) => {
                    finding(&what, false, false, format!("{why}; a packet socket listens in its place"))
                }
            });
        }
        if let Some((count, first, why)) = self.following.refused() {
            checks.push(finding("ebpf.follow", false, false, super::unfollowed(count, first, why)));
        }
        checks.push(self.counters(probes));
        checks
    }

    fn rung(&self, probes: &Probes, now: Time) -> Finding {
        let mut refused = probes.refusals().iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
        if let Some(left) = &self.left {
            refused = format!("{left} was left; {refused}");
        }
        let Some(rung) = probes.rung() else {
            let text = format!(
                "no rung could be used: {refused}; netlink, reads and the parent's list of MACs stand in"
            );
            return finding("rung.ebpf", false, false, text);
        };
        let ago = now.since(self.proved_at).as_secs();
        let refused = if refused.is_empty() { refused } else { format!("; not used: {refused}") };
        finding("rung.ebpf", true, false, format!("{rung}, proved {ago} s ago{refused}"))
    }

    fn counters(&self, probes: &Probes) -> Finding {
        let counters = match probes.counters() {
            Ok(counters) => counters,
            Err(error) => return finding("ebpf.counters", false, false, crate::committer::chain(&error)),
        };
        let lost = counters.get("ring_full").copied().unwrap_or(0);
        let all: Vec<_> = counters.iter().map(|(name, count)| format!("{name} {count}")).collect();
        let text = format!(
            "{} attachments followed, {} addresses watched; {}",
            self.following.len(),
            self.watching.len(),
            all.join(", ")
        );
        finding("ebpf.counters", lost == 0, false, text)
    }

    /// Observations of the watcher about an address, on each segment that it covers.
    pub fn heard_of(&self, now: Time, address: IpAddr) -> Vec<WireRow> {
        let State::Here(probes, _) = &self.state else { return Vec::new() };
        let ago = |at: Time| u64::try_from(now.since(at).as_millis()).unwrap_or(u64::MAX);
        let known = self.watching.known(probes, address).into_iter();
        known
            .map(|(wire, known)| WireRow {
                parent: wire.parent,
                vlan: wire.vlan,
                heard_in_ago_ms: known.heard_in.map(ago),
                heard_out_ago_ms: known.heard_out.map(ago),
                speaker: known.speaker,
                hits: known.hits,
                conflicts: known.conflicts,
            })
            .collect()
    }
}

fn tasks(probes: &Probes) -> Finding {
    if probes.sees_tasks() {
        finding("ebpf.tasks", true, false, "the exit of a task in a pod's namespace is told")
    } else {
        finding(
            "ebpf.tasks",
            false,
            false,
            "exits of tasks are not seen: leaked namespaces are found by scans alone",
        )
    }
}

fn pins(probes: &Probes) -> Finding {
    match probes.pins() {
        Pins::At(folder) => {
            finding("ebpf.pins", true, false, format!("maps and links are in {}", folder.display()))
        }
        Pins::None(why) => finding(
            "ebpf.pins",
            false,
            false,
            format!("none ({why}): a restarted agent reads everything instead"),
        ),
    }
}
