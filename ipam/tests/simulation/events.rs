//! What happens on the wire of eth1, at its port, and on links after their holders' end.

use std::net::IpAddr;
use std::time::Duration;

use super::{Op, World, of_pool};

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
                let leased = self.store.keys().any(|key| key.address == address)
                    || self.journal.values().any(|entry| entry.addresses().contains(&address));
                self.segment.take(self.now, address, *announces, *unheard, leased);
            }
            Op::Leave(last) => self.segment.leave(of_pool(*last)),
            Op::Port(up) => self.segment.set_up(*up),
            Op::Pause(millis, taken) => {
                self.now = self.now + Duration::from_millis(u64::from(*millis));
                self.segment.pause(taken.map(of_pool));
            }
            _ => {}
        }
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
