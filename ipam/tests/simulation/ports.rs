//! Several ports and segments: who else is on them, and what an operator edits.

use super::*;

impl World {
    /// The segment in which an attachment is recorded with an address.
    pub fn segment_of(&self, key: Option<&AttachmentKey>, address: IpAddr) -> Option<SegmentName> {
        let entry = self.ledger.as_ref()?.entry(key?)?;
        entry.held.iter().find(|held| held.address == address).map(|held| held.segment.clone())
    }

    /// One of the four addresses that all pools are about, on one of the parents.
    pub fn place(&self, number: u8) -> (IfName, IpAddr) {
        let networks = self.declared.networks.values();
        let mut parents: BTreeSet<IfName> = networks.map(|network| network.link.parent().clone()).collect();
        if parents.is_empty() {
            parents.insert("eth1".parse().unwrap());
        }
        let parent = parents.iter().nth(usize::from(number / 4) % parents.len()).unwrap();
        (parent.clone(), of_pool(number))
    }

    /// Whether a link there has the address, or is about to get it.
    pub fn has(&self, parent: &IfName, address: IpAddr) -> bool {
        self.links.iter().any(|link| link.parent == *parent && link.addresses.contains(&address))
            || self.plugins.values().any(|plugin| plugin.addresses.contains(&address))
    }

    pub fn declare(&mut self, number: u8) {
        let edited = (self.edit)(number);
        self.edited = Some(edited.clone());
        self.step(Input::Declared(Box::new(edited)));
        self.edited = None;
    }

    pub fn neighbour(&mut self, number: u8) {
        let (parent, address) = self.place(number);
        if self.has(&parent, address) || !self.air.join((parent.clone(), address)) {
            return;
        }
        let wire = Wire { parent, vlan: None };
        let heard = HeardOnWire { wire, address, mac: NEIGHBOUR, outgoing: false, at: self.now };
        self.events.push(Event::ToLedger(Input::Heard(heard)));
    }

    /// A granted address is no neighbour's of which the agent was told before the ADD began.
    pub(super) fn check_granted(&self, plugin: &Plugin, parent: &IfName) {
        for address in &plugin.addresses {
            let told = self.air.told_of(&(parent.clone(), *address));
            assert!(
                told.is_none_or(|told| told > plugin.began),
                "{address} was given to {} although a neighbour on {parent} had announced it",
                plugin.request.key
            );
        }
    }
}
