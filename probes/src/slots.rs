//! The slots of a table in a map: assigned in turn, so that a released one stays unused for as long as
//! possible.

use std::collections::{BTreeSet, VecDeque};

/// See the module's head. Each step costs the same, however many slots are in use.
#[derive(Debug)]
pub(crate) struct Slots {
    free: VecDeque<u32>,
    used: BTreeSet<u32>,
}

impl Slots {
    /// Slots 0 to `count`, of which these are in use.
    pub fn new(count: u32, used: impl IntoIterator<Item = u32>) -> Self {
        let used: BTreeSet<u32> = used.into_iter().filter(|slot| *slot < count).collect();
        Self { free: (0..count).filter(|slot| !used.contains(slot)).collect(), used }
    }

    /// A free slot; `None`: all are in use.
    pub fn take(&mut self) -> Option<u32> {
        let slot = self.free.pop_front()?;
        self.used.insert(slot);
        Some(slot)
    }

    /// Releases a slot. An unused one stays unused.
    pub fn give_back(&mut self, slot: u32) {
        if self.used.remove(&slot) {
            self.free.push_back(slot);
        }
    }

    /// True if the slot is in use.
    pub fn is_used(&self, slot: u32) -> bool {
        self.used.contains(&slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_given_out_in_turn_and_never_twice() {
        let mut slots = Slots::new(4, [2, 9]);
        assert_eq!([slots.take(), slots.take()], [Some(0), Some(1)]);
        slots.give_back(0);
        slots.give_back(0);
        slots.give_back(9);
        assert_eq!([slots.take(), slots.take(), slots.take()], [Some(3), Some(0), None]);
        slots.give_back(2);
        assert!(!slots.is_used(2) && slots.is_used(3));
        assert_eq!(slots.take(), Some(2));
    }
}
