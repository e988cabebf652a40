//! What happens on the wire of eth1, at its port, and on links after their holders' end.

use std::net::IpAddr;
use std::time::Duration;

use berth_ipam::config::Wire;
use berth_ipam::ledger::io::{HeardOnWire, Input};
use berth_ipam::mac::Mac;
use berth_ipam::name::IfName;

use super::{Event, Op, World, of_pool};

impl World {
    /// What a link says after its holder's end, it says later.
    pub(super) fn vip(&mut self, pod: u8, address: IpAddr, announces: bool) {
        self.now = self.now + Duration::from_millis(1);
        self.add_vip(pod, address, announces);
    }

    /// What happens on the wire of eth1 and at its port.
    pub(super) fn play_wire(&mut self, op: &Op) {
        match op {
            Op::Take(last, announces, unheard) => {
                let address = of_pool(*last);
                let leased = self.disk.store.keys().any(|key| key.address == address)
                    || self.disk.journal.values().any(|entry| entry.addresses().contains(&address));
                self.segment.take(self.now, address, *announces, *unheard, leased);
            }
            Op::Guest(pod, last, comes) => self.guest(*pod, of_pool(*last), *comes),
            Op::Leave(last) => self.segment.leave(of_pool(*last)),
            Op::Port(up) => self.segment.set_up(*up),
            Op::Pause(millis, taken) => {
                self.now = self.now + Duration::from_millis(u64::from(*millis));
                self.segment.pause(taken.map(of_pool));
            }
            _ => {}
        }
    }

    /// A link of this node's announces addresses: its parent sees the frames leave.
    pub fn announce(&mut self, parent: &IfName, addresses: &[IpAddr], mac: Mac) {
        for &address in addresses {
            self.air.announced(self.now, (parent.clone(), address), mac);
            let wire = Wire { parent: parent.clone(), vlan: None };
            let heard = HeardOnWire { wire, address, mac, outgoing: true, at: self.now };
            self.events.push(Event::ToLedger(Input::Heard(heard)));
        }
    }

    /// An event comes to the ledger.
    pub(super) fn deliver(&mut self, input: Input) {
        let Input::Heard(heard) = &input else { return self.tell(input) };
        let (now, address) = (self.id(), heard.address);
        self.air.tell(now, &(heard.wire.parent.clone(), address), heard.mac);
        self.tell(input);
        self.note_kept(address);
    }

    /// What a round found out is told after all that was heard before, and before anything that is said later.
    pub(super) fn hear_all(&mut self) {
        while self.segment.waits() {
            self.hear();
        }
    }

    /// The port's thread tells the next thing.
    pub(super) fn hear(&mut self) {
        if let Some(input) = self.segment.next() {
            self.step(input);
        }
    }
}
