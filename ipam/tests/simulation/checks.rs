//! What must hold, from the world's own truth.

use berth_ipam::ledger::unsettled::Unsettled;
use berth_ipam::verdict::Hand;

use super::*;

impl World {
    /// No address is kept from anybody by the voice of a pod that had it and is over.
    pub fn check_note(&self, note: &Note) {
        let segments: BTreeSet<_> = self.declared.pools.values().map(|pool| &pool.segment).collect();
        // In another segment the claim of a former holder is a stranger's, until the wire was asked.
        if note.code != "quarantined" || note.text.contains("interface of") || segments.len() > 1 {
            return;
        }
        for address in &note.addresses {
            let has = |link: &Link| link.addresses.contains(address);
            let foreign = self.air.is_foreign(*address) || self.segment.is_foreign(*address);
            let real = foreign || self.links.iter().any(has) || self.local.spoke(*address);
            assert!(
                real,
                "{address} is quarantined, and only its former holders spoke for it: {}",
                note.text
            );
        }
    }

    /// An ADD gets its addresses, or leave to use them, only while no host is known to have one, whatever was
    /// known when they were chosen. A repeated ADD uses what the first one has.
    pub fn check_grant_again(&self, caller: Caller, reply: &Result<Reply, LedgerError>) {
        let asks = |plugin: &&Plugin| plugin.call == caller.call && plugin.step == Step::Lease;
        let Some(plugin) = self.plugins.get(&caller.conn).filter(asks) else { return };
        let Ok(Reply::Grant(grant)) = reply else { return };
        for (address, _) in grant.addresses.iter().filter(|_| grant.bound.is_none()) {
            self.check_unoccupied(&plugin.request.key, address.ip());
        }
    }

    /// The same of a bind, when it is decided.
    pub fn check_bind(&self, journal: &[JournalWrite]) {
        for write in journal {
            let JournalWrite::Put(entry) = write else { continue };
            let network = self.declared.networks.get(&entry.key.network);
            let on = network.map(|network| network.link.device());
            for address in entry.addresses() {
                self.check_unoccupied(&entry.key, address);
                self.segment.check_use(on.as_ref(), (address, &entry.txn));
            }
        }
    }

    /// An address is never on two live links of one L2 network, and a live link's address is recorded for it.
    pub fn check_alive(&self) {
        let mut seen = BTreeMap::new();
        for link in self.links.iter().filter(|link| self.namespaces.contains(&link.at)) {
            for address in &link.addresses {
                if let Some(other) = seen.insert((&link.parent, *address), link.key.clone()) {
                    panic!("{address} is on {} and on {other}, both on {}", link.key, link.parent);
                }
            }
        }
    }

    /// An ADD that was told success has its link and its record until its DEL.
    pub fn check_promises(&self) {
        self.promises.check(&self.links, self.ledger.as_ref());
        self.promises.check_settled(self.now, self.ledger.as_ref());
    }

    /// Every call whose connection is good was answered.
    pub fn check_answered(&self) {
        self.promises.check_answered();
    }

    /// Whether a link, a guest behind one or an interface of the node has an address that was not given to it.
    fn is_local(&self, view: &View<'_>) -> bool {
        let address = view.address();
        match view {
            // Links under the parent are asked for it, and one of them answers.
            View::Held { slot, .. } => {
                slot.live.reason.code() == "moved-over"
                    && self.links.iter().any(|link| self.has_address(link, address))
            }
            // Once links hear the probes, an address is kept only for one that has it.
            View::Shut(_) => {
                self.local.has_on_link(address)
                    || self.links.iter().any(|link| self.has_address(link, address))
            }
            View::Occupied(_) => {
                self.local.has(address) || self.links.iter().any(|link| link.vips.contains(&address))
            }
        }
    }

    /// Every recorded address has a live link or somebody who asks for it.
    pub fn check_nothing_leaked(&self) {
        let Some(ledger) = &self.ledger else { panic!("no agent") };
        let unsettled = ledger.unsettled(self.now);
        for view in ledger.leases() {
            let holds = |link: &Link| match &view {
                View::Held { slot, .. } => slot.entry.key == link.key,
                View::Shut(_) | View::Occupied(_) => true,
            };
            let held = self.links.iter().any(|link| holds(link) && link.addresses.contains(&view.address()));
            let asked = self.plugins.values().any(|plugin| plugin.addresses.contains(&view.address()));
            // The end of a link that moved, or of which nothing could be heard, may never be known: it is kept, and
            // the list of what is unsettled names it with what an operator can do.
            let named = |key: &AttachmentKey| {
                let needed = |one: &Unsettled<'_>| matches!(one.ending.hand, Hand::Needed(_));
                unsettled.iter().any(|one| one.key == key && needed(one))
            };
            let unseen = matches!(view, View::Held { slot, .. } if named(&slot.entry.key)
                && matches!(slot.live.reason.code(), "moved-out-of-sight" | "link-end-unheard"));
            // Another plugin's link that was moved may have the address where no read looks for it.
            let moved = matches!(view, View::Held { slot, .. } if slot.entry.role == Role::Chained
                && self.links.iter().any(|link| link.up && Some(link.mac) == slot.entry.mac && link.at != slot.entry.at.0));
            // A link of the same attachment that outlived a forced release has its MAC, and stands for it.
            let survivor = matches!(view, View::Held { slot, .. } if self.links.iter().any(|link| {
                let at = (link.at, Some(link.ifindex), Some(link.mac));
                link.key == slot.entry.key && at == (slot.entry.at.0, slot.entry.ifindex, slot.entry.mac)
            }));
            // An operator's guard waits for the end of the interface, up or down, which the same attachment may have
            // again.
            let guarded = matches!(view, View::Shut(shut) if shut.guard.as_ref().is_some_and(|guard| {
                self.links.iter().any(|link| guard.macs.contains(&link.mac))
            }));
            assert!(
                held || asked || unseen || survivor || guarded || moved || self.is_local(&view),
                "{} is recorded, and nobody has it: {view:?}",
                view.address()
            );
        }
        let recorded: BTreeSet<_> = self.disk.store.keys().cloned().collect();
        // An intent that cannot be judged keeps its address, whether its record was written or not.
        let intended =
            |view: &View<'_>| matches!(view, View::Held { slot, .. } if slot.entry.phase == Phase::Intent);
        let open = |view: &View<'_>| intended(view) && !recorded.contains(&view.key());
        let held =
            ledger.leases().into_iter().filter(|view| matches!(view, View::Held { .. }) && !open(view));
        let leased: BTreeSet<_> = held.map(|view| view.key()).collect();
        assert_eq!(leased, recorded, "ledger and store agree; the store: {:?}", self.disk.store);
        for link in &self.links {
            for address in &link.addresses {
                let known = ledger.leases().iter().any(|view| view.address() == *address);
                assert!(known, "{address} is alive on {} and recorded for nobody", link.key);
            }
        }
    }

    /// How many links are up with an address.
    pub fn live(&self) -> usize {
        self.links.iter().filter(|link| link.up && !link.addresses.is_empty()).count()
    }
}
