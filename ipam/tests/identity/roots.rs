//! What a pod's root and other runtimes do to links and namespaces.

use std::net::IpAddr;

use berth_ipam::evidence::Claim;
use berth_ipam::ledger::entry::Phase;
use berth_ipam::ledger::io::KernelHint;
use berth_ipam::mac::Mac;

use super::World;
use crate::kernel::{Link, PARENT};

/// A MAC that a pod's root gives to its link.
const CHANGED: Mac = Mac([2, 0, 0, 0, 6, 2]);

impl World {
    pub(super) fn own_link(&self, pod: u8) -> Option<usize> {
        let (_, key) = self.pods.get(&pod)?;
        // No process of a pod runs before its ADD has ended.
        self.disk.journal.get(&key.to_string()).filter(|entry| entry.phase == Phase::Done)?;
        self.kernel.links.iter().position(|link| link.owner.as_ref() == Some(key) && link.up)
    }

    /// To a namespace of its own, set up again at once.
    pub(super) fn move_link(&mut self, pod: u8) {
        let to = self.kernel.unnumbered(false);
        self.move_to(pod, to, false);
    }

    pub(super) fn hide_link(&mut self, pod: u8) {
        let to = self.kernel.unnumbered(true);
        let changed = self.chance(2) == 0;
        self.move_to(pod, to, changed);
    }

    fn move_to(&mut self, pod: u8, to: u64, changed: bool) {
        let Some(index) = self.own_link(pod) else { return };
        let before = self.kernel.links[index].clone();
        let mac = if changed { CHANGED } else { before.mac };
        self.kernel.links[index].up = false;
        let up = self.chance(2) == 0 && self.kernel.may_be_up(mac, PARENT);
        let link = &mut self.kernel.links[index];
        (link.at, link.mac, link.up) = (to, mac, up);
        self.excused.extend(before.owner.clone());
        if let Some(owner) = before.owner.clone() {
            self.program_tells(KernelHint::LinkLeaving(owner));
        }
        self.tell_of(&before, KernelHint::LinkMoved);
    }

    fn hidden_link(&self, pod: u8) -> Option<usize> {
        let (_, key) = self.pods.get(&pod)?;
        let hidden = |link: &Link| self.kernel.namespaces[&link.at].is_hidden;
        self.kernel.links.iter().position(|link| link.owner.as_ref() == Some(key) && hidden(link))
    }

    pub(super) fn toggle(&mut self, pod: u8) {
        let Some(index) = self.hidden_link(pod) else { return };
        let link = self.kernel.links[index].clone();
        self.kernel.links[index].up = !link.up && self.kernel.may_be_up(link.mac, PARENT);
        if self.kernel.links[index].up && self.chance(2) == 0 {
            self.announce(&link.addresses, link.mac);
        }
    }

    pub(super) fn end_hidden(&mut self, pod: u8) {
        let Some(index) = self.hidden_link(pod) else { return };
        let link = self.kernel.links.remove(index);
        self.kernel.namespaces.remove(&link.at);
        if let Some(owner) = link.owner {
            self.program_tells(KernelHint::DepartedTornDown(owner));
        }
    }

    /// The links under the parent that are up answer for what they have.
    pub(super) fn hear_children(&self, claims: &mut [(IpAddr, Vec<Claim>)]) {
        for (address, claims) in claims {
            let has = |link: &&Link| link.up && link.parent == PARENT && link.addresses.contains(address);
            let answers = self.kernel.links.iter().filter(has);
            claims.extend(answers.map(|link| Claim { mac: link.mac, at: self.now }));
        }
    }

    pub(super) fn change_alias(&mut self, pod: u8, how: u8) {
        let other = self.pods.get(&(how % 6)).map(|(_, key)| key.clone());
        let Some(index) = self.own_link(pod) else { return };
        let alias = if how.is_multiple_of(2) { None } else { other };
        self.excused.extend(alias.clone());
        self.excused.extend(self.kernel.links[index].owner.clone());
        self.kernel.links[index].alias = alias;
    }

    /// On the network's own parent if the kernel allows it, else on another.
    pub(super) fn mimic(&mut self, pod: u8, of: u8) {
        let Some((at, _)) = self.pods.get(&pod).cloned() else { return };
        let Some((_, victim)) = self.pods.get(&of).cloned() else { return };
        let Some(mac) = self.ledger.as_ref().and_then(|ledger| ledger.entry(&victim)?.mac) else { return };
        if !self.kernel.namespaces.contains_key(&at) {
            return;
        }
        let parent = if self.kernel.may_be_up(mac, PARENT) { PARENT } else { PARENT + 1 };
        if !self.kernel.may_be_up(mac, parent) {
            return;
        }
        self.excused.insert(victim.clone());
        let ifindex = 10_000 + u32::try_from(self.id()).unwrap();
        let alias = (self.chance(3) == 0).then_some(victim);
        self.copied.extend(alias.clone());
        let addresses = Vec::new();
        self.kernel.links.push(Link {
            owner: None,
            home: at,
            at,
            ifindex,
            mac,
            alias,
            parent,
            addresses,
            up: true,
        });
    }

    pub(super) fn end_mimic(&mut self, pod: u8) {
        let Some((at, _)) = self.pods.get(&pod).cloned() else { return };
        let in_pod = self.chance(2) == 0;
        let index =
            self.kernel.links.iter().position(|link| (link.at == at) == in_pod && link.owner.is_none());
        if let Some(index) = index {
            self.drop_link(index);
        }
    }

    /// Another runtime's container: its namespace takes the lowest number, and its link the index and the MAC that
    /// an attachment of ours had.
    pub(super) fn impostor(&mut self, pod: u8) {
        let Some((_, key)) = self.pods.get(&pod).cloned() else { return };
        let Some(entry) = self.ledger.as_ref().and_then(|ledger| ledger.entry(&key)) else { return };
        let (Some(ifindex), Some(mac)) = (entry.ifindex, entry.mac) else { return };
        if !self.kernel.may_be_up(mac, PARENT + 1) {
            return;
        }
        self.excused.insert(key);
        if self.chance(2) == 0 {
            // Its number is the next that is given.
            self.end_namespace(pod);
        }
        let at = self.kernel.namespace(true, self.rng.is_multiple_of(4));
        let (alias, parent, addresses) = (None, PARENT + 1, Vec::new());
        self.kernel.links.push(Link {
            owner: None,
            home: at,
            at,
            ifindex,
            mac,
            alias,
            parent,
            addresses,
            up: true,
        });
    }
}
